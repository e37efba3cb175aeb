//! The doubly-stochastic optimal-transport graph over the tokens of an image.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::cost::cost;
use super::sinkhorn::{SinkhornConfig, sinkhorn};
use crate::{Error, Result, host};

const OP: &str = "dsot_graph";

/// Settings of [`dsot_graph`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DsotConfig {
    /// Rows of the token grid.
    pub height: usize,
    /// Columns of the token grid.
    pub width: usize,
    /// Edges kept per token, from 1 to the number of tokens.
    pub k: usize,
    /// Entropic regularisation ε > 0, in units of the mean cost.
    pub eps: f64,
    /// Sinkhorn iterations, at least 1.
    pub iterations: usize,
    /// Weight λ ≥ 0 of the squared distance of positions in `[0, 1]²`.
    pub lambda_pos: f64,
    /// Weight α ≥ 0 of the self loops.
    pub self_loop: f64,
}

/// A sparse graph over tokens and what it was made from.
#[derive(Debug, Clone)]
pub struct DsotGraph {
    /// `[B, N, N]`, mean about 1 per image.
    pub cost: Tensor,
    /// `[B, N, N]`, symmetric: `(P + Pᵀ)/2 + α I` for the plan `P`.
    pub adjacency: Tensor,
    /// `u32` `[B, N, k]`: the kept neighbours of each token by falling weight, the lower index first of equal ones.
    pub edge_index: Tensor,
    /// `[B, N, k]`: their weights, divided by their sum per token; differentiable through the kept weights.
    pub edge_weight: Tensor,
}

/// The graph of tokens `x` `[B, N, D]` on a grid (row-major): cost `(1 − cosine) + λ ‖position difference‖²` over its
/// mean per image (plus 1e-8), [`sinkhorn`] with uniform marginals, `A = (P + Pᵀ)/2 + α I`, the `k` heaviest edges per
/// token, weights divided by their sum (plus 1e-12).
///
/// Computed in float64 whatever the dtype of `x`; cost, adjacency and weights come back in that dtype. A token of
/// norm 0 has similarity 0 to all and gets the gradient 0.
///
/// # Errors
/// Not `[B, height · width, D]`, values that are not finite, or a setting outside its range.
pub fn dsot_graph(x: &Tensor, config: &DsotConfig) -> Result<DsotGraph> {
    check(x, config)?;
    let dtype = x.dtype();
    let costs = cost(&x.to_dtype(DType::F64)?, config)?;
    let plan = sinkhorn(&costs, SinkhornConfig { eps: config.eps, iterations: config.iterations })?;
    let loops = (Tensor::eye(config.height * config.width, DType::F64, x.device())? * config.self_loop)?;
    let adjacency = ((&plan + plan.t()?)? * 0.5)?.broadcast_add(&loops)?;
    let edge_index = heaviest(&adjacency, config.k)?;
    let kept = adjacency.contiguous()?.gather(&edge_index, 2)?;
    let edge_weight = kept.broadcast_div(&(kept.sum_keepdim(2)? + 1e-12)?)?;
    Ok(DsotGraph {
        cost: costs.to_dtype(dtype)?,
        adjacency: adjacency.to_dtype(dtype)?,
        edge_index,
        edge_weight: edge_weight.to_dtype(dtype)?,
    })
}

fn check(x: &Tensor, config: &DsotConfig) -> Result<()> {
    let n = config.height * config.width;
    let fits = matches!(x.dims(), &[_, tokens, d] if tokens == n && n > 0 && d > 0);
    if !fits {
        let expected = format!("[B, {n}, D]: one token for each of {} x {} positions", config.height, config.width);
        return Err(Error::Shape { op: OP, name: "x", got: x.dims().to_vec(), expected });
    }
    if !matches!(x.dtype(), DType::F32 | DType::F64) {
        return Err(Error::Dtype { op: OP, got: x.dtype() });
    }
    SinkhornConfig { eps: config.eps, iterations: config.iterations }.check(OP)?;
    if config.k == 0 || config.k > n {
        let value = config.k as f64;
        return Err(Error::Attribute { op: OP, name: "k", value, expected: "from 1 to the number of tokens" });
    }
    for (name, value) in [("lambda_pos", config.lambda_pos), ("self_loop", config.self_loop)] {
        if !(value >= 0.0 && value.is_finite()) {
            return Err(Error::Attribute { op: OP, name, value, expected: "a finite number >= 0" });
        }
    }
    Ok(())
}

/// Indices `[B, N, k]` of the `k` largest values of each row, by falling value, the lower index first of equal ones.
fn heaviest(adjacency: &Tensor, k: usize) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if adjacency.device().is_cuda() {
        return crate::cuda::tensors::heaviest(OP, adjacency, k);
    }
    let (b, n, _) = adjacency.dims3()?;
    let values = host::to_f64(OP, adjacency)?;
    let rows = values.par_chunks_exact(n).map(|row| {
        let order = |i: &u32, j: &u32| row[*j as usize].total_cmp(&row[*i as usize]).then(i.cmp(j));
        let mut index: Vec<u32> = (0..n as u32).collect();
        if k < n {
            index.select_nth_unstable_by(k - 1, order);
        }
        index.truncate(k);
        index.sort_unstable_by(order);
        index
    });
    let index = rows.collect::<Vec<_>>().concat();
    Ok(Tensor::from_vec(index, (b, n, k), &Device::Cpu)?.to_device(adjacency.device())?)
}
