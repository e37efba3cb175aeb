//! Which network: the `backbone` of a suite file.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A backbone's architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum BackboneConfig {
    /// A residual network (He et al. 2016) as timm builds it.
    Resnet(ResnetConfig),
}

/// Sizes of a residual network: a 7×7 convolution of stride 2, a 3×3 max pooling of stride 2, then four stages.
///
/// resnet18 is `blocks = [2, 2, 2, 2]`, `widths = [64, 128, 256, 512]`, `stem_width = 64`, `strides = [1, 2, 2, 2]`,
/// `block = "basic"`; resnet50 `blocks = [3, 4, 6, 3]` with `block = "bottleneck"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResnetConfig {
    /// Blocks of each stage.
    pub blocks: [usize; 4],
    /// Width of each stage; a bottleneck's output has four times as many channels.
    pub widths: [usize; 4],
    /// Channels of the first convolution.
    pub stem_width: usize,
    /// Stride of each stage's first block.
    pub strides: [usize; 4],
    /// What a block is made of.
    pub block: BlockKind,
}

/// What a residual block is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockKind {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1, 3×3 (with the stride), 1×1 convolutions; the last widens by four.
    Bottleneck,
}

impl BlockKind {
    /// Output channels per width.
    pub fn expansion(self) -> usize {
        match self {
            BlockKind::Basic => 1,
            BlockKind::Bottleneck => 4,
        }
    }
}

impl BackboneConfig {
    /// The kinds by their names in a suite file, with a line about each.
    pub const KINDS: &[(&str, &str)] =
        &[("resnet", "residual network as timm builds it (blocks, widths, stem_width, strides, block)")];

    /// Checks that the configuration describes a network.
    ///
    /// # Errors
    /// [`Error::Config`] with the first field that does not fit.
    pub fn validate(&self) -> Result<()> {
        match self {
            BackboneConfig::Resnet(config) => config.validate(),
        }
    }

    /// Channels of the last feature map.
    pub fn channels(&self) -> usize {
        match self {
            BackboneConfig::Resnet(config) => config.widths[3] * config.block.expansion(),
        }
    }

    /// Height (or width) of the last feature map for images of `input` pixels; at least 1 for any image.
    pub fn map_size(&self, input: usize) -> usize {
        match self {
            BackboneConfig::Resnet(config) => config.strides.iter().fold(stem_sizes(input)[1], |n, s| strided(n, *s)),
        }
    }

    /// Floating-point operations of one forward pass over one square image: two for each product of a convolution.
    pub fn flops(&self, input: usize) -> u64 {
        match self {
            BackboneConfig::Resnet(config) => config.flops(input),
        }
    }
}

/// Sizes after the first convolution and after the pooling.
fn stem_sizes(input: usize) -> [usize; 2] {
    let convolved = strided(input, 2);
    [convolved, strided(convolved, 2)]
}

/// `⌈n / stride⌉`: what an odd kernel padded by half of it makes of `n` pixels.
fn strided(n: usize, stride: usize) -> usize {
    n.div_ceil(stride)
}

impl ResnetConfig {
    fn validate(&self) -> Result<()> {
        let lists = [("blocks", &self.blocks), ("widths", &self.widths), ("strides", &self.strides)];
        for (field, values) in lists {
            if values.contains(&0) {
                return Err(Error::Config { field, value: format!("{values:?}"), expected: "numbers of at least 1" });
            }
        }
        if self.stem_width == 0 {
            return Err(Error::Config { field: "stem_width", value: "0".into(), expected: "at least 1" });
        }
        Ok(())
    }

    fn flops(&self, input: usize) -> u64 {
        let convolution = |size: usize, out: usize, taps: usize| (2 * size * size * out * taps) as u64;
        let [convolved, mut size] = stem_sizes(input);
        let mut total = convolution(convolved, self.stem_width, 3 * 49);
        let mut channels = self.stem_width;
        for stage in 0..4 {
            let (width, out) = (self.widths[stage], self.widths[stage] * self.block.expansion());
            for block in 0..self.blocks[stage] {
                let stride = if block == 0 { self.strides[stage] } else { 1 };
                let before = size;
                size = strided(size, stride);
                total += match self.block {
                    BlockKind::Basic => convolution(size, width, 9 * channels) + convolution(size, width, 9 * width),
                    BlockKind::Bottleneck => {
                        convolution(before, width, channels)
                            + convolution(size, width, 9 * width)
                            + convolution(size, out, width)
                    }
                };
                if stride != 1 || channels != out {
                    total += convolution(size, out, channels);
                }
                channels = out;
            }
        }
        total
    }
}
