//! Softmax attention of packed queries, keys and values.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, WithDType};

use super::buffers::{Real, by_storage, check_activations, fresh, slice_of};
use super::flow::{Flow, apply1};
use super::gradient::{Derivative, Gradient, Gradients, on_tensors};
use super::product::{product, product_into, rows, transposed};
use super::wide::{Loop, wide};
use crate::{Error, Result};

const OP: &str = "attention";

/// Scaled dot-product attention (Vaswani et al. 2017, equation 1) of each head, `softmax(Q Kᵀ / √d) V`.
///
/// `qkv` is [B, N, 3·heads·d]: for each token its query, key and value, each of them head by head. The result is
/// [B, N, heads·d]. The backward pass computes the weights again instead of keeping them. Images are independent, so
/// values and gradients are the same bits for any number of threads.
///
/// # Errors
/// [`Error::Shape`], [`Error::Dtype`], or [`Error::Attribute`] for no head.
pub fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let op = check(qkv, heads)?;
    #[cfg(feature = "cuda")]
    if qkv.device().is_cuda() {
        let Attention { batch, tokens, heads, width } = op;
        let attention = crate::cuda::train::attention::Attention { batch, tokens, heads, width };
        return crate::cuda::tensors::attention(OP, qkv, attention);
    }
    Ok(qkv.contiguous()?.apply_op1(op)?)
}

impl Flow {
    /// [`attention`].
    ///
    /// # Errors
    /// Those of [`attention`].
    pub fn attention(&self, heads: usize) -> Result<Self> {
        match self.by_candle() {
            Some(qkv) => Ok(Self::of_candle(attention(qkv, heads)?)),
            None => apply1(check(self.tensor_of(), heads)?, self),
        }
    }
}

fn check(qkv: &Tensor, heads: usize) -> Result<Attention> {
    check_activations(OP, qkv)?;
    if heads == 0 {
        return Err(Error::Attribute { op: OP, name: "heads", value: 0.0, expected: "at least 1" });
    }
    let &[batch, tokens, packed] = qkv.dims() else {
        return Err(Error::Shape {
            op: OP,
            name: "qkv",
            got: qkv.dims().to_vec(),
            expected: "[B, N, 3·heads·d]".into(),
        });
    };
    if packed == 0 || packed % (3 * heads) != 0 || tokens == 0 {
        let expected = format!("[B, N, a positive multiple of 3·{heads}], with a token");
        return Err(Error::Shape { op: OP, name: "qkv", got: qkv.dims().to_vec(), expected });
    }
    Ok(Attention { batch, tokens, heads, width: packed / 3 / heads })
}

#[derive(Clone, Copy)]
struct Attention {
    batch: usize,
    tokens: usize,
    heads: usize,
    /// Numbers of a query.
    width: usize,
}

/// Softmax of scaled rows, in place.
struct Softmax<'a, T> {
    scores: &'a mut [T],
    tokens: usize,
    scale: T,
}

impl<T: Real> Loop for Softmax<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        for row in self.scores.chunks_mut(self.tokens) {
            let largest = row.iter().fold(T::LOWEST, |m, v| if *v > m { *v } else { m });
            row.iter_mut().for_each(|v| *v = ((*v - largest) * self.scale).exponential());
            let one = T::down(1.0 / super::moments::lanes(row, |v| v.up()));
            row.iter_mut().for_each(|v| *v *= one);
        }
    }
}

/// From the gradient of the weights to that of the scores: `scale · p (g − Σ g p)` per row, in place.
struct SoftmaxSlopes<'a, T> {
    weights: &'a [T],
    slopes: &'a mut [T],
    tokens: usize,
    scale: T,
}

impl<T: Real> Loop for SoftmaxSlopes<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        for (p, g) in self.weights.chunks(self.tokens).zip(self.slopes.chunks_mut(self.tokens)) {
            let mean = T::down(super::moments::lanes2(p, g, |p, g| p.up() * g.up()));
            g.iter_mut().zip(p).for_each(|(g, p)| *g = self.scale * *p * (*g - mean));
        }
    }
}

