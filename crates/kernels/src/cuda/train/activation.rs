//! Activations, sums, gates and scaled residuals.

use super::super::device::{Device, Stored, View, arguments, kernel};
use super::{Maps, Two, copied, each, warps};
use crate::Result;

/// A function of each value, as `pointwise.cu` numbers them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Activation {
    /// [`crate::nn::relu`].
    Relu = 0,
    /// [`crate::nn::gelu`].
    Gelu = 1,
    /// [`crate::nn::silu`].
    Silu = 2,
}

impl Activation {
    /// Of each value.
    ///
    /// # Errors
    /// More values than a kernel counts.
    pub(crate) fn forward<D: Device, T: Stored>(
        self,
        device: &D,
        op: &'static str,
        x: View<T>,
    ) -> Result<D::Buffer<T>> {
        let (n, y) = (x.len(), device.empty::<T>(x.len())?);
        device.launch(kernel!(T, "activate"), each(op, n)?, arguments![x, device.view(&y), n, self as usize])?;
        Ok(y)
    }

    /// The derivative at `x` times `g`. For the rectifier, its result will do for `x`.
    ///
    /// # Errors
    /// More values than a kernel counts.
    pub(crate) fn backward<D: Device, T: Stored>(
        self,
        device: &D,
        op: &'static str,
        (x, g): (View<T>, View<T>),
    ) -> Result<D::Buffer<T>> {
        let (n, gx) = (x.len(), device.empty::<T>(x.len())?);
        let arguments = arguments![x, g, device.view(&gx), n, self as usize];
        device.launch(kernel!(T, "activate_backward"), each(op, n)?, arguments)?;
        Ok(gx)
    }
}

/// `a + b`, rectified if `relu`; `b` may be shorter and is taken again and again.
///
/// # Errors
/// More values than a kernel counts.
pub(crate) fn add<D: Device, T: Stored>(
    device: &D,
    op: &'static str,
    (a, b): (View<T>, View<T>),
    relu: bool,
) -> Result<D::Buffer<T>> {
    let (n, y) = (a.len(), device.empty::<T>(a.len())?);
    let arguments = arguments![a, b, device.view(&y), n, b.len(), usize::from(relu)];
    device.launch(kernel!(T, "add"), each(op, n)?, arguments)?;
    Ok(y)
}

/// [`crate::nn::gated`].
///
/// # Errors
/// More values than a kernel counts.
pub(crate) fn gated<D: Device, T: Stored>(
    device: &D,
    op: &'static str,
    (x, gate): (View<T>, View<T>),
    maps: Maps,
) -> Result<D::Buffer<T>> {
    let y = device.empty::<T>(maps.len())?;
    let arguments = arguments![x, gate, device.view(&y), maps.len(), maps.map];
    device.launch(kernel!(T, "gated"), each(op, maps.len())?, arguments)?;
    Ok(y)
}

/// Its gradients, of `x` and of the gate.
///
/// # Errors
/// What the device refuses.
pub(crate) fn gated_gradient<D: Device, T: Stored>(
    device: &D,
    (x, gate, g): (View<T>, View<T>, View<T>),
    maps: Maps,
) -> Result<Two<D, T, T>> {
    let n = maps.batch * maps.channels;
    let (gx, ggate) = (device.empty::<T>(maps.len())?, device.empty::<T>(n)?);
    let arguments = arguments![x, gate, g, device.view(&gx), device.view(&ggate), n, maps.map];
    device.launch(kernel!(T, "gated_backward"), warps(n), arguments)?;
    Ok((gx, ggate))
}

/// [`crate::nn::scaled_residual`]; without a shortcut `scale · x` alone.
///
/// # Errors
/// More values than a kernel counts.
pub(crate) fn scaled_residual<D: Device, T: Stored>(
    device: &D,
    op: &'static str,
    (shortcut, x): (Option<View<T>>, View<T>),
    scale: View<T::Sum>,
    maps: Maps,
) -> Result<D::Buffer<T>> {
    let y = device.empty::<T>(maps.len())?;
    let Maps { channels, map, .. } = maps;
    let shortcut = shortcut.unwrap_or(View::none());
    let arguments = arguments![shortcut, x, scale, device.view(&y), maps.len(), channels, map];
    device.launch(kernel!(T, "scaled_residual"), each(op, maps.len())?, arguments)?;
    Ok(y)
}

/// Its gradients, of `x` and of the scale; the shortcut's is that of the result.
///
/// # Errors
/// More values than a kernel counts.
pub(crate) fn scaled_residual_gradient<D: Device, T: Stored>(
    device: &D,
    op: &'static str,
    (x, g): (View<T>, View<T>),
    scale: View<T::Sum>,
    maps: Maps,
) -> Result<Two<D, T, T::Sum>> {
    let gx = scaled_residual(device, op, (None, g), scale, maps)?;
    let sums = maps.sums(device, g, Some((x, View::none())), None)?;
    let of_scale = copied(device, device.view(&sums).from(maps.channels))?;
    Ok((gx, of_scale))
}
