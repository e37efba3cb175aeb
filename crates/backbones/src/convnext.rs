//! ConvNeXt (Liu et al. 2022), wired and named as timm's `convnext_*`.
//!
//! Everything stays in [B, C, H, W]: the linear layers of a block are 1×1 convolutions, whatever timm stores them as.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use candle_nn::init::Init;
use kernels::nn::{Conv2dConfig, Flow};

use crate::freeze::{Extent, Parts};
use crate::layers::{Conv, ConvSpec, LayerNorm, NARROW};
use crate::{Pass, Result};

/// Sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConvnextConfig {
    pub(crate) depths: [usize; 4],
    widths: [usize; 4],
    /// timm stores the block's linear layers as 1×1 convolutions, [O, I, 1, 1].
    conv_mlp: bool,
}

const fn small(depths: [usize; 4], width: usize) -> ConvnextConfig {
    ConvnextConfig { depths, widths: [width, 2 * width, 4 * width, 8 * width], conv_mlp: true }
}

const fn large(depths: [usize; 4], width: usize) -> ConvnextConfig {
    ConvnextConfig { depths, widths: [width, 2 * width, 4 * width, 8 * width], conv_mlp: false }
}

/// timm's names.
pub(crate) const VARIANTS: &[(&str, ConvnextConfig)] = &[
    ("convnext_atto", small([2, 2, 6, 2], 40)),
    ("convnext_femto", small([2, 2, 6, 2], 48)),
    ("convnext_pico", small([2, 2, 6, 2], 64)),
    ("convnext_nano", small([2, 2, 8, 2], 80)),
    ("convnext_tiny", large([3, 3, 9, 3], 96)),
    ("convnext_small", large([3, 3, 27, 3], 96)),
    ("convnext_base", large([3, 3, 27, 3], 128)),
];

/// Initial layer scale.
const SCALE: f64 = 1e-6;

impl ConvnextConfig {
    /// Channels of the last map.
    pub(crate) fn channels(&self) -> usize {
        self.widths[3]
    }

    /// Size of the last map; 0 for an image that is smaller than a patch.
    pub(crate) fn map_size(&self, input: usize) -> usize {
        input / 4 / 2 / 2 / 2
    }
}

/// Stem and four stages.
#[derive(Debug)]
pub(crate) struct Convnext {
    stages: Vec<Stage>,
    frozen: Extent,
}

/// A patch convolution with its normalisation, after it in the stem and before it elsewhere, and blocks.
#[derive(Debug)]
struct Stage {
    patches: Conv,
    norm: LayerNorm,
    first: bool,
    blocks: Vec<Block>,
}

impl Convnext {
    pub(crate) fn new(config: &ConvnextConfig, drop_path: f64, parts: &Parts) -> Result<Self> {
        let mut stages = Vec::new();
        let last = (config.depths.iter().sum::<usize>() - 1) as f64;
        let mut built = 0;
        for stage in 0..4 {
            let width = config.widths[stage];
            let first = stage == 0;
            let (patches, norm) = if first {
                let vb = parts.stem().pp("stem");
                let spec = ConvSpec::new(3, width, 4, 4).narrow().patches();
                (Conv::new(spec, vb.pp(0))?, LayerNorm::new(width, vb.pp(1))?)
            } else {
                // The downsampling is frozen with the first block behind it.
                let vb = parts.block(built).pp("stages").pp(stage).pp("downsample");
                let before = config.widths[stage - 1];
                let spec = ConvSpec::new(before, width, 2, 2).narrow().patches();
                (Conv::new(spec, vb.pp(1))?, LayerNorm::new(before, vb.pp(0))?)
            };
            let mut blocks = Vec::new();
            for index in 0..config.depths[stage] {
                let rate = drop_path * built as f64 / last;
                let vb = parts.block(built).pp("stages").pp(stage).pp("blocks").pp(index);
                blocks.push(Block::new(width, config.conv_mlp, rate, vb)?);
                built += 1;
            }
            stages.push(Stage { patches, norm, first, blocks });
        }
        Ok(Self { stages, frozen: parts.extent })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let (mut x, mut index) = (Flow::of(x)?, 0);
        for stage in &self.stages {
            x = match stage.first {
                true => stage.norm.map(&stage.patches.forward(&x)?)?,
                false => stage.patches.forward(&stage.norm.map(&x)?)?,
            };
            for block in &stage.blocks {
                x = pass.part(index < self.frozen.blocks, |pass| block.forward(&x, pass))?;
                index += 1;
            }
        }
        Ok(x.tensor()?)
    }

    /// All convolutions.
    pub(crate) fn convolutions(&mut self) -> Vec<&mut Conv> {
        let mut all = Vec::new();
        for Stage { patches, blocks, .. } in &mut self.stages {
            all.push(patches);
            all.extend(blocks.iter_mut().flat_map(|Block { conv_dw, fc1, fc2, .. }| [conv_dw, fc1, fc2]));
        }
        all
    }

    pub(crate) fn flops(&self, mut size: usize) -> u64 {
        let mut total = 0;
        for stage in &self.stages {
            total += stage.patches.flops(&mut size);
            let layers = stage.blocks.iter().flat_map(|block| [&block.conv_dw, &block.fc1, &block.fc2]);
            total += layers.map(|layer| layer.flops(&mut size)).sum::<u64>();
        }
        total
    }
}

/// Depthwise 7×7, layer normalisation, two linear layers with GELU between them, layer scale, beside the identity.
#[derive(Debug)]
struct Block {
    conv_dw: Conv,
    norm: LayerNorm,
    fc1: Conv,
    fc2: Conv,
    gamma: Tensor,
    drop_path: f64,
}

impl Block {
    fn new(width: usize, conv_mlp: bool, drop_path: f64, vb: VarBuilder) -> Result<Self> {
        // Nothing here magnifies what sums round: no rectifier's gate, no statistics of a batch.
        let config = Conv2dConfig { accurate: false, ..Conv2dConfig::default() };
        let pointwise = |c_in: usize, c_out: usize, vb: VarBuilder| -> Result<Conv> {
            let shape = if conv_mlp { vec![c_out, c_in, 1, 1] } else { vec![c_out, c_in] };
            let weight = vb.get_with_hints(shape, "weight", NARROW)?.reshape((c_out, c_in, 1, 1))?;
            Ok(Conv::of(weight, vb.get_with_hints(c_out, "bias", Init::Const(0.0))?, config))
        };
        Ok(Self {
            conv_dw: Conv::new(ConvSpec::new(width, width, 7, 1).groups(width).narrow(), vb.pp("conv_dw"))?,
            norm: LayerNorm::new(width, vb.pp("norm"))?,
            fc1: pointwise(width, 4 * width, vb.pp("mlp.fc1"))?,
            fc2: pointwise(4 * width, width, vb.pp("mlp.fc2"))?,
            gamma: vb.get_with_hints(width, "gamma", Init::Const(SCALE))?,
            drop_path,
        })
    }

    fn forward(&self, x: &Flow, pass: &mut Pass) -> Result<Flow> {
        let y = self.norm.map(&self.conv_dw.forward(x)?)?;
        let y = self.fc2.forward(&self.fc1.forward(&y)?.gelu()?)?;
        Ok(x.scaled_residual(&pass.drop_path(y, self.drop_path)?, &self.gamma)?)
    }
}
