//! Exponential, logistic and normal distribution functions. In float32 they are polynomials without branches, which
//! the compiler turns into SIMD code; in float64 they are the accurate scalar functions.

/// Functions that activations and attention need.
pub(crate) trait Smooth: Sized {
    /// `eˣ`.
    fn exponential(self) -> Self;

    /// `Φ(x)` and `φ(x)`: the standard normal distribution function and its density.
    fn normal(self) -> (Self, Self);
}

/// `1 / √(2π)`.
const DENSITY: f64 = 0.398_942_280_401_432_7;
/// `ln 2` in two parts; the first has few enough bits for exact products with small whole numbers.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// 1.5·2²³: adding it to a small number rounds that to a whole one.
const ROUND: f32 = 12_582_912.0;
/// Arguments beyond which `eˣ` in float32 is taken as that of the bound.
const RANGE: [f32; 2] = [-87.3, 88.7];
/// `erfc(u) exp(u²)` as a polynomial in `t = 1 / (1 + 0.4u)`, fitted at Chebyshev nodes over 0 ≤ u ≤ 5: the absolute
/// error of erfc is below 4e-9.
const SCALED_ERFC: [f32; 9] = [
    2.095_899_6e-4,
    0.221_909_44,
    0.255_219_23,
    0.075_185_165,
    0.543_532_85,
    -0.549_838_5,
    0.824_658_5,
    -0.457_165_8,
    0.086_289_48,
];

#[inline(always)]
fn polynomial(coefficients: &[f32], x: f32) -> f32 {
    let mut value = 0.0;
    for c in coefficients.iter().rev() {
        value = value * x + c;
    }
    value
}

impl Smooth for f32 {
    /// `2ᵏ eʳ` with `|r| ≤ ln 2 / 2` and the exponential's series to the seventh power; NaN stays NaN.
    #[inline(always)]
    fn exponential(self) -> f32 {
        let x = if self < RANGE[0] { RANGE[0] } else { self };
        let x = if x > RANGE[1] { RANGE[1] } else { x };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let k = shifted - ROUND;
        let r = (x - k * LN_2[0]) - k * LN_2[1];
        let series = polynomial(&[1.0, 1.0, 0.5, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0], r);
        // The lowest bits of `shifted` are k; two halves, because 2ᵏ alone may be too large for a float.
        let whole = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        let half = whole >> 1;
        let power = |k: i32| f32::from_bits((k.wrapping_add(127) << 23) as u32);
        series * power(half) * power(whole.wrapping_sub(half))
    }

    #[inline(always)]
    fn normal(self) -> (f32, f32) {
        let e = (-0.5 * self * self).exponential();
        let u = self.abs() * std::f32::consts::FRAC_1_SQRT_2;
        let t = 1.0 / (1.0 + 0.4 * if u > 5.0 { 5.0 } else { u });
        let tail = 0.5 * e * polynomial(&SCALED_ERFC, t);
        (if self < 0.0 { tail } else { 1.0 - tail }, DENSITY as f32 * e)
    }
}

impl Smooth for f64 {
    #[inline(always)]
    fn exponential(self) -> f64 {
        self.exp()
    }

    #[inline(always)]
    fn normal(self) -> (f64, f64) {
        let distribution = 0.5 * (1.0 + candle_core::cpu::erf::erf_f64(self * std::f64::consts::FRAC_1_SQRT_2));
        (distribution, DENSITY * (-0.5 * self * self).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::Smooth;

    #[test]
    fn float32_follows_float64() {
        for step in -8000..=8000 {
            let x = step as f32 / 1000.0 * 11.0;
            let (got, want) = (f64::from(x.exponential()), f64::from(x).exp());
            let near = (-87.0..=88.0).contains(&x);
            assert!(!near || (got / want - 1.0).abs() < 1e-6, "exp({x}) = {got}, expected {want}");
            let ((p, d), (want_p, want_d)) = (x.normal(), f64::from(x).normal());
            assert!((f64::from(p) - want_p).abs() < 2e-7, "Φ({x}) = {p}, expected {want_p}");
            assert!((f64::from(d) - want_d).abs() < 2e-7, "φ({x}) = {d}, expected {want_d}");
        }
        assert!(f32::NAN.exponential().is_nan() && f32::NAN.normal().0.is_nan());
        assert!((-1e30f32).exponential() < 1e-37 && (1e30f32).exponential() > 1e38);
    }
}
