//! Sinkhorn's updates on the scalings `u` and `v` themselves: one pass over the kernel an iteration, no logarithm.
//!
//! All numbers are float64, whatever the interface. Rows are padded to whole registers; the padding holds zeros.

use super::lanes::{Arithmetic, Job, LANES, Real, dispatch, exp, inner, sweep};
use super::sinkhorn::SinkhornConfig;
use crate::spd::linalg::{Form, product};

/// Largest `(max C − min C) / ε` over the finite costs.
const SPAN: f64 = 300.0;
/// Scalings stay between `1/REACH` and `REACH`, so that products of three factors stay inside float64.
const REACH: f64 = 1e130;

/// Scalings of one entry: `rows` holds those of iterations `1..=T`, `columns` those of `0..=T`, one padded row after
/// another.
pub(super) struct Scalings {
    rows: Vec<f64>,
    columns: Vec<f64>,
    /// Least cost, which the kernel leaves out.
    least: f64,
}

/// Least and largest finite cost of an entry.
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub(super) least: f64,
    pub(super) largest: f64,
}

/// Memory that one thread uses for one entry after another.
#[derive(Default)]
pub(super) struct Scratch {
    kernel: Vec<f64>,
    product: Vec<f64>,
    left: Vec<f64>,
    right: Vec<f64>,
}

/// Writes the plan of one entry and returns the scalings of all iterations, or `None` where they leave the range of
/// float64 (the plan is then undefined).
pub(super) fn solve<T: Real>(
    cost: &[T],
    n: usize,
    range: Range,
    config: SinkhornConfig,
    scratch: &mut Scratch,
    plan: &mut [T],
) -> Option<Scalings> {
    if (range.largest - range.least) / config.eps > SPAN {
        return None;
    }
    dispatch(Solve { cost, n, least: range.least, config, kernel: &mut scratch.kernel, plan })
}

struct Solve<'a, T> {
    cost: &'a [T],
    n: usize,
    least: f64,
    config: SinkhornConfig,
    kernel: &'a mut Vec<f64>,
    plan: &'a mut [T],
}

impl<T: Real> Job for Solve<'_, T> {
    type Out = Option<Scalings>;

    #[inline(always)]
    fn run<A: Arithmetic>(self) -> Option<Scalings> {
        let (n, stride) = (self.n, self.n.next_multiple_of(LANES));
        fill::<A, T>(self.kernel, self.cost, n, self.least, self.config.eps);
        let marginal = 1.0 / n as f64;
        let mut rows = vec![0.0; self.config.iterations * stride];
        let mut columns = vec![0.0; (self.config.iterations + 1) * stride];
        columns[..n].fill(1.0);
        for (t, u) in rows.chunks_exact_mut(stride).enumerate() {
            let (before, after) = columns.split_at_mut((t + 1) * stride);
            let next = &mut after[..stride];
            sweep::<A>(self.kernel, &before[t * stride..], next, |i, sum| {
                u[i] = marginal / sum;
                u[i]
            });
            next[..n].iter_mut().for_each(|s| *s = marginal / *s);
            let inside = |x: &f64| (1.0 / REACH..=REACH).contains(x);
            if !(u[..n].iter().all(inside) && next[..n].iter().all(inside)) {
                return None;
            }
        }
        let (u, v) = (&rows[rows.len() - stride..], &columns[columns.len() - stride..]);
        for ((plan, kernel), u) in self.plan.chunks_exact_mut(n).zip(self.kernel.chunks_exact(stride)).zip(u) {
            plan.iter_mut().zip(kernel).zip(v).for_each(|((p, k), v)| *p = T::narrow(u * k * v));
        }
        Some(Scalings { rows, columns, least: self.least })
    }
}

/// `exp((min C − C) / ε)` in padded rows: the common factor moves into the scalings.
#[inline(always)]
fn fill<A: Arithmetic, T: Real>(kernel: &mut Vec<f64>, cost: &[T], n: usize, least: f64, eps: f64) {
    let stride = n.next_multiple_of(LANES);
    kernel.resize(n * stride, 0.0);
    for (row, cost) in kernel.chunks_exact_mut(stride).zip(cost.chunks_exact(n)) {
        let (row, padding) = row.split_at_mut(n);
        row.iter_mut().zip(cost).for_each(|(k, c)| *k = exp::<A>((least - c.wide()) / eps));
        padding.fill(0.0);
    }
}

