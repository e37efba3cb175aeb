//! Parts of a feature map as SPD matrices: attention-weighted covariances of reduced tokens.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::Result;
use crate::layers::Linear;
use crate::ops::{map_dims, tokens};

/// Attention for P parts and reduction of tokens to d, both 1×1 convolutions.
///
/// Neither has a bias: the softmax over positions and the covariance are both invariant to a shift, so a bias could
/// never get a gradient.
#[derive(Debug)]
pub struct Parts {
    attention: Linear,
    reduce: Linear,
    parts: usize,
    eps: f64,
}

impl Parts {
    /// Parts of maps with `channels`; parameters `attention.weight` `[parts,channels]` and `reduce.weight`
    /// `[dim,channels]` under the path of `vb`.
    pub fn new(channels: usize, parts: usize, dim: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        let attention = Linear::without_bias(channels, parts, vb.pp("attention"))?;
        let reduce = Linear::without_bias(channels, dim, vb.pp("reduce"))?;
        Ok(Self { attention, reduce, parts, eps })
    }

    /// Attention logits of tokens `[B,N,C]`: `[B,P,N]`.
    fn logits(&self, tokens: &Tensor) -> Result<Tensor> {
        Ok(self.attention.forward(tokens)?.transpose(1, 2)?.contiguous()?)
    }

    /// Attention maps of a map `[B,C,H,W]`, each summing to 1: `[B,P,H,W]`.
    ///
    /// # Errors
    /// [`crate::LossError::Shape`] if `map` has not rank 4.
    pub fn attention(&self, map: &Tensor) -> Result<Tensor> {
        let (b, _, h, w) = map_dims("attention", map)?;
        let weights = crate::ops::log_softmax(&self.logits(&tokens(map)?)?)?.exp()?;
        Ok(weights.reshape((b, self.parts, h, w))?)
    }

    /// The covariances `Σ_n w_n (x_n − μ)(x_n − μ)ᵀ + εI` of a map `[B,C,H,W]`, one a part: `[B,P,d,d]` in float64,
    /// whatever the map's dtype, so that their eigenvalues are ≥ ε up to float64 rounding.
    ///
    /// # Errors
    /// [`crate::LossError::Shape`] if `map` has not rank 4; the errors of the covariance kernel.
    pub fn covariances(&self, map: &Tensor) -> Result<Tensor> {
        map_dims("covariances", map)?;
        let tokens = tokens(map)?;
        Ok(kernels::spd::part_covariances(&self.reduce.forward(&tokens)?, &self.logits(&tokens)?, self.eps)?)
    }
}
