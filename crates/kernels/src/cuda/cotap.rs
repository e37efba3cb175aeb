//! The CoTAP ranking loss.

use super::device::{Device, Float, Launch, View, arguments};
use super::flag::Flag;
use crate::Result;

const THREADS: usize = 128;

/// Losses of `k` lists of `n` items, see [`crate::cotap::cotap`], and their gradients before the product with those of the
/// losses.
///
/// # Errors
/// Values that are not finite.
pub(crate) fn cotap<D: Device, T: Float>(
    device: &D,
    op: &'static str,
    (p, q): (View<T>, View<T>),
    (k, n): (usize, usize),
    (tau1, tau2): (f64, f64),
) -> Result<(D::Buffer<T>, D::Buffer<f64>)> {
    let loss = device.empty::<T>(k)?;
    let (terms, weights) = (device.empty::<f64>(k * n)?, device.empty::<f64>(k * n)?);
    let gradient = device.empty::<f64>(k * n)?;
    let flag = Flag::new(device, k)?;
    let (word, details) = flag.views(device);
    let blocks = n.div_ceil(THREADS);
    let launch = |tiles: usize| Launch { blocks: k * blocks, threads: THREADS, shared: tiles * THREADS };
    let (terms, weights, to) = (device.view(&terms), device.view(&weights), device.view(&gradient));
    let kernel = T::version("cotap_below_f32", "cotap_below_f64");
    device.launch(kernel, launch(2), arguments![p, q, terms, weights, to, word, details, n, blocks, tau1, tau2])?;
    flag.check(device, op, ["p", "q"], k)?;
    let kernel = T::version("cotap_above_f32", "cotap_above_f64");
    device.launch(kernel, launch(3), arguments![p, q, weights, to, n, blocks, tau2])?;
    let sum = Launch { blocks: k, threads: 256, shared: 32 };
    device.launch(T::version("cotap_loss_f32", "cotap_loss_f64"), sum, arguments![terms, device.view(&loss), n])?;
    Ok((loss, gradient))
}

/// The gradient of the student's similarities for that of the losses.
pub(crate) fn gradient<D: Device, T: Float>(
    device: &D,
    gradient: &D::Buffer<f64>,
    grad: View<T>,
    (k, n): (usize, usize),
) -> Result<D::Buffer<T>> {
    let out = device.empty::<T>(k * n)?;
    let launch = Launch { blocks: k, threads: 256, shared: 0 };
    let kernel = T::version("cotap_scale_f32", "cotap_scale_f64");
    device.launch(kernel, launch, arguments![device.view(gradient), grad, device.view(&out), n])?;
    Ok(out)
}
