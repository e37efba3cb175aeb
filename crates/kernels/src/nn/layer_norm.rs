//! Layer normalisation over the channels of tokens or of maps, statistics in float64, backward in closed form.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::buffers::{Held, Real, beside, by_dtype, by_storage, check_activations, fresh, slice_of};
use super::flow::{Arg, Flow, apply3};
use super::gradient::{Derivative, Gradient, Gradients, on_tensors};
use super::layer_pieces::{Backward, Forward, Moments, Piece};
use super::wide::wide;
use crate::even::Even;
use crate::{Error, Result};

const OP: &str = "layer_norm";
/// Values that a piece of tokens has at least.
const PIECE: usize = 32 * 1024;

/// Layer normalisation of tokens (Ba et al. 2016): `y = γ (x − μ) / √(σ² + eps) + β`, with the mean and the biased
/// variance of each token over its channels.
///
/// `x` is [.., C], `gamma` and `beta` `[C]`. Differentiable in all three.
///
/// # Errors
/// [`Error::Shape`], [`Error::Dtype`], or [`Error::Attribute`] unless `eps` is positive.
pub fn layer_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Tensor> {
    apply(x, gamma, beta, eps, of_tokens(x)?)
}

fn of_tokens(x: &Tensor) -> Result<LayerNorm> {
    let &[ref outer @ .., channels] = x.dims() else {
        return Err(shape(x, "[.., C]"));
    };
    Ok(LayerNorm { outer: outer.iter().product(), channels, inner: 1, moments: Vec::new() })
}

/// [`layer_norm`] of every pixel of a map [B, C, H, W] over the channels.
///
/// # Errors
/// Those of [`layer_norm`].
pub fn layer_norm_map(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Tensor> {
    apply(x, gamma, beta, eps, of_map(x)?)
}

fn of_map(x: &Tensor) -> Result<LayerNorm> {
    let &[outer, channels, height, width] = x.dims() else {
        return Err(shape(x, "[B, C, H, W]"));
    };
    Ok(LayerNorm { outer, channels, inner: height * width, moments: Vec::new() })
}

fn shape(x: &Tensor, expected: &str) -> Error {
    Error::Shape { op: OP, name: "x", got: x.dims().to_vec(), expected: format!("{expected}, not empty") }
}

fn apply(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64, op: LayerNorm) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        op.check(x, gamma, beta, eps)?;
        let maps = crate::cuda::train::Maps { batch: op.outer, channels: op.channels, map: op.inner };
        return crate::cuda::tensors::layer_norm(OP, [x, gamma, beta], maps, eps);
    }
    let x = x.contiguous()?;
    let op = op.with_moments(&x, gamma, beta, eps)?;
    Ok(x.apply_op3(&gamma.contiguous()?, &beta.contiguous()?, op)?)
}

/// Sizes, and mean and 1/σ of each token or pixel.
struct LayerNorm {
    /// Tokens, or images.
    outer: usize,
    channels: usize,
    /// 1, or the pixels of a map.
    inner: usize,
    moments: Vec<[f64; 2]>,
}

