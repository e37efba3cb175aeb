//! Entropic optimal transport with uniform marginals.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::lanes::Real;
use super::scaling::{Range, Scalings, Scratch};
use super::values::{Values, with_values};
use super::{scaling, stabilised};
use crate::{Error, Result};

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
/// recomputes the kernel, so that it needs little more memory than the result. A cost of `+∞` forbids its entry: the plan and the gradient are 0 there.
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
    let (plans, potentials) = with_values(OP, cost, |values| match values {
        Values::Single(values) => {
            let (plans, potentials) = solve(values, n, config)?;
            Ok((CpuStorage::F32(plans), potentials))
        }
        Values::Double(values) => {
            let (plans, potentials) = solve(values, n, config)?;
            Ok((CpuStorage::F64(plans), potentials))
        }
    })?;
    let op = Sinkhorn { n, eps: config.eps, potentials, plans: Mutex::new(Some(plans)) };
    Ok(cost.to_device(&Device::Cpu)?.apply_op1(op)?.to_device(cost.device())?)
}

/// Plans and potentials of all entries, in order.
fn solve<T: Real>(costs: &[T], n: usize, config: SinkhornConfig) -> Result<(Vec<T>, Vec<Potentials>)> {
    let mut plans = vec![T::default(); costs.len()];
    let entries = costs.par_chunks_exact(n * n).zip(plans.par_chunks_exact_mut(n * n)).enumerate();
    let solved = entries.map_init(Scratch::default, |scratch, (batch, (cost, plan))| {
        let range = check_entry(cost, n, batch)?;
        if let Some(path) = scaling::solve(cost, n, range, config, scratch, plan) {
            return Ok(Potentials::Scalings(path));
        }
        let (found, path) = stabilised::solve(&widened(cost), n, config);
        plan.iter_mut().zip(found).for_each(|(p, value)| *p = T::narrow(value));
        Ok(Potentials::Logarithms(path))
    });
    // Collected before the first refusal is looked for, so that the same one is reported on any number of threads.
    let potentials = solved.collect::<Vec<Result<_>>>().into_iter().collect::<Result<_>>()?;
    Ok((plans, potentials))
}

fn widened<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.wide()).collect()
}

/// Hands out the plans that were computed before, and keeps the potentials for the backward pass.
struct Sinkhorn {
    n: usize,
    eps: f64,
    potentials: Vec<Potentials>,
    plans: Mutex<Option<CpuStorage>>,
}

impl Sinkhorn {
    fn gradient<T: Real + WithDType>(&self, costs: &[T], grads: &[T]) -> Vec<T> {
        let (n, eps) = (self.n, self.eps);
        let mut out = vec![T::default(); costs.len()];
        let entries = costs.par_chunks_exact(n * n).zip(grads.par_chunks_exact(n * n));
        let entries = entries.zip(out.par_chunks_exact_mut(n * n)).zip(self.potentials.par_iter());
        entries.for_each_init(Scratch::default, |scratch, (((cost, grad), out), potentials)| match potentials {
            Potentials::Scalings(path) => scaling::gradient(cost, n, eps, path, grad, scratch, out),
            Potentials::Logarithms(path) => {
                let found = stabilised::gradient(&widened(cost), n, eps, path, &widened(grad));
                out.iter_mut().zip(found).for_each(|(o, value)| *o = <T as Real>::narrow(value));
            }
        });
        out
    }
}

impl CustomOp1 for Sinkhorn {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, _: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut slot = self.plans.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let plans = slot.take().ok_or_else(|| candle_core::Error::Msg(format!("{OP}: the forward pass ran twice")))?;
        Ok((plans, layout.shape().clone()))
    }

    fn bwd(&self, cost: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let shape = cost.shape();
        let gradient = with_values(OP, cost, |costs| {
            with_values(OP, grad, |grads| match (costs, grads) {
                (Values::Single(c), Values::Single(g)) => {
                    Ok(Tensor::from_vec(self.gradient(c, g), shape, &Device::Cpu)?)
                }
                (Values::Double(c), Values::Double(g)) => {
                    Ok(Tensor::from_vec(self.gradient(c, g), shape, &Device::Cpu)?)
                }
                _ => Err(Error::DtypeMismatch { op: OP, left: cost.dtype(), right: grad.dtype() }),
            })
        })?;
        Ok(Some(gradient.to_device(cost.device())?))
    }
}

/// The potentials of all iterations, in the arithmetic that they were computed in.
enum Potentials {
    Scalings(Scalings),
    Logarithms(Path),
}

/// Logarithms of the scalings: `rows` holds those of iterations `1..=T`, `columns` those of `0..=T`, one after another.
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

/// Refuses an entry that has no plan; the range of its finite costs otherwise.
fn check_entry<T: Real>(cost: &[T], n: usize, batch: usize) -> Result<Range> {
    let (mut least, mut largest, mut finite, mut legal) = (f64::INFINITY, f64::NEG_INFINITY, true, true);
    for c in cost.iter().map(|c| c.wide()) {
        let inside = c < f64::INFINITY;
        legal &= c > f64::NEG_INFINITY;
        finite &= inside;
        least = if c < least { c } else { least };
        largest = if inside && c > largest { c } else { largest };
    }
    if !legal {
        return Err(Error::NonFinite { op: OP, name: "cost", batch });
    }
    for index in (0..n).filter(|_| !finite) {
        let row = cost[index * n..(index + 1) * n].iter().all(|c| c.wide().is_infinite());
        let column = cost[index..].iter().step_by(n).all(|c| c.wide().is_infinite());
        if row || column {
            return Err(Error::Infeasible { op: OP, batch, line: if row { "row" } else { "column" }, index });
        }
    }
    Ok(Range { least, largest })
}

/// The plan and the gradient of one entry by the scalings, for the tests of both arithmetics; `None` where they leave the
/// range of float64.
#[cfg(test)]
pub(super) fn by_scalings(
    cost: &[f64],
    n: usize,
    config: SinkhornConfig,
    grad: &[f64],
) -> Option<(Vec<f64>, Vec<f64>)> {
    let range = check_entry(cost, n, 0).expect("an entry with a plan");
    let (mut scratch, mut plan, mut out) = (Scratch::default(), vec![0.0; n * n], vec![0.0; n * n]);
    let path = scaling::solve(cost, n, range, config, &mut scratch, &mut plan)?;
    scaling::gradient(cost, n, config.eps, &path, grad, &mut scratch, &mut out);
    Some((plan, out))
}
