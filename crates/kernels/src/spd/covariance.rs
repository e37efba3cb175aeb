//! Attention-weighted covariances.

use candle_core::Tensor;
use rayon::prelude::*;

use super::linalg::{Form, product, symmetrise};
use super::saved;
use super::simd::dot;
use crate::{Error, Result, host};

const OP: &str = "covariance";

/// Weighted covariances `[B, d, d]` of tokens `x` `[B, n, d]`: `Σ_n w_n (x_n − μ)(x_n − μ)ᵀ + ε I` with
/// `w = softmax(logits)` over `n`, `logits` `[B, n]`, and `μ = Σ_n w_n x_n`. Exactly symmetric.
/// Differentiable in `x` and `logits`.
///
/// # Errors
/// Shapes that do not fit, no token, different dtypes, values that are not finite, or `eps` negative or not finite.
pub fn covariance(x: &Tensor, logits: &Tensor, eps: f64) -> Result<Tensor> {
    let &[b, n, d] = x.dims() else {
        return Err(Error::Shape { op: OP, name: "x", got: x.dims().to_vec(), expected: "[B, n, d]".into() });
    };
    if n == 0 || d == 0 {
        return Err(Error::Shape { op: OP, name: "x", got: x.dims().to_vec(), expected: "n >= 1 and d >= 1".into() });
    }
    if logits.dims() != [b, n] {
        let expected = format!("[{b}, {n}], as `x`");
        return Err(Error::Shape { op: OP, name: "logits", got: logits.dims().to_vec(), expected });
    }
    if !(eps >= 0.0 && eps.is_finite()) {
        return Err(Error::Attribute { op: OP, name: "eps", value: eps, expected: "a finite number >= 0" });
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::tensors::covariance(OP, x, logits, eps);
    }
    let (tokens, scores) = (finite("x", x, n * d)?, finite("logits", logits, n)?);
    let parts: Vec<(Part, Vec<f64>)> = (0..b)
        .into_par_iter()
        .map(|i| {
            let part = Part::new(&tokens[i * n * d..(i + 1) * n * d], &scores[i * n..(i + 1) * n], d);
            let value = part.covariance(eps);
            (part, value)
        })
        .collect();
    let (parts, values): (Vec<Part>, Vec<Vec<f64>>) = parts.into_iter().unzip();
    saved::binary(OP, x, logits, values.concat(), (b, d, d), move |_, grad| {
        let each = parts.par_iter().zip(grad.par_chunks_exact(d * d));
        let (dx, dl): (Vec<_>, Vec<_>) = each.map(|(part, g)| part.gradient(g)).unzip();
        Ok((Some(dx.concat()), Some(dl.concat())))
    })
}

fn finite(name: &'static str, tensor: &Tensor, item: usize) -> Result<Vec<f64>> {
    let values = host::to_f64(OP, tensor)?;
    match values.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(Error::NonFinite { op: OP, name, batch: at / item }),
        None => Ok(values),
    }
}

/// One batch entry: weights and centred tokens.
struct Part {
    d: usize,
    weights: Vec<f64>,
    centred: Vec<f64>,
}

impl Part {
    fn new(tokens: &[f64], scores: &[f64], d: usize) -> Self {
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= total);
        let mut mean = vec![0.0; d];
        for (token, w) in tokens.chunks_exact(d).zip(&weights) {
            super::simd::axpy(&mut mean, *w, token);
        }
        let centred = tokens.chunks_exact(d).flat_map(|token| token.iter().zip(&mean).map(|(t, m)| t - m)).collect();
        Self { d, weights, centred }
    }

    fn covariance(&self, eps: f64) -> Vec<f64> {
        let d = self.d;
        let mut out = vec![0.0; d * d];
        let rows = self.centred.chunks_exact(d).zip(&self.weights);
        let weighted: Vec<f64> = rows.flat_map(|(row, w)| row.iter().map(move |v| w * v)).collect();
        product(&mut out, (&weighted, Form::Transposed), (&self.centred, Form::Plain), d, d, self.weights.len());
        symmetrise(&mut out, d);
        out.iter_mut().step_by(d + 1).for_each(|v| *v += eps);
        out
    }

    /// With `G` symmetrised and `c = x − μ`: `∂x_n = 2 w_n G c_n`, `∂w_n = c_nᵀ G c_n` (the terms through `μ` vanish,
    /// as `Σ w_n c_n = 0`), and the softmax's `∂l_n = w_n (∂w_n − Σ_m w_m ∂w_m)`.
    fn gradient(&self, grad: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (d, n) = (self.d, self.weights.len());
        let mut g = grad.to_vec();
        symmetrise(&mut g, d);
        let mut image = vec![0.0; n * d];
        product(&mut image, (&self.centred, Form::Plain), (&g, Form::Plain), n, d, d);
        let rows = || image.chunks_exact(d).zip(self.centred.chunks_exact(d));
        let per_weight: Vec<f64> = rows().map(|(g, c)| dot(g, c)).collect();
        let mean = dot(&self.weights, &per_weight);
        let logits = self.weights.iter().zip(&per_weight).map(|(w, p)| w * (p - mean)).collect();
        for (row, w) in image.chunks_exact_mut(d).zip(&self.weights) {
            row.iter_mut().for_each(|v| *v *= 2.0 * w);
        }
        (image, logits)
    }
}