/// Writes the gradient of the cost for the gradient `grad` of the plan.
///
/// In the logarithms of the scalings, an update is `log v = log a − LSE`, whose derivatives are the plan-like weights
/// `u K v / a`. Every iteration adds two terms `K ∘ (x yᵀ)` to the gradient of the kernel's logarithm; they are
/// collected and added up by one product of an `N`×`2T` and a `2T`×`N` matrix.
///
/// False where the terms cancel until the interface has too few digits left (what was written is then of no use).
pub(super) fn gradient<T: Real>(
    cost: &[T],
    n: usize,
    eps: f64,
    path: &Scalings,
    grad: &[T],
    scratch: &mut Scratch,
    out: &mut [T],
) -> bool {
    let first = dispatch(Back { cost, n, eps, path, grad, scratch: &mut *scratch });
    let stride = n.next_multiple_of(LANES);
    let terms = scratch.left.len() / stride;
    scratch.product.resize(stride * stride, 0.0);
    let (left, right) = ((&scratch.left[..], Form::Transposed), (&scratch.right[..], Form::Plain));
    product(&mut scratch.product, left, right, stride, stride, terms);
    let terms = first.terms;
    let largest = dispatch(Combine { n, eps, path, grad, first, scratch, out });
    // What is not a number gains nothing from more digits.
    largest.partial_cmp(&(T::RESIDUE * terms)) != Some(std::cmp::Ordering::Less)
}

/// What the last column update takes back from the gradient `G` of the plan `P`: `β_j = N Σ_i P_ij G_ij`, as the sum of
/// `pivot_j` and the small `mean_j` (see [`super::precise`]). Padded rows.
struct First {
    pivot: Vec<f64>,
    mean: Vec<f64>,
    /// The largest of the terms that the gradient is the sum of, as far as they are known.
    terms: f64,
}

impl First {
    #[inline(always)]
    fn new<A: Arithmetic, T: Real>(kernel: &[f64], n: usize, u: &[f64], v: &[f64], grad: &[T]) -> Self {
        let stride = v.len();
        let (mut pivot, mut mean, mut largest) = (vec![0.0; stride], vec![0.0; stride], vec![-1.0; n]);
        for ((kernel, grad), u) in kernel.chunks_exact(stride).zip(grad.chunks_exact(n)).zip(u) {
            for (((k, g), largest), pivot) in kernel.iter().zip(grad).zip(&mut largest).zip(&mut pivot) {
                let weight = u * k;
                *pivot = if weight > *largest { g.wide() } else { *pivot };
                *largest = if weight > *largest { weight } else { *largest };
            }
        }
        for ((kernel, grad), u) in kernel.chunks_exact(stride).zip(grad.chunks_exact(n)).zip(u) {
            for (((k, g), pivot), mean) in kernel.iter().zip(grad).zip(&pivot).zip(&mut mean) {
                *mean = A::mul_add(u * k, g.wide() - pivot, *mean);
            }
        }
        mean.iter_mut().zip(v).for_each(|(m, v)| *m *= n as f64 * v);
        Self { pivot, mean, terms: 0.0 }
    }
}

struct Back<'a, T> {
    cost: &'a [T],
    n: usize,
    eps: f64,
    path: &'a Scalings,
    grad: &'a [T],
    scratch: &'a mut Scratch,
}

