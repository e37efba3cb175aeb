//! Partial fractions of `1/√x` and `ln x` on an interval, as good as float64.
//!
//! `1/√x = (2/π) ∫ dt / (t² + x)` over `t ≥ 0`. With `t = ρ sc(u)`, a Jacobian elliptic function of complementary modulus
//! `ρ`, the integrand is smooth and periodic in `u`, so that the midpoint rule converges by `e^{−2πK/K'}` a point (Hale,
//! Higham and Trefethen, *Computing `A^α`, `log(A)`, and related matrix functions by contour integrals*, SIAM J. Numer.
//! Anal. 46, 2008, section 4).
//!
//! `ln (x/r) = ∫ (1/(r + t) − 1/(x + t)) dt`. With `t` as above and `r` in the interval the integrand is analytic in the same
//! strip, but odd about both ends of the quarter period `K`: it is the sine of `πu/K` times a function of its cosine, for
//! which Gauss and Legendre's rule converges as fast as the midpoint rule does for the root.

use std::f64::consts::{FRAC_PI_2, PI};
use std::sync::OnceLock;

/// Intervals are `[4^(-k/4), 1]` with `k` up to this number.
const MOST: usize = 80;

/// `ln` of the relative error that is left.
const LOG_ERROR: f64 = -37.0;

/// As [`LOG_ERROR`], of [`rough_inverse_root`].
const ROUGH_LOG_ERROR: f64 = -10.0;

/// `Σ weights[j] / (x + poles[j])`.
#[derive(Debug, Clone)]
pub(super) struct Fractions {
    pub(super) poles: Vec<f64>,
    pub(super) weights: Vec<f64>,
}

/// Those for `[ratio², 1]` or a little more; none for a ratio below `2^-20`.
pub(super) fn inverse_root(ratio: f64) -> Option<&'static Fractions> {
    static ALL: OnceLock<Vec<Fractions>> = OnceLock::new();
    ALL.get_or_init(|| inverse_root_of_all(LOG_ERROR)).get(class(ratio)?)
}

/// As [`inverse_root`], right to three digits, for less than a third of the terms.
pub(super) fn rough_inverse_root(ratio: f64) -> Option<&'static Fractions> {
    static ALL: OnceLock<Vec<Fractions>> = OnceLock::new();
    ALL.get_or_init(|| inverse_root_of_all(ROUGH_LOG_ERROR)).get(class(ratio)?)
}

fn inverse_root_of_all(log_error: f64) -> Vec<Fractions> {
    (0..=MOST).map(|k| Fractions::new(2.0f64.powf(-0.25 * k as f64), log_error)).collect()
}

/// `ln x = constant + Σ weights[j] / (x + poles[j])`, all weights negative.
#[derive(Debug, Clone)]
pub(super) struct Logarithm {
    pub(super) constant: f64,
    pub(super) fractions: Fractions,
}

/// Those of the logarithm go up to this number: for wider intervals its nodes lose digits.
const MOST_OF_LOGARITHM: usize = 24;

/// That for `[ratio², 1]`; none for a ratio below `2^-6`.
pub(super) fn logarithm(ratio: f64) -> Option<&'static Logarithm> {
    static ALL: OnceLock<Vec<Logarithm>> = OnceLock::new();
    let all =
        ALL.get_or_init(|| (0..=MOST_OF_LOGARITHM).map(|k| Logarithm::new(2.0f64.powf(-0.25 * k as f64))).collect());
    all.get(class(ratio)?)
}

/// Number of the smallest of the intervals that holds `[ratio², 1]`.
fn class(ratio: f64) -> Option<usize> {
    let k = (-4.0 * ratio.log2()).ceil();
    // Not a number compares false.
    (k <= MOST as f64).then_some(k.max(0.0) as usize)
}