impl LayerNorm {
    /// Checks all arguments.
    fn check(&self, x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<()> {
        check_activations(OP, x)?;
        if self.channels * self.inner * self.outer == 0 {
            return Err(shape(x, "[.., C] or [B, C, H, W]"));
        }
        for (name, tensor) in [("gamma", gamma), ("beta", beta)] {
            if tensor.dims() != [self.channels] {
                let expected = format!("[{}]", self.channels);
                return Err(Error::Shape { op: OP, name, got: tensor.dims().to_vec(), expected });
            }
            if tensor.dtype() != beside(x.dtype()) {
                return Err(Error::Dtype { op: OP, got: tensor.dtype() });
            }
        }
        if !(eps > 0.0 && eps.is_finite()) {
            return Err(Error::Attribute { op: OP, name: "eps", value: eps, expected: "positive and finite" });
        }
        Ok(())
    }

    /// With the statistics of a contiguous `x`, all arguments checked.
    fn with_moments(mut self, x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Self> {
        self.check(x, gamma, beta, eps)?;
        let held = Held::new(x);
        self.moments = by_dtype!(x, T => Ok(self.find_moments::<T>(held.slice()?, eps)))?;
        Ok(self)
    }

    fn piece(&self) -> Piece {
        Piece { channels: self.channels, inner: self.inner }
    }

    /// Values of a piece: an image, or as many tokens as make up [`PIECE`] values. Fixed by the shape alone.
    fn piece_len(&self) -> usize {
        let item = self.channels * self.inner;
        if self.inner == 1 { PIECE.div_ceil(item) * item } else { item }
    }

    fn find_moments<T: Real>(&self, x: &[T], eps: f64) -> Vec<[f64; 2]> {
        let len = self.piece_len();
        let mut moments = vec![[0.0; 2]; self.outer * self.inner];
        let pieces = moments.par_chunks_mut(len / self.channels).zip(x.par_chunks(len)).evenly(1);
        pieces.for_each(|(moments, x)| wide(Moments { piece: self.piece(), x, eps, moments }));
        moments
    }

    fn forward<T: Real>(&self, x: &[T], gamma: &[T], beta: &[T]) -> Vec<T> {
        let len = self.piece_len();
        // SAFETY: the pieces of `x` and of the moments belong to the chunk, whose tokens or maps are whole, `gamma` and `beta`
        // have a number a channel, and every number of the chunk is written for its `x`.
        unsafe {
            fresh(x.len(), (len, 1), |index, y| {
                let x = &x[index * len..][..y.len()];
                let moments = &self.moments[index * (len / self.channels)..][..y.len() / self.channels];
                wide(Forward { piece: self.piece(), x, moments, gamma, beta, y });
            })
        }
    }

    /// `∂x` in the place of `g`, and the gradients of `gamma` and `beta`.
    fn backward<T: Real>(&self, x: &[T], gamma: &[T], mut g: Vec<T>) -> [Vec<T>; 3] {
        let len = self.piece_len();
        let partial: Vec<Vec<[f64; 2]>> = g
            .par_chunks_mut(len)
            .zip(x.par_chunks(len))
            .zip(self.moments.par_chunks(len / self.channels))
            .evenly(1)
            .map(|((g, x), moments)| {
                let mut sums = vec![[0.0; 2]; self.channels];
                wide(Backward { piece: self.piece(), x, g, moments, gamma, sums: &mut sums });
                sums
            })
            .collect();
        let mut sums = vec![[0.0; 2]; self.channels];
        for part in &partial {
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum = [sum[0] + part[0], sum[1] + part[1]]);
        }
        let vector = |which: usize| sums.iter().map(|sum| T::down(sum[which])).collect();
        [g, vector(0), vector(1)]
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        gamma: &CpuStorage,
        lg: &Layout,
        beta: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = by_storage!(x, T => {
            let y = self.forward::<T>(slice_of(x, lx)?, slice_of(gamma, lg)?, slice_of(beta, lb)?);
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        y: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        on_tensors(self, &[x, gamma, beta], y, gy).map(|[gx, gg, gb]| (gx, gg, gb))
    }
}

impl Derivative for LayerNorm {
    fn gradients<T: Real>(&self, args: [&[T]; 3], _: &[T], gy: Gradient<T>, _: [bool; 3]) -> Gradients<T> {
        self.backward(args[0], args[1], gy.into_vec()).map(|g| Some(Gradient::Alone(g)))
    }
}

impl Flow {
    /// [`layer_norm`].
    ///
    /// # Errors
    /// Those of [`layer_norm`].
    pub fn layer_norm(&self, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Self> {
        if let Some(x) = self.by_candle() {
            return Ok(Self::of_candle(layer_norm(x, gamma, beta, eps)?));
        }
        let op = of_tokens(self.tensor_of())?.with_moments(self.tensor_of(), gamma, beta, eps)?;
        apply3(op, [Arg::Flow(self), Arg::Parameter(gamma), Arg::Parameter(beta)])
    }

    /// [`layer_norm_map`].
    ///
    /// # Errors
    /// Those of [`layer_norm_map`].
    pub fn layer_norm_map(&self, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Self> {
        if let Some(x) = self.by_candle() {
            return Ok(Self::of_candle(layer_norm_map(x, gamma, beta, eps)?));
        }
        let op = of_map(self.tensor_of())?.with_moments(self.tensor_of(), gamma, beta, eps)?;
        apply3(op, [Arg::Flow(self), Arg::Parameter(gamma), Arg::Parameter(beta)])
    }
}
