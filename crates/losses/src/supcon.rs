//! `supcon`: supervised contrastive learning (Khosla et al., 2020, equation 2, "out" form).

use candle_core::{D, DType, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::layers::Mlp;
use crate::ops::{constant, gram, label_count, matrix_dims, normalise, pool, zero_of};
use crate::settings::Check;

/// Settings of `supcon`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct SupconConfig {
    /// Weight of the contrastive term; default 1.
    pub gamma: f64,
    /// Weight of the cross entropy of the positive view; default 1.
    pub lambda: f64,
    /// Label smoothing of the cross entropies, in `[0, 1)`; default 0.
    pub label_smoothing: f64,
    /// Temperature of the softmax over similarities; default 0.1.
    pub temperature: f64,
    /// Width of the projection's output; default 128. The hidden layer is as wide as the features.
    pub output: usize,
}

impl Default for SupconConfig {
    fn default() -> Self {
        Self { gamma: 1.0, lambda: 1.0, label_smoothing: 0.0, temperature: 0.1, output: 128 }
    }
}

impl SupconConfig {
    pub(crate) fn validate(&self, check: Check) -> Result<()> {
        check.weight("gamma", self.gamma)?;
        check.weight("lambda", self.lambda)?;
        check.smoothing(self.label_smoothing)?;
        check.positive("temperature", self.temperature)?;
        check.count("output", self.output)
    }
}

/// The objective with its projection: two linear layers with ReLU between them, features → features → `output`.
#[derive(Debug)]
pub struct Supcon {
    temperature: f64,
    projection: Mlp,
}

impl Supcon {
    /// The objective on features of `channels`; parameters under `vb.pp("projection")`.
    pub fn new(config: &SupconConfig, channels: usize, vb: VarBuilder) -> Result<Self> {
        let projection = Mlp::new(&[channels, channels, config.output], vb.pp("projection"))?;
        Ok(Self { temperature: config.temperature, projection })
    }

    /// The term over the 2B projected features of both views (maps `[B,C,H,W]`).
    pub fn term(&self, anchor: &Tensor, positive: &Tensor, labels: &[u32]) -> Result<Tensor> {
        let features = Tensor::cat(&[pool(anchor)?, pool(positive)?], 0)?;
        supcon(&self.projection.forward(&features)?, &[labels, labels].concat(), self.temperature)
    }
}

/// Supervised contrastive loss of features `z` `[n,d]` (normalised inside):
/// `mean_i −1/|P(i)| Σ_{p ∈ P(i)} [ z_i·z_p/t − log Σ_{a ≠ i} exp(z_i·z_a/t) ]`, where `P(i)` are the other entries
/// of the class of `i`. Entries with empty `P(i)` are left out of the mean; the loss is exactly 0 if all are.
/// Computed in float64 inside: at low temperatures the gradient is a small difference of large terms.
///
/// # Errors
/// [`crate::LossError::Shape`] if `z` is no matrix, or the labels are not one a row.
pub fn supcon(z: &Tensor, labels: &[u32], temperature: f64) -> Result<Tensor> {
    let (n, _) = matrix_dims("supcon", "z", z)?;
    label_count("supcon", labels, n)?;
    let same = |i: usize, j: usize| i != j && labels[i] == labels[j];
    let positives: Vec<usize> = (0..n).map(|i| (0..n).filter(|&j| same(i, j)).count()).collect();
    let anchors = positives.iter().filter(|&&p| p > 0).count();
    if anchors == 0 {
        return zero_of(z);
    }
    let unit = normalise(&z.to_dtype(DType::F64)?)?;
    let similarity = (gram(&unit)? / temperature)?;
    let mask = (0..n * n).map(|at| if at / n == at % n { f64::NEG_INFINITY } else { 0.0 }).collect();
    let others = (&similarity + constant(mask, &[n, n], &unit)?)?;
    let top = others.max_keepdim(D::Minus1)?.detach();
    let log_sum = (others.broadcast_sub(&top)?.exp()?.sum_keepdim(D::Minus1)?.log()? + top)?;
    let weight = (0..n * n).map(|at| {
        let (i, j) = (at / n, at % n);
        if same(i, j) { 1.0 / (positives[i] * anchors) as f64 } else { 0.0 }
    });
    let weight = constant(weight.collect(), &[n, n], &unit)?;
    Ok((log_sum.broadcast_sub(&similarity)? * weight)?.sum_all()?.to_dtype(z.dtype())?)
}
