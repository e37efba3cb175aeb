//! Entropic optimal transport.

use super::device::{Device, Float, Launch, View, arguments};
use super::flag::Flag;
use crate::Result;
use crate::transport::SinkhornConfig;

/// Potentials of all iterations, for the backward pass.
pub(crate) struct Path<D: Device> {
    n: usize,
    config: SinkhornConfig,
    potentials: D::Buffer<f64>,
}

fn threads(n: usize) -> usize {
    if n <= 32 { 128 } else { 512 }
}

/// Plans of `b` problems of `n`×`n` costs, see [`crate::transport::sinkhorn`].
///
/// # Errors
/// NaN or `−∞`, a row or column that is infinite everywhere, ε too small for the costs.
pub(crate) fn sinkhorn<D: Device, T: Float>(
    device: &D,
    op: &'static str,
    cost: View<T>,
    (b, n): (usize, usize),
    config: SinkhornConfig,
) -> Result<(D::Buffer<T>, Path<D>)> {
    let plans = device.empty::<T>(b * n * n)?;
    let path = Path { n, config, potentials: device.empty(b * (2 * n * config.iterations + 1))? };
    let flag = Flag::new(device, b)?;
    let (word, details) = flag.views(device);
    let threads = threads(n);
    let launch = Launch { blocks: b, threads, shared: 2 * n + 2 * threads.max(32) };
    let potentials = device.view(&path.potentials);
    let arguments = arguments![cost, device.view(&plans), potentials, word, details, n, config.iterations, config.eps];
    device.launch(T::version("sinkhorn_f32", "sinkhorn_f64"), launch, arguments)?;
    flag.check(device, op, ["cost", "cost"], b)?;
    Ok((plans, path))
}

/// The gradient of the costs.
///
/// # Errors
/// [`crate::Error::Digits`] where its terms cancel until float64 has too few digits for `T`.
pub(crate) fn gradient<D: Device, T: Float>(
    device: &D,
    op: &'static str,
    (cost, grad): (View<T>, View<T>),
    path: &Path<D>,
) -> Result<D::Buffer<T>> {
    let (n, config) = (path.n, path.config);
    let b = cost.len() / (n * n);
    let (out, work) = (device.empty::<T>(b * n * n)?, device.empty::<f64>(b * n * n)?);
    let flag = Flag::new(device, b)?;
    let (word, details) = flag.views(device);
    let threads = threads(n);
    let launch = Launch { blocks: b, threads, shared: 4 * n + 2 * threads };
    let (potentials, work) = (device.view(&path.potentials), device.view(&work));
    let arguments = arguments![
        cost,
        grad,
        potentials,
        work,
        device.view(&out),
        word,
        details,
        n,
        config.iterations,
        config.eps,
        T::RESIDUE
    ];
    device.launch(T::version("sinkhorn_gradient_f32", "sinkhorn_gradient_f64"), launch, arguments)?;
    flag.check(device, op, ["cost", "cost"], b)?;
    Ok(out)
}
