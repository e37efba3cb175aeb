//! Elementary functions from `+ − × ÷ √` and rounding alone.
//!
//! IEEE 754 fixes the result of those operations to the last bit, but leaves `sin`, `exp` and `ln` to the system's
//! library, which differs between machines. What is drawn or generated from a seed uses the functions here, so that it
//! is the same everywhere. Absolute errors are below 1e-14 for arguments of moderate size.

pub(crate) mod wide;

use std::f64::consts::{LN_2, PI, SQRT_2};

/// `sin x`.
pub(crate) fn sin(x: f64) -> f64 {
    // x = k·π + r with |r| ≤ π/2; sin x = (−1)^k sin r.
    let k = (x / PI).round_ties_even();
    let r = x - k * PI;
    let s = r * r;
    let mut sum = 0.0;
    for n in (1..=11).rev() {
        let m = f64::from(2 * n);
        sum = (1.0 + sum) * (-s / (m * (m + 1.0)));
    }
    let value = r * (1.0 + sum);
    if (k * 0.5).fract() == 0.0 { value } else { -value }
}

/// `cos x`.
pub(crate) fn cos(x: f64) -> f64 {
    sin(x + PI / 2.0)
}

/// `eˣ`, for |x| ≤ 700.
pub(crate) fn exp(x: f64) -> f64 {
    let k = (x / LN_2).round_ties_even();
    let r = x - k * LN_2;
    let mut sum = 1.0;
    for n in (1..=18).rev() {
        sum = 1.0 + sum * r / f64::from(n);
    }
    sum * f64::from_bits(((1023 + k as i64) as u64) << 52)
}

/// `ln x` for a normal `x > 0`.
pub(crate) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) as i64 - 1023) as f64;
    let mut m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if m > SQRT_2 {
        m *= 0.5;
        exponent += 1.0;
    }
    // ln m = 2 artanh z, |z| ≤ 0.172.
    let z = (m - 1.0) / (m + 1.0);
    let s = z * z;
    let mut sum = 0.0;
    for n in (0..=11).rev() {
        sum = sum * s + 1.0 / f64::from(2 * n + 1);
    }
    exponent * LN_2 + 2.0 * z * sum
}

/// `x^p` for `x ≥ 0`, `p > 0`.
pub(crate) fn pow(x: f64, p: f64) -> f64 {
    if x < f64::MIN_POSITIVE { 0.0 } else { exp(p * ln(x)) }
}

/// `3t² − 2t³` of `(x − low) / (high − low)` clamped to `[0, 1]`.
pub(crate) fn smoothstep(low: f64, high: f64, x: f64) -> f64 {
    let t = ((x - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn agrees_with_the_system_library(x in -50.0f64..50.0, y in 1e-6f64..1e6, p in 0.05f64..4.0) {
            proptest::prop_assert!((sin(x) - x.sin()).abs() < 1e-14);
            proptest::prop_assert!((cos(x) - x.cos()).abs() < 1e-13);
            proptest::prop_assert!((exp(x) / x.exp() - 1.0).abs() < 1e-13);
            proptest::prop_assert!((ln(y) - y.ln()).abs() < 1e-14 * (1.0 + y.ln().abs()));
            proptest::prop_assert!((pow(y, p) / y.powf(p) - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn special_values() {
        assert_eq!((sin(0.0), exp(0.0), ln(1.0), pow(0.0, 0.7)), (0.0, 1.0, 0.0, 0.0));
        assert_eq!((smoothstep(1.0, 2.0, 0.5), smoothstep(1.0, 2.0, 1.5), smoothstep(1.0, 2.0, 3.0)), (0.0, 0.5, 1.0));
    }
}
