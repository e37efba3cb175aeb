//! Entropic optimal transport with uniform marginals.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::{scaling, stabilised};
use crate::spd::saved;
use crate::{Error, Result, host};

const OP: &str = "sinkhorn";

/// Settings of [`sinkhorn`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SinkhornConfig {
    /// Entropic regularisation ε > 0, in units of the cost.
    pub eps: f64,
    /// Row-then-column updates, at least 1.
    pub iterations: usize,
}

impl SinkhornConfig {
    pub(crate) fn check(self, op: &'static str) -> Result<()> {
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            return Err(Error::Attribute { op, name: "eps", value: self.eps, expected: "a finite number > 0" });
        }
        if self.iterations == 0 {
            return Err(Error::Attribute { op, name: "iterations", value: 0.0, expected: "at least 1" });
        }
        Ok(())
    }
}

/// Plans `[B, N, N]` for costs `[B, N, N]` after exactly `iterations` row-then-column updates from zero potentials,
/// with marginals `1/N`:
///
/// `log u ← −log N − LSE_j(−C/ε + log v)`, `log v ← −log N − LSE_i(−C/ε + log u)`, `P = exp(log u − C/ε + log v)`
/// (Peyré and Cuturi, *Computational Optimal Transport*, 2019, section 4.4). The columns of the plan sum to `1/N`
/// exactly, the rows as far as the iteration has converged.
///
/// Differentiable through all iterations; the backward pass keeps the potentials of each iteration (`2 N` numbers) and
/// recomputes the kernel. A cost of `+∞` forbids its entry: the plan and the gradient are 0 there.
///
/// Each batch entry is iterated with the scalings `u`, `v` themselves as long as they stay inside the range of
/// float64, and with their logarithms where they do not: the same updates in another arithmetic.
///
/// # Errors
/// Not `[B, N, N]`, NaN or `−∞`, a row or column that is infinite everywhere, `eps` not positive or no iteration.
pub fn sinkhorn(cost: &Tensor, config: SinkhornConfig) -> Result<Tensor> {
    config.check(OP)?;
    let n = match cost.dims() {
        &[_, rows, columns] if rows == columns && rows > 0 => rows,
        got => {
            return Err(Error::Shape { op: OP, name: "cost", got: got.to_vec(), expected: "[B, N, N], N >= 1".into() });
        }
    };
    let values = host::to_f64(OP, cost)?;
    for (batch, entry) in values.chunks_exact(n * n).enumerate() {
        check_entry(entry, n, batch)?;
    }
    let solved: Vec<(Vec<f64>, Potentials)> =
        values.par_chunks_exact(n * n).map(|entry| solve(entry, n, config)).collect();
    let (plans, potentials): (Vec<_>, Vec<_>) = solved.into_iter().unzip();
    let potentials = Arc::new(potentials);
    saved::unary(OP, cost, plans.concat(), cost.shape(), move |cost, grad| {
        let values = host::to_f64(OP, cost)?;
        let entries = values.par_chunks_exact(n * n).zip(grad.par_chunks_exact(n * n)).zip(potentials.par_iter());
        let gradients = entries.map(|((cost, grad), potentials)| match potentials {
            Potentials::Scalings(path) => scaling::gradient(cost, n, config.eps, path, grad),
            Potentials::Logarithms(path) => stabilised::gradient(cost, n, config.eps, path, grad),
        });
        Ok(gradients.collect::<Vec<_>>().concat())
    })
}

/// The potentials of all iterations, in the arithmetic that they were computed in.
enum Potentials {
    Scalings(Path),
    Logarithms(Path),
}

/// Row and column potentials: `rows` holds those of iterations `1..=T`, `columns` those of `0..=T`, one after another.
pub(super) struct Path {
    pub(super) rows: Vec<f64>,
    pub(super) columns: Vec<f64>,
}

/// `P ∘ (G − β)`, where `β_j = N Σ_i P_ij G_ij` is what the last column update takes back from the gradient `G` of
/// the plan `P`: its columns sum to `1/N` whatever the cost.
///
/// Where a column is almost all in one entry, `G − β` cancels there. It is taken as the difference from the
/// gradient at the column's largest entry, which is exact, less the mean of those differences, which is small.
pub(super) fn first_step_back(plan: &[f64], n: usize, grad: &[f64]) -> Vec<f64> {
    let mut largest = vec![0; n];
    for i in 1..n {
        for (j, row) in largest.iter_mut().enumerate() {
            if plan[i * n + j] > plan[*row * n + j] {
                *row = i;
            }
        }
    }
    let pivot: Vec<f64> = largest.iter().enumerate().map(|(j, i)| grad[i * n + j]).collect();
    let mut mean = vec![0.0; n];
    for (plan, grad) in plan.chunks_exact(n).zip(grad.chunks_exact(n)) {
        for (j, mean) in mean.iter_mut().enumerate() {
            *mean += n as f64 * plan[j] * (grad[j] - pivot[j]);
        }
    }
    let rows = plan.chunks_exact(n).zip(grad.chunks_exact(n));
    rows.flat_map(|(plan, grad)| (0..n).map(|j| plan[j] * ((grad[j] - pivot[j]) - mean[j])).collect::<Vec<_>>())
        .collect()
}

fn solve(cost: &[f64], n: usize, config: SinkhornConfig) -> (Vec<f64>, Potentials) {
    match scaling::solve(cost, n, config) {
        Some((plan, path)) => (plan, Potentials::Scalings(path)),
        None => {
            let (plan, path) = stabilised::solve(cost, n, config);
            (plan, Potentials::Logarithms(path))
        }
    }
}

fn check_entry(cost: &[f64], n: usize, batch: usize) -> Result<()> {
    if cost.iter().any(|&c| c.is_nan() || c == f64::NEG_INFINITY) {
        return Err(Error::NonFinite { op: OP, name: "cost", batch });
    }
    for index in 0..n {
        let row = cost[index * n..(index + 1) * n].iter().all(|c| c.is_infinite());
        let column = cost[index..].iter().step_by(n).all(|c| c.is_infinite());
        if row || column {
            return Err(Error::Infeasible { op: OP, batch, line: if row { "row" } else { "column" }, index });
        }
    }
    Ok(())
}
