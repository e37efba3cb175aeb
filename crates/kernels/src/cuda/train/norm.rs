//! Batch normalisation.

use super::super::device::{Device, Launch, Stored, View, arguments, kernel};
use super::{Maps, PIECE, PIECES, THREADS, copied, each, pieces, threads};
use crate::Result;

/// Statistics of each channel.
pub(crate) struct Statistics<D: Device, S: Stored> {
    pub(crate) mean: D::Buffer<S>,
    /// Biased.
    pub(crate) variance: D::Buffer<S>,
    /// `1 / √(variance + eps)`.
    inverse: D::Buffer<S>,
    /// Whether they are functions of the batch.
    batch: bool,
}

/// Gradients of `x`, gamma and beta.
pub(crate) struct Gradients<D: Device, T: Stored> {
    pub(crate) x: D::Buffer<T>,
    /// Of beta, then of gamma, `[2, channels]`.
    pub(crate) sums: D::Buffer<T::Sum>,
}

impl<D: Device, S: Stored<Sum = S>> Statistics<D, S> {
    /// Of a batch.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn of_batch<T: Stored<Sum = S>>(device: &D, x: View<T>, maps: Maps, eps: f64) -> Result<Self> {
        let Maps { channels, map, .. } = maps;
        let all = maps.all();
        let (length, pieces) = pieces(all, PIECE, PIECES);
        let parts = device.empty::<S>(pieces * channels * 2)?;
        let launch = Launch { blocks: channels * pieces, threads: THREADS, shared: 32 };
        let arguments = arguments![x, device.view(&parts), channels, map, all, length];
        device.launch(kernel!(T, "norm_moments"), launch, arguments)?;
        let [mean, variance, inverse] = [device.empty(channels)?, device.empty(channels)?, device.empty(channels)?];
        let (of, to, one) = (device.view(&mean), device.view(&variance), device.view(&inverse));
        let arguments = arguments![device.view(&parts), of, to, one, channels, all, length, eps];
        device.launch(kernel!(S, "norm_finish"), threads(channels), arguments)?;
        Ok(Self { mean, variance, inverse, batch: true })
    }

    /// Given ones, such as running averages.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn given(device: &D, (mean, variance): (View<S>, View<S>), eps: f64) -> Result<Self> {
        let channels = mean.len();
        // Copies: running averages change in place.
        let (mean, variance) = (copied(device, mean)?, copied(device, variance)?);
        let inverse = device.empty(channels)?;
        let arguments = arguments![device.view(&variance), device.view(&inverse), channels, eps];
        device.launch(kernel!(S, "norm_inverse"), threads(channels), arguments)?;
        Ok(Self { mean, variance, inverse, batch: false })
    }

    /// Moves running averages in place towards the mean and the unbiased variance of a batch of `count` values a channel.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn follow(
        &self,
        device: &D,
        (mean, variance): (View<S>, View<S>),
        momentum: f64,
        count: usize,
    ) -> Result<()> {
        let (of, from) = (device.view(&self.mean), device.view(&self.variance));
        let unbiased = count as f64 / (count as f64 - 1.0);
        let arguments = arguments![of, from, mean, variance, mean.len(), momentum, unbiased];
        device.launch(kernel!(S, "norm_follow"), threads(mean.len()), arguments)
    }

    /// `γ (x − mean) / √(variance + eps) + β`, rectified if `relu`.
    ///
    /// # Errors
    /// More values than a kernel counts.
    pub(crate) fn forward<T: Stored<Sum = S>>(
        &self,
        device: &D,
        op: &'static str,
        x: View<T>,
        (gamma, beta): (View<S>, View<S>),
        maps: Maps,
        relu: bool,
    ) -> Result<D::Buffer<T>> {
        let y = device.empty::<T>(maps.len())?;
        let (mean, inverse) = (device.view(&self.mean), device.view(&self.inverse));
        let Maps { channels, map, .. } = maps;
        let relu = usize::from(relu);
        let arguments = arguments![x, mean, inverse, gamma, beta, device.view(&y), maps.len(), channels, map, relu];
        device.launch(kernel!(T, "norm_forward"), each(op, maps.len())?, arguments)?;
        Ok(y)
    }

    /// The gradients for that of the result; `y` is the result where it was rectified.
    ///
    /// # Errors
    /// More values than a kernel counts.
    pub(crate) fn backward<T: Stored<Sum = S>>(
        &self,
        device: &D,
        op: &'static str,
        (x, y, g): (View<T>, Option<View<T>>, View<T>),
        gamma: View<S>,
        maps: Maps,
    ) -> Result<Gradients<D, T>> {
        let (mean, inverse) = (device.view(&self.mean), device.view(&self.inverse));
        let sums = maps.sums(device, g, Some((x, mean)), y)?;
        let Maps { channels, map, .. } = maps;
        let slopes = device.view(&sums);
        device.launch(kernel!(S, "norm_slopes"), threads(channels), arguments![slopes, inverse, channels])?;
        let gx = device.empty::<T>(maps.len())?;
        let slopes = if self.batch { slopes } else { View::none() };
        let (relu, y) = (usize::from(y.is_some()), y.unwrap_or(View::none()));
        let (n, all, to) = (maps.len(), maps.all(), device.view(&gx));
        let arguments = arguments![x, y, g, mean, inverse, gamma, slopes, to, n, channels, map, all, relu];
        device.launch(kernel!(T, "norm_backward"), each(op, n)?, arguments)?;
        Ok(Gradients { x: gx, sums })
    }
}
