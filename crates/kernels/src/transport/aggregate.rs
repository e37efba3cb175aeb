//! The weighted sum over a token's neighbours.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use crate::{Error, Result, host};

const OP: &str = "graph_aggregate";

/// Weighted sums over neighbours, `y_i = Σ_k w_ik h_{index_ik}`: the sum of a weighted graph convolution.
///
/// `h` `[B, N, C]`, `edge_index` `u32` `[B, N, k]`, `edge_weight` `[B, N, k]` give `[B, N, C]`. Differentiable in `h`
/// and `edge_weight`. Works in the dtype of `h`; each sum runs over `k` in order, whatever the number of threads.
///
/// # Errors
/// Shapes that do not fit, different dtypes, or an index that is no token.
pub fn aggregate(h: &Tensor, edge_index: &Tensor, edge_weight: &Tensor) -> Result<Tensor> {
    let shape =
        |name, got: &Tensor, expected: String| Error::Shape { op: OP, name, got: got.dims().to_vec(), expected };
    let &[b, n, c] = h.dims() else { return Err(shape("h", h, "[B, N, C]".into())) };
    let k = match edge_index.dims() {
        &[batch, tokens, k] if (batch, tokens) == (b, n) => k,
        _ => return Err(shape("edge_index", edge_index, format!("[{b}, {n}, k]"))),
    };
    if edge_weight.dims() != edge_index.dims() {
        return Err(shape("edge_weight", edge_weight, format!("[{b}, {n}, {k}], as `edge_index`")));
    }
    if edge_weight.dtype() != h.dtype() {
        return Err(Error::DtypeMismatch { op: OP, left: h.dtype(), right: edge_weight.dtype() });
    }
    if !matches!(h.dtype(), DType::F32 | DType::F64) {
        return Err(Error::Dtype { op: OP, got: h.dtype() });
    }
    #[cfg(feature = "cuda")]
    if h.device().is_cuda() {
        return crate::cuda::tensors::aggregate(OP, h, edge_index, edge_weight);
    }
    host::refuse_device(OP, h)?;
    let index = edge_index.flatten_all()?.to_vec1::<u32>()?;
    if let Some(&bad) = index.iter().find(|&&j| j as usize >= n) {
        return Err(Error::Index { op: OP, name: "edge_index", index: bad as usize, len: n });
    }
    let op = Aggregate { index: Arc::new(index), n, c, k };
    let (tokens, weights) =
        (h.to_device(&Device::Cpu)?.contiguous()?, edge_weight.to_device(&Device::Cpu)?.contiguous()?);
    Ok(tokens.apply_op2(&weights, op)?.to_device(h.device())?)
}

struct Aggregate {
    index: Arc<Vec<u32>>,
    n: usize,
    c: usize,
    k: usize,
}

impl Aggregate {
    fn forward<T: WithDType>(&self, h: &[T], weights: &[T]) -> Vec<T> {
        let (n, c, k) = (self.n, self.c, self.k);
        let mut out = vec![T::zero(); h.len()];
        if out.is_empty() || k == 0 {
            return out;
        }
        out.par_chunks_exact_mut(c).enumerate().for_each(|(row, sum)| {
            let tokens = &h[row / n * n * c..];
            let edges = row * k..(row + 1) * k;
            for (&j, &w) in self.index[edges.clone()].iter().zip(&weights[edges]) {
                add(sum, w, &tokens[j as usize * c..(j as usize + 1) * c]);
            }
        });
        out
    }

    /// Gradients of `h` and of the weights.
    fn backward<T: WithDType>(&self, h: &[T], weights: &[T], grad: &[T]) -> (Vec<T>, Vec<T>) {
        let (n, c, k) = (self.n, self.c, self.k);
        let mut of_h = vec![T::zero(); h.len()];
        let mut of_weights = vec![T::zero(); weights.len()];
        if of_h.is_empty() || k == 0 {
            return (of_h, of_weights);
        }
        let entries = of_h.par_chunks_exact_mut(n * c).zip(of_weights.par_chunks_exact_mut(n * k)).enumerate();
        entries.for_each(|(batch, (of_h, of_weights))| {
            let (tokens, grad) = (&h[batch * n * c..], &grad[batch * n * c..]);
            let first = batch * n * k;
            for (edge, of_weight) in of_weights.iter_mut().enumerate() {
                let (i, j) = (edge / k, self.index[first + edge] as usize);
                let g = &grad[i * c..(i + 1) * c];
                *of_weight = inner(g, &tokens[j * c..(j + 1) * c]);
                add(&mut of_h[j * c..(j + 1) * c], weights[first + edge], g);
            }
        });
        (of_h, of_weights)
    }

    fn tensors<T: WithDType>(
        &self,
        h: &Tensor,
        weights: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let values = |t: &Tensor| t.flatten_all()?.to_vec1::<T>();
        let (of_h, of_weights) = self.backward(&values(h)?, &values(weights)?, &values(grad)?);
        Ok((Tensor::from_vec(of_h, h.shape(), h.device())?, Tensor::from_vec(of_weights, weights.shape(), h.device())?))
    }
}

fn add<T: WithDType>(sum: &mut [T], factor: T, x: &[T]) {
    sum.iter_mut().zip(x).for_each(|(s, &x)| *s += factor * x);
}

/// Inner product in eight interleaved partial sums.
fn inner<T: WithDType>(a: &[T], b: &[T]) -> T {
    let mut sums = [T::zero(); 8];
    let (left, right) = (a.chunks_exact(8), b.chunks_exact(8));
    let mut total = T::zero();
    for (&x, &y) in left.remainder().iter().zip(right.remainder()) {
        total += x * y;
    }
    for (x, y) in left.zip(right) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.into_iter().for_each(|s| total += s);
    total
}

/// The values of a contiguous tensor.
fn slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [T]> {
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| candle_core::Error::Msg(format!("{OP}: the arguments were made contiguous")))?;
    Ok(&storage.as_slice::<T>()?[start..end])
}

impl CustomOp2 for Aggregate {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let out = match s1 {
            CpuStorage::F32(_) => CpuStorage::F32(self.forward::<f32>(slice(s1, l1)?, slice(s2, l2)?)),
            _ => CpuStorage::F64(self.forward::<f64>(slice(s1, l1)?, slice(s2, l2)?)),
        };
        Ok((out, l1.shape().clone()))
    }

    fn bwd(
        &self,
        h: &Tensor,
        weights: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (of_h, of_weights) = match h.dtype() {
            DType::F32 => self.tensors::<f32>(h, weights, grad)?,
            _ => self.tensors::<f64>(h, weights, grad)?,
        };
        Ok((Some(of_h), Some(of_weights)))
    }
}
