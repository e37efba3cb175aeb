//! Differentiable distances of pairs.

use std::sync::OnceLock;

use candle_core::{Shape, Tensor};
use rayon::prelude::*;

use super::inverse_root::TOGETHER;
use super::linalg::symmetrise;
use super::prepared::Prepared;
use super::simd::{dispatched, squared_difference};
use super::triangular::times;
use super::{Metric, bures, saved};
use crate::{Error, Result, host};

/// Polar factors are kept for the backward pass up to this many numbers in all (512 MiB); beyond, the backward pass
/// computes those anew whose pair has a gradient.
const KEPT: usize = 1 << 26;

/// Distances `[N, M]` of all pairs of `a` `[N, d, d]` and `b` `[M, d, d]`, not squared. Differentiable in both.
///
/// A pair at distance 0 contributes the gradient 0. Gradients: for [`Metric::LogEuclidean`] those of
/// `‖log A − log B‖_F` through the logarithm, one Daleckii-Krein product per matrix; for
/// [`Metric::BuresWasserstein`] `(I − T_AB) / 2δ` and `(I − T_BA) / 2δ` with the optimal maps `T` (Bhatia, Jain
/// and Lim 2019, section 2), from one factorisation per pair.
///
/// # Errors
/// Shapes that do not fit, different dtypes, values that are not finite, matrices that are not symmetric positive
/// definite, or an eigensolver that did not converge.
pub fn distance(metric: Metric, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let op = name(metric);
    #[cfg(feature = "cuda")]
    if a.device().is_cuda() {
        return crate::cuda::tensors::distance(op, metric, a, b);
    }
    let alone = a.id() == b.id();
    let left = Prepared::named(op, "a", metric, a, !alone)?;
    let right = if alone { left.clone() } else { Prepared::named(op, "b", metric, b, false)? };
    left.check(op, &right)?;
    let (n, m) = (left.len(), right.len());
    let pairs = (0..n).flat_map(|i| (0..m).map(move |j| (i, j))).collect();
    Pairs { op, a: left, b: right, pairs }.apply(a, b, (n, m).into())
}

/// Distances `[K]` of the pairs `(a_i, b_j)` of `a` `[.., d, d]` with N matrices and `b` `[.., d, d]` with M, which are
/// counted row by row. Differentiable in both, as [`distance`].
///
/// `prepared_a` and `prepared_b` are the factorisations of these very matrices; the metric is theirs.
///
/// # Errors
/// Factorisations that do not fit each other or the tensors, indices out of range, different dtypes, or no convergence.
pub fn pair_distance(
    a: &Tensor,
    b: &Tensor,
    pairs: &[(usize, usize)],
    prepared_a: &Prepared,
    prepared_b: &Prepared,
) -> Result<Tensor> {
    let op = name(prepared_a.metric());
    prepared_a.check(op, prepared_b)?;
    for (name, tensor, prepared) in [("a", a, prepared_a), ("b", b, prepared_b)] {
        let (n, d) = (prepared.len(), prepared.dim());
        if tensor.rank() < 3 || tensor.dims()[tensor.rank() - 2..] != [d, d] || tensor.elem_count() != n * d * d {
            let expected = format!("[.., {d}, {d}], the {n} matrices that were prepared");
            return Err(Error::Shape { op, name, got: tensor.dims().to_vec(), expected });
        }
    }
    for &(i, j) in pairs {
        prepared_a.check_index(op, "pairs", i)?;
        prepared_b.check_index(op, "pairs", j)?;
    }
    #[cfg(feature = "cuda")]
    if let Some([left, right]) = prepared_a.cards(op, prepared_b)? {
        let list = |t: &Tensor, of: &Prepared| t.reshape((of.len(), of.dim(), of.dim()));
        let (a, b) = (list(a, prepared_a)?, list(b, prepared_b)?);
        return crate::cuda::tensors::pair_distance((op, prepared_a.metric()), (&a, &b), pairs, (left, right));
    }
    let all = Pairs { op, a: prepared_a.clone(), b: prepared_b.clone(), pairs: pairs.to_vec() };
    all.apply(a, b, pairs.len().into())
}

fn name(metric: Metric) -> &'static str {
    match metric {
        Metric::LogEuclidean => "le_distance",
        Metric::BuresWasserstein => "bw_distance",
    }
}

/// The pairs of one call.
struct Pairs {
    op: &'static str,
    a: Prepared,
    b: Prepared,
    pairs: Vec<(usize, usize)>,
}

/// Which side of the pairs a gradient is for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Side {
    A,
    B,
}

impl Pairs {
    fn apply(self, a: &Tensor, b: &Tensor, shape: Shape) -> Result<Tensor> {
        match self.a.metric() {
            Metric::LogEuclidean => {
                let values: Vec<f64> = self
                    .pairs
                    .par_iter()
                    .map(|&(i, j)| squared_difference(self.a.image(i), self.b.image(j)).sqrt())
                    .collect();
                let kept = values.clone();
                saved::binary(self.op, a, b, values, shape, move |needed, grad| {
                    let factors = factors(&grad, &kept, 1.0);
                    self.both(needed, |side| self.log_euclidean(side, &factors))
                })
            }
            Metric::BuresWasserstein => {
                let differentiated = a.track_op() || b.track_op();
                let keep = differentiated && self.pairs.len().saturating_mul(self.a.dim().pow(2)) <= KEPT;
                let polar = self.polar(keep)?;
                let values: Vec<f64> = polar.iter().map(|p| p.distance).collect();
                saved::binary(self.op, a, b, values, shape, move |needed, grad| {
                    let distances: Vec<f64> = polar.iter().map(|p| p.distance).collect();
                    let factors = factors(&grad, &distances, 0.5);
                    self.both(needed, |side| self.bures_wasserstein(side, &factors, keep.then_some(&polar)))
                })
            }
        }
    }

