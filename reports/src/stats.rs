//! The few statistics that tables need.

/// Two-sided level of all intervals.
pub const LEVEL: f64 = 0.95;

/// The standard normal quantile at `(1 + LEVEL) / 2`.
const NORMAL_QUANTILE: f64 = 1.959_963_984_540_054;

/// An interval at [`LEVEL`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Arithmetic mean; none of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Sample standard deviation, with `n − 1`; none for fewer than two values.
pub fn sample_std(values: &[f64]) -> Option<f64> {
    let centre = mean(values).filter(|_| values.len() >= 2)?;
    let squares: f64 = values.iter().map(|v| (v - centre).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// Median, the mean of the middle two for an even number; none of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let (n, half) = (sorted.len(), sorted.len() / 2);
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(sorted[half]),
        _ => Some(0.5 * (sorted[half - 1] + sorted[half])),
    }
}

/// Student-t interval of the mean over independent values: `mean ± t_{n−1} · std / √n`; none for fewer than two.
/// Not clipped to the range of the values.
pub fn t_interval(values: &[f64]) -> Option<Interval> {
    let (centre, std) = (mean(values)?, sample_std(values)?);
    let half = student_t_quantile((1.0 + LEVEL) / 2.0, values.len() as u64 - 1) * std / (values.len() as f64).sqrt();
    Some(Interval { low: centre - half, high: centre + half })
}

/// Wilson's score interval of a share (E. B. Wilson, JASA 22, 1927): with `p = correct / total`, `z` the normal
/// quantile, `(p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)`. None for `total` 0 or `correct > total`.
pub fn wilson_interval(correct: u64, total: u64) -> Option<Interval> {
    if total == 0 || correct > total {
        return None;
    }
    let (n, z) = (total as f64, NORMAL_QUANTILE);
    let p = correct as f64 / n;
    let scale = 1.0 + z * z / n;
    let centre = (p + z * z / (2.0 * n)) / scale;
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt() / scale;
    // At the ends the exact bounds are 0 and 1; rounding must not leave them.
    let low = if correct == 0 { 0.0 } else { centre - half };
    let high = if correct == total { 1.0 } else { centre + half };
    Some(Interval { low, high })
}

/// The quantile at `p` in (0, 1) of Student's t distribution with `freedom ≥ 1` degrees of freedom.
///
/// From its tail `P(T > t) = I_x(ν/2, 1/2) / 2`, `x = ν / (ν + t²)`, by bisection down to neighbouring numbers.
///
/// # Panics
/// If `p` is outside (0, 1) or `freedom` is 0.
pub fn student_t_quantile(p: f64, freedom: u64) -> f64 {
    assert!(p > 0.0 && p < 1.0 && freedom > 0, "no t quantile at {p} with {freedom} degrees of freedom");
    if p < 0.5 {
        return -student_t_quantile(1.0 - p, freedom);
    }
    let tail = 1.0 - p;
    let (mut low, mut high) = (0.0, 1.0);
    while student_t_tail(high, freedom) > tail {
        (low, high) = (high, 2.0 * high);
    }
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if student_t_tail(middle, freedom) > tail { low = middle } else { high = middle }
    }
}

/// `P(T > t)` for `t ≥ 0`.
fn student_t_tail(t: f64, freedom: u64) -> f64 {
    let v = freedom as f64;
    0.5 * incomplete_beta_half(freedom, v / (v + t * t), t * t / (v + t * t))
}

/// The regularised incomplete beta function `I_x(ν/2, 1/2)`; `y = 1 − x` is given to keep its digits.
fn incomplete_beta_half(freedom: u64, x: f64, y: f64) -> f64 {
    let (a, b) = (freedom as f64 / 2.0, 0.5);
    if x <= 0.0 {
        return 0.0;
    }
    if y <= 0.0 {
        return 1.0;
    }
    let front = x.powf(a) * y.powf(b) / beta_half(freedom);
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, y) / b
    }
}

/// `B(ν/2, 1/2)` by `B(a + 1, 1/2) = B(a, 1/2) · a / (a + 1/2)` from `B(1/2, 1/2) = π` or `B(1, 1/2) = 2`.
fn beta_half(freedom: u64) -> f64 {
    let (mut beta, mut twice) = if freedom % 2 == 1 { (std::f64::consts::PI, 1) } else { (2.0, 2) };
    while twice < freedom {
        beta *= twice as f64 / (twice + 1) as f64;
        twice += 2;
    }
    beta
}

