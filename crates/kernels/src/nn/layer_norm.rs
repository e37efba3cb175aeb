//! Layer normalisation over the channels of tokens or of maps, statistics in float64, backward in closed form.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::buffers::{Held, Real, by_dtype, by_storage, check_dtype, slice_of, zeros};
use super::layer_pieces::{Backward, Forward, Moments, Piece};
use super::wide::wide;
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
    let &[ref outer @ .., channels] = x.dims() else {
        return Err(shape(x, "[.., C]"));
    };
    let tokens = outer.iter().product();
    apply(x, gamma, beta, eps, LayerNorm { outer: tokens, channels, inner: 1, moments: Vec::new() })
}

/// [`layer_norm`] of every pixel of a map [B, C, H, W] over the channels.
///
/// # Errors
/// Those of [`layer_norm`].
pub fn layer_norm_map(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Tensor> {
    let &[outer, channels, height, width] = x.dims() else {
        return Err(shape(x, "[B, C, H, W]"));
    };
    apply(x, gamma, beta, eps, LayerNorm { outer, channels, inner: height * width, moments: Vec::new() })
}

fn shape(x: &Tensor, expected: &str) -> Error {
    Error::Shape { op: OP, name: "x", got: x.dims().to_vec(), expected: format!("{expected}, not empty") }
}

fn apply(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64, mut op: LayerNorm) -> Result<Tensor> {
    check_dtype(OP, x)?;
    if op.channels * op.inner * op.outer == 0 {
        return Err(shape(x, "[.., C] or [B, C, H, W]"));
    }
    for (name, tensor) in [("gamma", gamma), ("beta", beta)] {
        if tensor.dims() != [op.channels] {
            let expected = format!("[{}]", op.channels);
            return Err(Error::Shape { op: OP, name, got: tensor.dims().to_vec(), expected });
        }
        if tensor.dtype() != x.dtype() {
            return Err(Error::Dtype { op: OP, got: tensor.dtype() });
        }
    }
    if !(eps > 0.0 && eps.is_finite()) {
        return Err(Error::Attribute { op: OP, name: "eps", value: eps, expected: "positive and finite" });
    }
    let x = x.contiguous()?;
    op.moments = {
        let held = Held::new(&x);
        by_dtype!(x, T => Ok(op.find_moments::<T>(held.slice()?, eps)))?
    };
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
        let pieces = moments.par_chunks_mut(len / self.channels).zip(x.par_chunks(len));
        pieces.for_each(|(moments, x)| wide(Moments { piece: self.piece(), x, eps, moments }));
        moments
    }

    fn forward<T: Real>(&self, x: &[T], gamma: &[T], beta: &[T]) -> Vec<T> {
        let len = self.piece_len();
        let mut y = zeros::<T>(x.len());
        let pieces = y.par_chunks_mut(len).zip(x.par_chunks(len)).zip(self.moments.par_chunks(len / self.channels));
        pieces.for_each(|((y, x), moments)| wide(Forward { piece: self.piece(), x, moments, gamma, beta, y }));
        y
    }

    fn backward<T: Real>(&self, x: &Tensor, gamma: &Tensor, gy: &Tensor) -> candle_core::Result<[Tensor; 3]> {
        let (xs, gammas, gys) = (Held::new(x), Held::new(gamma), Held::new(gy));
        let (x_slice, gamma_slice, gy_slice) = (xs.slice::<T>()?, gammas.slice::<T>()?, gys.slice::<T>()?);
        let len = self.piece_len();
        let mut gx = zeros::<T>(x_slice.len());
        let pieces = gx.par_chunks_mut(len).zip(x_slice.par_chunks(len)).zip(gy_slice.par_chunks(len));
        let partial: Vec<Vec<[f64; 2]>> = pieces
            .zip(self.moments.par_chunks(len / self.channels))
            .map(|(((gx, x), gy), moments)| {
                let mut sums = vec![[0.0; 2]; self.channels];
                let gamma = gamma_slice;
                wide(Backward { piece: self.piece(), x, gy, moments, gamma, gx, sums: &mut sums });
                sums
            })
            .collect();
        let mut sums = vec![[0.0; 2]; self.channels];
        for part in &partial {
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum = [sum[0] + part[0], sum[1] + part[1]]);
        }
        let vector = |which: usize| {
            let values: Vec<T> = sums.iter().map(|sum| T::down(sum[which])).collect();
            Tensor::from_vec(values, self.channels, x.device())
        };
        Ok([Tensor::from_vec(gx, x.shape(), x.device())?, vector(0)?, vector(1)?])
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
        _beta: &Tensor,
        _y: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gy = gy.contiguous()?;
        let [gx, gg, gb] = by_dtype!(x, T => self.backward::<T>(x, gamma, &gy))?;
        Ok((Some(gx), Some(gg), Some(gb)))
    }
}
