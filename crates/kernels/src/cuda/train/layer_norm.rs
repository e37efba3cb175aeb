//! Layer normalisation.

use super::super::device::{Device, Launch, Stored, View, arguments, kernel};
use super::norm::Gradients;
use super::{Maps, THREADS, countable, joined, pieces, threads, warps};
use crate::Result;

/// Tokens of a piece of the gradients of gamma and beta, at least, and pieces at most: guesses.
const TOKENS: usize = 256;
const MOST: usize = 64;

/// Mean and `1 / √(variance + eps)` of each token or pixel.
pub(crate) struct Moments<D: Device, S: Stored> {
    mean: D::Buffer<S>,
    inverse: D::Buffer<S>,
}

/// A result and its statistics.
pub(crate) type Normalised<D, T> = (<D as Device>::Buffer<T>, Moments<D, <T as Stored>::Sum>);

/// A warp a token of a list, a thread a pixel of a map.
fn shared_out(maps: Maps) -> Launch {
    if maps.map == 1 { warps(maps.batch) } else { threads(maps.batch * maps.map) }
}

/// [`crate::nn::layer_norm`] of a list, which is maps of one pixel, or [`crate::nn::layer_norm_map`].
///
/// # Errors
/// More values than a kernel counts.
pub(crate) fn forward<D: Device, T: Stored>(
    device: &D,
    op: &'static str,
    x: View<T>,
    (gamma, beta): (View<T::Sum>, View<T::Sum>),
    maps: Maps,
    eps: f64,
) -> Result<Normalised<D, T>> {
    let tokens = maps.all();
    let y = device.empty::<T>(countable(op, maps.len())?)?;
    let moments = Moments { mean: device.empty(tokens)?, inverse: device.empty(tokens)? };
    let (mean, inverse) = (device.view(&moments.mean), device.view(&moments.inverse));
    let (channels, map) = (maps.channels, maps.map);
    let arguments = arguments![x, gamma, beta, device.view(&y), mean, inverse, tokens, channels, map, eps];
    device.launch(kernel!(T, "layer_norm"), shared_out(maps), arguments)?;
    Ok((y, moments))
}

impl<D: Device, S: Stored<Sum = S>> Moments<D, S> {
    /// The gradients for that of the result.
    ///
    /// # Errors
    /// More values than a kernel counts.
    pub(crate) fn backward<T: Stored<Sum = S>>(
        &self,
        device: &D,
        op: &'static str,
        (x, g): (View<T>, View<T>),
        gamma: View<S>,
        maps: Maps,
    ) -> Result<Gradients<D, T>> {
        let (tokens, channels, map) = (maps.all(), maps.channels, maps.map);
        let (mean, inverse) = (device.view(&self.mean), device.view(&self.inverse));
        let gx = device.empty::<T>(countable(op, maps.len())?)?;
        let arguments = arguments![x, gamma, g, mean, inverse, device.view(&gx), tokens, channels, map];
        device.launch(kernel!(T, "layer_norm_backward"), shared_out(maps), arguments)?;
        let (length, pieces) = pieces(tokens, TOKENS, MOST);
        let parts = device.empty::<S>(pieces * 2 * channels)?;
        let blocks = channels.div_ceil(32) * pieces;
        let launch = Launch { blocks, threads: THREADS, shared: 2 * THREADS };
        let arguments = arguments![x, g, mean, inverse, device.view(&parts), tokens, channels, map, length];
        device.launch(kernel!(T, "layer_norm_slopes"), launch, arguments)?;
        Ok(Gradients { x: gx, sums: joined(device, parts, 2 * channels, pieces)? })
    }
}
