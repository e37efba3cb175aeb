//! Layers shared by backbones: convolutions, normalisations, linear maps, squeeze-and-excitation.

use candle_core::{Tensor, Var};
use candle_nn::VarBuilder;
use candle_nn::init::{FanInOut, Init, NonLinearity, NormalOrUniform};
use kernels::nn::{BatchMoments, Conv2dConfig, ConvLibrary, Flow};

use crate::{Error, Result};

/// Added to variances.
const EPS: f64 = 1e-5;
/// Share of a new batch in the running statistics.
const MOMENTUM: f64 = 0.1;

/// Blocks at the end of a residual network with rectifiers whose training passes round between their ops. The stem and the
/// blocks before them do not, see [`ConvNorm::paired`]: five of the sixteen of ResNet-50, none of a ResNet-18.
///
/// What the first blocks round away grows from block to block until it turns over gates of the last ones, whose maps are so
/// small that one gate moves every gradient; what the last blocks round away has no way to grow.
const ROUNDED: usize = 11;

/// Whether block `index` of a residual network of this many blocks is paired. The stem is if the first block is.
pub(crate) fn paired(index: usize, blocks: usize) -> bool {
    index + ROUNDED < blocks
}

/// Which statistics a batch normalisation uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchStatistics {
    /// Those of the batch; the running ones follow with momentum 0.1 (and the unbiased variance).
    Train,
    /// Those of the batch; the running ones stay as they are. For a teacher whose buffers are averages.
    TrainFrozen,
    /// The running ones.
    Eval,
}

/// Kaiming-normal over the outputs, whatever the groups: residual networks.
pub(crate) const KAIMING: Init =
    Init::Kaiming { dist: NormalOrUniform::Normal, fan: FanInOut::FanOut, non_linearity: NonLinearity::ReLU };
/// timm's truncated normal of ConvNeXt and ViT: it cuts at ±2, which is a hundred deviations, so it cuts nothing.
pub(crate) const NARROW: Init = Init::Randn { mean: 0.0, stdev: 0.02 };

/// A convolution's sizes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvSpec {
    pub(crate) c_in: usize,
    pub(crate) c_out: usize,
    pub(crate) kernel: usize,
    pub(crate) config: Conv2dConfig,
    pub(crate) bias: bool,
    pub(crate) init: Init,
}

impl ConvSpec {
    /// `kernel`×`kernel`, padded by half of it, without bias, Kaiming-normal.
    pub(crate) fn new(c_in: usize, c_out: usize, kernel: usize, stride: usize) -> Self {
        let config = Conv2dConfig { stride, padding: kernel / 2, ..Conv2dConfig::default() };
        Self { c_in, c_out, kernel, config, bias: false, init: KAIMING }
    }

    /// In this many groups.
    pub(crate) fn groups(mut self, groups: usize) -> Self {
        self.config.groups = groups;
        self
    }

    /// Normal with variance 2 / (outputs of a group · kernel area): RegNet and EfficientNet.
    pub(crate) fn fan_out(mut self) -> Self {
        let fan = self.c_out * self.kernel * self.kernel / self.config.groups;
        self.init = Init::Randn { mean: 0.0, stdev: (2.0 / fan as f64).sqrt() };
        self
    }

    /// With a bias that starts at 0, [`NARROW`] weights and plain sums: ConvNeXt.
    pub(crate) fn narrow(mut self) -> Self {
        (self.bias, self.init, self.config.accurate) = (true, NARROW, false);
        self
    }

    /// Patches side by side: the stride is the kernel, nothing is padded.
    pub(crate) fn patches(mut self) -> Self {
        (self.config.stride, self.config.padding) = (self.kernel, 0);
        self
    }
}

/// A convolution.
#[derive(Debug)]
pub(crate) struct Conv {
    weight: Tensor,
    bias: Option<Tensor>,
    config: Conv2dConfig,
}

impl Conv {
    pub(crate) fn new(spec: ConvSpec, vb: VarBuilder) -> Result<Self> {
        let shape = (spec.c_out, spec.c_in / spec.config.groups, spec.kernel, spec.kernel);
        let weight = vb.get_with_hints(shape, "weight", spec.init)?;
        let bias = if spec.bias { Some(vb.get_with_hints(spec.c_out, "bias", Init::Const(0.0))?) } else { None };
        Ok(Self { weight, bias, config: spec.config })
    }

