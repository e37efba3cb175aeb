//! RegNetX and RegNetY (Radosavovic et al. 2020), wired and named as timm's `regnetx_*`, `regnety_*`.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use kernels::nn::Flow;

use crate::config::strided;
use crate::freeze::{Extent, Parts};
use crate::layers::{Conv, ConvNorm, ConvSpec, SqueezeExcite, paired};
use crate::{Pass, Result};

/// The parameters from which the widths follow (equations 2 to 4 of the paper).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RegnetConfig {
    /// Initial width w₀.
    initial: f64,
    /// Slope w_a.
    slope: f64,
    /// Multiplier w_m.
    multiplier: f64,
    group_width: usize,
    depth: usize,
    /// RegNetY: squeeze-and-excitation through a quarter of a block's input channels.
    excite: bool,
}

const fn x(initial: f64, slope: f64, multiplier: f64, group_width: usize, depth: usize) -> RegnetConfig {
    RegnetConfig { initial, slope, multiplier, group_width, depth, excite: false }
}

const fn y(initial: f64, slope: f64, multiplier: f64, group_width: usize, depth: usize) -> RegnetConfig {
    RegnetConfig { initial, slope, multiplier, group_width, depth, excite: true }
}

/// timm's names.
pub(crate) const VARIANTS: &[(&str, RegnetConfig)] = &[
    ("regnetx_002", x(24.0, 36.44, 2.49, 8, 13)),
    ("regnetx_004", x(24.0, 24.48, 2.54, 16, 22)),
    ("regnetx_006", x(48.0, 36.97, 2.24, 24, 16)),
    ("regnetx_008", x(56.0, 35.73, 2.28, 16, 16)),
    ("regnetx_016", x(80.0, 34.01, 2.25, 24, 18)),
    ("regnetx_032", x(88.0, 26.31, 2.25, 48, 25)),
    ("regnetx_040", x(96.0, 38.65, 2.43, 40, 23)),
    ("regnetx_064", x(184.0, 60.83, 2.07, 56, 17)),
    ("regnetx_080", x(80.0, 49.56, 2.88, 120, 23)),
    ("regnetx_120", x(168.0, 73.36, 2.37, 112, 19)),
    ("regnetx_160", x(216.0, 55.59, 2.1, 128, 22)),
    ("regnety_002", y(24.0, 36.44, 2.49, 8, 13)),
    ("regnety_004", y(48.0, 27.89, 2.09, 8, 16)),
    ("regnety_006", y(48.0, 32.54, 2.32, 16, 15)),
    ("regnety_008", y(56.0, 38.84, 2.4, 16, 14)),
    ("regnety_016", y(48.0, 20.71, 2.65, 24, 27)),
    ("regnety_032", y(80.0, 42.63, 2.66, 24, 21)),
    ("regnety_040", y(96.0, 31.41, 2.24, 64, 22)),
    ("regnety_064", y(112.0, 33.22, 2.27, 72, 25)),
    ("regnety_080", y(192.0, 76.82, 2.19, 56, 17)),
    ("regnety_120", y(168.0, 73.36, 2.37, 112, 19)),
    ("regnety_160", y(200.0, 106.23, 2.48, 112, 18)),
];

/// Channels of the stem.
const STEM: usize = 32;

/// Width, group width and blocks of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stage {
    width: usize,
    group_width: usize,
    blocks: usize,
}

impl RegnetConfig {
    /// Block `j` has the width `w₀ w_m^round(log((w₀ + w_a j) / w₀) / log w_m)` as a multiple of 8; equal widths make a
    /// stage, whose width is then rounded to a multiple of its group width. Halves round to even.
    fn stages(&self) -> Vec<Stage> {
        let mut stages: Vec<Stage> = Vec::new();
        for block in 0..self.depth {
            let line = (self.initial + self.slope * block as f64) / self.initial;
            let power = (line.ln() / self.multiplier.ln()).round_ties_even();
            let width = (self.initial * self.multiplier.powf(power) / 8.0).round_ties_even() as usize * 8;
            match stages.last_mut().filter(|stage| stage.width == width) {
                Some(stage) => stage.blocks += 1,
                None => stages.push(Stage { width, group_width: self.group_width.min(width), blocks: 1 }),
            }
        }
        for stage in &mut stages {
            let groups = (stage.width as f64 / stage.group_width as f64).round_ties_even() as usize;
            stage.width = groups * stage.group_width;
        }
        stages
    }

    /// Blocks of each stage.
    pub(crate) fn blocks(&self) -> Vec<usize> {
        self.stages().iter().map(|stage| stage.blocks).collect()
    }

    /// Channels of the last map.
    pub(crate) fn channels(&self) -> usize {
        self.stages().last().map_or(STEM, |stage| stage.width)
    }

    /// Size of the last map: the stem and every stage halve.
    pub(crate) fn map_size(&self, input: usize) -> usize {
        (0..=self.stages().len()).fold(input, |size, _| strided(size, 2))
    }
}

/// Stem and stages of blocks.
#[derive(Debug)]
pub(crate) struct Regnet {
    stem: ConvNorm,
    blocks: Vec<Block>,
    frozen: Extent,
}

