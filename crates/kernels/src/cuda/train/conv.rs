//! Two-dimensional convolution.

use super::super::device::{Argument, Device, Launch, Stored, View, arguments, kernel};
use super::{BLOCK, Maps, THREADS, countable, joined, pieces};
use crate::Result;
use crate::nn::{Conv2dConfig, ConvLibrary};

/// Side of a tile of a product, as in `product.cuh`.
pub(super) const SIDE: usize = 64;
/// Terms of a piece of a filter's gradient, at least, and blocks that one should have: guesses, a few for each processor
/// of a card.
const TERMS: usize = 256;
const BLOCKS: usize = 512;
/// Outputs of a piece of a depthwise filter's gradient, at least.
const OUTPUTS: usize = 4096;

/// What is computed: from which two arguments, and in which shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Pass {
    /// The result, from images and weights.
    Forward,
    /// The gradient of the images, from that of the result and the weights.
    BackwardData,
    /// The gradient of the weights, from the images and the gradient of the result.
    BackwardFilter,
}

/// Sizes of a convolution of `[batch, c_in, height, width]` by `[c_out, c_in / groups, kh, kw]`; the caller has checked them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conv {
    pub(crate) batch: usize,
    pub(crate) c_in: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) c_out: usize,
    pub(crate) kh: usize,
    pub(crate) kw: usize,
    pub(crate) oh: usize,
    pub(crate) ow: usize,
    pub(crate) config: Conv2dConfig,
}

impl Conv {
    fn cg(&self) -> usize {
        self.c_in / self.config.groups
    }

    fn og(&self) -> usize {
        self.c_out / self.config.groups
    }

    /// Terms of an output: weights of an output channel.
    fn taps(&self) -> usize {
        self.cg() * self.kh * self.kw
    }

    fn outputs(&self) -> Maps {
        Maps { batch: self.batch, channels: self.c_out, map: self.oh * self.ow }
    }

    fn inputs(&self) -> usize {
        self.batch * self.c_in * self.height * self.width
    }

    /// Several groups of one input channel: products would have a single row.
    fn is_depthwise(&self) -> bool {
        self.config.groups > 1 && self.cg() == 1
    }

    /// Whether a library may compute it: it is none of those that own kernels serve always, and there is something to do.
    fn is_for_library(&self) -> bool {
        !self.is_depthwise() && self.config.library != ConvLibrary::Own && self.batch > 0
    }

    fn sizes(&self) -> [usize; 13] {
        let Conv2dConfig { stride, padding, dilation, groups, .. } = self.config;
        let Self { batch, c_in, height, width, c_out, kh, kw, oh, ow, .. } = *self;
        [batch, c_in, height, width, c_out, kh, kw, oh, ow, stride, padding, dilation, groups]
    }

    fn check(&self, op: &'static str) -> Result<()> {
        countable(op, self.inputs().max(self.outputs().len()).max(self.c_out * self.taps()))?;
        Ok(())
    }
}

/// Arguments of a kernel with those of the sizes behind them.
fn with_sizes(first: &[Argument], conv: &Conv) -> Vec<Argument> {
    first.iter().copied().chain(conv.sizes().map(Argument::from)).collect()
}

/// `blocks` blocks that make a tile of a product each.
pub(super) fn tiles<T: Stored>(blocks: usize) -> Launch {
    Launch { blocks, threads: THREADS, shared: T::TILE }
}

fn values(n: usize) -> Launch {
    Launch { blocks: n.div_ceil(BLOCK), threads: THREADS, shared: 0 }
}

/// The result of [`crate::nn::conv2d`], `[batch, c_out, oh, ow]`.
///
/// # Errors
/// More values than a kernel counts.
pub(crate) fn forward<D: Device, T: Stored>(
    device: &D,
    op: &'static str,
    (x, w): (View<T>, View<T>),
    bias: Option<View<T::Sum>>,
    conv: &Conv,
) -> Result<D::Buffer<T>> {
    conv.check(op)?;
    let n = conv.outputs().len();
    let y = device.empty::<T>(n)?;
    if conv.is_for_library() && device.convolve(op, Pass::Forward, ([x, w], device.view(&y)), conv)? {
        if let Some(bias) = bias {
            let Maps { channels, map, .. } = conv.outputs();
            let arguments = arguments![device.view(&y), bias, n, channels, map];
            device.launch(kernel!(T, "add_bias"), values(n), arguments)?;
        }
        return Ok(y);
    }
    let (bias, to) = (bias.unwrap_or(View::none()), device.view(&y));
    if conv.is_depthwise() {
        let arguments = with_sizes(arguments![x, w, bias, to], conv);
        device.launch(kernel!(T, "depthwise_forward"), values(n), &arguments)?;
        return Ok(y);
    }
    let (down, along) = (conv.og().div_ceil(SIDE), conv.outputs().all().div_ceil(SIDE));
    let arguments = with_sizes(arguments![x, w, bias, to, down, along], conv);
    device.launch(kernel!(T, "conv_forward"), tiles::<T>(down * along * conv.config.groups), &arguments)?;
    Ok(y)
}

