//! Rectifiers. candle's own gives the gradient 1 at 0; these give 0 there, as PyTorch does.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::buffers::{Held, Real, by_storage, check_activations, fresh, slice_of};
use super::flow::{Arg, Flow, apply_pairs, apply1, apply2};
use super::gradient::{Derivative, Gradient, Gradients, on_tensors};
use super::pair::{self, Pair};
use crate::even::Even;
use crate::{Error, Result};

/// Values that one task handles.
const CHUNK: usize = 16 * 1024;

/// `max(x, 0)`, elementwise, with gradient 0 at 0; NaN stays NaN.
///
/// # Errors
/// [`Error::Dtype`] for anything but float32 and float64.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    check_activations("relu", x)?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::tensors::activation("relu", x, crate::cuda::train::activation::Activation::Relu);
    }
    Ok(x.contiguous()?.apply_op1(Relu)?)
}

/// `max(a + b, 0)` of two tensors of one shape: the end of a residual block, in one pass.
///
/// # Errors
/// [`Error::Shape`] where the shapes differ, [`Error::Dtype`] for anything but two float32 or two float64 tensors.
pub fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    check_pair("add_relu", a, b)?;
    #[cfg(feature = "cuda")]
    if a.device().is_cuda() {
        return crate::cuda::tensors::sum("add_relu", a, b, true);
    }
    Ok(a.contiguous()?.apply_op2(&b.contiguous()?, Sum { relu: true })?)
}

fn check_pair(op: &'static str, a: &Tensor, b: &Tensor) -> Result<()> {
    check_activations(op, a)?;
    if b.dtype() != a.dtype() {
        return Err(Error::Dtype { op, got: b.dtype() });
    }
    if a.dims() != b.dims() {
        return Err(Error::Shape { op, name: "b", got: b.dims().to_vec(), expected: format!("{:?}", a.dims()) });
    }
    Ok(())
}

/// `max(v, 0)` that lets NaN through.
#[inline(always)]
pub(super) fn rectify<T: Real>(v: T) -> T {
    if v < T::ZERO { T::ZERO } else { v }
}

/// `f(a, b)` elementwise, in pieces.
fn map2<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync) -> Vec<T> {
    // SAFETY: the pieces of `a` and `b` are as long as the chunk, so the loop writes all of it.
    unsafe {
        fresh(a.len(), (CHUNK, 1), |index, out| {
            let (a, b) = (&a[index * CHUNK..][..out.len()], &b[index * CHUNK..][..out.len()]);
            for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                out.write(f(*a, *b));
            }
        })
    }
}

/// The gradient where the result is above 0, else 0.
fn masked<T: Real>(y: &[T], gy: Gradient<T>) -> Gradient<'static, T> {
    let mut g = gy.into_vec();
    g.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).evenly(1).for_each(|(g, y)| {
        g.iter_mut().zip(y).for_each(|(g, y)| *g = if *y > T::ZERO { *g } else { T::ZERO });
    });
    Gradient::Alone(g)
}

struct Relu;

impl Derivative for Relu {
    fn gradients<T: Real>(&self, _: [&[T]; 3], y: &[T], gy: Gradient<T>, _: [bool; 3]) -> Gradients<T> {
        [Some(masked(y, gy)), None, None]
    }
}

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = by_storage!(x, T => {
            let x = slice_of::<T>(x, lx)?;
            Ok(T::to_cpu_storage_owned(map2(x, x, |v, _| rectify(v))))
        })?;
        Ok((y, lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, gy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        on_tensors(self, &[x], y, gy).map(|[gx, ..]| gx)
    }
}

/// `a + b`, rectified if asked for.
struct Sum {
    relu: bool,
}

impl Derivative for Sum {
    fn gradients<T: Real>(&self, _: [&[T]; 3], y: &[T], gy: Gradient<T>, want: [bool; 3]) -> Gradients<T> {
        let g = if self.relu { masked(y, gy).twice() } else { gy.twice() };
        let [a, b] = g;
        [want[0].then_some(a), want[1].then_some(b), None]
    }
}

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = by_storage!(a, T => {
            let (a, b) = (slice_of::<T>(a, la)?, slice_of::<T>(b, lb)?);
            let y = if self.relu { map2(a, b, |a, b| rectify(a + b)) } else { map2(a, b, |a, b| a + b) };
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, la.shape().clone()))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        y: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        on_tensors(self, &[a, b], y, gy).map(|[ga, gb, _]| (ga, gb))
    }
}

impl Flow {
    /// [`relu`].
    ///
    /// # Errors
    /// Those of [`relu`].
    pub fn relu(&self) -> Result<Self> {
        match self.by_candle() {
            Some(x) => Ok(Self::of_candle(relu(x)?)),
            None => apply1(Relu, self),
        }
    }

    /// [`add_relu`].
    ///
    /// # Errors
    /// Those of [`add_relu`].
    pub fn add_relu(&self, other: &Self) -> Result<Self> {
        match self.by_candle() {
            Some(a) => Ok(Self::of_candle(add_relu(a, other.tensor_of())?)),
            None => self.sum(other, "add_relu", true),
        }
    }

    /// `a + b` of two values of one shape.
    ///
    /// # Errors
    /// Those of [`add_relu`].
    pub fn add(&self, other: &Self) -> Result<Self> {
        match self.by_candle() {
            #[cfg(feature = "cuda")]
            Some(a) if a.device().is_cuda() => {
                check_pair("add", a, other.tensor_of())?;
                Ok(Self::of_candle(crate::cuda::tensors::sum("add", a, other.tensor_of(), false)?))
            }
            Some(a) => Ok(Self::of_candle((a + other.tensor_of())?)),
            None => self.sum(other, "add", false),
        }
    }

    fn sum(&self, other: &Self, op: &'static str, relu: bool) -> Result<Self> {
        let (a, b) = (self.tensor_of(), other.tensor_of());
        check_pair(op, a, b)?;
        if self.rest().is_none() && other.rest().is_none() {
            return apply2(Sum { relu }, [Arg::Flow(self), Arg::Flow(other)]);
        }
        let (held_a, held_b) = (Held::new(a), Held::new(b));
        let pair = |high, rest| Pair { high, rest };
        let y = pair::sum(pair(held_a.slice()?, self.rest()), pair(held_b.slice()?, other.rest()), relu);
        apply_pairs(Sum { relu }, y, a.shape(), &[Arg::Flow(self), Arg::Flow(other)])
    }
}