/// A convolution and its normalisation under timm's names.
fn layer(spec: ConvSpec, gamma: f64, vb: VarBuilder) -> Result<ConvNorm> {
    ConvNorm::new(spec.fan_out(), gamma, vb.pp("conv"), vb.pp("bn"))
}

impl Regnet {
    pub(crate) fn new(config: &RegnetConfig, drop_path: f64, parts: &Parts) -> Result<Self> {
        let stem = layer(ConvSpec::new(3, STEM, 3, 2), 1.0, parts.stem().pp("stem"))?;
        let stem = stem.paired(paired(0, config.depth));
        let mut blocks = Vec::new();
        let mut channels = STEM;
        for (number, stage) in (1..).zip(config.stages()) {
            for index in 0..stage.blocks {
                let stride = if index == 0 { 2 } else { 1 };
                let rate = drop_path * blocks.len() as f64 / (config.depth - 1).max(1) as f64;
                let vb = parts.block(blocks.len()).pp(format!("s{number}")).pp(format!("b{}", index + 1));
                let block = Block::new(stage, channels, stride, config.excite, rate, vb)?;
                blocks.push(block.paired(paired(blocks.len(), config.depth)));
                channels = stage.width;
            }
        }
        Ok(Self { stem, blocks, frozen: parts.extent })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let x = Flow::of(x)?;
        let mut x = pass.part(self.frozen.stem, |pass| self.stem.forward(&x, pass.statistics(), true))?;
        for (index, block) in self.blocks.iter().enumerate() {
            x = pass.part(index < self.frozen.blocks, |pass| block.forward(&x, pass))?;
        }
        Ok(x.tensor()?)
    }

    /// All convolutions.
    pub(crate) fn convolutions(&mut self) -> Vec<&mut Conv> {
        let layers = self.blocks.iter_mut().flat_map(|block| {
            [&mut block.conv1, &mut block.conv2, &mut block.conv3].into_iter().chain(&mut block.downsample)
        });
        std::iter::once(&mut self.stem).chain(layers).map(|layer| &mut layer.conv).collect()
    }

    pub(crate) fn flops(&self, mut size: usize) -> u64 {
        let stem = self.stem.conv.flops(&mut size);
        stem + self.blocks.iter().map(|block| block.flops(&mut size)).sum::<u64>()
    }
}

/// 1×1, grouped 3×3, squeeze-and-excitation, 1×1, beside a shortcut.
#[derive(Debug)]
struct Block {
    conv1: ConvNorm,
    conv2: ConvNorm,
    excite: Option<SqueezeExcite>,
    conv3: ConvNorm,
    downsample: Option<ConvNorm>,
    drop_path: f64,
}

impl Block {
    fn new(stage: Stage, c_in: usize, stride: usize, excite: bool, drop_path: f64, vb: VarBuilder) -> Result<Self> {
        let width = stage.width;
        let excite = if excite {
            let reduced = (c_in as f64 * 0.25).round_ties_even() as usize;
            Some(SqueezeExcite::new(width, reduced, false, ["fc1", "fc2"], vb.pp("se"))?)
        } else {
            None
        };
        let grouped = ConvSpec::new(width, width, 3, stride).groups(width / stage.group_width);
        let downsample = if stride != 1 || c_in != width {
            Some(layer(ConvSpec::new(c_in, width, 1, stride), 1.0, vb.pp("downsample"))?)
        } else {
            None
        };
        Ok(Self {
            conv1: layer(ConvSpec::new(c_in, width, 1, 1), 1.0, vb.pp("conv1"))?,
            conv2: layer(grouped, 1.0, vb.pp("conv2"))?,
            excite,
            // A block starts as the identity: its last scale is 0.
            conv3: layer(ConvSpec::new(width, width, 1, 1), 0.0, vb.pp("conv3"))?,
            downsample,
            drop_path,
        })
    }

    /// See [`ConvNorm::paired`].
    fn paired(self, paired: bool) -> Self {
        let [conv1, conv2, conv3] = [self.conv1, self.conv2, self.conv3].map(|layer| layer.paired(paired));
        let downsample = self.downsample.map(|layer| layer.paired(paired));
        Self { conv1, conv2, conv3, downsample, ..self }
    }

    fn forward(&self, x: &Flow, pass: &mut Pass) -> Result<Flow> {
        let statistics = pass.statistics();
        let mut y = self.conv2.forward(&self.conv1.forward(x, statistics, true)?, statistics, true)?;
        if let Some(excite) = &self.excite {
            y = excite.forward(&y)?;
        }
        let y = pass.drop_path(self.conv3.forward(&y, statistics, false)?, self.drop_path)?;
        Ok(match &self.downsample {
            Some(layer) => y.add_relu(&layer.forward(x, statistics, false)?)?,
            None => y.add_relu(x)?,
        })
    }

    fn flops(&self, size: &mut usize) -> u64 {
        let mut before = *size;
        let shortcut = self.downsample.as_ref().map_or(0, |layer| layer.conv.flops(&mut before));
        let layers: u64 = [&self.conv1, &self.conv2, &self.conv3].iter().map(|layer| layer.conv.flops(size)).sum();
        shortcut + layers + self.excite.as_ref().map_or(0, SqueezeExcite::flops)
    }
}
