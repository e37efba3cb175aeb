//! Linear maps of tokens by matrix products whose pieces depend on the shape alone.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::buffers::{Held, Real, by_dtype, by_storage, check_dtype, slice_of, zeros};
use super::conv::Want;
use super::dense::{product, rows, transposed};
use crate::{Error, Result};

const OP: &str = "linear";
/// Tokens of a piece at least, and pieces at most: every piece reorders the whole weight once.
const TOKENS: usize = 128;
const PIECES: usize = 8;
/// Outputs of a piece of the weight's gradient.
const OUTPUTS: usize = 192;

/// `y = x Wᵀ + b` of every token: `x` [.., I], `weight` [O, I], `bias` `[O]`, the result [.., O].
///
/// Differentiable in all three; gradients that nobody tracks are not computed. Values and gradients are the same bits
/// for any number of threads.
///
/// # Errors
/// [`Error::Shape`], [`Error::Dtype`].
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    check_dtype(OP, x)?;
    let shape = |name, tensor: &Tensor, expected| Error::Shape { op: OP, name, got: tensor.dims().to_vec(), expected };
    let &[outputs, inputs] = weight.dims() else {
        return Err(shape("weight", weight, "[O, I]".into()));
    };
    if x.dims().last() != Some(&inputs) || x.elem_count() == 0 {
        return Err(shape("x", x, format!("[.., {inputs}], not empty")));
    }
    if bias.dims() != [outputs] || outputs == 0 {
        return Err(shape("bias", bias, format!("[{outputs}], not empty")));
    }
    if let Some(other) = [weight, bias].into_iter().find(|t| t.dtype() != x.dtype()) {
        return Err(Error::Dtype { op: OP, got: other.dtype() });
    }
    let op = Linear { tokens: x.elem_count() / inputs, inputs, outputs };
    Ok(x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?)
}

#[derive(Clone, Copy)]
struct Linear {
    tokens: usize,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// Tokens of a piece, by the shape alone.
    fn piece(&self) -> usize {
        self.tokens.div_ceil(PIECES).next_multiple_of(8).max(TOKENS)
    }

    fn forward<T: Real>(&self, x: &[T], w: &[T], b: &[T]) -> Vec<T> {
        let Self { tokens, inputs, outputs } = *self;
        let mut y = zeros::<T>(tokens * outputs);
        let pieces = y.par_chunks_mut(self.piece() * outputs).zip(x.par_chunks(self.piece() * inputs));
        pieces.for_each(|(y, x)| {
            y.chunks_mut(outputs).for_each(|y| y.copy_from_slice(b));
            let size = (y.len() / outputs, outputs, inputs);
            product(size, (y, outputs), true, (x, rows(inputs)), (w, transposed(inputs)));
        });
        y
    }

    fn backward<T: Real>(&self, x: &[T], w: &[T], gy: &[T], want: Want) -> (Option<Vec<T>>, Option<Vec<T>>) {
        let Self { tokens, inputs, outputs } = *self;
        let gx = want.x.then(|| {
            let mut gx = zeros::<T>(tokens * inputs);
            gx.par_chunks_mut(self.piece() * inputs).zip(gy.par_chunks(self.piece() * outputs)).for_each(|(gx, gy)| {
                let size = (gx.len() / inputs, inputs, outputs);
                product(size, (gx, inputs), false, (gy, rows(outputs)), (w, rows(inputs)));
            });
            gx
        });
        let gw = want.weight.then(|| {
            let mut gw = zeros::<T>(outputs * inputs);
            gw.par_chunks_mut(OUTPUTS * inputs).enumerate().for_each(|(index, gw)| {
                let size = (gw.len() / inputs, inputs, tokens);
                let gy = &gy[index * OUTPUTS..];
                product(size, (gw, inputs), false, (gy, transposed(outputs)), (x, rows(inputs)));
            });
            gw
        });
        (gx, gw)
    }

    /// `Σ gy` over the tokens, in float64.
    fn bias_gradient<T: Real>(&self, gy: &[T]) -> Vec<T> {
        let mut sums = vec![0.0; self.outputs];
        for gy in gy.chunks(self.outputs) {
            sums.iter_mut().zip(gy).for_each(|(sum, g)| *sum += g.up());
        }
        sums.into_iter().map(T::down).collect()
    }

    fn backward_in<T: Real>(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<[Option<Tensor>; 3]> {
        let (xs, ws, gys) = (Held::new(x), Held::new(w), Held::new(gy));
        let want = Want { x: x.track_op(), weight: w.track_op() };
        let (gx, gw) = self.backward::<T>(xs.slice()?, ws.slice()?, gys.slice()?, want);
        let gys = gys.slice::<T>()?;
        let gb = b.track_op().then(|| self.bias_gradient::<T>(gys));
        let tensor = |values: Option<Vec<T>>, like: &Tensor| {
            values.map(|v| Tensor::from_vec(v, like.shape(), like.device())).transpose()
        };
        Ok([tensor(gx, x)?, tensor(gw, w)?, tensor(gb, b)?])
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = by_storage!(x, T => {
            Ok(T::to_cpu_storage_owned(self.forward::<T>(slice_of(x, lx)?, slice_of(w, lw)?, slice_of(b, lb)?)))
        })?;
        let mut dims = lx.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.outputs;
        }
        Ok((y, Shape::from(dims)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gy = gy.contiguous()?;
        let [gx, gw, gb] = by_dtype!(x, T => self.backward_in::<T>(x, w, b, &gy))?;
        Ok((gx, gw, gb))
    }
}
