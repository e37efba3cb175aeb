//! Two-dimensional convolution with a backward pass of its own.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::buffers::{Held, Real, beside, by_storage, check_activations, slice_of};
use super::columns::Geometry;
use super::flow::{Arg, Flow, apply_pairs, apply2, apply3};
use super::gradient::{Derivative, Gradient, Gradients, on_tensors};
use super::moments::MapSum;
use super::pair::Pair;
use super::wide::wide;
use super::{ConvLibrary, conv_pairs, dense, depthwise, merged, strided, winograd};
use crate::even::Even;
use crate::{Error, Result};

const OP: &str = "conv2d";

/// How a kernel moves over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// Pixels between neighbouring outputs.
    pub stride: usize,
    /// Zeros around the image, on each side.
    pub padding: usize,
    /// Pixels between neighbouring taps.
    pub dilation: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Whether float32 sums of a convolution whose arguments are tracked are accurate, see [`conv2d`]; on the CPU.
    pub accurate: bool,
    /// Whose kernels run on a card.
    pub library: ConvLibrary,
}

impl Default for Conv2dConfig {
    fn default() -> Self {
        Self { stride: 1, padding: 0, dilation: 1, groups: 1, accurate: true, library: ConvLibrary::Automatic }
    }
}

impl Conv2dConfig {
    /// Output size for an input of `size` pixels under a kernel of `kernel` taps,
    /// `⌊(size + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1`; `None` where the kernel does not fit.
    pub fn output_size(&self, size: usize, kernel: usize) -> Option<usize> {
        let span = self.dilation * kernel.checked_sub(1)? + 1;
        (size + 2 * self.padding).checked_sub(span).map(|rest| rest / self.stride + 1)
    }
}

/// Convolution as deep learning means it (a cross-correlation):
/// `y[b,o,p,q] = bias[o] + Σ_{c,i,j} w[o,c,i,j] · x[b, g·C/groups + c, p·stride + i·dilation − padding, q·stride + …]`
/// with `g` the group of `o`, and `x` zero outside the image.
///
/// `x` is [B, C, H, W], `weight` [O, C/groups, kh, kw], `bias` `[O]`; the result is [B, O, H', W'] with
/// [`Conv2dConfig::output_size`]. Differentiable in all three; gradients that nobody tracks are not computed.
///
/// The products are matrix products on column buffers of a few images at a time, reused by each worker; a 1×1
/// kernel needs no columns; one input channel per group (depthwise) runs as a direct loop; the gradients of large dense 3×3
/// kernels of stride 1 come from minimal filters (Winograd's F(2×2, 3×3)). The filter
/// gradient is accumulated over at most eight fixed pieces of the batch that are added in order, or over the whole batch for
/// minimal filters and for 1×1 kernels on small maps, so values and gradients are the same bits for any number of threads.
///
/// Where any argument is tracked, float32 sums are accurate to about three roundings for any number of taps (with AVX2 and
/// FMA, depthwise aside), or to one where minimal filters serve, then in float64: rectifiers and batch normalisation behind
/// the convolution magnify its error, and a gate that
/// rounding turns over changes a gradient far more than a value. Where none is, plain sums are faster, and so they are where
/// nothing behind the convolution magnifies: [`Conv2dConfig::accurate`] says that.
///
/// On a card, [`Conv2dConfig::library`] says whose kernels run.
///
/// # Errors
/// [`Error::Shape`], [`Error::Attribute`] or [`Error::Dtype`] where the arguments do not fit together; [`Error::Library`]
/// where cuDNN was asked for and is not there.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, config: Conv2dConfig) -> Result<Tensor> {
    let geometry = geometry(x, weight, bias, config)?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        let Geometry { batch, c_in, height, width, c_out, kh, kw, oh, ow, config } = geometry;
        let conv = crate::cuda::train::conv::Conv { batch, c_in, height, width, c_out, kh, kw, oh, ow, config };
        return crate::cuda::tensors::conv2d(OP, (x, weight, bias), conv);
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let tracked = x.track_op() || weight.track_op() || bias.is_some_and(Tensor::track_op);
    let op = Conv { geometry, close: tracked && config.accurate };
    Ok(match bias {
        None => x.apply_op2(&weight, op)?,
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op)?,
    })
}

