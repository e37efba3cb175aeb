//! Sinkhorn's updates on the scalings `u` and `v` themselves: two products with the kernel an iteration, no logarithm.

use super::sinkhorn::{Path, SinkhornConfig, first_step_back};
use crate::spd::linalg::{Form, product};
use crate::spd::simd::{axpy, dispatched, dot};

/// Largest `(max C − min C) / ε` over the finite costs.
const SPAN: f64 = 300.0;
/// Scalings stay between `1/REACH` and `REACH`, so that products of three factors stay inside float64.
const REACH: f64 = 1e130;

/// The plan and the scalings of all iterations, or `None` where they leave the range of float64.
pub(super) fn solve(cost: &[f64], n: usize, config: SinkhornConfig) -> Option<(Vec<f64>, Path)> {
    let mut plan = kernel(cost, config.eps)?;
    let mut rows = vec![0.0; config.iterations * n];
    let mut columns = vec![1.0; (config.iterations + 1) * n];
    for (t, u) in rows.chunks_exact_mut(n).enumerate() {
        let (before, after) = columns.split_at_mut((t + 1) * n);
        let v = &mut after[..n];
        iterate(&plan, n, &before[t * n..], u, v);
        let inside = |x: &f64| (1.0 / REACH..=REACH).contains(x);
        if !(u.iter().all(inside) && v.iter().all(inside)) {
            return None;
        }
    }
    scale(&mut plan, n, &rows[rows.len() - n..], &columns[columns.len() - n..]);
    Some((plan, Path { rows, columns }))
}

/// `exp((min C − C) / ε)`: the common factor moves into the scalings.
fn kernel(cost: &[f64], eps: f64) -> Option<Vec<f64>> {
    let finite = || cost.iter().copied().filter(|c| c.is_finite());
    let (least, largest) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    if (largest - least) / eps > SPAN {
        return None;
    }
    Some(cost.iter().map(|c| ((least - c) / eps).exp()).collect())
}

dispatched! {
    /// One row update `u = a / K v` and one column update `v' = a / Kᵀ u`, in one pass over the kernel.
    fn iterate(kernel: &[f64], n: usize, v: &[f64], u: &mut [f64], next: &mut [f64]) {
        let marginal = 1.0 / n as f64;
        next.fill(0.0);
        for (row, u) in kernel.chunks_exact(n).zip(u.iter_mut()) {
            *u = marginal / dot(row, v);
            axpy(next, *u, row);
        }
        next.iter_mut().for_each(|s| *s = marginal / *s);
    }
}

dispatched! {
    /// `plan_ij = u_i plan_ij v_j`.
    fn scale(plan: &mut [f64], n: usize, u: &[f64], v: &[f64]) {
        for (row, u) in plan.chunks_exact_mut(n).zip(u) {
            row.iter_mut().zip(v).for_each(|(p, v)| *p = u * *p * v);
        }
    }
}

/// Gradient of the cost for the gradient `grad` of the plan.
///
/// In the logarithms of the scalings, an update is `log v = log a − LSE`, whose derivatives are the plan-like weights
/// `u K v / a`. Every iteration adds two terms `K ∘ (x yᵀ)` to the gradient of the kernel's logarithm; they are
/// collected and added up by one product of an `N`×`2T` and a `2T`×`N` matrix.
pub(super) fn gradient(cost: &[f64], n: usize, eps: f64, path: &Path, grad: &[f64]) -> Vec<f64> {
    let kernel =
        kernel(cost, eps).unwrap_or_else(|| unreachable!("the forward pass found the span to be small enough"));
    let iterations = path.rows.len() / n;
    let mut plan = kernel.clone();
    scale(&mut plan, n, &path.rows[(iterations - 1) * n..], &path.columns[iterations * n..]);
    let first = first_step_back(&plan, n, grad);
    let mut from_rows: Vec<f64> = first.chunks_exact(n).map(|row| row.iter().sum()).collect();
    let mut from_columns = vec![0.0; n];
    // Factors of the rank-one terms, one a row.
    let (mut left, mut right) = (vec![0.0; 2 * iterations * n], vec![0.0; 2 * iterations * n]);
    for t in (0..iterations).rev() {
        let u = &path.rows[t * n..(t + 1) * n];
        let (v, previous) = (&path.columns[(t + 1) * n..(t + 2) * n], &path.columns[t * n..(t + 1) * n]);
        let (column_left, row_left) = left[2 * t * n..(2 * t + 2) * n].split_at_mut(n);
        let (column_right, row_right) = right[2 * t * n..(2 * t + 2) * n].split_at_mut(n);
        for j in 0..n {
            column_left[j] = -u[j] * n as f64;
            column_right[j] = v[j] * from_columns[j];
            row_right[j] = previous[j];
        }
        step_back(&kernel, n, u, column_right, &mut from_rows, row_left, &mut from_columns);
        for j in 0..n {
            from_columns[j] *= -previous[j] * n as f64;
        }
        from_rows.fill(0.0);
    }
    let mut out = vec![0.0; n * n];
    product(&mut out, (&left, Form::Transposed), (&right, Form::Plain), n, n, 2 * iterations);
    out.iter_mut().zip(&kernel).zip(&first).for_each(|((o, k), f)| *o = -(*o * k + f) / eps);
    out
}

dispatched! {
    /// The column update backwards (`rows −= N u ∘ K x`), then the row update: `left = −N rows ∘ u`,
    /// `sums = Kᵀ (rows ∘ u)`.
    fn step_back(
        kernel: &[f64],
        n: usize,
        u: &[f64],
        x: &[f64],
        rows: &mut [f64],
        left: &mut [f64],
        sums: &mut [f64],
    ) {
        let scale = n as f64;
        sums.fill(0.0);
        for (i, row) in kernel.chunks_exact(n).enumerate() {
            rows[i] -= scale * u[i] * dot(row, x);
            let weight = rows[i] * u[i];
            left[i] = -scale * weight;
            axpy(sums, weight, row);
        }
    }
}
