//! Float32 and bfloat16 in each other, and masks.

use candle_core::{DType, Tensor};

use super::super::card::Card;
use super::super::device::{Bf16, View};
use super::super::train::cast::{self, narrow, widen};
use super::op::record;
use super::{Active, Held, Source, by_activations, card, tensor};
use crate::{Error, Result};

/// [`crate::nn::cast`] between float32 and bfloat16.
pub(crate) fn to_dtype(op: &'static str, x: &Tensor, dtype: DType) -> Result<Tensor> {
    type Cast<A, B> = fn(&Card, &'static str, View<A>) -> Result<cudarc::driver::CudaSlice<B>>;
    fn typed<A: Held, B: Held>(op: &'static str, x: &Tensor, there: Cast<A, B>, back: Cast<B, A>) -> Result<Tensor> {
        let card = card(op, x)?;
        let y = there(&card, op, Source::<A>::of(op, x)?.view)?;
        let (shape, device) = (x.shape().clone(), card.clone());
        record(op, &card, &[x], (y, x.shape()), move |_, _, grad| {
            let gx = back(&device, op, Source::<B>::of(op, grad)?.view)?;
            Ok([Some(tensor(gx, &device.0, &shape)), None, None])
        })
    }
    match (x.dtype(), dtype) {
        (DType::F32, DType::BF16) => typed::<f32, Bf16>(op, x, narrow, widen),
        (DType::BF16, DType::F32) => typed::<Bf16, f32>(op, x, widen, narrow),
        (_, got) => Err(Error::Dtype { op, got }),
    }
}

/// `x` times a constant mask; shapes and dtypes were checked.
pub(crate) fn masked(op: &'static str, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    fn typed<T: Active>(op: &'static str, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (card, factors) = (card(op, x)?, Source::<T::Sum>::of(op, mask)?);
        let y = cast::masked(&card, op, Source::<T>::of(op, x)?.view, factors.view)?;
        let (shape, device) = (x.shape().clone(), card.clone());
        record(op, &card, &[x], (y, x.shape()), move |_, _, grad| {
            let gx = cast::masked(&device, op, Source::<T>::of(op, grad)?.view, factors.view)?;
            Ok([Some(tensor(gx, &device.0, &shape)), None, None])
        })
    }
    by_activations!(op, x, typed(op, x, mask))
}
