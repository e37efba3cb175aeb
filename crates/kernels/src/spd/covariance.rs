//! Attention-weighted covariances.

use std::cell::RefCell;

use candle_core::{CpuStorage, DType, Tensor};
use rayon::prelude::*;

use super::linalg::{Form, accumulate, product, symmetrise};
use super::saved;
use super::simd::{axpy, dispatched, dot};
use crate::host::{self, Numbers};
use crate::{Error, Result};

const OP: &str = "covariance";
const PARTS: &str = "part_covariances";

/// Weighted covariances `[B, d, d]` of tokens `x` `[B, n, d]`: `Σ_n w_n (x_n − μ)(x_n − μ)ᵀ + ε I` with
/// `w = softmax(logits)` over `n`, `logits` `[B, n]`, and `μ = Σ_n w_n x_n`. Exactly symmetric.
/// Differentiable in `x` and `logits`.
///
/// # Errors
/// Shapes that do not fit, no token, different dtypes, values that are not finite, or `eps` negative or not finite.
pub fn covariance(x: &Tensor, logits: &Tensor, eps: f64) -> Result<Tensor> {
    let sizes = Sizes::of(OP, x, logits, None, eps)?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::tensors::covariance(OP, x, logits, eps);
    }
    sizes.apply(OP, (x, logits), eps, x.dtype(), &[sizes.images, sizes.d, sizes.d])
}

/// The covariances `[B, P, d, d]` of the same tokens `x` `[B, n, d]` under the P attentions `logits` `[B, P, n]` of each
/// batch entry, each as [`covariance`] has it, in float64 whatever the dtype of `x` is: rounding to float32 would cost small
/// eigenvalues. Differentiable in `x` and `logits`; the gradient of `x` is summed over the attentions in float64.
///
/// # Errors
/// As [`covariance`].
pub fn part_covariances(x: &Tensor, logits: &Tensor, eps: f64) -> Result<Tensor> {
    let &[_, parts, _] = logits.dims() else {
        let expected = "[B, P, n]".into();
        return Err(Error::Shape { op: PARTS, name: "logits", got: logits.dims().to_vec(), expected });
    };
    let sizes = Sizes::of(PARTS, x, logits, Some(parts), eps)?;
    let shape = [sizes.images, parts, sizes.d, sizes.d];
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        // One copy of the tokens for each attention.
        let Sizes { images, tokens, d, .. } = sizes;
        let copies = x.to_dtype(DType::F64)?.unsqueeze(1)?.broadcast_as((images, parts, tokens, d))?;
        let copies = copies.contiguous()?.reshape((images * parts, tokens, d))?;
        let scores = logits.to_dtype(DType::F64)?.contiguous()?.reshape((images * parts, tokens))?;
        return Ok(crate::cuda::tensors::covariance(PARTS, &copies, &scores, eps)?.reshape(&shape)?);
    }
    sizes.apply(PARTS, (x, logits), eps, DType::F64, &shape)
}

/// Images, attentions an image, tokens an image and their length.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    images: usize,
    parts: usize,
    tokens: usize,
    d: usize,
}

impl Sizes {
    /// Refuses what does not fit. `logits` have a dimension of attentions if there is a number of them.
    fn of(op: &'static str, x: &Tensor, logits: &Tensor, parts: Option<usize>, eps: f64) -> Result<Self> {
        let shape = |name, tensor: &Tensor, expected: String| {
            Err(Error::Shape { op, name, got: tensor.dims().to_vec(), expected })
        };
        let &[images, tokens, d] = x.dims() else { return shape("x", x, "[B, n, d]".into()) };
        if tokens == 0 || d == 0 {
            return shape("x", x, "n >= 1 and d >= 1".into());
        }
        let want: Vec<usize> = [Some(images), parts, Some(tokens)].into_iter().flatten().collect();
        if logits.dims() != want {
            return shape("logits", logits, format!("{want:?}, as `x`"));
        }
        if !(eps >= 0.0 && eps.is_finite()) {
            return Err(Error::Attribute { op, name: "eps", value: eps, expected: "a finite number >= 0" });
        }
        if x.dtype() != logits.dtype() {
            return Err(Error::DtypeMismatch { op, left: x.dtype(), right: logits.dtype() });
        }
        Ok(Self { images, parts: parts.unwrap_or(1), tokens, d })
    }

    /// The covariances in `dtype`, of this shape, with their gradient.
    fn apply(
        self,
        op: &'static str,
        (x, logits): (&Tensor, &Tensor),
        eps: f64,
        dtype: DType,
        shape: &[usize],
    ) -> Result<Tensor> {
        let weights = host::with_numbers(op, logits, |logits| {
            finite(op, "logits", logits, self.parts * self.tokens)?;
            Ok(self.softmax(logits))
        })?;
        let result = host::with_numbers(op, x, |x| {
            finite(op, "x", x, self.tokens * self.d)?;
            host::fill_items(op, dtype, (self.images * self.parts, self.d * self.d), |part, out| {
                ROOM.with_borrow_mut(|room| self.covariance(x, part, &weights, eps, (out, &mut room[0])));
            })
        })?;
        saved::binary_storage(op, x, logits, result, shape, move |x, grad| {
            let (dx, dl) = host::with_numbers(op, x, |x| {
                host::with_numbers(op, grad, |grad| Ok(self.gradients(x, grad, &weights)))
            })?;
            Ok((storage(dx, x.dtype()), storage(dl, x.dtype())))
        })
    }

