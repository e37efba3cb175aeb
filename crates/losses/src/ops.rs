//! Small differentiable pieces with derivatives that stay finite where candle's own do not.

use candle_core::{D, Tensor};

use crate::{LossError, Result};

/// Rows shorter than this have no direction.
pub const SHORTEST: f64 = 1e-12;

/// `max(x, 0)` with derivative 0 at 0, as PyTorch has it (candle's `relu` has derivative 1 there).
pub fn positive_part(x: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        let zeros = x.zeros_like()?;
        return Ok(x.gt(&zeros)?.where_cond(x, &zeros)?);
    }
    Ok(kernels::nn::relu(x)?)
}

/// `√x` of values ≥ 0, with derivative 0 at 0.
pub fn safe_sqrt(x: &Tensor) -> Result<Tensor> {
    let zeros = x.zeros_like()?;
    let positive = x.gt(&zeros)?;
    let root = positive.where_cond(x, &x.ones_like()?)?.sqrt()?;
    Ok(positive.where_cond(&root, &zeros)?)
}

/// Rows of the last dimension divided by their Euclidean length. A row shorter than [`SHORTEST`] has no direction:
/// it becomes 0 and receives no gradient.
pub fn normalise(x: &Tensor) -> Result<Tensor> {
    let squared = x.sqr()?.sum_keepdim(D::Minus1)?;
    let bar = (squared.ones_like()? * (SHORTEST * SHORTEST))?;
    let long = squared.gt(&bar)?;
    let length = long.where_cond(&squared, &squared.ones_like()?)?.sqrt()?;
    let inverse = long.where_cond(&length.recip()?, &squared.zeros_like()?)?;
    Ok(x.broadcast_mul(&inverse)?)
}

/// Inner products of all pairs of rows of `[n,d]`, the Gram matrix: `[n,n]`.
pub fn gram(x: &Tensor) -> Result<Tensor> {
    let x = x.unsqueeze(0)?;
    Ok(kernels::nn::inner_products(&x, &x)?.squeeze(0)?)
}

/// Euclidean distance of the rows of `a` and `b` `[n,d]`: `[n]`, with gradient 0 where it is 0.
pub fn row_distance(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    safe_sqrt(&(a - b)?.sqr()?.sum(D::Minus1)?)
}

/// Logarithm of softmax along the last dimension, stable for logits of any size: `x − max − log Σ exp(x − max)`.
pub fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let top = x.max_keepdim(D::Minus1)?.detach();
    let shifted = x.broadcast_sub(&top)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    Ok(shifted.broadcast_sub(&log_sum)?)
}

/// Global average of a feature map `[B,C,H,W]`: `[B,C]`.
pub fn pool(map: &Tensor) -> Result<Tensor> {
    map_dims("pool", map)?;
    Ok(map.flatten_from(2)?.mean(2)?)
}

/// The positions of a feature map `[B,C,H,W]` as tokens, row by row: `[B,H·W,C]`.
pub fn tokens(map: &Tensor) -> Result<Tensor> {
    map_dims("tokens", map)?;
    Ok(map.flatten_from(2)?.transpose(1, 2)?.contiguous()?)
}

/// A scalar 0 that is a function of `x`, so that `x` gets a gradient of exact zeros: the loss of a batch in which
/// no tuple is valid.
pub fn zero_of(x: &Tensor) -> Result<Tensor> {
    // A product with a tensor: candle cuts the graph at a product with the number 0.
    let sum = x.sum_all()?;
    Ok((&sum * sum.zeros_like()?)?)
}

/// The sizes of a feature map, none of which is 0.
pub(crate) fn map_dims(op: &'static str, map: &Tensor) -> Result<(usize, usize, usize, usize)> {
    let dims = map.dims();
    match *dims {
        [b, c, h, w] if b * c * h * w > 0 => Ok((b, c, h, w)),
        _ => Err(LossError::Shape { op, name: "map", got: dims.to_vec(), expected: "[B,C,H,W], none 0".into() }),
    }
}

/// The sizes of a matrix.
pub(crate) fn matrix_dims(op: &'static str, name: &'static str, x: &Tensor) -> Result<(usize, usize)> {
    let dims = x.dims();
    match *dims {
        [n, d] if n * d > 0 => Ok((n, d)),
        _ => Err(LossError::Shape { op, name, got: dims.to_vec(), expected: "[n,d], none 0".into() }),
    }
}

