//! Activations and sums, linear maps, attention.

use candle_core::Tensor;

use super::super::device::Device;
use super::super::train::activation::{self as pointwise, Activation};
use super::super::train::attention::Attention;
use super::super::train::linear::Linear;
use super::op::record;
use super::{Active, Source, by_activations, card, tensor};
use crate::Result;

/// A function of each value; the dtype was checked.
pub(crate) fn activation(op: &'static str, x: &Tensor, function: Activation) -> Result<Tensor> {
    fn typed<T: Active>(op: &'static str, x: &Tensor, function: Activation) -> Result<Tensor> {
        let (card, values) = (card(op, x)?, Source::<T>::of(op, x)?);
        let y = function.forward(&card, op, values.view)?;
        let (shape, device) = (x.shape().clone(), card.clone());
        record(op, &card, &[x], (y, x.shape()), move |_, _, grad| {
            let g = Source::<T>::of(op, grad)?;
            let gx = function.backward(&device, op, (values.view, g.view))?;
            Ok([Some(tensor(gx, &device.0, &shape)), None, None])
        })
    }
    by_activations!(op, x, typed(op, x, function))
}

/// `a + b`, rectified if `relu`; shapes and dtypes were checked.
pub(crate) fn sum(op: &'static str, a: &Tensor, b: &Tensor, relu: bool) -> Result<Tensor> {
    fn typed<T: Active>(op: &'static str, a: &Tensor, b: &Tensor, relu: bool) -> Result<Tensor> {
        let card = card(op, a)?;
        let (left, right) = (Source::<T>::of(op, a)?, Source::<T>::of(op, b)?);
        let y = pointwise::add(&card, op, (left.view, right.view), relu)?;
        let (shape, device) = (a.shape().clone(), card.clone());
        record(op, &card, &[a, b], (y, a.shape()), move |_, y, grad| {
            if !relu {
                return Ok([Some(grad.clone()), Some(grad.clone()), None]);
            }
            let (y, g) = (Source::<T>::of(op, y)?, Source::<T>::of(op, grad)?);
            let both = tensor(Activation::Relu.backward(&device, op, (y.view, g.view))?, &device.0, &shape);
            Ok([Some(both.clone()), Some(both), None])
        })
    }
    by_activations!(op, a, typed(op, a, b, relu))
}

/// [`crate::nn::linear`]; shapes and dtypes were checked.
pub(crate) fn linear(op: &'static str, args: [&Tensor; 3], linear: Linear) -> Result<Tensor> {
    fn typed<T: Active>(op: &'static str, args: [&Tensor; 3], linear: Linear) -> Result<Tensor> {
        let card = card(op, args[0])?;
        let (values, weights) = (Source::<T>::of(op, args[0])?, T::weights(op, args[1])?);
        let bias = Source::<T::Sum>::of(op, args[2])?;
        let y = linear.forward(&card, op, (values.view, weights.view), Some(bias.view))?;
        let mut dims = args[0].dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = linear.outputs;
        }
        let (shapes, device) = (args.map(|t| t.shape().clone()), card.clone());
        record(op, &card, &args, (y, dims), move |wanted, _, grad| {
            let g = Source::<T>::of(op, grad)?;
            let mut out = [None, None, None];
            if wanted[0] {
                let gx = linear.backward(&device, op, (g.view, weights.view))?;
                out[0] = Some(tensor(gx, &device.0, &shapes[0]));
            }
            if wanted[1] {
                let gw = linear.weight::<_, T>(&device, op, (values.view, g.view))?;
                out[1] = Some(tensor(gw, &device.0, &shapes[1]));
            }
            if wanted[2] {
                out[2] = Some(tensor(linear.bias::<_, T>(&device, g.view)?, &device.0, &shapes[2]));
            }
            Ok(out)
        })
    }
    by_activations!(op, args[0], typed(op, args, linear))
}

/// [`crate::nn::attention`]; sizes were checked.
pub(crate) fn attention(op: &'static str, qkv: &Tensor, attention: Attention) -> Result<Tensor> {
    fn typed<T: Active>(op: &'static str, qkv: &Tensor, attention: Attention) -> Result<Tensor> {
        let (card, packed) = (card(op, qkv)?, Source::<T>::of(op, qkv)?);
        let (y, weights) = attention.forward(&card, op, packed.view)?;
        let (shape, device) = (qkv.shape().clone(), card.clone());
        let Attention { batch, tokens, heads, width } = attention;
        record(op, &card, &[qkv], (y, (batch, tokens, heads * width)), move |_, _, grad| {
            let g = Source::<T>::of(op, grad)?;
            let gradient = attention.backward(&device, op, (packed.view, device.view(&weights)), g.view)?;
            Ok([Some(tensor(gradient, &device.0, &shape)), None, None])
        })
    }
    by_activations!(op, qkv, typed(op, qkv, attention))
}
