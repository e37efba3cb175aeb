//! Max pooling, and the mean over the pixels of a map.

use super::super::device::{Argument, Device, Stored, View, arguments, kernel};
use super::{Maps, each, warps};
use crate::Result;

/// Sizes of [`crate::nn::max_pool2d`] of `planes` maps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MaxPool {
    pub(crate) planes: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) oh: usize,
    pub(crate) ow: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

impl MaxPool {
    fn arguments(&self, first: &[Argument]) -> Vec<Argument> {
        let Self { height, width, oh, ow, kernel, stride, padding, .. } = *self;
        first.iter().copied().chain([height, width, oh, ow, kernel, stride, padding].map(Argument::from)).collect()
    }

    /// Largest values, and the pixels of their maps that they come from.
    ///
    /// # Errors
    /// More values than a kernel counts.
    pub(crate) fn forward<D: Device, T: Stored>(
        &self,
        device: &D,
        op: &'static str,
        x: View<T>,
    ) -> Result<(D::Buffer<T>, D::Buffer<u32>)> {
        let n = self.planes * self.oh * self.ow;
        let (y, chosen) = (device.empty::<T>(n)?, device.empty::<u32>(n)?);
        let arguments = self.arguments(arguments![x, device.view(&y), device.view(&chosen), n]);
        device.launch(kernel!(T, "max_pool"), each(op, n)?, &arguments)?;
        Ok((y, chosen))
    }

    /// The gradient of `x`.
    ///
    /// # Errors
    /// More values than a kernel counts.
    pub(crate) fn backward<D: Device, T: Stored>(
        &self,
        device: &D,
        op: &'static str,
        (chosen, gy): (View<u32>, View<T>),
    ) -> Result<D::Buffer<T>> {
        let n = self.planes * self.height * self.width;
        let gx = device.empty::<T>(n)?;
        let arguments = self.arguments(arguments![chosen, gy, device.view(&gx), n]);
        device.launch(kernel!(T, "max_pool_backward"), each(op, n)?, &arguments)?;
        Ok(gx)
    }
}

/// [`crate::nn::global_mean`].
///
/// # Errors
/// What the device refuses.
pub(crate) fn global_mean<D: Device, T: Stored>(device: &D, x: View<T>, maps: Maps) -> Result<D::Buffer<T>> {
    let n = maps.batch * maps.channels;
    let y = device.empty::<T>(n)?;
    device.launch(kernel!(T, "global_mean"), warps(n), arguments![x, device.view(&y), n, maps.map])?;
    Ok(y)
}

/// Its gradient.
///
/// # Errors
/// More values than a kernel counts.
pub(crate) fn global_mean_gradient<D: Device, T: Stored>(
    device: &D,
    op: &'static str,
    gy: View<T>,
    maps: Maps,
) -> Result<D::Buffer<T>> {
    let gx = device.empty::<T>(maps.len())?;
    let arguments = arguments![gy, device.view(&gx), maps.len(), maps.map];
    device.launch(kernel!(T, "global_mean_backward"), each(op, maps.len())?, arguments)?;
    Ok(gx)
}
