//! Values with some of their numbers left out: dropout and stochastic depth.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::buffers::{Real, by_storage, copied, slice_of};
use super::channels::check;
use super::flow::{Arg, Flow, apply2};
use super::gradient::{Derivative, Gradient, Gradients};
use crate::Result;
use crate::even::Even;

/// A value times a mask of its shape, or of one number an image.
struct Masked;

impl CustomOp2 for Masked {
    fn name(&self) -> &'static str {
        "masked"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        mask: &CpuStorage,
        lm: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = by_storage!(x, T => {
            let mut y = copied(slice_of::<T>(x, lx)?);
            mask_in_place(&mut y, slice_of::<T>(mask, lm)?);
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, lx.shape().clone()))
    }
}

fn mask_in_place<T: Real>(values: &mut [T], mask: &[T]) {
    let each = values.len() / mask.len();
    values.par_chunks_mut(each).zip(mask).evenly(16 * 1024 / each + 1).for_each(|(values, mask)| {
        values.iter_mut().for_each(|v| *v *= *mask);
    });
}

impl Derivative for Masked {
    fn gradients<T: Real>(&self, args: [&[T]; 3], _: &[T], gy: Gradient<T>, _: [bool; 3]) -> Gradients<T> {
        let mut g = gy.into_vec();
        mask_in_place(&mut g, args[1]);
        [Some(Gradient::Alone(g)), None, None]
    }
}

impl Flow {
    /// `x · mask`; the mask, a constant of [`Self::parameter_dtype`], has the shape of the value or is [B, 1, ..]. Dropout and
    /// stochastic depth.
    ///
    /// # Errors
    /// [`crate::Error::Shape`], [`crate::Error::Dtype`].
    pub fn masked(&self, mask: &Tensor) -> Result<Self> {
        const OP: &str = "masked";
        let mut of_images = vec![1; self.dims().len()];
        if let (Some(first), Some(batch)) = (of_images.first_mut(), self.dims().first()) {
            *first = *batch;
        }
        let like = if mask.dims() == of_images { &of_images } else { self.dims() };
        check(OP, "mask", mask, self.parameter_dtype(), like)?;
        if mask.elem_count() == 0 {
            return Ok(self.clone());
        }
        if let Some(x) = self.by_candle() {
            #[cfg(feature = "cuda")]
            if x.device().is_cuda() {
                return Ok(Self::of_candle(crate::cuda::tensors::masked(OP, x, &mask.detach())?));
            }
            return Ok(Self::of_candle(x.broadcast_mul(&mask.detach().to_dtype(x.dtype())?)?));
        }
        apply2(Masked, [Arg::Flow(self), Arg::Parameter(&mask.detach())])
    }
}