impl<T: Real> Job for Back<'_, T> {
    type Out = First;

    /// The updates backwards; the factors of their rank-one terms go to `left` and `right`, one a padded row.
    #[inline(always)]
    fn run<A: Arithmetic>(self) -> First {
        let (n, stride, scale) = (self.n, self.n.next_multiple_of(LANES), self.n as f64);
        let Scratch { kernel, left, right, .. } = self.scratch;
        let Scalings { rows, columns, least } = self.path;
        fill::<A, T>(kernel, self.cost, n, *least, self.eps);
        let (u, v) = (&rows[rows.len() - stride..], &columns[columns.len() - stride..]);
        let mut first = First::new::<A, T>(kernel, n, u, v, self.grad);
        let mut from_rows = vec![0.0; stride];
        let mut terms = 0.0f64;
        let mut difference = vec![0.0; stride];
        for (i, (kernel, grad)) in kernel.chunks_exact(stride).zip(self.grad.chunks_exact(n)).enumerate() {
            for ((((d, g), pivot), mean), v) in
                difference.iter_mut().zip(grad).zip(&first.pivot).zip(&first.mean).zip(v)
            {
                *d = ((g.wide() - pivot) - mean) * v;
            }
            from_rows[i] = u[i] * inner::<A>(kernel, &difference);
            let own = kernel.iter().zip(&difference).fold(0.0, |m: f64, (k, d)| m.max((k * d).abs()));
            terms = terms.max(u[i] * own);
        }
        let mut from_columns = vec![0.0; stride];
        left.resize(2 * rows.len(), 0.0);
        right.resize(2 * rows.len(), 0.0);
        let factors = left.chunks_exact_mut(2 * stride).zip(right.chunks_exact_mut(2 * stride));
        for (t, (left, right)) in factors.enumerate().rev() {
            let u = &rows[t * stride..(t + 1) * stride];
            let (previous, rest) = columns[t * stride..].split_at(stride);
            let (column_left, row_left) = left.split_at_mut(stride);
            let (column_right, row_right) = right.split_at_mut(stride);
            for j in 0..stride {
                column_left[j] = -scale * u[j];
                column_right[j] = rest[j] * from_columns[j];
                row_right[j] = previous[j];
            }
            row_left[n..].fill(0.0);
            // The column update backwards, `rows −= N u ∘ K x`, then the row update: `Kᵀ (rows ∘ u)`.
            sweep::<A>(kernel, column_right, &mut from_columns, |i, sum| {
                let from_row = from_rows[i] - scale * u[i] * sum;
                terms = terms.max(from_row.abs());
                row_left[i] = -scale * (from_row * u[i]);
                from_row * u[i]
            });
            for (c, v) in from_columns.iter_mut().zip(previous) {
                *c *= -scale * v;
                terms = terms.max(c.abs());
            }
            from_rows.fill(0.0);
        }
        first.terms = terms / self.eps;
        first
    }
}

struct Combine<'a, T> {
    n: usize,
    eps: f64,
    path: &'a Scalings,
    grad: &'a [T],
    first: First,
    scratch: &'a Scratch,
    out: &'a mut [T],
}

impl<T: Real> Job for Combine<'_, T> {
    /// The largest entry of the gradient.
    type Out = f64;

    /// `−K ∘ (left · right + u vᵀ ∘ (G − β)) / ε`.
    #[inline(always)]
    fn run<A: Arithmetic>(self) -> f64 {
        let mut largest = [0.0f64; LANES];
        let (n, stride) = (self.n, self.n.next_multiple_of(LANES));
        let Scalings { rows, columns, .. } = self.path;
        let (u, v) = (&rows[rows.len() - stride..], &columns[columns.len() - stride..]);
        let (pivot, mean) = (&self.first.pivot[..n], &self.first.mean[..n]);
        let (v, scale) = (&v[..n], -1.0 / self.eps);
        for (i, (out, grad)) in self.out.chunks_exact_mut(n).zip(self.grad.chunks_exact(n)).enumerate() {
            let kernel = &self.scratch.kernel[i * stride..][..n];
            let terms = &self.scratch.product[i * stride..][..n];
            for j in 0..n {
                let own = u[i] * v[j] * ((grad[j].wide() - pivot[j]) - mean[j]);
                let value = scale * (kernel[j] * (terms[j] + own));
                largest[j % LANES] = largest[j % LANES].max(value.abs());
                out[j] = T::narrow(value);
            }
        }
        largest.into_iter().fold(0.0, f64::max)
    }
}
