//! Batch and layer normalisation.

use std::sync::Arc;

use candle_core::{CudaDevice, Shape, Tensor};

use super::super::card::Card;
use super::super::device::Device;
use super::super::train::Maps;
use super::super::train::layer_norm as layers;
use super::super::train::norm::{Gradients, Statistics};
use super::images::maps;
use super::op::{self, record};
use super::optim::in_place;
use super::{Active, Element, Held, Source, by_activations, card, tensor};
use crate::nn::{BatchMoments, BatchNormOut};
use crate::{Error, Result};

/// Gradients of x, gamma and beta as tensors.
fn as_tensors<T: Active>(
    grads: Gradients<Card, T>,
    device: &CudaDevice,
    shape: &Shape,
    channels: usize,
) -> Result<op::Gradients> {
    let sums = tensor(grads.sums, device, (2, channels));
    Ok([Some(tensor(grads.x, device, shape)), Some(sums.get(1)?), Some(sums.get(0)?)])
}

/// The result for statistics, in candle's graph.
fn normalised<T: Active>(
    op: &'static str,
    [x, gamma, beta]: [&Tensor; 3],
    statistics: Arc<Statistics<Card, T::Sum>>,
    maps: Maps,
    relu: bool,
) -> Result<Tensor> {
    let card = card(op, x)?;
    let (values, scales) = (Source::<T>::of(op, x)?, Source::<T::Sum>::of(op, gamma)?);
    let shifts = Source::<T::Sum>::of(op, beta)?;
    let y = statistics.forward(&card, op, values.view, (scales.view, shifts.view), maps, relu)?;
    let (shape, device) = (x.shape().clone(), card.clone());
    record(op, &card, &[x, gamma, beta], (y, x.shape()), move |_, y, grad| {
        let g = Source::<T>::of(op, grad)?;
        let rectified = relu.then(|| Source::<T>::of(op, y)).transpose()?;
        let rectified = rectified.as_ref().map(|y| y.view);
        let grads = statistics.backward(&device, op, (values.view, rectified, g.view), scales.view, maps)?;
        as_tensors(grads, &device.0, &shape, maps.channels)
    })
}

/// Moments of a batch that stay on a card.
pub(crate) trait OnCard: Send + Sync {
    /// Channels.
    fn channels(&self) -> usize;

    /// Mean and biased variance of each channel, read back.
    fn read(&self) -> Result<[Vec<f64>; 2]>;

    /// Moves running averages in place; `count` values a channel.
    fn follow(&self, op: &'static str, running: [&Tensor; 2], momentum: f64, count: usize) -> Result<()>;
}

struct Moments<S: Element> {
    card: Card,
    channels: usize,
    statistics: Arc<Statistics<Card, S>>,
}

impl<S: Element> OnCard for Moments<S> {
    fn channels(&self) -> usize {
        self.channels
    }

    fn read(&self) -> Result<[Vec<f64>; 2]> {
        let read =
            |values| -> Result<Vec<f64>> { Ok(self.card.download(values)?.into_iter().map(Element::up).collect()) };
        Ok([read(&self.statistics.mean)?, read(&self.statistics.variance)?])
    }

    fn follow(&self, op: &'static str, running: [&Tensor; 2], momentum: f64, count: usize) -> Result<()> {
        if let Some(other) = running.into_iter().find(|tensor| tensor.dtype() != S::DTYPE) {
            return Err(Error::Dtype { op, got: other.dtype() });
        }
        let [mean, variance] = running.map(|tensor| in_place::<S>(op, tensor));
        self.statistics.follow(&self.card, (mean?.view, variance?.view), momentum, count)
    }
}

/// [`crate::nn::batch_norm_train`], or [`crate::nn::batch_norm_relu_train`] if `relu`; shapes and dtypes were checked. The
/// statistics stay on the card.
pub(crate) fn batch_norm_train(op: &'static str, args: [&Tensor; 3], eps: f64, relu: bool) -> Result<BatchNormOut> {
    fn typed<T: Active>(op: &'static str, args: [&Tensor; 3], eps: f64, relu: bool) -> Result<BatchNormOut> {
        let (card, maps) = (card(op, args[0])?, maps(op, args[0])?);
        let values = Source::<T>::of(op, args[0])?;
        let statistics = Arc::new(Statistics::<Card, T::Sum>::of_batch(&card, values.view, maps, eps)?);
        let y = normalised::<T>(op, args, statistics.clone(), maps, relu)?;
        let moments = BatchMoments::on_card(
            Arc::new(Moments { card, channels: maps.channels, statistics }),
            maps.batch * maps.map,
        );
        Ok(BatchNormOut { y, moments })
    }
    by_activations!(op, args[0], typed(op, args, eps, relu))
}

/// [`crate::nn::batch_norm_eval`], or [`crate::nn::batch_norm_relu_eval`] if `relu`; shapes and dtypes were checked.
pub(crate) fn batch_norm_eval(
    op: &'static str,
    args: [&Tensor; 3],
    running: [&Tensor; 2],
    eps: f64,
    relu: bool,
) -> Result<Tensor> {
    fn typed<T: Active>(
        op: &'static str,
        args: [&Tensor; 3],
        running: [&Tensor; 2],
        eps: f64,
        relu: bool,
    ) -> Result<Tensor> {
        let (card, maps) = (card(op, args[0])?, maps(op, args[0])?);
        let [mean, variance] = running.map(|t| Source::<T::Sum>::of(op, &t.to_dtype(T::Sum::DTYPE)?));
        let statistics = Statistics::given(&card, (mean?.view, variance?.view), eps)?;
        normalised::<T>(op, args, Arc::new(statistics), maps, relu)
    }
    by_activations!(op, args[0], typed(op, args, running, eps, relu))
}

/// [`crate::nn::layer_norm`], or [`crate::nn::layer_norm_map`] of maps; shapes and dtypes were checked.
pub(crate) fn layer_norm(op: &'static str, args: [&Tensor; 3], maps: Maps, eps: f64) -> Result<Tensor> {
    fn typed<T: Active>(op: &'static str, args: [&Tensor; 3], maps: Maps, eps: f64) -> Result<Tensor> {
        let (card, x) = (card(op, args[0])?, args[0]);
        let values = Source::<T>::of(op, x)?;
        let [scales, shifts] = [args[1], args[2]].map(|t| Source::<T::Sum>::of(op, t));
        let (scales, shifts) = (scales?, shifts?);
        let (y, moments) = layers::forward(&card, op, values.view, (scales.view, shifts.view), maps, eps)?;
        let (shape, device) = (x.shape().clone(), card.clone());
        record(op, &card, &args, (y, x.shape()), move |_, _, grad| {
            let g = Source::<T>::of(op, grad)?;
            let grads = moments.backward(&device, op, (values.view, g.view), scales.view, maps)?;
            as_tensors(grads, &device.0, &shape, maps.channels)
        })
    }
    by_activations!(op, args[0], typed(op, args, maps, eps))
}