impl Logarithm {
    fn new(ratio: f64) -> Self {
        let quarter = Quarter::new(ratio, LOG_ERROR);
        let (mut poles, mut weights) = (Vec::new(), Vec::new());
        for (node, weight) in gauss_legendre(quarter.points) {
            let angle = node.acos();
            let u = quarter.own * angle / PI;
            // From the nearer end, where the functions keep their digits; dt/du with t = (ρ sn/cn)², at the other end
            // (cn/sn)² of the rest.
            let (pole, slope) = if angle <= FRAC_PI_2 {
                let (sn, cn, dn) = jacobi(u, quarter.ratio);
                ((quarter.ratio * sn / cn).powi(2), 2.0 * quarter.ratio.powi(2) * sn * dn / cn.powi(3))
            } else {
                let (sn, cn, dn) = jacobi(quarter.own - u, quarter.ratio);
                ((cn / sn).powi(2), 2.0 * cn * dn / sn.powi(3))
            };
            poles.push(pole);
            weights.push(-weight * slope * quarter.own / (PI * angle.sin()));
        }
        let middle = quarter.ratio;
        let sum: f64 = poles.iter().zip(&weights).map(|(pole, weight)| weight / (middle + pole)).sum();
        Self { constant: middle.ln() - sum, fractions: Fractions { poles, weights } }
    }
}