fn geometry(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, config: Conv2dConfig) -> Result<Geometry> {
    check_config(config)?;
    let shape =
        |name, tensor: &Tensor, expected: String| Error::Shape { op: OP, name, got: tensor.dims().to_vec(), expected };
    let &[batch, c_in, height, width] = x.dims() else {
        return Err(shape("x", x, "[B, C, H, W]".into()));
    };
    let &[c_out, cg, kh, kw] = weight.dims() else {
        return Err(shape("weight", weight, "[O, C/groups, kh, kw]".into()));
    };
    let groups = config.groups;
    if c_in == 0 || c_in % groups != 0 || height == 0 || width == 0 {
        return Err(shape("x", x, format!("channels in {groups} equal groups, and at least one pixel")));
    }
    if cg != c_in / groups || c_out == 0 || c_out % groups != 0 || kh == 0 || kw == 0 {
        let expected = format!("[a positive multiple of {groups}, {}, kh ≥ 1, kw ≥ 1]", c_in / groups);
        return Err(shape("weight", weight, expected));
    }
    if let Some(bias) = bias
        && bias.dims() != [c_out]
    {
        return Err(shape("bias", bias, format!("[{c_out}]")));
    }
    check_activations(OP, x)?;
    let parameters = [Some(weight), bias].into_iter().flatten();
    if let Some(other) = parameters.into_iter().find(|t| t.dtype() != beside(x.dtype())) {
        return Err(Error::Dtype { op: OP, got: other.dtype() });
    }
    let (Some(oh), Some(ow)) = (config.output_size(height, kh), config.output_size(width, kw)) else {
        let expected = format!("an image that a {kh}×{kw} kernel fits into with {config:?}");
        return Err(shape("x", x, expected));
    };
    Ok(Geometry { batch, c_in, height, width, c_out, kh, kw, oh, ow, config })
}

fn check_config(config: Conv2dConfig) -> Result<()> {
    let fields = [("stride", config.stride), ("dilation", config.dilation), ("groups", config.groups)];
    match fields.into_iter().find(|(_, value)| *value == 0) {
        Some((name, _)) => Err(Error::Attribute { op: OP, name, value: 0.0, expected: "at least 1" }),
        None => Ok(()),
    }
}

struct Conv {
    geometry: Geometry,
    /// Whether sums are taken with care: somebody asks for gradients, and for that.
    close: bool,
}

impl Conv {
    fn output_shape(&self) -> Shape {
        let g = &self.geometry;
        Shape::from((g.batch, g.c_out, g.oh, g.ow))
    }

    fn forward<T: Real>(&self, x: &[T], w: &[T], bias: Option<&[T]>) -> Vec<T> {
        let g = &self.geometry;
        if g.is_depthwise() {
            depthwise::forward(g, x, w, bias)
        } else if strided::applies(g) {
            self.plain().forward(&strided::met(g, x), w, bias)
        } else if merged::applies(g) {
            merged::forward(g, x, w, bias, self.close)
        } else if self.close && T::DTYPE == DType::F32 && winograd::applies(g) {
            winograd::forward(g, x, w, bias)
        } else {
            dense::forward(g, x, w, bias, self.close)
        }
    }

    /// The convolution of the pixels that a stride meets.
    fn plain(&self) -> Self {
        Self { geometry: strided::plain(&self.geometry), close: self.close }
    }

    /// Gradients in `x` and `weight`, those of them that are wanted.
    fn backward<T: Real>(&self, x: &[T], w: &[T], gy: &[T], want: Want) -> (Option<Vec<T>>, Option<Vec<T>>) {
        let g = &self.geometry;
        if !want.x && !want.weight {
            (None, None)
        } else if g.is_depthwise() {
            depthwise::backward(g, x, w, gy, want)
        } else if strided::applies(g) {
            // The pixels are for the filter gradient alone.
            let met = if want.weight { strided::met(g, x) } else { Vec::new() };
            let (gx, gw) = self.plain().backward(&met, w, gy, want);
            (gx.map(|gx| strided::spread(g, &gx)), gw)
        } else if merged::applies(g) {
            merged::backward(g, x, w, gy, want)
        } else if winograd::applies(g) {
            winograd::backward(g, x, w, gy, want)
        } else {
            dense::backward(g, x, w, gy, want)
        }
    }