impl Attention {
    /// Numbers of a token in the result; a token of the input has three times as many.
    fn dim(&self) -> usize {
        self.heads * self.width
    }

    fn scale<T: Real>(&self) -> T {
        T::down(1.0 / (self.width as f64).sqrt())
    }

    /// Weights of one head of one image.
    fn weights<T: Real>(&self, qkv: &[T], head: usize, scores: &mut [T]) {
        let (n, d, dim) = (self.tokens, self.width, self.dim());
        let (q, k) = (&qkv[head * d..], &qkv[dim + head * d..]);
        product((n, n, d), (scores, n), false, (q, rows(3 * dim)), (k, transposed(3 * dim)));
        wide(Softmax { scores, tokens: n, scale: self.scale() });
    }

    fn forward<T: Real>(&self, qkv: &[T]) -> Vec<T> {
        let (n, d, dim) = (self.tokens, self.width, self.dim());
        // SAFETY: each head writes its `d` numbers of every token of the image, so together they write all of it.
        unsafe {
            fresh(self.batch * n * dim, (n * dim, 1), |image, out| {
                let qkv = &qkv[image * n * 3 * dim..][..n * 3 * dim];
                T::with_scratch(n * n, |weights| {
                    for head in 0..self.heads {
                        self.weights(qkv, head, weights);
                        let (v, out) = (&qkv[2 * dim + head * d..], &mut out[head * d..]);
                        product_into((n, d, n), (out, dim), (weights, rows(n)), (v, rows(3 * dim)));
                    }
                });
            })
        }
    }

    /// With `dP = dO Vᵀ` and `dS` from it: `dQ = dS K`, `dK = dSᵀ Q`, `dV = Pᵀ dO`.
    fn backward<T: Real>(&self, qkv: &[T], gy: &[T]) -> Vec<T> {
        let (n, d, dim) = (self.tokens, self.width, self.dim());
        // SAFETY: each head writes its numbers of the queries, keys and values of every token, so together they write all of
        // an image.
        unsafe {
            fresh(qkv.len(), (n * 3 * dim, 1), |image, g| {
                let (qkv, gy) = (&qkv[image * n * 3 * dim..][..n * 3 * dim], &gy[image * n * dim..][..n * dim]);
                T::with_scratch(2 * n * n, |scratch| {
                    let (weights, slopes) = scratch.split_at_mut(n * n);
                    for head in 0..self.heads {
                        self.weights(qkv, head, weights);
                        let at = [head * d, dim + head * d, 2 * dim + head * d];
                        let [q, k, v] = at.map(|at| &qkv[at..]);
                        let gy = &gy[head * d..];
                        let pitch = 3 * dim;
                        let size = (n, d, n);
                        product_into(size, (&mut g[at[2]..], pitch), (weights, transposed(n)), (gy, rows(dim)));
                        product((n, n, d), (slopes, n), false, (gy, rows(dim)), (v, transposed(pitch)));
                        wide(SoftmaxSlopes { weights, slopes, tokens: n, scale: self.scale() });
                        product_into(size, (&mut g[at[0]..], pitch), (slopes, rows(n)), (k, rows(pitch)));
                        product_into(size, (&mut g[at[1]..], pitch), (slopes, transposed(n)), (q, rows(pitch)));
                    }
                });
            })
        }
    }
}

impl Derivative for Attention {
    fn gradients<T: Real>(&self, args: [&[T]; 3], _: &[T], gy: Gradient<T>, _: [bool; 3]) -> Gradients<T> {
        [Some(Gradient::Alone(self.backward(args[0], &gy))), None, None]
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = by_storage!(qkv, T => Ok(T::to_cpu_storage_owned(self.forward(slice_of::<T>(qkv, layout)?))))?;
        Ok((y, Shape::from((self.batch, self.tokens, self.dim()))))
    }

    fn bwd(&self, qkv: &Tensor, y: &Tensor, gy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        on_tensors(self, &[qkv], y, gy).map(|[g, ..]| g)
    }
}
