//! EfficientNet (Tan and Le 2019), wired and named as timm's `efficientnet_b*` (symmetric padding).

use candle_core::Tensor;
use candle_nn::VarBuilder;
use kernels::nn::Flow;

use crate::config::strided;
use crate::freeze::{Extent, Parts};
use crate::layers::{Conv, ConvNorm, ConvSpec, SqueezeExcite};
use crate::{Pass, Result};

/// Compound scaling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct EfficientnetConfig {
    width: f64,
    depth: f64,
}

const fn scaled(width: f64, depth: f64) -> EfficientnetConfig {
    EfficientnetConfig { width, depth }
}

/// timm's names.
pub(crate) const VARIANTS: &[(&str, EfficientnetConfig)] = &[
    ("efficientnet_b0", scaled(1.0, 1.0)),
    ("efficientnet_b1", scaled(1.0, 1.1)),
    ("efficientnet_b2", scaled(1.1, 1.2)),
    ("efficientnet_b3", scaled(1.2, 1.4)),
    ("efficientnet_b4", scaled(1.4, 1.8)),
];

/// Blocks, kernel, stride, expansion and channels of each stage of b0.
const STAGES: [[usize; 5]; 7] = [
    [1, 3, 1, 1, 16],
    [2, 3, 2, 6, 24],
    [2, 5, 2, 6, 40],
    [3, 3, 2, 6, 80],
    [3, 5, 1, 6, 112],
    [4, 5, 2, 6, 192],
    [1, 3, 1, 6, 320],
];
/// Channels of b0's stem and of its last map.
const ENDS: [usize; 2] = [32, 1280];

impl EfficientnetConfig {
    /// Channels times the width, as the nearest multiple of 8 that loses at most a tenth.
    fn round(&self, channels: usize) -> usize {
        let wanted = channels as f64 * self.width;
        let rounded = ((wanted + 4.0) as usize / 8 * 8).max(8);
        if (rounded as f64) < 0.9 * wanted { rounded + 8 } else { rounded }
    }

    fn repeats(&self, blocks: usize) -> usize {
        (blocks as f64 * self.depth).ceil() as usize
    }

    /// Blocks of each stage.
    pub(crate) fn blocks(&self) -> Vec<usize> {
        STAGES.iter().map(|stage| self.repeats(stage[0])).collect()
    }

    /// Channels of the last map.
    pub(crate) fn channels(&self) -> usize {
        self.round(ENDS[1])
    }

    /// Size of the last map.
    pub(crate) fn map_size(&self, input: usize) -> usize {
        STAGES.iter().fold(strided(input, 2), |size, stage| strided(size, stage[2]))
    }
}

/// Stem, blocks, and the convolution that makes the last map.
#[derive(Debug)]
pub(crate) struct Efficientnet {
    stem: ConvNorm,
    blocks: Vec<Block>,
    head: ConvNorm,
    frozen: Extent,
}

impl Efficientnet {
    pub(crate) fn new(config: &EfficientnetConfig, drop_path: f64, parts: &Parts) -> Result<Self> {
        let vb = parts.stem();
        let mut channels = config.round(ENDS[0]);
        let stem = ConvSpec::new(3, channels, 3, 2).fan_out();
        let stem = ConvNorm::new(stem, 1.0, vb.pp("conv_stem"), vb.pp("bn1"))?;
        let total: usize = STAGES.iter().map(|stage| config.repeats(stage[0])).sum();
        let mut blocks = Vec::new();
        for (number, [repeats, kernel, stride, expansion, out]) in STAGES.into_iter().enumerate() {
            let out = config.round(out);
            for index in 0..config.repeats(repeats) {
                let shape = BlockShape {
                    c_in: channels,
                    c_out: out,
                    kernel,
                    stride: if index == 0 { stride } else { 1 },
                    expansion,
                    drop_path: drop_path * blocks.len() as f64 / total as f64,
                };
                blocks.push(Block::new(shape, parts.block(blocks.len()).pp("blocks").pp(number).pp(index))?);
                channels = out;
            }
        }
        let head = ConvSpec::new(channels, config.channels(), 1, 1).fan_out();
        let vb = parts.end();
        let head = ConvNorm::new(head, 1.0, vb.pp("conv_head"), vb.pp("bn2"))?;
        Ok(Self { stem, blocks, head, frozen: parts.extent })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let x = Flow::of(x)?;
        let stem = pass.part(self.frozen.stem, |pass| self.stem.forward(&x, pass.statistics(), false))?;
        let mut x = stem.silu()?;
        for (index, block) in self.blocks.iter().enumerate() {
            x = pass.part(index < self.frozen.blocks, |pass| block.forward(&x, pass))?;
        }
        let head = pass.part(self.frozen.end, |pass| self.head.forward(&x, pass.statistics(), false))?;
        Ok(head.silu()?.tensor()?)
    }

