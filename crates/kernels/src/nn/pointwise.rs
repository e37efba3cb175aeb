//! Smooth activations: GELU and SiLU, each with its derivative in closed form.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::buffers::{Held, Real, by_dtype, by_storage, check_dtype, slice_of, zeros};
use super::wide::{Loop, wide};
use crate::Result;

/// Values that one task handles.
const CHUNK: usize = 16 * 1024;

/// `x Φ(x)` with the normal distribution function Φ, elementwise: GELU (Hendrycks and Gimpel 2016) without the tanh
/// approximation.
///
/// # Errors
/// [`crate::Error::Dtype`] for anything but float32 and float64.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    check_dtype("gelu", x)?;
    Ok(x.contiguous()?.apply_op1(Activation::Gelu)?)
}

/// `x / (1 + e⁻ˣ)`, elementwise: SiLU (Elfwing et al. 2018), also called swish.
///
/// # Errors
/// [`crate::Error::Dtype`] for anything but float32 and float64.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    check_dtype("silu", x)?;
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
    out: &'a mut [T],
}

impl<T: Real> Loop for Values<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        match self.kind {
            Activation::Gelu => self.out.iter_mut().zip(self.x).for_each(|(y, x)| *y = *x * x.normal().0),
            Activation::Silu => self.out.iter_mut().zip(self.x).for_each(|(y, x)| *y = *x * logistic(*x)),
        }
    }
}

/// `out = f'(x) · gy` over one piece.
struct Slopes<'a, T> {
    kind: Activation,
    x: &'a [T],
    gy: &'a [T],
    out: &'a mut [T],
}

impl<T: Real> Loop for Slopes<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let values = self.out.iter_mut().zip(self.x).zip(self.gy);
        match self.kind {
            Activation::Gelu => values.for_each(|((gx, x), gy)| {
                let (distribution, density) = x.normal();
                *gx = *gy * (distribution + *x * density);
            }),
            Activation::Silu => values.for_each(|((gx, x), gy)| {
                let s = logistic(*x);
                *gx = *gy * (s + *x * s * (T::ONE - s));
            }),
        }
    }
}

impl Activation {
    fn forward<T: Real>(self, x: &[T]) -> Vec<T> {
        let mut y = zeros::<T>(x.len());
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| wide(Values { kind: self, x, out }));
        y
    }

    fn backward<T: Real>(self, x: &Tensor, gy: &Tensor) -> candle_core::Result<Tensor> {
        let (xs, gys) = (Held::new(x), Held::new(gy));
        let (x_slice, gy_slice) = (xs.slice::<T>()?, gys.slice::<T>()?);
        let mut gx = zeros::<T>(x_slice.len());
        let pieces = gx.par_chunks_mut(CHUNK).zip(x_slice.par_chunks(CHUNK)).zip(gy_slice.par_chunks(CHUNK));
        pieces.for_each(|((out, x), gy)| wide(Slopes { kind: self, x, gy, out }));
        Tensor::from_vec(gx, x.shape(), x.device())
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

    fn bwd(&self, x: &Tensor, _y: &Tensor, gy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let gy = gy.contiguous()?;
        by_dtype!(x, T => self.backward::<T>(x, &gy)).map(Some)
    }
}
