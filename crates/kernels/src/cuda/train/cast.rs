//! Numbers in another type, and masks.

use super::super::device::{Bf16, Device, Stored, View, arguments, kernel};
use super::each;
use crate::Result;

/// Each number as the nearest bfloat16, ties to even.
///
/// # Errors
/// More values than a kernel counts.
pub(crate) fn narrow<D: Device>(device: &D, op: &'static str, x: View<f32>) -> Result<D::Buffer<Bf16>> {
    let y = device.empty::<Bf16>(x.len())?;
    device.launch("narrow_bf16", each(op, x.len())?, arguments![x, device.view(&y), x.len()])?;
    Ok(y)
}

/// Each number as the float32 that it is.
///
/// # Errors
/// More values than a kernel counts.
pub(crate) fn widen<D: Device>(device: &D, op: &'static str, x: View<Bf16>) -> Result<D::Buffer<f32>> {
    let y = device.empty::<f32>(x.len())?;
    device.launch("widen_bf16", each(op, x.len())?, arguments![x, device.view(&y), x.len()])?;
    Ok(y)
}

/// `x · mask`, where each number of the mask is for as many numbers of `x`; its own gradient too.
///
/// # Errors
/// More values than a kernel counts.
pub(crate) fn masked<D: Device, T: Stored>(
    device: &D,
    op: &'static str,
    x: View<T>,
    mask: View<T::Sum>,
) -> Result<D::Buffer<T>> {
    let y = device.empty::<T>(x.len())?;
    let arguments = arguments![x, mask, device.view(&y), x.len(), x.len() / mask.len().max(1)];
    device.launch(kernel!(T, "masked"), each(op, x.len())?, arguments)?;
    Ok(y)
}