/// The gradient of `x`.
///
/// # Errors
/// More values than a kernel counts.
pub(crate) fn backward<D: Device, T: Stored>(
    device: &D,
    op: &'static str,
    (gy, w): (View<T>, View<T>),
    conv: &Conv,
) -> Result<D::Buffer<T>> {
    conv.check(op)?;
    let n = conv.inputs();
    let gx = device.empty::<T>(n)?;
    if conv.is_for_library() && device.convolve(op, Pass::BackwardData, ([gy, w], device.view(&gx)), conv)? {
        return Ok(gx);
    }
    if conv.is_depthwise() {
        let arguments = with_sizes(arguments![gy, w, device.view(&gx)], conv);
        device.launch(kernel!(T, "depthwise_backward"), values(n), &arguments)?;
        return Ok(gx);
    }
    let stride = conv.config.stride;
    let columns = conv.batch * conv.height.div_ceil(stride) * conv.width.div_ceil(stride);
    let (down, along) = (conv.cg().div_ceil(SIDE), columns.div_ceil(SIDE));
    let arguments = with_sizes(arguments![gy, w, device.view(&gx), down, along], conv);
    let blocks = down * along * conv.config.groups * stride * stride;
    device.launch(kernel!(T, "conv_backward"), tiles::<T>(blocks), &arguments)?;
    Ok(gx)
}

/// The gradient of the weights.
///
/// # Errors
/// More values than a kernel counts.
pub(crate) fn filter<D: Device, T: Stored>(
    device: &D,
    op: &'static str,
    (x, gy): (View<T>, View<T>),
    conv: &Conv,
) -> Result<D::Buffer<T::Sum>> {
    conv.check(op)?;
    let (n, all) = (conv.c_out * conv.taps(), conv.outputs().all());
    if conv.is_for_library()
        && let Some(gw) = filter_by_library(device, op, (x, gy), conv)?
    {
        return Ok(gw);
    }
    if conv.is_depthwise() {
        let (length, pieces) = pieces(all, OUTPUTS, BLOCKS.div_ceil(conv.c_out * conv.kh));
        let parts = device.empty::<T::Sum>(pieces * n)?;
        let launch = Launch { blocks: conv.kh * conv.c_out * pieces, threads: THREADS, shared: 32 };
        let arguments = with_sizes(arguments![x, gy, device.view(&parts), length], conv);
        device.launch(kernel!(T, "depthwise_filter"), launch, &arguments)?;
        return joined(device, parts, n, pieces);
    }
    let (down, along) = (conv.og().div_ceil(SIDE), conv.taps().div_ceil(SIDE));
    let (length, pieces) = pieces(all, TERMS, BLOCKS.div_ceil(down * along * conv.config.groups));
    let parts = device.empty::<T::Sum>(pieces * n)?;
    let arguments = with_sizes(arguments![x, gy, device.view(&parts), down, along, length], conv);
    device.launch(kernel!(T, "conv_filter"), tiles::<T>(down * along * conv.config.groups * pieces), &arguments)?;
    joined(device, parts, n, pieces)
}

/// The gradient of the weights by a library of the device, if it has one: in the type of the activations, then widened.
fn filter_by_library<D: Device, T: Stored>(
    device: &D,
    op: &'static str,
    (x, gy): (View<T>, View<T>),
    conv: &Conv,
) -> Result<Option<D::Buffer<T::Sum>>> {
    let n = conv.c_out * conv.taps();
    let gw = device.empty::<T::Sum>(n)?;
    let to = device.view(&gw);
    if size_of::<T>() == size_of::<T::Sum>() {
        let done = device.convolve(op, Pass::BackwardFilter, ([x, gy], View::new(to.address(), n)), conv)?;
        return Ok(done.then_some(gw));
    }
    let rounded = device.empty::<T>(n)?;
    let from = device.view(&rounded);
    if !device.convolve(op, Pass::BackwardFilter, ([x, gy], from), conv)? {
        return Ok(None);
    }
    device.launch("widened_bf16", values(n), arguments![from, to, n])?;
    Ok(Some(gw))
}

/// The gradient of the bias.
///
/// # Errors
/// What the device refuses.
pub(crate) fn bias<D: Device, T: Stored>(device: &D, gy: View<T>, conv: &Conv) -> Result<D::Buffer<T::Sum>> {
    conv.outputs().sums(device, gy, None, None)
}
