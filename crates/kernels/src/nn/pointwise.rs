//! Smooth activations: GELU and SiLU, each with its derivative in closed form.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::buffers::{Real, by_storage, check_activations, fresh, slice_of};
use super::flow::{Flow, apply1};
use super::gradient::{Derivative, Gradient, Gradients, on_tensors};
use super::wide::{Loop, wide};
use crate::Result;
use crate::even::Even;

/// Values that one task handles.
const CHUNK: usize = 16 * 1024;

/// `x Φ(x)` with the normal distribution function Φ, elementwise: GELU (Hendrycks and Gimpel 2016) without the tanh
/// approximation.
///
/// # Errors
/// [`crate::Error::Dtype`] for anything but float32 and float64.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    check_activations("gelu", x)?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::tensors::activation("gelu", x, crate::cuda::train::activation::Activation::Gelu);
    }
    Ok(x.contiguous()?.apply_op1(Activation::Gelu)?)
}

/// `x / (1 + e⁻ˣ)`, elementwise: SiLU (Elfwing et al. 2018), also called swish.
///
/// # Errors
/// [`crate::Error::Dtype`] for anything but float32 and float64.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    check_activations("silu", x)?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::tensors::activation("silu", x, crate::cuda::train::activation::Activation::Silu);
    }
    Ok(x.contiguous()?.apply_op1(Activation::Silu)?)
}

#[derive(Clone, Copy)]
enum Activation {
    Gelu,
    Silu,
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(super) fn logistic<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (T::ZERO - x).exponential())
}

/// `out = f(x)` over one piece.
struct Values<'a, T> {
    kind: Activation,
    x: &'a [T],
    out: &'a mut [MaybeUninit<T>],
}

impl<T: Real> Loop for Values<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        match self.kind {
            Activation::Gelu => self.out.iter_mut().zip(self.x).for_each(|(y, x)| {
                y.write(*x * x.normal().0);
            }),
            Activation::Silu => self.out.iter_mut().zip(self.x).for_each(|(y, x)| {
                y.write(*x * logistic(*x));
            }),
        }
    }
}

/// From `g` to `f'(x) · g` over one piece, in place.
struct Slopes<'a, T> {
    kind: Activation,
    x: &'a [T],
    g: &'a mut [T],
}

impl<T: Real> Loop for Slopes<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let values = self.g.iter_mut().zip(self.x);
        match self.kind {
            Activation::Gelu => values.for_each(|(g, x)| {
                let (distribution, density) = x.normal();
                *g *= distribution + *x * density;
            }),
            Activation::Silu => values.for_each(|(g, x)| {
                let s = logistic(*x);
                *g *= s + *x * s * (T::ONE - s);
            }),
        }
    }
}

impl Activation {
    fn forward<T: Real>(self, x: &[T]) -> Vec<T> {
        // SAFETY: the piece of `x` is as long as the chunk, and a number of the chunk is written for each of its numbers.
        unsafe {
            fresh(x.len(), (CHUNK, 1), |index, out| {
                wide(Values { kind: self, x: &x[index * CHUNK..][..out.len()], out });
            })
        }
    }
}

impl Derivative for Activation {
    fn gradients<T: Real>(&self, args: [&[T]; 3], _: &[T], gy: Gradient<T>, _: [bool; 3]) -> Gradients<T> {
        let mut g = gy.into_vec();
        let pieces = g.par_chunks_mut(CHUNK).zip(args[0].par_chunks(CHUNK)).evenly(1);
        pieces.for_each(|(g, x)| wide(Slopes { kind: *self, x, g }));
        [Some(Gradient::Alone(g)), None, None]
    }
}

impl Flow {
    /// [`gelu`].
    ///
    /// # Errors
    /// Those of [`gelu`].
    pub fn gelu(&self) -> Result<Self> {
        match self.by_candle() {
            Some(x) => Ok(Self::of_candle(gelu(x)?)),
            None => apply1(Activation::Gelu, self),
        }
    }

    /// [`silu`].
    ///
    /// # Errors
    /// Those of [`silu`].
    pub fn silu(&self) -> Result<Self> {
        match self.by_candle() {
            Some(x) => Ok(Self::of_candle(silu(x)?)),
            None => apply1(Activation::Silu, self),
        }
    }
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        match self {
            Activation::Gelu => "gelu",
            Activation::Silu => "silu",
        }
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = by_storage!(x, T => Ok(T::to_cpu_storage_owned(self.forward(slice_of::<T>(x, lx)?))))?;
        Ok((y, lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, gy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        on_tensors(self, &[x], y, gy).map(|[gx, ..]| gx)
    }
}
