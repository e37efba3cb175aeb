//! Bicubic resampling of a grid of tokens with antialiasing, as PyTorch's `interpolate(mode="bicubic",
//! antialias=True, align_corners=False)` does it for position embeddings in timm.

use candle_core::{DType, Tensor};
use kernels::nn;

use crate::Result;

/// Keys' cubic convolution kernel with a = −1/2.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((x - 5.0) * x + 8.0) * x * A - 4.0 * A
    } else {
        0.0
    }
}

/// Weights [to, from] of one axis: each output is a normalised sum over the inputs under the kernel, which is stretched
/// where the axis shrinks.
fn weights(from: usize, to: usize) -> Vec<f64> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let mut rows = vec![0.0; to * from];
    for (index, row) in rows.chunks_mut(from).enumerate() {
        let center = scale * (index as f64 + 0.5);
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        for (at, weight) in row.iter_mut().enumerate().take(end).skip(first) {
            *weight = cubic((at as f64 - center + 0.5) / stretch);
        }
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|weight| *weight /= sum);
    }
    rows
}

/// `x Wᵀ` over the last dimension.
fn along_last(x: &Tensor, from: usize, to: usize) -> Result<Tensor> {
    let weight = kernels::host::from_f64("resample", weights(from, to), (to, from), x.dtype(), x.device())?;
    let bias = Tensor::zeros(to, x.dtype(), x.device())?;
    Ok(nn::linear(x, &weight, &bias)?)
}

/// Tokens [1, h·w, C] of a grid `from = [h, w]`, resampled to the grid `to`: timm's `resample_abs_pos_embed` without
/// its class token. Differentiable in the tokens.
///
/// # Errors
/// Tokens that are not those of the grid.
pub fn resample_grid(tokens: &Tensor, from: [usize; 2], to: [usize; 2]) -> Result<Tensor> {
    let channels = tokens.dim(2)?;
    let tokens = match tokens.dtype() {
        DType::F32 | DType::F64 => tokens.clone(),
        _ => tokens.to_dtype(DType::F32)?,
    };
    let maps = tokens.reshape((from[0], from[1], channels))?.permute((2, 0, 1))?.contiguous()?;
    let maps = along_last(&maps, from[1], to[1])?.transpose(1, 2)?.contiguous()?;
    let maps = along_last(&maps, from[0], to[0])?;
    Ok(maps.permute((2, 1, 0))?.contiguous()?.reshape((1, to[0] * to[1], channels))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_pytorch() {
        // torch.nn.functional.interpolate of unit vectors, mode="bicubic", antialias=True, float64.
        let close = |got: &[f64], want: &[f64]| {
            assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?}, expected {want:?}");
        };
        let half = weights(4, 2);
        assert_eq!(half.len(), 8);
        close(&half[..4], &WANT_HALF);
        close(&[half.iter().sum::<f64>()], &[2.0]);
        close(&weights(2, 4)[..2], &WANT_DOUBLE);
        // The same size is the identity.
        close(&weights(3, 3), &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    }

    const WANT_HALF: [f64; 4] = [0.45867768595041325, 0.45867768595041325, 0.11983471074380166, -0.0371900826446281];
    const WANT_DOUBLE: [f64; 2] = [1.088235294117647, -0.08823529411764706];
}
