//! Entropic optimal transport with uniform marginals.

use std::cell::RefCell;
use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::lanes::Real;
use super::scaling::{Range, Scalings, Scratch};
use super::values::{Values, with_values};
use super::{precise, scaling};
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
/// Each batch entry is iterated in float64 with the scalings `u`, `v` themselves. Where they leave its range, and where
/// the terms of the gradient cancel until float64 has too few digits (a plan that is almost a permutation), the same
/// updates are done in numbers of 128 to 512 bits with an unlimited exponent, and far slower.
///
/// # Errors
/// Not `[B, N, N]`, NaN or `−∞`, a row or column that is infinite everywhere, `eps` not positive or below the range of
/// the costs divided by `2^50`, or no iteration.
pub fn sinkhorn(cost: &Tensor, config: SinkhornConfig) -> Result<Tensor> {
    config.check(OP)?;
    let n = match cost.dims() {
        &[_, rows, columns] if rows == columns && rows > 0 => rows,
        got => {
            return Err(Error::Shape { op: OP, name: "cost", got: got.to_vec(), expected: "[B, N, N], N >= 1".into() });
        }
    };
    #[cfg(feature = "cuda")]
    if cost.device().is_cuda() {
        return crate::cuda::tensors::sinkhorn(OP, cost, config);
    }
    let (plans, paths) = with_values(OP, cost, |values| match values {
        Values::Single(values) => {
            let (plans, paths) = solve(values, n, config)?;
            Ok((CpuStorage::F32(plans), paths))
        }
        Values::Double(values) => {
            let (plans, paths) = solve(values, n, config)?;
            Ok((CpuStorage::F64(plans), paths))
        }
    })?;
    let op = Sinkhorn { n, config, paths, plans: Mutex::new(Some(plans)) };
    Ok(cost.to_device(&Device::Cpu)?.apply_op1(op)?.to_device(cost.device())?)
}

thread_local! {
    /// Kept for the next entry and the next call: fresh pages cost about as much as the work in them.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Plans of all entries, in order, and the scalings of those that stayed inside the range of float64.
fn solve<T: Real>(costs: &[T], n: usize, config: SinkhornConfig) -> Result<(Vec<T>, Vec<Option<Scalings>>)> {
    let mut plans = vec![T::default(); costs.len()];
    let entries = costs.par_chunks_exact(n * n).zip(plans.par_chunks_exact_mut(n * n)).enumerate();
    let solved = entries.map(|(batch, (cost, plan))| {
        let range = check_entry(cost, n, config.eps, batch)?;
        let path = SCRATCH.with_borrow_mut(|scratch| scaling::solve(cost, n, range, config, scratch, plan));
        if path.is_none() {
            copy(plan, &precise::plan(&widened(cost), n, config));
        }
        Ok(path)
    });
    // Collected before the first refusal is looked for, so that the same one is reported on any number of threads.
    let paths = solved.collect::<Vec<Result<_>>>().into_iter().collect::<Result<_>>()?;
    Ok((plans, paths))
}

fn widened<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.wide()).collect()
}

fn copy<T: Real>(to: &mut [T], from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, &value)| *to = T::narrow(value));
}

/// Hands out the plans that were computed before, and keeps the scalings for the backward pass.
struct Sinkhorn {
    n: usize,
    config: SinkhornConfig,
    paths: Vec<Option<Scalings>>,
    plans: Mutex<Option<CpuStorage>>,
}

impl Sinkhorn {
    fn gradient<T: Real + WithDType>(&self, costs: &[T], grads: &[T]) -> Vec<T> {
        let (n, config) = (self.n, self.config);
        let mut out = vec![T::default(); costs.len()];
        let entries = costs.par_chunks_exact(n * n).zip(grads.par_chunks_exact(n * n));
        let entries = entries.zip(out.par_chunks_exact_mut(n * n)).zip(self.paths.par_iter());
        entries.for_each(|(((cost, grad), out), path)| {
            let fast = path.as_ref().is_some_and(|path| {
                SCRATCH.with_borrow_mut(|scratch| scaling::gradient(cost, n, config.eps, path, grad, scratch, out))
            });
            if !fast {
                copy(out, &precise::gradient(&widened(cost), n, config, &widened(grad)));
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

/// Refuses an entry that has no plan; the range of its finite costs otherwise.
fn check_entry<T: Real>(cost: &[T], n: usize, eps: f64, batch: usize) -> Result<Range> {
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
    if (largest - least) / eps > 2f64.powi(50) {
        let expected = "at least 2^-50 of the range of the finite costs";
        return Err(Error::Attribute { op: OP, name: "eps", value: eps, expected });
    }
    Ok(Range { least, largest })
}

/// The plan and the gradient of one entry by the scalings, for the tests of both arithmetics; `None` where they leave the
/// range of float64 or lack digits.
#[cfg(test)]
pub(super) fn by_scalings(
    cost: &[f64],
    n: usize,
    config: SinkhornConfig,
    grad: &[f64],
) -> Option<(Vec<f64>, Vec<f64>)> {
    let range = check_entry(cost, n, config.eps, 0).expect("an entry with a plan");
    let (mut scratch, mut plan, mut out) = (Scratch::default(), vec![0.0; n * n], vec![0.0; n * n]);
    let path = scaling::solve(cost, n, range, config, &mut scratch, &mut plan)?;
    scaling::gradient(cost, n, config.eps, &path, grad, &mut scratch, &mut out).then_some((plan, out))
}