    /// The weights of all parts.
    fn softmax(self, logits: Numbers) -> Vec<f64> {
        let mut weights = vec![0.0; logits.len()];
        logits.copy(0, &mut weights);
        for part in weights.chunks_exact_mut(self.tokens) {
            let largest = part.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            part.iter_mut().for_each(|s| *s = (*s - largest).exp());
            let total: f64 = part.iter().sum();
            part.iter_mut().for_each(|w| *w /= total);
        }
        weights
    }

    /// The tokens of a part's image less their weighted mean.
    fn centred(self, x: Numbers, part: usize, weights: &[f64], rows: &mut Vec<f64>) {
        let size = self.tokens * self.d;
        rows.resize(size, 0.0);
        x.copy(part / self.parts * size, rows);
        centre(rows, weights, self.d);
    }

    /// Of one part: `Yᵀ Y + ε I` with the rows `√w_n (x_n − μ)` of `Y`.
    fn covariance(self, x: Numbers, part: usize, weights: &[f64], eps: f64, (out, rows): (&mut [f64], &mut Vec<f64>)) {
        let (n, d) = (self.tokens, self.d);
        let weights = &weights[part * n..(part + 1) * n];
        self.centred(x, part, weights, rows);
        for (row, w) in rows.chunks_exact_mut(d).zip(weights) {
            let root = w.sqrt();
            row.iter_mut().for_each(|v| *v *= root);
        }
        accumulate(out, (0.0, 1.0), (rows, Form::Transposed), (rows, Form::Plain), (d, d, n), true);
        out.iter_mut().step_by(d + 1).for_each(|v| *v += eps);
    }

    /// Gradients of the tokens and of the logits. With `G` symmetrised and `c = x − μ`: `∂x_n = 2 w_n G c_n`,
    /// `∂w_n = c_nᵀ G c_n` (the terms through `μ` vanish, as `Σ w_n c_n = 0`), and the softmax's
    /// `∂l_n = w_n (∂w_n − Σ_m w_m ∂w_m)`.
    fn gradients(self, x: Numbers, grad: Numbers, weights: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let Self { images, parts, tokens: n, d } = self;
        let (mut dx, mut dl) = (vec![0.0; images * n * d], vec![0.0; images * parts * n]);
        if parts == 0 {
            return (dx, dl);
        }
        let each = dx.par_chunks_exact_mut(n * d).zip(dl.par_chunks_exact_mut(parts * n)).enumerate();
        each.for_each(|(image, (dx, dl))| {
            ROOM.with_borrow_mut(|[centred, g, moved]| {
                for (k, dl) in dl.chunks_exact_mut(n).enumerate() {
                    let part = image * parts + k;
                    let weights = &weights[part * n..(part + 1) * n];
                    self.centred(x, part, weights, centred);
                    g.resize(d * d, 0.0);
                    grad.copy(part * d * d, g);
                    symmetrise(g, d);
                    moved.resize(n * d, 0.0);
                    product(moved, (centred, Form::Plain), (g, Form::Plain), n, d, d);
                    pull(dx, dl, (moved, centred), weights);
                }
            });
        });
        (dx, dl)
    }
}

thread_local! {
    /// Rows of tokens and matrices of the thread's present part.
    static ROOM: RefCell<[Vec<f64>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

dispatched! {
    /// Subtracts the weighted mean of rows of `d` numbers from each.
    fn centre(rows: &mut [f64], weights: &[f64], d: usize) {
        let mut mean = vec![0.0; d];
        for (row, w) in rows.chunks_exact(d).zip(weights) {
            axpy(&mut mean, *w, row);
        }
        for row in rows.chunks_exact_mut(d) {
            row.iter_mut().zip(&mean).for_each(|(v, m)| *v -= m);
        }
    }
}

dispatched! {
    /// Adds a part's `2 w_n G c_n` to `dx` and writes its `∂l`; `both` are the rows `G c_n` and `c_n`.
    fn pull(dx: &mut [f64], dl: &mut [f64], both: (&[f64], &[f64]), weights: &[f64]) {
        let d = dx.len() / weights.len();
        let mut mean = 0.0;
        for (n, w) in weights.iter().enumerate() {
            let (moved, centred) = (&both.0[n * d..(n + 1) * d], &both.1[n * d..(n + 1) * d]);
            dl[n] = dot(moved, centred);
            mean += w * dl[n];
            axpy(&mut dx[n * d..(n + 1) * d], 2.0 * w, moved);
        }
        dl.iter_mut().zip(weights).for_each(|(l, w)| *l = w * (*l - mean));
    }
}

fn storage(values: Vec<f64>, dtype: DType) -> CpuStorage {
    match dtype {
        DType::F32 => CpuStorage::F32(values.into_iter().map(|v| v as f32).collect()),
        _ => CpuStorage::F64(values),
    }
}

/// Refuses numbers that are not finite, by the entry of the batch, of `item` numbers each.
fn finite(op: &'static str, name: &'static str, numbers: Numbers, item: usize) -> Result<()> {
    let at = match numbers {
        Numbers::F32(all) => all.iter().position(|v| !v.is_finite()),
        Numbers::F64(all) => all.iter().position(|v| !v.is_finite()),
    };
    at.map_or(Ok(()), |at| Err(Error::NonFinite { op, name, batch: at / item }))
}
