//! Convolution, pooling, and ops between maps and one number a channel.

use candle_core::{Shape, Tensor};

use super::super::device::Device;
use super::super::train::Maps;
use super::super::train::activation;
use super::super::train::conv::{self, Conv};
use super::super::train::pool::{self, MaxPool};
use super::op::record;
use super::{Active, Source, by_activations, card, tensor};
use crate::{Error, Result};

/// [`crate::nn::conv2d`]; sizes and dtypes were checked.
pub(crate) fn conv2d(op: &'static str, args: (&Tensor, &Tensor, Option<&Tensor>), conv: Conv) -> Result<Tensor> {
    fn typed<T: Active>(
        op: &'static str,
        (x, w, bias): (&Tensor, &Tensor, Option<&Tensor>),
        conv: Conv,
    ) -> Result<Tensor> {
        let card = card(op, x)?;
        let (values, weights) = (Source::<T>::of(op, x)?, T::weights(op, w)?);
        let added = bias.map(|bias| Source::<T::Sum>::of(op, bias)).transpose()?;
        let added = added.as_ref().map(|bias| bias.view);
        let y = conv::forward(&card, op, (values.view, weights.view), added, &conv)?;
        let shapes = [x.shape().clone(), w.shape().clone(), Shape::from(conv.c_out)];
        let shape = (conv.batch, conv.c_out, conv.oh, conv.ow);
        let args: Vec<&Tensor> = [Some(x), Some(w), bias].into_iter().flatten().collect();
        let device = card.clone();
        record(op, &card, &args, (y, shape), move |wanted, _, grad| {
            let g = Source::<T>::of(op, grad)?;
            let mut out = [None, None, None];
            if wanted[0] {
                let gx = conv::backward(&device, op, (g.view, weights.view), &conv)?;
                out[0] = Some(tensor(gx, &device.0, &shapes[0]));
            }
            if wanted[1] {
                let gw = conv::filter::<_, T>(&device, op, (values.view, g.view), &conv)?;
                out[1] = Some(tensor(gw, &device.0, &shapes[1]));
            }
            if wanted[2] {
                out[2] = Some(tensor(conv::bias::<_, T>(&device, g.view, &conv)?, &device.0, &shapes[2]));
            }
            Ok(out)
        })
    }
    by_activations!(op, args.0, typed(op, args, conv))
}

/// [`crate::nn::max_pool2d`]; sizes were checked.
pub(crate) fn max_pool2d(op: &'static str, x: &Tensor, pool: MaxPool) -> Result<Tensor> {
    fn typed<T: Active>(op: &'static str, x: &Tensor, pool: MaxPool) -> Result<Tensor> {
        let card = card(op, x)?;
        let (batch, channels, _, _) = x.dims4()?;
        let (y, chosen) = pool.forward(&card, op, Source::<T>::of(op, x)?.view)?;
        let (shape, device) = (x.shape().clone(), card.clone());
        record(op, &card, &[x], (y, (batch, channels, pool.oh, pool.ow)), move |_, _, grad| {
            let g = Source::<T>::of(op, grad)?;
            let gx = pool.backward(&device, op, (device.view(&chosen), g.view))?;
            Ok([Some(tensor(gx, &device.0, &shape)), None, None])
        })
    }
    by_activations!(op, x, typed(op, x, pool))
}

/// Sizes of maps [B, C, H, W] or vectors [B, C].
pub(super) fn maps(op: &'static str, x: &Tensor) -> Result<Maps> {
    match *x.dims() {
        [batch, channels] => Ok(Maps { batch, channels, map: 1 }),
        [batch, channels, height, width] => Ok(Maps { batch, channels, map: height * width }),
        _ => {
            let expected = "[B, C, H, W] or [B, C]".into();
            Err(Error::Shape { op, name: "x", got: x.dims().to_vec(), expected })
        }
    }
}

/// [`crate::nn::global_mean`]; the shape was checked.
pub(crate) fn global_mean(op: &'static str, x: &Tensor) -> Result<Tensor> {
    fn typed<T: Active>(op: &'static str, x: &Tensor) -> Result<Tensor> {
        let (card, maps) = (card(op, x)?, maps(op, x)?);
        let y = pool::global_mean(&card, Source::<T>::of(op, x)?.view, maps)?;
        let (shape, device) = (x.shape().clone(), card.clone());
        record(op, &card, &[x], (y, (maps.batch, maps.channels)), move |_, _, grad| {
            let g = Source::<T>::of(op, grad)?;
            let gx = pool::global_mean_gradient(&device, op, g.view, maps)?;
            Ok([Some(tensor(gx, &device.0, &shape)), None, None])
        })
    }
    by_activations!(op, x, typed(op, x))
}

/// [`crate::nn::gated`]; shapes and dtypes were checked.
pub(crate) fn gated(op: &'static str, x: &Tensor, gate: &Tensor) -> Result<Tensor> {
    fn typed<T: Active>(op: &'static str, x: &Tensor, gate: &Tensor) -> Result<Tensor> {
        let (card, maps) = (card(op, x)?, maps(op, x)?);
        let (values, gates) = (Source::<T>::of(op, x)?, Source::<T>::of(op, gate)?);
        let y = activation::gated(&card, op, (values.view, gates.view), maps)?;
        let shapes = [x.shape().clone(), gate.shape().clone()];
        let device = card.clone();
        record(op, &card, &[x, gate], (y, x.shape()), move |_, _, grad| {
            let g = Source::<T>::of(op, grad)?;
            let (gx, ggate) = activation::gated_gradient(&device, (values.view, gates.view, g.view), maps)?;
            Ok([Some(tensor(gx, &device.0, &shapes[0])), Some(tensor(ggate, &device.0, &shapes[1])), None])
        })
    }
    by_activations!(op, x, typed(op, x, gate))
}

/// [`crate::nn::scaled_residual`]; shapes and dtypes were checked.
pub(crate) fn scaled_residual(op: &'static str, shortcut: &Tensor, x: &Tensor, scale: &Tensor) -> Result<Tensor> {
    fn typed<T: Active>(op: &'static str, shortcut: &Tensor, x: &Tensor, scale: &Tensor) -> Result<Tensor> {
        let (card, maps) = (card(op, x)?, maps(op, x)?);
        let (past, values) = (Source::<T>::of(op, shortcut)?, Source::<T>::of(op, x)?);
        let scales = Source::<T::Sum>::of(op, scale)?;
        let y = activation::scaled_residual(&card, op, (Some(past.view), values.view), scales.view, maps)?;
        let (shape, device) = (x.shape().clone(), card.clone());
        record(op, &card, &[shortcut, x, scale], (y, x.shape()), move |wanted, _, grad| {
            let g = Source::<T>::of(op, grad)?;
            let (gx, gscale) =
                activation::scaled_residual_gradient(&device, op, (values.view, g.view), scales.view, maps)?;
            let through = wanted[0].then(|| grad.clone());
            Ok([through, Some(tensor(gx, &device.0, &shape)), Some(tensor(gscale, &device.0, maps.channels))])
        })
    }
    by_activations!(op, x, typed(op, shortcut, x, scale))
}
