//! Sinkhorn's updates in as many digits as they need: for costs whose kernel leaves the range of float64, and for
//! gradients whose terms cancel.
//!
//! Where a plan is almost a permutation, its gradient is a sum of terms that may be larger than it by any power of
//! ten: what a rounding in an update leaves is then no longer small beside it. The same recursion as in
//! [`super::scaling`] runs here on [`Extended`] numbers, twice as many digits at a time, until enough of them are left.

use super::extended::{Exponential, Extended};
use super::sinkhorn::SinkhornConfig;

/// Bits of a gradient that have to be right.
const RIGHT: i64 = 64;

/// The plan. Every row and column holds a finite cost.
pub(super) fn plan(cost: &[f64], n: usize, config: SinkhornConfig) -> Vec<f64> {
    let path = Path::<2>::new(cost, n, config);
    path.plan().iter().map(|p| p.to_f64()).collect()
}

/// Gradient of the cost for the gradient `grad` of the plan: to the accuracy of float64 unless its terms are `2^440`
/// times as large. NaN where `grad` is not finite.
pub(super) fn gradient(cost: &[f64], n: usize, config: SinkhornConfig, grad: &[f64]) -> Vec<f64> {
    if !grad.iter().all(|g| g.is_finite()) {
        return vec![f64::NAN; grad.len()];
    }
    let few = attempt::<2>(cost, n, config, grad);
    let more = few.or_else(|_| attempt::<4>(cost, n, config, grad));
    more.or_else(|_| attempt::<8>(cost, n, config, grad)).unwrap_or_else(|TooFew(gradient)| gradient)
}

/// A gradient whose terms cancelled until less than [`RIGHT`] bits were left.
struct TooFew(Vec<f64>);

fn attempt<const L: usize>(cost: &[f64], n: usize, config: SinkhornConfig, grad: &[f64]) -> Result<Vec<f64>, TooFew> {
    let path = Path::<L>::new(cost, n, config);
    let (gradient, terms) = path.gradient(grad, config.eps);
    let left = (64 * L as i64).saturating_sub(terms.saturating_sub(largest(&gradient)));
    let gradient = gradient.iter().map(|g| g.to_f64()).collect();
    if left >= RIGHT || terms == i64::MIN { Ok(gradient) } else { Err(TooFew(gradient)) }
}

/// The kernel `exp((row minimum − C) / ε)` and the scalings: `rows` of iterations `1..=T`, `columns` of `0..=T`.
struct Path<const L: usize> {
    n: usize,
    kernel: Vec<Extended<L>>,
    rows: Vec<Extended<L>>,
    columns: Vec<Extended<L>>,
}

impl<const L: usize> Path<L> {
    fn new(cost: &[f64], n: usize, config: SinkhornConfig) -> Self {
        let kernel = kernel(cost, n, config.eps);
        let (one, size) = (Extended::new(1.0), Extended::new(n as f64));
        let mut rows = Vec::with_capacity(config.iterations * n);
        let mut columns = vec![one; n];
        for t in 0..config.iterations {
            let v = &columns[t * n..];
            rows.extend(kernel.chunks_exact(n).map(|row| (size * inner(row, v)).reciprocal()));
            let mut sums = vec![Extended::ZERO; n];
            for (row, &u) in kernel.chunks_exact(n).zip(&rows[t * n..]) {
                add(&mut sums, u, row);
            }
            columns.extend(sums.into_iter().map(|sum| (size * sum).reciprocal()));
        }
        Self { n, kernel, rows, columns }
    }

    fn row(&self, t: usize) -> &[Extended<L>] {
        &self.rows[t * self.n..(t + 1) * self.n]
    }

    fn column(&self, t: usize) -> &[Extended<L>] {
        &self.columns[t * self.n..(t + 1) * self.n]
    }

    fn iterations(&self) -> usize {
        self.rows.len() / self.n
    }