    fn polar(&self, keep: bool) -> Result<Vec<bures::Polar>> {
        let group = |pairs: &[(usize, usize)]| {
            let mut found = self.polar_of(pairs)?;
            if !keep {
                found.iter_mut().for_each(|polar| polar.rotation = Vec::new());
            }
            Ok(found)
        };
        let all: Vec<Result<Vec<_>>> = self.pairs.par_chunks(TOGETHER).map(group).collect();
        Ok(all.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn polar_of(&self, pairs: &[(usize, usize)]) -> Result<Vec<bures::Polar>> {
        let roots: Vec<_> = pairs.iter().map(|&(i, j)| (self.a.root(i), self.b.root(j))).collect();
        let found = bures::polars(&roots, self.a.dim());
        found.into_iter().zip(pairs).map(|(polar, &(i, _))| polar.map_err(|e| e.at(self.op, i))).collect()
    }

    fn both(&self, needed: [bool; 2], gradient: impl Fn(Side) -> Result<Vec<f64>>) -> Result<saved::Two> {
        let a = needed[0].then(|| gradient(Side::A)).transpose()?;
        let b = needed[1].then(|| gradient(Side::B)).transpose()?;
        Ok((a, b))
    }

    fn prepared(&self, side: Side) -> &Prepared {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// For each matrix of `side`, the indices of its pairs that have a gradient, ascending.
    fn members(&self, side: Side, factors: &[f64]) -> Vec<Vec<usize>> {
        let mut out = vec![Vec::new(); self.prepared(side).len()];
        for (pair, &(i, j)) in self.pairs.iter().enumerate().filter(|(pair, _)| factors[*pair] != 0.0) {
            out[if side == Side::A { i } else { j }].push(pair);
        }
        out
    }

    /// Sums `factor · difference` of the logarithms per matrix, then goes through the logarithm once.
    fn log_euclidean(&self, side: Side, factors: &[f64]) -> Result<Vec<f64>> {
        let d = self.a.dim();
        let members = self.members(side, factors);
        let one = |(own, pairs): (usize, &Vec<usize>)| {
            let mut sum = vec![0.0; d * d];
            if pairs.is_empty() {
                return sum;
            }
            for &pair in pairs {
                let (i, j) = self.pairs[pair];
                let other = if side == Side::A { self.b.image(j) } else { self.a.image(i) };
                add_difference(&mut sum, factors[pair], self.prepared(side).image(own), other);
            }
            self.prepared(side).through_log(own, &sum)
        };
        Ok(members.par_iter().enumerate().map(one).collect::<Vec<_>>().concat())
    }

    fn bures_wasserstein(&self, side: Side, factors: &[f64], kept: Option<&Vec<bures::Polar>>) -> Result<Vec<f64>> {
        let members = self.members(side, factors);
        let failed: Vec<OnceLock<Error>> = members.iter().map(|_| OnceLock::new()).collect();
        let one = |own: usize, out: &mut [f64]| {
            if let Err(error) = self.bures_wasserstein_of(side, own, &members[own], (factors, kept), out) {
                failed[own].get_or_init(|| error);
            }
        };
        let all = host::filled((members.len(), self.a.dim().pow(2)), 1, one, |v| v);
        failed.into_iter().find_map(OnceLock::into_inner).map_or(Ok(all), Err)
    }

    /// At one matrix, the symmetric part of `Σ factor · (C_A − C_B U) C_A⁻¹`, and the same with the roles exchanged.
    fn bures_wasserstein_of(
        &self,
        side: Side,
        own: usize,
        pairs: &[usize],
        (factors, kept): (&[f64], Option<&Vec<bures::Polar>>),
        out: &mut [f64],
    ) -> Result<()> {
        let d = self.a.dim();
        if pairs.is_empty() {
            out.fill(0.0);
            return Ok(());
        }
        let total: f64 = pairs.iter().map(|&pair| factors[pair]).sum();
        let mut sum: Vec<f64> = self.prepared(side).image(own).iter().map(|root| total * root).collect();
        for group in pairs.chunks(TOGETHER) {
            let indices: Vec<(usize, usize)> = group.iter().map(|&pair| self.pairs[pair]).collect();
            let anew = if kept.is_none() { self.polar_of(&indices)? } else { Vec::new() };
            for (at, (&pair, &(i, j))) in group.iter().zip(&indices).enumerate() {
                let rotation = &kept.map_or_else(|| &anew[at], |all| &all[pair]).rotation;
                match side {
                    Side::A => bures::subtract_image_b(&mut sum, factors[pair], rotation, self.b.factor(j), d),
                    Side::B => bures::subtract_image_a(&mut sum, factors[pair], rotation, self.a.factor(i), d),
                }
            }
        }
        times(out, &sum, self.prepared(side).inverse_factor(own), d);
        symmetrise(out, d);
        Ok(())
    }
}

/// `scale · gradient / distance`, 0 at distance 0.
fn factors(grad: &[f64], distances: &[f64], scale: f64) -> Vec<f64> {
    grad.iter().zip(distances).map(|(g, &d)| if d > 0.0 { scale * g / d } else { 0.0 }).collect()
}

dispatched! {
    /// `sum += factor · (a − b)`.
    fn add_difference(sum: &mut [f64], factor: f64, a: &[f64], b: &[f64]) {
        for ((s, a), b) in sum.iter_mut().zip(a).zip(b) {
            *s += factor * (a - b);
        }
    }
}