/// Refuses a tensor of another shape than `want`.
pub(crate) fn same_dims(op: &'static str, name: &'static str, x: &Tensor, want: &[usize]) -> Result<()> {
    if x.dims() == want {
        Ok(())
    } else {
        Err(LossError::Shape { op, name, got: x.dims().to_vec(), expected: format!("{want:?}") })
    }
}

/// Refuses labels that are not one an entry.
pub(crate) fn label_count(op: &'static str, labels: &[u32], n: usize) -> Result<()> {
    if labels.len() == n {
        Ok(())
    } else {
        Err(LossError::Shape { op, name: "labels", got: vec![labels.len()], expected: format!("[{n}]") })
    }
}

/// Rows `indices` of `x`.
pub(crate) fn select(x: &Tensor, indices: &[usize]) -> Result<Tensor> {
    let indices: Vec<u32> = indices.iter().map(|&i| i as u32).collect();
    let n = indices.len();
    Ok(x.index_select(&Tensor::from_vec(indices, n, x.device())?, 0)?)
}

/// A constant tensor of this dtype from float64 values.
pub(crate) fn constant(values: Vec<f64>, shape: &[usize], like: &Tensor) -> Result<Tensor> {
    Ok(kernels::host::from_f64("constant", values, shape, like.dtype(), like.device())?)
}

/// Mean of numbers, 0 of none.
pub(crate) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The `q`-quantile (0 ≤ q ≤ 1) with linear interpolation between order statistics, as NumPy's default.
/// `sorted` ascends and is not empty.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let low = at.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (at - low as f64) * (sorted[high] - sorted[low])
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn var(values: &[f64], shape: &[usize]) -> Var {
        Var::from_tensor(&Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()).unwrap()
    }

    fn gradient(of: &Tensor, x: &Var) -> Vec<f64> {
        of.sum_all().unwrap().backward().unwrap().get(x).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn kinks_have_derivative_zero() {
        let x = var(&[-1.0, 0.0, 4.0], &[3]);
        assert_eq!(gradient(&positive_part(&x).unwrap(), &x), [0.0, 0.0, 1.0]);
        let x = var(&[0.0, 4.0], &[2]);
        let root = safe_sqrt(&x).unwrap();
        assert_eq!(root.to_vec1::<f64>().unwrap(), [0.0, 2.0]);
        assert_eq!(gradient(&root, &x), [0.0, 0.25]);
    }

    #[test]
    fn a_zero_row_stays_zero_without_gradient() {
        let x = var(&[0.0, 0.0, 3.0, 4.0], &[2, 2]);
        let y = normalise(&x).unwrap();
        let rows = y.to_vec2::<f64>().unwrap();
        assert_eq!(rows[0], [0.0, 0.0]);
        testkit::tolerance::assert_close("unit row", &rows[1], &[0.6, 0.8], 2, testkit::tolerance::IDENTITY_F64);
        let g = gradient(&y, &x);
        assert_eq!(g[..2], [0.0, 0.0]);
        // (I − nnᵀ)/5 applied to (1, 1) with n = (0.6, 0.8).
        testkit::tolerance::assert_close(
            "gradient",
            &g[2..],
            &[0.16 / 5.0, -0.12 / 5.0],
            2,
            testkit::tolerance::IDENTITY_F64,
        );
    }

    #[test]
    fn log_softmax_survives_large_logits() {
        let x = var(&[1e4, 0.0, -1e4, 1e4], &[2, 2]);
        let y = log_softmax(&x).unwrap();
        assert_eq!(y.to_vec2::<f64>().unwrap(), [[0.0, -1e4], [-2e4, 0.0]]);
        assert!(gradient(&y, &x).iter().all(|g| g.is_finite()));
    }

    #[test]
    fn tokens_go_row_by_row_and_pool_averages_them() {
        let map = Tensor::arange(0f64, 12.0, &Device::Cpu).unwrap().reshape((1, 2, 2, 3)).unwrap();
        let t = tokens(&map).unwrap();
        assert_eq!(t.dims(), [1, 6, 2]);
        assert_eq!(t.get(0).unwrap().get(4).unwrap().to_vec1::<f64>().unwrap(), [4.0, 10.0]);
        assert_eq!(pool(&map).unwrap().to_vec2::<f64>().unwrap(), [[2.5, 8.5]]);
        assert!(pool(&t).is_err());
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(quantile(&[7.0], 0.95), 7.0);
    }
}
