//! Polar factors by products alone.
//!
//! Each step maps every singular value `x` of the iterate by an odd polynomial, `X ← X p(XᵀX)`; the polynomial is the
//! best uniform approximation of 1 on the interval that is known to hold the singular values (the equioscillation of
//! Chebyshev, by the exchange algorithm of Remez), so that the interval shrinks towards 1 as fast as the degree allows
//! (Nakatsukasa and Freund, *Computing fundamental matrix decompositions accurately via the matrix sign function in two
//! iterations*, SIAM Review 58, 2016, for the rational counterpart). The last step is a Padé step (Higham, *Functions of
//! Matrices*, 2008, section 5.4).

use std::sync::OnceLock;

use super::linalg::{Form, accumulate};
use super::simd::dispatched;

/// Terms of the polynomials `p`: with degree 4 in `XᵀX`, two products suffice to evaluate them.
const TERMS: usize = 5;
/// Distance from 1 of the singular values below which the Padé step of order 3 leaves only rounding errors.
const NEAR: f64 = 1e-5;
/// Distance from 1 below which that of order 2 does.
const VERY_NEAR: f64 = 1e-8;
/// Width of an interval `[low, 1]` so narrow that the points of a best polynomial would coincide in float64; there the
/// expansion at 1 is as good.
const NARROW: f64 = 1e-3;
/// Schedules are made for intervals `[2^(-k/4), 1]` with `k` below this number.
const SCHEDULES: usize = 80;

/// The smallest ratio of singular values that [`polar_factor`] accepts.
pub(crate) const SMALLEST: f64 = 1.0 / 1_048_576.0; // 2^(-80/4)

/// The polynomials for one interval; the singular values end within `distance` of 1.
#[derive(Debug, Clone)]
struct Schedule {
    steps: Vec<[f64; TERMS]>,
    distance: f64,
}

/// Schedule for singular values in `[2^(-k/4), 1]`.
fn schedule(k: usize) -> &'static Schedule {
    static ALL: OnceLock<Vec<Schedule>> = OnceLock::new();
    &ALL.get_or_init(|| (0..=SCHEDULES).map(|k| Schedule::new(2.0f64.powf(-0.25 * k as f64))).collect())[k]
}

impl Schedule {
    fn new(mut low: f64) -> Self {
        let (mut steps, mut scale) = (Vec::new(), 1.0f64);
        let mut distance = 1.0 - low;
        while distance > NEAR {
            let (polynomial, error) = if 1.0 - low < NARROW { expansion(low) } else { best_polynomial(low) };
            // In terms of the iterate that was not divided by its largest singular value.
            steps.push(std::array::from_fn(|j| polynomial[j] * scale.powi(2 * j as i32 + 1)));
            scale = 1.0 / (1.0 + error);
            low = (1.0 - error) / (1.0 + error);
            distance = error;
        }
        Self { steps, distance }
    }
}

/// The first terms of `1/x = (1 − (1 − x²))^(-½)` in powers of `1 − x²`, sorted by powers of `x²`, and the distance of
/// `x p(x²)` from 1 at `low`, where it is largest.
fn expansion(low: f64) -> ([f64; TERMS], f64) {
    let (mut polynomial, mut power, mut factor) = ([0.0; TERMS], [0.0; TERMS], 1.0);
    power[0] = 1.0;
    for k in 0..TERMS {
        polynomial.iter_mut().zip(&power).for_each(|(p, term)| *p += factor * term);
        for j in (1..TERMS).rev() {
            power[j] -= power[j - 1];
        }
        factor *= (2 * k + 1) as f64 / (2 * k + 2) as f64;
    }
    let value = polynomial.iter().rev().fold(0.0, |sum, c| sum * low * low + c);
    (polynomial, (1.0 - low * value).abs().max(f64::EPSILON))
}