    fn plan(&self) -> Vec<Extended<L>> {
        let (u, v) = (self.row(self.iterations() - 1), self.column(self.iterations()));
        let rows = self.kernel.chunks_exact(self.n).zip(u);
        rows.flat_map(|(row, &u)| row.iter().zip(v).map(move |(&k, &v)| u * k * v)).collect()
    }

    /// The gradient, and the size of the largest of the terms that it is the sum of.
    fn gradient(&self, grad: &[f64], eps: f64) -> (Vec<Extended<L>>, i64) {
        let (n, size) = (self.n, Extended::new(self.n as f64));
        let first = first_step_back(&self.plan(), n, grad);
        let mut terms = largest(&first);
        let mut from_rows: Vec<Extended<L>> =
            first.chunks_exact(n).map(|row| row.iter().fold(Extended::ZERO, |s, &x| s + x)).collect();
        // What K is to be multiplied by, entry by entry, and added to `first`.
        let mut factors = vec![Extended::ZERO; n * n];
        let mut from_columns = vec![Extended::ZERO; n];
        for t in (0..self.iterations()).rev() {
            let (u, before, after) = (self.row(t), self.column(t), self.column(t + 1));
            let weights: Vec<Extended<L>> = after.iter().zip(&from_columns).map(|(&v, &c)| v * c).collect();
            let mut sums = vec![Extended::ZERO; n];
            for (i, (kernel, factors)) in self.kernel.chunks_exact(n).zip(factors.chunks_exact_mut(n)).enumerate() {
                let scale = -(size * u[i]);
                let mut from_row = std::mem::replace(&mut from_rows[i], Extended::ZERO);
                if t + 1 < self.iterations() {
                    from_row = from_row + scale * inner(kernel, &weights);
                    add(factors, scale, &weights);
                }
                terms = terms.max(from_row.size());
                let weight = scale * from_row;
                add(factors, weight, before);
                add(&mut sums, weight, kernel);
            }
            from_columns = before.iter().zip(&sums).map(|(&v, &sum)| v * sum).collect();
            terms = terms.max(largest(&from_columns));
        }
        let scale = -Extended::new(eps).reciprocal();
        let all = first.iter().zip(&self.kernel).zip(&factors).map(|((&x, &k), &f)| scale * (x + k * f)).collect();
        (all, terms.saturating_add(scale.size()))
    }
}

fn kernel<const L: usize>(cost: &[f64], n: usize, eps: f64) -> Vec<Extended<L>> {
    let (exponential, inverse) = (Exponential::new(), Extended::new(eps).reciprocal());
    let rows = cost.chunks_exact(n).map(|row| (row, row.iter().copied().fold(f64::INFINITY, f64::min)));
    let entry = |least: f64, c: f64| {
        if c == f64::INFINITY {
            Extended::ZERO
        } else {
            exponential.of((Extended::new(least) - Extended::new(c)) * inverse)
        }
    };
    rows.flat_map(|(row, least)| row.iter().map(move |&c| (least, c))).map(|(least, c)| entry(least, c)).collect()
}

/// `P ∘ (G − β)`, where `β_j = N Σ_i P_ij G_ij` is what the last column update takes back from the gradient `G` of
/// the plan `P`: its columns sum to `1/N` whatever the cost.
///
/// Where a column is almost all in one entry, `G − β` cancels there. It is taken as the difference from the
/// gradient at the column's largest entry, which is exact, less the mean of those differences, which is small.
fn first_step_back<const L: usize>(plan: &[Extended<L>], n: usize, grad: &[f64]) -> Vec<Extended<L>> {
    let mut pivot = vec![0; n];
    for i in 1..n {
        for (j, row) in pivot.iter_mut().enumerate() {
            if plan[i * n + j].exceeds(plan[*row * n + j]) {
                *row = i;
            }
        }
    }
    let difference = |i: usize, j: usize| Extended::new(grad[i * n + j]) - Extended::new(grad[pivot[j] * n + j]);
    let mut mean = vec![Extended::ZERO; n];
    for (k, &p) in plan.iter().enumerate() {
        mean[k % n] = mean[k % n] + p * difference(k / n, k % n);
    }
    mean.iter_mut().for_each(|m| *m = *m * Extended::new(n as f64));
    plan.iter().enumerate().map(|(k, &p)| p * (difference(k / n, k % n) - mean[k % n])).collect()
}

