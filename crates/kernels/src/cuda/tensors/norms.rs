//! Batch and layer normalisation.

use candle_core::{CudaDevice, Shape, Tensor};

use super::super::card::Card;
use super::super::device::Device;
use super::super::train::Maps;
use super::super::train::layer_norm as layers;
use super::super::train::norm::{Gradients, Statistics};
use super::images::maps;
use super::op::{self, record};
use super::{Element, Source, by_dtype, card, tensor};
use crate::Result;
use crate::nn::BatchNormOut;

/// Gradients of x, gamma and beta as tensors.
fn as_tensors<T: Element>(
    grads: Gradients<Card, T>,
    device: &CudaDevice,
    shape: &Shape,
    channels: usize,
) -> Result<op::Gradients> {
    let sums = tensor(grads.sums, device, (2, channels));
    Ok([Some(tensor(grads.x, device, shape)), Some(sums.get(1)?), Some(sums.get(0)?)])
}

/// The result for statistics, in candle's graph.
fn normalised<T: Element>(
    op: &'static str,
    [x, gamma, beta]: [&Tensor; 3],
    statistics: Statistics<Card, T>,
    maps: Maps,
    relu: bool,
) -> Result<Tensor> {
    let card = card(op, x)?;
    let (values, scales) = (Source::<T>::of(op, x)?, Source::<T>::of(op, gamma)?);
    let shifts = Source::<T>::of(op, beta)?;
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

/// [`crate::nn::batch_norm_train`], or [`crate::nn::batch_norm_relu_train`] if `relu`; shapes and dtypes were checked. The
/// statistics come back to the host.
pub(crate) fn batch_norm_train(op: &'static str, args: [&Tensor; 3], eps: f64, relu: bool) -> Result<BatchNormOut> {
    fn typed<T: Element>(op: &'static str, args: [&Tensor; 3], eps: f64, relu: bool) -> Result<BatchNormOut> {
        let (card, maps) = (card(op, args[0])?, maps(op, args[0])?);
        let statistics = Statistics::<Card, T>::of_batch(&card, Source::<T>::of(op, args[0])?.view, maps, eps)?;
        let [mean, var] = [&statistics.mean, &statistics.variance].map(|v| card.download(v));
        let wide = |values: Vec<T>| values.into_iter().map(Element::up).collect();
        let (mean, var) = (wide(mean?), wide(var?));
        let y = normalised(op, args, statistics, maps, relu)?;
        Ok(BatchNormOut { y, mean, var, count: maps.batch * maps.map })
    }
    by_dtype!(op, args[0], typed(op, args, eps, relu))
}

/// [`crate::nn::batch_norm_eval`], or [`crate::nn::batch_norm_relu_eval`] if `relu`; shapes and dtypes were checked.
pub(crate) fn batch_norm_eval(
    op: &'static str,
    args: [&Tensor; 3],
    running: [&Tensor; 2],
    eps: f64,
    relu: bool,
) -> Result<Tensor> {
    fn typed<T: Element>(
        op: &'static str,
        args: [&Tensor; 3],
        running: [&Tensor; 2],
        eps: f64,
        relu: bool,
    ) -> Result<Tensor> {
        let (card, maps) = (card(op, args[0])?, maps(op, args[0])?);
        let [mean, variance] = running.map(|t| Source::<T>::of(op, &t.to_dtype(args[0].dtype())?));
        let statistics = Statistics::given(&card, (mean?.view, variance?.view), eps)?;
        normalised(op, args, statistics, maps, relu)
    }
    by_dtype!(op, args[0], typed(op, args, running, eps, relu))
}

/// [`crate::nn::layer_norm`], or [`crate::nn::layer_norm_map`] of maps; shapes and dtypes were checked.
pub(crate) fn layer_norm(op: &'static str, args: [&Tensor; 3], maps: Maps, eps: f64) -> Result<Tensor> {
    fn typed<T: Element>(op: &'static str, args: [&Tensor; 3], maps: Maps, eps: f64) -> Result<Tensor> {
        let (card, x) = (card(op, args[0])?, args[0]);
        let [values, scales, shifts] = args.map(|t| Source::<T>::of(op, t));
        let (values, scales, shifts) = (values?, scales?, shifts?);
        let (y, moments) = layers::forward(&card, op, values.view, (scales.view, shifts.view), maps, eps)?;
        let (shape, device) = (x.shape().clone(), card.clone());
        record(op, &card, &args, (y, x.shape()), move |_, _, grad| {
            let g = Source::<T>::of(op, grad)?;
            let grads = moments.backward(&device, op, (values.view, g.view), scales.view, maps)?;
            as_tensors(grads, &device.0, &shape, maps.channels)
        })
    }
    by_dtype!(op, args[0], typed(op, args, maps, eps))
}