/// The continued fraction of the incomplete beta function (DLMF 8.17.22), by the modified Lentz method.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    let tiny = f64::MIN_POSITIVE;
    let nonzero = |v: f64| if v.abs() < tiny { tiny } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / nonzero(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for m in 1..10_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = value;
        for term in [even, odd] {
            d = 1.0 / nonzero(1.0 + term * d);
            c = nonzero(1.0 + term / c);
            value *= c * d;
        }
        if (value - before).abs() <= f64::EPSILON * value.abs() {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn t_quantiles_agree_with_tables() {
        for (p, freedom, want) in [
            (0.975, 1, 12.706_204_736),
            (0.975, 2, 4.302_652_730),
            (0.975, 3, 3.182_446_305),
            (0.975, 4, 2.776_445_105),
            (0.975, 5, 2.570_581_836),
            (0.975, 9, 2.262_157_163),
            (0.975, 10, 2.228_138_852),
            (0.975, 29, 2.045_229_642),
            (0.975, 30, 2.042_272_456),
            (0.975, 120, 1.979_930_405),
            (0.95, 2, 2.919_985_580),
            (0.95, 10, 1.812_461_123),
            (0.995, 1, 63.656_741_162),
            (0.995, 4, 4.604_094_871),
            (0.9995, 5, 6.868_826_626),
        ] {
            let got = student_t_quantile(p, freedom);
            assert!((got - want).abs() < 1e-6, "p {p}, {freedom} degrees of freedom: {got}, table {want}");
        }
    }

    proptest! {
        /// With 1 and 2 degrees of freedom the quantile has a closed form.
        #[test]
        fn t_quantiles_agree_with_closed_forms(p in 0.001f64..0.999) {
            let cauchy = (std::f64::consts::PI * (p - 0.5)).tan();
            let two = (2.0 * p - 1.0) / (2.0 * p * (1.0 - p)).sqrt();
            prop_assert!((student_t_quantile(p, 1) - cauchy).abs() <= 1e-11 * cauchy.abs().max(1.0));
            prop_assert!((student_t_quantile(p, 2) - two).abs() <= 1e-11 * two.abs().max(1.0));
        }

        #[test]
        fn t_quantiles_fall_towards_the_normal_one(freedom in 1u64..400) {
            let (here, next) = (student_t_quantile(0.975, freedom), student_t_quantile(0.975, freedom + 1));
            prop_assert!(here > next && next > NORMAL_QUANTILE);
        }

        /// The bounds solve `(p − q)² = z² q (1 − q) / n`, which defines the interval.
        #[test]
        fn wilson_bounds_solve_their_equation(total in 1u64..20_000, share in 0.0f64..=1.0) {
            let correct = (share * total as f64).round() as u64;
            let p = correct as f64 / total as f64;
            let Interval { low, high } = wilson_interval(correct, total).unwrap();
            prop_assert!(0.0 <= low && low <= p && p <= high && high <= 1.0);
            for q in [low, high] {
                let rest = (p - q).powi(2) - NORMAL_QUANTILE.powi(2) * q * (1.0 - q) / total as f64;
                prop_assert!(rest.abs() < 1e-13, "{rest}");
            }
        }
    }

    #[test]
    fn wilson_by_hand_and_at_its_ends() {
        // 3 of 10, with 40 digits elsewhere.
        let Interval { low, high } = wilson_interval(3, 10).unwrap();
        assert!((low - 0.107_791_267_406_301).abs() < 1e-14 && (high - 0.603_221_852_538_855).abs() < 1e-14);
        assert_eq!(wilson_interval(0, 10).unwrap().low, 0.0);
        assert_eq!(wilson_interval(10, 10).unwrap().high, 1.0);
        assert_eq!(wilson_interval(0, 0), None);
        assert_eq!(wilson_interval(2, 1), None);
    }

    #[test]
    fn moments_by_hand() {
        assert_eq!(mean(&[]), None);
        assert_eq!(mean(&[1.0, 2.0, 6.0]), Some(3.0));
        assert_eq!(sample_std(&[4.0]), None);
        assert_eq!(sample_std(&[1.0, 3.0]), Some(2f64.sqrt()));
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
        assert_eq!(t_interval(&[0.5]), None);
        // Two values, half a unit to either side of 2: half = t₁ · (1/√2) / √2 = t₁ / 2.
        let Interval { low, high } = t_interval(&[1.5, 2.5]).unwrap();
        assert!((high - (2.0 + 12.706_204_736 / 2.0)).abs() < 1e-6 && (low + high - 4.0).abs() < 1e-12);
    }
}