    /// All convolutions.
    pub(crate) fn convolutions(&mut self) -> Vec<&mut Conv> {
        let layers = self
            .blocks
            .iter_mut()
            .flat_map(|block| block.expand.iter_mut().chain([&mut block.depthwise, &mut block.project]));
        [&mut self.stem, &mut self.head].into_iter().chain(layers).map(|layer| &mut layer.conv).collect()
    }

    pub(crate) fn flops(&self, mut size: usize) -> u64 {
        let stem = self.stem.conv.flops(&mut size);
        let blocks: u64 = self.blocks.iter().map(|block| block.flops(&mut size)).sum();
        stem + blocks + self.head.conv.flops(&mut size)
    }
}

#[derive(Debug, Clone, Copy)]
struct BlockShape {
    c_in: usize,
    c_out: usize,
    kernel: usize,
    stride: usize,
    expansion: usize,
    drop_path: f64,
}

/// An inverted residual: 1×1 to more channels (absent without expansion), depthwise, squeeze-and-excitation, 1×1.
#[derive(Debug)]
struct Block {
    expand: Option<ConvNorm>,
    depthwise: ConvNorm,
    excite: SqueezeExcite,
    project: ConvNorm,
    residual: bool,
    drop_path: f64,
}

impl Block {
    fn new(shape: BlockShape, vb: VarBuilder) -> Result<Self> {
        let BlockShape { c_in, c_out, kernel, stride, expansion, drop_path } = shape;
        let wide = c_in * expansion;
        let layer =
            |spec: ConvSpec, conv: &str, norm: &str| ConvNorm::new(spec.fan_out(), 1.0, vb.pp(conv), vb.pp(norm));
        let expands = expansion > 1;
        // timm numbers the normalisations, and names the last convolution by whether there is a first one.
        let names = if expands { ["bn2", "conv_pwl", "bn3"] } else { ["bn1", "conv_pw", "bn2"] };
        let reduced = (c_in as f64 * 0.25).round_ties_even() as usize;
        Ok(Self {
            expand: if expands { Some(layer(ConvSpec::new(c_in, wide, 1, 1), "conv_pw", "bn1")?) } else { None },
            depthwise: layer(ConvSpec::new(wide, wide, kernel, stride).groups(wide), "conv_dw", names[0])?,
            excite: SqueezeExcite::new(wide, reduced, true, ["conv_reduce", "conv_expand"], vb.pp("se"))?,
            project: layer(ConvSpec::new(wide, c_out, 1, 1), names[1], names[2])?,
            residual: c_in == c_out && stride == 1,
            drop_path,
        })
    }

    fn forward(&self, x: &Flow, pass: &mut Pass) -> Result<Flow> {
        let statistics = pass.statistics();
        let mut y = x.clone();
        for layer in self.expand.iter().chain([&self.depthwise]) {
            y = layer.forward(&y, statistics, false)?.silu()?;
        }
        let y = self.project.forward(&self.excite.forward(&y)?, statistics, false)?;
        if self.residual { Ok(pass.drop_path(y, self.drop_path)?.add(x)?) } else { Ok(y) }
    }

    fn flops(&self, size: &mut usize) -> u64 {
        let layers = self.expand.iter().chain([&self.depthwise, &self.project]);
        layers.map(|layer| layer.conv.flops(size)).sum::<u64>() + self.excite.flops()
    }
}
