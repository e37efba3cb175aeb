//! Rectifiers. candle's own gives the gradient 1 at 0; these give 0 there, as PyTorch does.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::buffers::{Held, Real, by_dtype, by_storage, check_dtype, slice_of, zeros};
use crate::{Error, Result};

/// Values that one task handles.
const CHUNK: usize = 16 * 1024;

/// `max(x, 0)`, elementwise, with gradient 0 at 0; NaN stays NaN.
///
/// # Errors
/// [`Error::Dtype`] for anything but float32 and float64.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    check_dtype("relu", x)?;
    Ok(x.contiguous()?.apply_op1(Relu)?)
}

/// `max(a + b, 0)` of two tensors of one shape: the end of a residual block, in one pass.
///
/// # Errors
/// [`Error::Shape`] where the shapes differ, [`Error::Dtype`] for anything but two float32 or two float64 tensors.
pub fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "add_relu";
    check_dtype(OP, a)?;
    if b.dtype() != a.dtype() {
        return Err(Error::Dtype { op: OP, got: b.dtype() });
    }
    if a.dims() != b.dims() {
        return Err(Error::Shape { op: OP, name: "b", got: b.dims().to_vec(), expected: format!("{:?}", a.dims()) });
    }
    Ok(a.contiguous()?.apply_op2(&b.contiguous()?, AddRelu)?)
}

/// `max(v, 0)` that lets NaN through.
#[inline(always)]
pub(super) fn rectify<T: Real>(v: T) -> T {
    if v < T::ZERO { T::ZERO } else { v }
}

/// `f(a, b)` elementwise, in pieces.
fn map2<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync) -> Vec<T> {
    let mut out = zeros::<T>(a.len());
    let pieces = out.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK));
    pieces.for_each(|((out, a), b)| {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = f(*a, *b);
        }
    });
    out
}

/// The gradient where the result is above 0, else 0.
fn masked(y: &Tensor, gy: &Tensor) -> candle_core::Result<Tensor> {
    fn run<T: Real>(y: &Tensor, gy: &Tensor) -> candle_core::Result<Tensor> {
        let (ys, gys) = (Held::new(y), Held::new(gy));
        let values = map2(ys.slice::<T>()?, gys.slice::<T>()?, |y, g| if y > T::ZERO { g } else { T::ZERO });
        Tensor::from_vec(values, y.shape(), y.device())
    }
    let gy = gy.contiguous()?;
    by_dtype!(y, T => run::<T>(y, &gy))
}

struct Relu;

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

    fn bwd(&self, _x: &Tensor, y: &Tensor, gy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        masked(y, gy).map(Some)
    }
}

struct AddRelu;

impl CustomOp2 for AddRelu {
    fn name(&self) -> &'static str {
        "add_relu"
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
            Ok(T::to_cpu_storage_owned(map2(a, b, |a, b| rectify(a + b))))
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
        let g = masked(y, gy)?;
        Ok((a.track_op().then(|| g.clone()), b.track_op().then_some(g)))
    }
}