/// Coefficients `c` for which `|1 − x Σ c_j x^(2j)|` is smallest on `[low, 1]`, and that error.
fn best_polynomial(low: f64) -> ([f64; TERMS], f64) {
    const POINTS: usize = TERMS + 1;
    let angle = |i: usize| std::f64::consts::PI * i as f64 / TERMS as f64;
    let mut points: [f64; POINTS] = std::array::from_fn(|i| 0.5 * (1.0 + low) - 0.5 * (1.0 - low) * angle(i).cos());
    let mut best = ([0.0; TERMS], 1.0);
    for _ in 0..50 {
        let mut system: Vec<[f64; POINTS + 1]> = Vec::with_capacity(POINTS);
        for (i, x) in points.iter().enumerate() {
            let mut row = [1.0; POINTS + 1];
            (0..TERMS).for_each(|j| row[j] = x.powi(2 * j as i32 + 1));
            row[TERMS] = if i % 2 == 0 { 1.0 } else { -1.0 };
            system.push(row);
        }
        let solution = solve(system);
        let polynomial: [f64; TERMS] = std::array::from_fn(|j| solution[j]);
        best = (polynomial, solution[TERMS].abs());
        let moved = exchange(&polynomial, &mut points);
        if moved < 1e-12 {
            break;
        }
    }
    best
}

/// Gaussian elimination with row exchanges.
fn solve<const N: usize>(mut system: Vec<[f64; N]>) -> Vec<f64> {
    let n = N - 1;
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| system[i][k].abs().total_cmp(&system[j][k].abs())).unwrap_or(k);
        system.swap(k, pivot);
        let lead = system[k];
        for row in &mut system[k + 1..] {
            let factor = row[k] / lead[k];
            row.iter_mut().zip(&lead).for_each(|(v, l)| *v -= factor * l);
        }
    }
    let mut solution = vec![0.0; n];
    for k in (0..n).rev() {
        let known: f64 = (k + 1..n).map(|j| system[k][j] * solution[j]).sum();
        solution[k] = (system[k][n] - known) / system[k][k];
    }
    solution
}

/// Moves the inner points to the extrema of `x p(x²)` that lie next to them, by Newton's method kept between the
/// neighbours; returns the largest move.
fn exchange<const N: usize>(polynomial: &[f64; TERMS], points: &mut [f64; N]) -> f64 {
    let slopes = |x: f64| {
        let (mut first, mut second) = (0.0, 0.0);
        for (j, c) in polynomial.iter().enumerate() {
            let degree = 2.0 * j as f64 + 1.0;
            first += degree * c * x.powi(2 * j as i32);
            second += if j == 0 { 0.0 } else { degree * (degree - 1.0) * c * x.powi(2 * j as i32 - 1) };
        }
        (first, second)
    };
    let old = *points;
    for i in 1..N - 1 {
        // The slope changes its sign between the midpoints to the neighbours, near the solution.
        let (mut low, mut high) = (0.5 * (old[i - 1] + old[i]), 0.5 * (old[i] + old[i + 1]));
        if slopes(low).0.signum() == slopes(high).0.signum() {
            (low, high) = (old[i - 1], old[i + 1]);
        }
        let rising = slopes(low).0 > 0.0;
        let mut x = old[i];
        for _ in 0..60 {
            let (first, second) = slopes(x);
            if (first > 0.0) == rising {
                low = x;
            } else {
                high = x;
            }
            let newton = x - first / second;
            let next = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
            let step = (next - x).abs();
            x = next;
            if step < 1e-15 {
                break;
            }
        }
        points[i] = x;
    }
    old.iter().zip(points.iter()).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

/// Buffers for [`polar_factor`], to be used again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    gram: Vec<f64>,
    square: Vec<f64>,
    third: Vec<f64>,
    next: Vec<f64>,
}