    /// Over given parameters.
    pub(crate) fn of(weight: Tensor, bias: Tensor, config: Conv2dConfig) -> Self {
        Self { weight, bias: Some(bias), config }
    }

    pub(crate) fn forward(&self, x: &Flow) -> Result<Flow> {
        Ok(x.conv2d(&self.weight, self.bias.as_ref(), self.config)?)
    }

    /// [`Flow::conv2d_paired`], which knows no bias: with one it is [`Self::forward`].
    fn paired(&self, x: &Flow) -> Result<Flow> {
        match self.bias {
            None => Ok(x.conv2d_paired(&self.weight, self.config)?),
            Some(_) => self.forward(x),
        }
    }

    /// Whose kernels later passes run on a card.
    pub(crate) fn set_library(&mut self, library: ConvLibrary) {
        self.config.library = library;
    }

    #[cfg(test)]
    pub(crate) fn library(&self) -> ConvLibrary {
        self.config.library
    }

    /// Numbers of its filters.
    #[cfg(test)]
    pub(crate) fn elements(&self) -> usize {
        self.weight.elem_count()
    }

    /// Operations on a square map of `size` pixels, which becomes the size of the result.
    pub(crate) fn flops(&self, size: &mut usize) -> u64 {
        let kernel = self.weight.dims().last().copied().unwrap_or(1);
        *size = self.config.output_size(*size, kernel).unwrap_or(0);
        2 * (*size * *size * self.weight.elem_count()) as u64
    }
}

/// A batch normalisation over the channels of a map.
#[derive(Debug)]
pub(crate) struct BatchNorm {
    name: String,
    gamma: Tensor,
    beta: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl BatchNorm {
    /// `gamma` is the initial scale: 1, or 0 for the last one of a residual block.
    pub(crate) fn new(channels: usize, gamma: f64, vb: VarBuilder) -> Result<Self> {
        let get = |name, value| vb.get_with_hints(channels, name, Init::Const(value));
        Ok(Self {
            name: vb.prefix(),
            gamma: get("weight", gamma)?,
            beta: get("bias", 0.0)?,
            running_mean: get("running_mean", 0.0)?,
            running_var: get("running_var", 1.0)?,
        })
    }

    /// The normalised map, rectified if `relu`.
    pub(crate) fn forward(&self, x: &Flow, statistics: BatchStatistics, relu: bool) -> Result<Flow> {
        let (gamma, beta) = (&self.gamma, &self.beta);
        if statistics == BatchStatistics::Eval {
            return Ok(x.batch_norm_eval(gamma, beta, [&self.running_mean, &self.running_var], EPS, relu)?);
        }
        let out = x.batch_norm_train(gamma, beta, EPS, relu)?;
        if statistics == BatchStatistics::Train {
            self.follow(&out.moments)?;
        }
        Ok(out.y)
    }

    /// Moves the running statistics towards those of a batch.
    fn follow(&self, moments: &BatchMoments) -> Result<()> {
        let variable = |name, running: &Tensor| {
            if running.is_variable() {
                return Ok(Var::from_tensor(running)?);
            }
            Err(Error::FrozenStatistics { name: format!("{}.{name}", self.name) })
        };
        let mean = variable("running_mean", &self.running_mean)?;
        let var = variable("running_var", &self.running_var)?;
        Ok(moments.follow(&mean, &var, MOMENTUM)?)
    }
}

/// A convolution and its batch normalisation.
#[derive(Debug)]
pub(crate) struct ConvNorm {
    pub(crate) conv: Conv,
    norm: BatchNorm,
    /// See [`Self::paired`].
    paired: bool,
}

impl ConvNorm {
    /// `gamma` is the initial scale of the normalisation.
    pub(crate) fn new(spec: ConvSpec, gamma: f64, conv: VarBuilder, norm: VarBuilder) -> Result<Self> {
        Ok(Self { conv: Conv::new(spec, conv)?, norm: BatchNorm::new(spec.c_out, gamma, norm)?, paired: false })
    }