    /// `Σ_{b,p,q} gy[b,o,p,q]`, accumulated in float64.
    fn bias_gradient<T: Real>(&self, gy: &[T]) -> Vec<T> {
        let g = &self.geometry;
        let map = g.map();
        let sum_of = |o: usize| -> T {
            let maps = (0..g.batch).map(|b| (b * g.c_out + o) * map);
            T::down(maps.map(|at| wide(MapSum { x: &gy[at..at + map] })).sum())
        };
        (0..g.c_out).into_par_iter().evenly(1).map(sum_of).collect()
    }
}

impl Derivative for Conv {
    fn gradients<T: Real>(&self, args: [&[T]; 3], _: &[T], gy: Gradient<T>, want: [bool; 3]) -> Gradients<T> {
        let [x, w, _] = args;
        let (gx, gw) = self.backward(x, w, &gy, Want { x: want[0], weight: want[1] });
        let gb = want[2].then(|| self.bias_gradient(&gy));
        [gx, gw, gb].map(|g| g.map(Gradient::Alone))
    }
}

/// Which gradients somebody tracks.
#[derive(Clone, Copy)]
pub(super) struct Want {
    pub(super) x: bool,
    pub(super) weight: bool,
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = by_storage!(x, T => {
            Ok(T::to_cpu_storage_owned(self.forward::<T>(slice_of(x, lx)?, slice_of(w, lw)?, None)))
        })?;
        Ok((y, self.output_shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        y: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        on_tensors(self, &[x, w], y, gy).map(|[gx, gw, _]| (gx, gw))
    }
}

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = by_storage!(x, T => {
            let y = self.forward::<T>(slice_of(x, lx)?, slice_of(w, lw)?, Some(slice_of(b, lb)?));
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, self.output_shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        bias: &Tensor,
        y: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        on_tensors(self, &[x, w, bias], y, gy).map(|[gx, gw, gb]| (gx, gw, gb))
    }
}

impl Flow {
    /// [`conv2d`].
    ///
    /// # Errors
    /// Those of [`conv2d`].
    pub fn conv2d(&self, weight: &Tensor, bias: Option<&Tensor>, config: Conv2dConfig) -> Result<Self> {
        if let Some(x) = self.by_candle() {
            return Ok(Self::of_candle(conv2d(x, weight, bias, config)?));
        }
        let tracked = self.tracked() || weight.track_op() || bias.is_some_and(Tensor::track_op);
        let op =
            Conv { geometry: geometry(self.tensor_of(), weight, bias, config)?, close: tracked && config.accurate };
        match bias {
            None => apply2(op, [Arg::Flow(self), Arg::Parameter(weight)]),
            Some(bias) => apply3(op, [Arg::Flow(self), Arg::Parameter(weight), Arg::Parameter(bias)]),
        }
    }

    /// [`conv2d`] without a bias that keeps what rounding its result leaves over, and takes into account what the op before
    /// kept.
    ///
    /// A result has then 48 bits: of the ops that get it, this one, [`Flow::batch_norm_train`], [`Flow::max_pool2d`],
    /// [`Flow::add`] and [`Flow::add_relu`] compute in float64 with all of them and keep as many; all others, and the
    /// backward pass, take the rounded numbers. So a chain of such ops decides about the gates of its rectifiers as float64
    /// does. The forward pass takes up to twice as long as [`conv2d`]'s.
    ///
    /// It is [`Flow::conv2d`] in float64, on a card, for depthwise kernels, and where nobody asks for gradients.
    ///
    /// # Errors
    /// Those of [`conv2d`].
    pub fn conv2d_paired(&self, weight: &Tensor, config: Conv2dConfig) -> Result<Self> {
        let x = self.tensor_of();
        let tracked = self.tracked() || weight.track_op();
        if self.by_candle().is_some() || !tracked || x.dtype() != DType::F32 {
            return self.conv2d(weight, None, config);
        }
        let geometry = geometry(x, weight, None, config)?;
        if geometry.is_depthwise() {
            return self.conv2d(weight, None, config);
        }
        let op = Conv { geometry, close: true };
        let y = {
            let weight = weight.contiguous()?;
            let (x, w) = (Held::new(x), Held::new(&weight));
            conv_pairs::forward(&geometry, Pair { high: x.slice()?, rest: self.rest() }, w.slice()?)
        };
        let shape = op.output_shape();
        apply_pairs(op, y, &shape, &[Arg::Flow(self), Arg::Parameter(weight)])
    }
}
