//! Linear maps of tokens.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::buffers::{Real, beside, by_storage, check_activations, slice_of};
use super::conv::Want;
use super::flow::{Arg, Flow, apply3};
use super::gradient::{Derivative, Gradient, Gradients, on_tensors};
use super::product::{product_on_threads, rows, transposed};
use super::wide::{Loop, wide};
use crate::even::Even;
use crate::{Error, Result};

const OP: &str = "linear";
/// Tokens of a piece of the bias's gradient.
const BIAS_TOKENS: usize = 256;

/// `y = x Wᵀ + b` of every token: `x` [.., I], `weight` [O, I], `bias` `[O]`, the result [.., O].
///
/// Differentiable in all three; gradients that nobody tracks are not computed. Values and gradients are the same bits
/// for any number of threads.
///
/// # Errors
/// [`Error::Shape`], [`Error::Dtype`].
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let op = check(x, weight, bias)?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        let Linear { tokens, inputs, outputs } = op;
        let linear = crate::cuda::train::linear::Linear { tokens, inputs, outputs };
        return crate::cuda::tensors::linear(OP, [x, weight, bias], linear);
    }
    Ok(x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?)
}

fn check(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Linear> {
    check_activations(OP, x)?;
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
    if let Some(other) = [weight, bias].into_iter().find(|t| t.dtype() != beside(x.dtype())) {
        return Err(Error::Dtype { op: OP, got: other.dtype() });
    }
    Ok(Linear { tokens: x.elem_count() / inputs, inputs, outputs })
}

#[derive(Clone, Copy)]
struct Linear {
    tokens: usize,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    fn forward<T: Real>(&self, x: &[T], w: &[T], b: &[T]) -> Vec<T> {
        let Self { tokens, inputs, outputs } = *self;
        product_on_threads((tokens, outputs, inputs), (x, rows(inputs)), (w, transposed(inputs)), Some(b))
    }

    fn backward<T: Real>(&self, x: &[T], w: &[T], gy: &[T], want: Want) -> (Option<Vec<T>>, Option<Vec<T>>) {
        let Self { tokens, inputs, outputs } = *self;
        let gx = || product_on_threads((tokens, inputs, outputs), (gy, rows(outputs)), (w, rows(inputs)), None);
        let gw = || product_on_threads((outputs, inputs, tokens), (gy, transposed(outputs)), (x, rows(inputs)), None);
        (want.x.then(gx), want.weight.then(gw))
    }

    /// `Σ gy` over the tokens, in float64.
    fn bias_gradient<T: Real>(&self, gy: &[T]) -> Vec<T> {
        let pieces = gy.par_chunks(BIAS_TOKENS * self.outputs).evenly(1);
        let partial: Vec<Vec<f64>> = pieces.map(|gy| wide(RowSum { rows: gy, width: self.outputs })).collect();
        let mut sums = vec![0.0; self.outputs];
        for part in &partial {
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        sums.into_iter().map(T::down).collect()
    }
}

/// The sum of rows, in float64.
struct RowSum<'a, T> {
    rows: &'a [T],
    width: usize,
}

impl<T: Real> Loop for RowSum<'_, T> {
    type Out = Vec<f64>;

    #[inline(always)]
    fn run(self) -> Vec<f64> {
        let mut sums = vec![0.0; self.width];
        for row in self.rows.chunks(self.width) {
            sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += v.up());
        }
        sums
    }
}

impl Derivative for Linear {
    fn gradients<T: Real>(&self, args: [&[T]; 3], _: &[T], gy: Gradient<T>, want: [bool; 3]) -> Gradients<T> {
        let [x, w, _] = args;
        let (gx, gw) = self.backward(x, w, &gy, Want { x: want[0], weight: want[1] });
        let gb = want[2].then(|| self.bias_gradient(&gy));
        [gx, gw, gb].map(|g| g.map(Gradient::Alone))
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
        y: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        on_tensors(self, &[x, w, b], y, gy).map(|[gx, gw, gb]| (gx, gw, gb))
    }
}

impl Flow {
    /// [`linear`].
    ///
    /// # Errors
    /// Those of [`linear`].
    pub fn linear(&self, weight: &Tensor, bias: &Tensor) -> Result<Self> {
        match self.by_candle() {
            Some(x) => Ok(Self::of_candle(linear(x, weight, bias)?)),
            None => {
                let op = check(self.tensor_of(), weight, bias)?;
                apply3(op, [Arg::Flow(self), Arg::Parameter(weight), Arg::Parameter(bias)])
            }
        }
    }
}