/// Nodes in `(−1, 1)` and weights of Gauss and Legendre's rule, by Newton's method (Abramowitz and Stegun, section 25.4.29).
fn gauss_legendre(n: usize) -> Vec<(f64, f64)> {
    let one = |j: usize| {
        let mut x = (PI * (j as f64 + 0.75) / (n as f64 + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..8 {
            let (mut before, mut value) = (1.0, x);
            for k in 2..=n {
                let k = k as f64;
                (before, value) = (value, ((2.0 * k - 1.0) * x * value - (k - 1.0) * before) / k);
            }
            slope = n as f64 * (before - x * value) / ((1.0 - x) * (1.0 + x));
            x -= value / slope;
        }
        (x, 2.0 / ((1.0 - x) * (1.0 + x) * slope * slope))
    };
    (0..n).map(one).collect()
}

/// The quarter period of the elliptic functions for an interval, and how many points leave an error of `e^log_error`.
struct Quarter {
    ratio: f64,
    own: f64,
    points: usize,
}

impl Quarter {
    fn new(ratio: f64, log_error: f64) -> Self {
        // The nodes of an interval of one point would do for none.
        let ratio = ratio.min(0.84);
        let modulus = ((1.0 - ratio) * (1.0 + ratio)).sqrt();
        let (own, other) = (PI / (2.0 * mean(1.0, ratio)), PI / (2.0 * mean(1.0, modulus)));
        let points = (-log_error * own / (2.0 * PI * other)).ceil() as usize;
        Self { ratio, own, points }
    }
}

impl Fractions {
    fn new(ratio: f64, log_error: f64) -> Self {
        let Quarter { ratio, own, points: n } = Quarter::new(ratio, log_error);
        let step = own / n as f64;
        let (mut poles, mut weights) = (vec![0.0; n], vec![0.0; n]);
        // From either end of the quarter period, where the functions keep their digits.
        for j in 0..n.div_ceil(2) {
            let (sn, cn, dn) = jacobi((j as f64 + 0.5) * step, ratio);
            let factor = 2.0 * step / PI;
            (poles[j], weights[j]) = ((ratio * sn / cn).powi(2), factor * ratio * dn / (cn * cn));
            (poles[n - 1 - j], weights[n - 1 - j]) = ((cn / sn).powi(2), factor * dn / (sn * sn));
        }
        Self { poles, weights }
    }
}

/// The arithmetic-geometric mean.
fn mean(mut a: f64, mut b: f64) -> f64 {
    while (a - b).abs() > 4.0 * f64::EPSILON * a {
        (a, b) = (0.5 * (a + b), (a * b).sqrt());
    }
    a
}

/// `sn`, `cn` and `dn` of `u`, by the descending Landen transformation (Abramowitz and Stegun, section 16.4).
fn jacobi(u: f64, complementary_modulus: f64) -> (f64, f64, f64) {
    const DEPTH: usize = 16;
    let (mut a, mut b) = (1.0, complementary_modulus);
    let mut ratios = [0.0; DEPTH];
    let mut depth = 0;
    while depth < DEPTH && (a - b) > f64::EPSILON * a {
        let c = 0.5 * (a - b);
        (a, b) = (0.5 * (a + b), (a * b).sqrt());
        ratios[depth] = c / a;
        depth += 1;
    }
    let mut phi = a * u * f64::powi(2.0, depth as i32);
    let mut last = phi;
    for ratio in ratios[..depth].iter().rev() {
        last = phi;
        phi = 0.5 * (phi + (ratio * phi.sin()).asin());
    }
    let dn = if depth == 0 { 1.0 } else { phi.cos() / (last - phi).cos() };
    (phi.sin(), phi.cos(), dn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_the_inverse_root() {
        for ratio in [1.0, 0.9, 0.5, 0.1, 1.0 / 34.0, 1e-3, 1e-5, 1e-6] {
            let f = inverse_root(ratio).unwrap();
            for i in 0..=1000 {
                let x = (2.0 * ratio.ln() * (1.0 - f64::from(i) / 1000.0)).exp();
                let sum: f64 = f.poles.iter().zip(&f.weights).map(|(c, w)| w / (x + c)).sum();
                let error = (sum * x.sqrt() - 1.0).abs();
                // In the middle the cosine is √ratio, and known to ε.
                assert!(
                    error < 4e-15 + 8.0 * f64::EPSILON / ratio.sqrt(),
                    "off by {error} at {x} of [{}, 1], {} terms",
                    ratio * ratio,
                    f.poles.len()
                );
            }
        }
    }

    #[test]
    fn the_rough_sum_is_right_to_three_digits() {
        for ratio in [1.0, 0.5, 1e-2, 1e-4, 1e-6] {
            let (f, exact) = (rough_inverse_root(ratio).unwrap(), inverse_root(ratio).unwrap());
            assert!(3 * f.poles.len() <= exact.poles.len() + 6, "{} of {} terms", f.poles.len(), exact.poles.len());
            for i in 0..=1000 {
                let x = (2.0 * ratio.ln() * (1.0 - f64::from(i) / 1000.0)).exp();
                let sum: f64 = f.poles.iter().zip(&f.weights).map(|(c, w)| w / (x + c)).sum();
                assert!((sum * x.sqrt() - 1.0).abs() < 1e-3, "{sum} at {x} of [{}, 1]", ratio * ratio);
            }
        }
    }

    #[test]
    fn the_sum_is_the_logarithm() {
        for ratio in [1.0, 0.9, 0.5, 0.1, 1.0 / 34.0, 1.0 / 63.0] {
            let of = logarithm(ratio).unwrap();
            let f = &of.fractions;
            assert!(f.weights.iter().all(|&weight| weight < 0.0));
            for i in 0..=1000 {
                let x = (2.0 * ratio.ln() * (1.0 - f64::from(i) / 1000.0)).exp();
                let sum: f64 = f.poles.iter().zip(&f.weights).map(|(c, w)| w / (x + c)).sum();
                let error = (of.constant + sum - x.ln()).abs();
                let bar = 2e-15 * of.constant.abs().max(1.0);
                assert!(error < bar, "off by {error} at {x} of [{}, 1], {} terms", ratio * ratio, f.poles.len());
            }
        }
    }

    #[test]
    fn no_ratio_too_small_or_not_a_number() {
        assert!(inverse_root(1e-7).is_none() && inverse_root(0.0).is_none() && inverse_root(f64::NAN).is_none());
        assert!(inverse_root(1.5).is_some());
        assert!(logarithm(1e-2).is_none() && logarithm(f64::NAN).is_none() && logarithm(1.5).is_some());
    }
}
