//! Residual networks (He et al. 2016; Xie et al. 2017 for groups), wired and named as timm's `resnet*`, `resnext*`.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use kernels::nn::Flow;

use crate::config::{BlockKind, ResnetConfig, strided};
use crate::freeze::{Extent, Parts};
use crate::layers::{Conv, ConvNorm, ConvSpec, paired};
use crate::{Pass, Result};

const fn variant(blocks: [usize; 4], block: BlockKind, groups: usize, base_width: usize) -> ResnetConfig {
    let widths = [64, 128, 256, 512];
    ResnetConfig { blocks, widths, stem_width: 64, strides: [1, 2, 2, 2], block, groups, base_width }
}

/// timm's names.
pub(crate) const VARIANTS: &[(&str, ResnetConfig)] = &[
    ("resnet18", variant([2, 2, 2, 2], BlockKind::Basic, 1, 64)),
    ("resnet34", variant([3, 4, 6, 3], BlockKind::Basic, 1, 64)),
    ("resnet50", variant([3, 4, 6, 3], BlockKind::Bottleneck, 1, 64)),
    ("resnet101", variant([3, 4, 23, 3], BlockKind::Bottleneck, 1, 64)),
    ("resnext50_32x4d", variant([3, 4, 6, 3], BlockKind::Bottleneck, 32, 4)),
    ("resnext101_32x8d", variant([3, 4, 23, 3], BlockKind::Bottleneck, 32, 8)),
];

/// Size of the last map.
pub(crate) fn map_size(config: &ResnetConfig, input: usize) -> usize {
    config.strides.iter().fold(strided(strided(input, 2), 2), |n, s| strided(n, *s))
}

/// Stem and four stages of blocks.
#[derive(Debug)]
pub(crate) struct Resnet {
    stem: ConvNorm,
    blocks: Vec<Block>,
    frozen: Extent,
}

impl Resnet {
    pub(crate) fn new(config: &ResnetConfig, drop_path: f64, parts: &Parts) -> Result<Self> {
        let vb = parts.stem();
        let count: usize = config.blocks.iter().sum();
        let stem = ConvNorm::new(ConvSpec::new(3, config.stem_width, 7, 2), 1.0, vb.pp("conv1"), vb.pp("bn1"))?;
        let stem = stem.paired(paired(0, count));
        let mut blocks = Vec::new();
        let mut channels = config.stem_width;
        let last = count.saturating_sub(1).max(1) as f64;
        for stage in 0..4 {
            for index in 0..config.blocks[stage] {
                let stride = if index == 0 { config.strides[stage] } else { 1 };
                let rate = drop_path * blocks.len() as f64 / last;
                let vb = parts.block(blocks.len()).pp(format!("layer{}", stage + 1)).pp(index);
                let block = Block::new(config, channels, config.widths[stage], stride, rate, vb)?;
                blocks.push(block.paired(paired(blocks.len(), count)));
                channels = config.widths[stage] * config.block.expansion();
            }
        }
        Ok(Self { stem, blocks, frozen: parts.extent })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let x = Flow::of(x)?;
        let x = pass.part(self.frozen.stem, |pass| self.stem.forward(&x, pass.statistics(), true))?;
        let mut x = x.max_pool2d(3, 2, 1)?;
        for (index, block) in self.blocks.iter().enumerate() {
            x = pass.part(index < self.frozen.blocks, |pass| block.forward(&x, pass))?;
        }
        Ok(x.tensor()?)
    }

    /// All convolutions.
    pub(crate) fn convolutions(&mut self) -> Vec<&mut Conv> {
        let layers = self.blocks.iter_mut().flat_map(|block| block.layers.iter_mut().chain(&mut block.downsample));
        std::iter::once(&mut self.stem).chain(layers).map(|layer| &mut layer.conv).collect()
    }

    pub(crate) fn flops(&self, mut size: usize) -> u64 {
        let stem = self.stem.conv.flops(&mut size);
        size = strided(size, 2);
        stem + self.blocks.iter().map(|block| block.flops(&mut size)).sum::<u64>()
    }
}

/// A residual block: convolutions, each with its normalisation, beside a shortcut.
#[derive(Debug)]
struct Block {
    layers: Vec<ConvNorm>,
    downsample: Option<ConvNorm>,
    drop_path: f64,
}

impl Block {
    fn new(
        config: &ResnetConfig,
        c_in: usize,
        width: usize,
        stride: usize,
        drop_path: f64,
        vb: VarBuilder,
    ) -> Result<Self> {
        let c_out = width * config.block.expansion();
        let specs = match config.block {
            BlockKind::Basic => vec![ConvSpec::new(c_in, width, 3, stride), ConvSpec::new(width, width, 3, 1)],
            BlockKind::Bottleneck => {
                let inner = width * config.base_width / 64 * config.groups;
                vec![
                    ConvSpec::new(c_in, inner, 1, 1),
                    ConvSpec::new(inner, inner, 3, stride).groups(config.groups),
                    ConvSpec::new(inner, c_out, 1, 1),
                ]
            }
        };
        let mut layers = Vec::new();
        for (number, spec) in (1..).zip(&specs) {
            // A block starts as the identity: its last scale is 0.
            let gamma = if number == specs.len() { 0.0 } else { 1.0 };
            layers.push(ConvNorm::new(*spec, gamma, vb.pp(format!("conv{number}")), vb.pp(format!("bn{number}")))?);
        }
        let downsample = if stride != 1 || c_in != c_out {
            let vb = vb.pp("downsample");
            Some(ConvNorm::new(ConvSpec::new(c_in, c_out, 1, stride), 1.0, vb.pp(0), vb.pp(1))?)
        } else {
            None
        };
        Ok(Self { layers, downsample, drop_path })
    }

    /// See [`ConvNorm::paired`].
    fn paired(mut self, paired: bool) -> Self {
        self.layers = self.layers.into_iter().map(|layer| layer.paired(paired)).collect();
        self.downsample = self.downsample.map(|layer| layer.paired(paired));
        self
    }

    fn forward(&self, x: &Flow, pass: &mut Pass) -> Result<Flow> {
        let shortcut = match &self.downsample {
            Some(layer) => layer.forward(x, pass.statistics(), false)?,
            None => x.clone(),
        };
        let mut y = x.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            let relu = index + 1 < self.layers.len();
            y = layer.forward(&y, pass.statistics(), relu)?;
        }
        Ok(pass.drop_path(y, self.drop_path)?.add_relu(&shortcut)?)
    }

    fn flops(&self, size: &mut usize) -> u64 {
        let mut before = *size;
        let shortcut = self.downsample.as_ref().map_or(0, |layer| layer.conv.flops(&mut before));
        shortcut + self.layers.iter().map(|layer| layer.conv.flops(size)).sum::<u64>()
    }
}
