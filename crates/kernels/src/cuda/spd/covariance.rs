//! Attention-weighted covariances of tokens.

use super::super::device::{Device, Float, Launch, View, arguments};
use super::super::flag::Flag;
use super::{Room, threads};
use crate::Result;

/// What the gradient of [`covariance`] needs besides its arguments.
pub(crate) struct Moments<D: Device> {
    weights: D::Buffer<f64>,
    means: D::Buffer<f64>,
}

/// Sizes of [`covariance`]: batch entries, tokens and their length.
pub(crate) type Tokens = (usize, usize, usize);

/// Attention-weighted covariances, see [`crate::spd::covariance`].
///
/// # Errors
/// Values that are not finite.
pub(crate) fn covariance<D: Device, T: Float>(
    device: &D,
    op: &'static str,
    (x, logits): (View<T>, View<T>),
    (b, n, d): Tokens,
    eps: f64,
) -> Result<(D::Buffer<T>, Moments<D>)> {
    let out = device.empty::<T>(b * d * d)?;
    let moments = Moments { weights: device.empty(b * n)?, means: device.empty(b * d)? };
    let flag = Flag::new(device, b)?;
    let (word, details) = flag.views(device);
    let (weights, means) = (device.view(&moments.weights), device.view(&moments.means));
    let launch = Launch { blocks: b, threads: 256, shared: n + d + 32 };
    let kernel = T::version("covariance_f32", "covariance_f64");
    device.launch(
        kernel,
        launch,
        arguments![x, logits, device.view(&out), weights, means, word, details, n, d, eps],
    )?;
    flag.check(device, op, ["x", "logits"], b)?;
    Ok((out, moments))
}

/// Its gradients.
pub(crate) fn covariance_gradient<D: Device, T: Float>(
    device: &D,
    (x, grad): (View<T>, View<T>),
    moments: &Moments<D>,
    (b, n, d): Tokens,
) -> Result<(D::Buffer<T>, D::Buffer<T>)> {
    let (dx, dlogits) = (device.empty::<T>(b * n * d)?, device.empty::<T>(b * n)?);
    let (weights, means) = (device.view(&moments.weights), device.view(&moments.means));
    // A warp takes a token and needs a copy of it.
    let room = Room::new(device, b, d, 1, n + 32 + threads(d) / 32 * d)?;
    let kernel = T::version("covariance_gradient_f32", "covariance_gradient_f64");
    let (to_x, to_logits, scratch) = (device.view(&dx), device.view(&dlogits), room.scratch(device));
    device.launch(kernel, room.launch, arguments![x, weights, means, grad, to_x, to_logits, scratch, n, d])?;
    Ok((dx, dlogits))
}
