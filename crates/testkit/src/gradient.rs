//! Gradient checks by central differences along random directions.

use random::Stream;

/// Relative difference between `⟨gradient, v⟩` and the central difference of `f` at `x` along a random unit
/// direction `v`, the worst of `directions` draws. `step` is relative to the size of `x`.
///
/// The denominator is the larger of the two numbers and `1e-3 ‖gradient‖`, so that a direction that happens
/// to be almost orthogonal to the gradient does not blow the ratio up.
pub fn directional_error(
    f: &mut dyn FnMut(&[f64]) -> f64,
    x: &[f64],
    gradient: &[f64],
    step: f64,
    directions: usize,
    stream: &mut Stream,
) -> f64 {
    assert_eq!(x.len(), gradient.len(), "gradient and point");
    let scale = x.iter().fold(0.0f64, |m, v| m.max(v.abs())).max(1e-3);
    let h = step * scale;
    let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
    let mut worst = 0.0f64;
    for _ in 0..directions {
        let mut v: Vec<f64> = (0..x.len()).map(|_| stream.normal()).collect();
        let length = v.iter().map(|a| a * a).sum::<f64>().sqrt();
        v.iter_mut().for_each(|a| *a /= length);
        let at = |sign: f64| -> Vec<f64> { x.iter().zip(&v).map(|(a, b)| a + sign * h * b).collect() };
        let numeric = (f(&at(1.0)) - f(&at(-1.0))) / (2.0 * h);
        let analytic: f64 = gradient.iter().zip(&v).map(|(g, b)| g * b).sum();
        let denominator = numeric.abs().max(analytic.abs()).max(1e-3 * norm).max(f64::MIN_POSITIVE);
        let error = (numeric - analytic).abs() / denominator;
        worst = if error.is_finite() { worst.max(error) } else { f64::INFINITY };
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;
    use random::{Axis, Seeds};

    #[test]
    fn tells_a_right_gradient_from_a_wrong_one() {
        let x = [0.3, -1.2, 0.7];
        let mut f = |x: &[f64]| x.iter().map(|v| v.powi(3)).sum::<f64>();
        let right: Vec<f64> = x.iter().map(|v| 3.0 * v * v).collect();
        let wrong: Vec<f64> = x.iter().map(|v| 3.01 * v * v).collect();
        let mut stream = Seeds::new(1).stream(Axis::Test, &[]);
        assert!(directional_error(&mut f, &x, &right, 1e-5, 4, &mut stream) < 1e-8);
        assert!(directional_error(&mut f, &x, &wrong, 1e-5, 4, &mut stream) > 1e-3);
    }
}