/// Replaces `x` (`d`×`d`, singular values in `[least, largest]`, `least > SMALLEST · largest`) by its orthogonal polar
/// factor.
pub(crate) fn polar_factor(x: &mut Vec<f64>, d: usize, (least, largest): (f64, f64), scratch: &mut Scratch) {
    let k = (-4.0 * (least / largest).log2()).ceil().clamp(0.0, SCHEDULES as f64) as usize;
    let schedule = schedule(k);
    let Scratch { gram, square, third, next } = scratch;
    [&mut *gram, square, third, next].into_iter().for_each(|buffer| buffer.resize(d * d, 0.0));
    let sizes = (d, d, d);
    scale(x, 1.0 / largest);
    for c in &schedule.steps {
        accumulate(gram, (0.0, 1.0), (x, Form::Transposed), (x, Form::Plain), sizes, true);
        accumulate(square, (0.0, 1.0), (gram, Form::Transposed), (gram, Form::Plain), sizes, true);
        combine(third, d, [c[2], c[3], c[4]], gram, square);
        accumulate(gram, (c[1], 1.0), (square, Form::Transposed), (third, Form::Plain), sizes, true);
        gram.iter_mut().step_by(d + 1).for_each(|v| *v += c[0]);
        accumulate(next, (0.0, 1.0), (x, Form::Plain), (gram, Form::Plain), sizes, false);
        std::mem::swap(x, next);
    }
    accumulate(gram, (0.0, 1.0), (x, Form::Transposed), (x, Form::Plain), sizes, true);
    if schedule.distance > VERY_NEAR {
        accumulate(square, (0.0, 1.0), (gram, Form::Transposed), (gram, Form::Plain), sizes, true);
        combine(third, d, [1.875, -1.25, 0.375], gram, square);
    } else {
        combine(third, d, [1.5, -0.5, 0.0], gram, gram);
    }
    accumulate(next, (0.0, 1.0), (x, Form::Plain), (third, Form::Plain), sizes, false);
    std::mem::swap(x, next);
}

fn scale(x: &mut [f64], factor: f64) {
    x.iter_mut().for_each(|v| *v *= factor);
}

dispatched! {
    /// `out = c0 I + c1 a + c2 b`.
    fn combine(out: &mut [f64], d: usize, c: [f64; 3], a: &[f64], b: &[f64]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = c[1] * a + c[2] * b;
        }
        out.iter_mut().step_by(d + 1).for_each(|v| *v += c[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schedule_ends_near_one() {
        for k in 0..=SCHEDULES {
            let schedule = schedule(k);
            let finite = schedule.steps.iter().flatten().all(|c| c.is_finite());
            assert!(finite && schedule.distance <= NEAR, "schedule {k}: {schedule:?}");
        }
    }
    use crate::spd::linalg::square;
    use random::{Axis, Seeds};
    use testkit::tolerance::assert_close;

    #[test]
    fn polynomials_are_best() {
        // On [0.0297, 1] and on [0.1, 1], from an independent program.
        for (low, want) in [(0.0297, 0.6496345202358712), (0.1, 0.2609094732837198)] {
            let (c, error) = best_polynomial(low);
            assert!((error / want - 1.0).abs() < 1e-9, "error {error} instead of {want}");
            for i in 0..=1000 {
                let x = low + (1.0 - low) * f64::from(i) / 1000.0;
                let value: f64 = (0..TERMS).map(|j| c[j] * x.powi(2 * j as i32 + 1)).sum();
                assert!((1.0 - value).abs() <= error * (1.0 + 1e-9), "{value} at {x}");
            }
        }
    }

    #[test]
    fn recovers_the_orthogonal_factor() {
        let mut stream = Seeds::new(8).stream(Axis::Test, &[]);
        let mut scratch = Scratch::default();
        for d in [1, 2, 5, 16, 33, 64] {
            for spread in [0.0, 0.5, 1.5, 3.0, 4.5, 5.9] {
                let q = testkit::spd::orthogonal(d, &mut stream);
                let spectrum: Vec<f64> = (0..d).map(|_| 10f64.powf(-stream.range(0.0, spread))).collect();
                let h = testkit::spd::with_spectrum(&spectrum, &mut stream);
                let mut x = square((&q, Form::Plain), (&h, Form::Plain), d);
                polar_factor(&mut x, d, (10f64.powf(-spread) * 0.99, 1.01), &mut scratch);
                // The factor of a matrix with rounding errors is known up to ε / σ_min.
                let bar = 1e-13 * 10f64.powf(spread) * (d as f64).sqrt();
                assert_close(&format!("d {d}, spread {spread}"), &x, &q, d * d, bar);
            }
        }
    }
}