    /// Where statistics are those of the batch, it hands on what rounding leaves over, and takes into account what the ops
    /// before left: see [`Flow::conv2d_paired`].
    pub(crate) fn paired(mut self, paired: bool) -> Self {
        self.paired = paired;
        self
    }

    /// The normalised map, rectified if `relu`.
    pub(crate) fn forward(&self, x: &Flow, statistics: BatchStatistics, relu: bool) -> Result<Flow> {
        let paired = self.paired && statistics != BatchStatistics::Eval;
        let y = if paired { self.conv.paired(x)? } else { self.conv.forward(x)? };
        self.norm.forward(&y, statistics, relu)
    }
}

/// A layer normalisation with eps 1e-6.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    gamma: Tensor,
    beta: Tensor,
}

impl LayerNorm {
    const EPS: f64 = 1e-6;

    pub(crate) fn new(channels: usize, vb: VarBuilder) -> Result<Self> {
        let get = |name, value| vb.get_with_hints(channels, name, Init::Const(value));
        Ok(Self { gamma: get("weight", 1.0)?, beta: get("bias", 0.0)? })
    }

    /// Of tokens [.., C].
    pub(crate) fn tokens(&self, x: &Flow) -> Result<Flow> {
        Ok(x.layer_norm(&self.gamma, &self.beta, Self::EPS)?)
    }

    /// Of the pixels of a map [B, C, H, W].
    pub(crate) fn map(&self, x: &Flow) -> Result<Flow> {
        Ok(x.layer_norm_map(&self.gamma, &self.beta, Self::EPS)?)
    }
}

/// A linear map of tokens.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// With [`NARROW`] weights.
    pub(crate) fn new(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get_with_hints((outputs, inputs), "weight", NARROW)?;
        Ok(Self { weight, bias: vb.get_with_hints(outputs, "bias", Init::Const(0.0))? })
    }

    pub(crate) fn forward(&self, x: &Flow) -> Result<Flow> {
        Ok(x.linear(&self.weight, &self.bias)?)
    }

    /// Operations on this many tokens.
    pub(crate) fn flops(&self, tokens: usize) -> u64 {
        2 * (tokens * self.weight.elem_count()) as u64
    }
}

/// Squeeze-and-excitation (Hu et al. 2018): channels gated by a small network of their means.
#[derive(Debug)]
pub(crate) struct SqueezeExcite {
    weights: [Tensor; 2],
    biases: [Tensor; 2],
    silu: bool,
}

impl SqueezeExcite {
    /// Through `reduced` channels, rectified or by SiLU; `names` are those of the two 1×1 convolutions.
    pub(crate) fn new(c: usize, reduced: usize, silu: bool, names: [&str; 2], vb: VarBuilder) -> Result<Self> {
        let [first, second] = names.map(|name| vb.pp(name));
        let get = |vb: &VarBuilder, c_in, c_out| -> Result<(Tensor, Tensor)> {
            let weight =
                vb.get_with_hints((c_out, c_in, 1, 1), "weight", ConvSpec::new(c_in, c_out, 1, 1).fan_out().init)?;
            Ok((weight, vb.get_with_hints(c_out, "bias", Init::Const(0.0))?))
        };
        let ((w1, b1), (w2, b2)) = (get(&first, c, reduced)?, get(&second, reduced, c)?);
        Ok(Self { weights: [w1, w2], biases: [b1, b2], silu })
    }

    pub(crate) fn forward(&self, x: &Flow) -> Result<Flow> {
        let hidden = x.global_mean()?.linear(&self.weights[0].flatten_from(1)?, &self.biases[0])?;
        let hidden = if self.silu { hidden.silu()? } else { hidden.relu()? };
        Ok(x.gated(&hidden.linear(&self.weights[1].flatten_from(1)?, &self.biases[1])?)?)
    }

    pub(crate) fn flops(&self) -> u64 {
        2 * self.weights.iter().map(Tensor::elem_count).sum::<usize>() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_blocks_of_deep_networks_are_paired() {
        let of = |blocks| (0..blocks).map(|index| paired(index, blocks)).collect::<Vec<_>>();
        assert_eq!(of(16), [[true; 5].as_slice(), &[false; 11]].concat());
        assert_eq!(of(33).iter().filter(|paired| **paired).count(), 22);
        assert_eq!(of(8), [false; 8]);
    }
}