fn largest<const L: usize>(values: &[Extended<L>]) -> i64 {
    values.iter().map(|v| v.size()).max().unwrap_or(i64::MIN)
}

fn inner<const L: usize>(a: &[Extended<L>], b: &[Extended<L>]) -> Extended<L> {
    a.iter().zip(b).fold(Extended::ZERO, |sum, (&a, &b)| sum + a * b)
}

/// `sum += factor · x`.
fn add<const L: usize>(sum: &mut [Extended<L>], factor: Extended<L>, x: &[Extended<L>]) {
    sum.iter_mut().zip(x).for_each(|(s, &x)| *s = *s + factor * x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::sinkhorn::by_scalings;
    use random::{Axis, Seeds};
    use testkit::tolerance::{ORACLE_F64, assert_close};

    #[test]
    fn both_arithmetics_agree() {
        let mut stream = Seeds::new(8).stream(Axis::Test, &[]);
        for (n, eps, iterations) in [(1, 0.1, 3), (7, 0.5, 20), (12, 0.05, 11), (18, 0.1, 2)] {
            let mut cost: Vec<f64> = (0..n * n).map(|_| stream.uniform()).collect();
            if n > 1 {
                cost[1] = f64::INFINITY;
            }
            let grad: Vec<f64> = (0..n * n).map(|_| stream.normal()).collect();
            let config = SinkhornConfig { eps, iterations };
            let (fast, got) = by_scalings(&cost, n, config, &grad).expect("a narrow cost");
            assert_close("plan", &fast, &plan(&cost, n, config), n * n, ORACLE_F64.value);
            assert_close("gradient", &got, &gradient(&cost, n, config, &grad), n * n, ORACLE_F64.gradient);
        }
    }

    /// Plan and gradient of a sharp problem (3×3, ε = 1/16, 4 iterations), computed in 50 digits; the gradient is
    /// smaller than the terms that it is the sum of by up to ten powers of ten.
    #[test]
    fn a_sharp_plan_keeps_the_digits_of_its_gradient() {
        let cost = [0.0, 1.0, 1.5, 0.75, 0.125, 1.25, 1.75, 0.5, 0.0625];
        let grad = [1.0, -2.0, 0.5, 0.25, 3.0, -1.0, -0.5, 0.75, 2.0];
        #[rustfmt::skip]
        let plan = [
            0.333318164200895, 3.73875508416762e-8, 1.26313371729540e-11,
            1.51691318142655e-5, 0.33303148207266, 5.10813989362607e-9,
            6.24122464415716e-13, 0.000301813873122355, 0.333333328212562,
        ];
        #[rustfmt::skip]
        let want = [
            -2.98658221485438e-6, 2.98627780722515e-6, 3.04407629228279e-10,
            0.000183932404716772, -0.000184178741638934, 2.46336922162403e-7,
            1.48963851959004e-11, 0.0107870916146773, -0.0107870916295737,
        ];
        let config = SinkhornConfig { eps: 0.0625, iterations: 4 };
        let (fast, gradient_of_fast) = by_scalings(&cost, 3, config, &grad).expect("a narrow cost");
        assert_close("plan by scalings", &fast, &plan, 3, ORACLE_F64.value);
        assert_close("gradient by scalings", &gradient_of_fast, &want, 3, ORACLE_F64.gradient);
        assert_close("plan", &super::plan(&cost, 3, config), &plan, 3, ORACLE_F64.value);
        assert_close("gradient", &gradient(&cost, 3, config, &grad), &want, 3, ORACLE_F64.gradient);
    }

    #[test]
    fn a_wide_cost_is_left_to_more_digits() {
        let cost = [0.0, 50.0, 50.0, 0.0];
        assert!(by_scalings(&cost, 2, SinkhornConfig { eps: 0.1, iterations: 5 }, &[1.0; 4]).is_none());
        let plan = plan(&cost, 2, SinkhornConfig { eps: 0.1, iterations: 5 });
        assert_close("plan", &plan, &[0.5, 0.0, 0.0, 0.5], 4, ORACLE_F64.value);
    }

    fn each_within(what: &str, got: &[f64], want: &[f64], bar: f64) {
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= bar * want.abs(), "{what}: {got:e} instead of {want:e}");
        }
    }

    const GRAD: [f64; 9] = [1.0, -2.0, 0.5, 0.25, 3.0, -1.0, -0.5, 0.75, 2.0];

    /// 3×3, ε = 1/512, 4 iterations, computed in 900 digits: every entry of the plan keeps its own relative accuracy.
    #[test]
    fn entries_at_the_end_of_float64_keep_their_digits() {
        let cost = [0.0, 1.0, 1.5, 0.75, 0.125, 1.25, 1.75, 0.5, 0.0625];
        let config = SinkhornConfig { eps: 1.0 / 512.0, iterations: 4 };
        #[rustfmt::skip]
        let want = [
            1.0 / 3.0, 1.45916367901768e-223, 0.0,
            3.5370771791545e-140, 1.0 / 3.0, 2.34022259950158e-251,
            0.0, 1.74146519459724e-98, 1.0 / 3.0,
        ];
        each_within("plan", &plan(&cost, 3, config), &want, 1e-14);
        #[rustfmt::skip]
        let want = [
            -3.73545901828527e-220, 3.73545901828527e-220, 0.0,
            1.35823763679533e-137, -1.35823763679533e-137, 3.59458191283442e-248,
            0.0, 2.00616790417602e-95, -2.00616790417602e-95,
        ];
        // Norm-wise: float64 would have lost all of it.
        let largest = want.iter().fold(0.0f64, |m, w: &f64| m.max(w.abs()));
        for (got, want) in gradient(&cost, 3, config, &GRAD).iter().zip(want) {
            assert!((got - want).abs() <= 1e-14 * largest, "gradient: {got:e} instead of {want:e}");
        }
    }

    /// 3×3, ε = 1/128, 12 iterations, computed in 900 digits: a plan inside the range of float64, with terms of the
    /// gradient that cancel by 1e-10.
    #[test]
    fn a_gradient_whose_terms_cancel_is_left_to_more_digits() {
        let cost = [0.0, 0.5, 1.5, 0.25, 1.0, 1.75, 1.25, 1.625, 0.125];
        let config = SinkhornConfig { eps: 1.0 / 128.0, iterations: 12 };
        assert!(by_scalings(&cost, 3, config, &GRAD).is_none());
        #[rustfmt::skip]
        let want = [
            -6.49868690796132e-11, 6.49868690796132e-11, 7.9229934619809e-83,
            6.49868690796132e-11, -6.49868690796132e-11, 2.98042356515587e-81,
            2.01138713558813e-62, -1.2242363435023e-53, 1.22423634149091e-53,
        ];
        each_within("gradient", &gradient(&cost, 3, config, &GRAD), &want, 1e-14);
    }

    #[test]
    fn a_gradient_that_is_no_number_stays_none() {
        let config = SinkhornConfig { eps: 0.001, iterations: 3 };
        let got = gradient(&[0.0, 1.0, 1.0, 0.0], 2, config, &[1.0, f64::NAN, 0.0, 0.0]);
        assert!(got.iter().all(|g| g.is_nan()));
    }
}
