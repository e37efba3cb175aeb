//! Which network: the `backbone` of a suite file.

use serde::{Deserialize, Serialize};

use crate::architecture::Architecture;
use crate::{Backbone, Error, Result, resnet, skeleton};

/// A backbone's architecture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum BackboneConfig {
    /// A residual network (He et al. 2016) of any size, built as timm builds them.
    Resnet(ResnetConfig),
    /// An architecture of timm by its name.
    Timm(TimmConfig),
}

/// An architecture by timm's name: `timm = { name = "convnext_tiny" }`. [`crate::architectures`] lists them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimmConfig {
    /// timm's name, such as `regnety_008`.
    pub name: String,
    /// Pixels that a ViT's position embedding is for, a multiple of 16, instead of those in its name. Images of other
    /// sizes resample the embedding. The other families take any size and refuse this setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// Stochastic depth: the rate of the last block; it rises linearly from 0 in the first one.
    #[serde(default)]
    pub drop_path: f64,
    /// Dropout after the linear layers of a ViT's blocks (timm's `proj_drop_rate`). The other families refuse it.
    #[serde(default)]
    pub dropout: f64,
}

impl TimmConfig {
    /// The architecture of this name, without stochastic depth or dropout.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), image_size: None, drop_path: 0.0, dropout: 0.0 }
    }

    /// What the name and the settings describe.
    pub(crate) fn architecture(&self) -> Result<Architecture> {
        let mut architecture = Architecture::named(&self.name)?;
        for (field, rate) in [("drop_path", self.drop_path), ("dropout", self.dropout)] {
            if !(0.0..1.0).contains(&rate) {
                return Err(Error::Config { field, value: rate.to_string(), expected: "at least 0 and below 1" });
            }
        }
        if let Architecture::Vit(vit) = &mut architecture {
            if let Some(size) = self.image_size {
                if size == 0 || size % 16 != 0 {
                    let value = size.to_string();
                    return Err(Error::Config { field: "image_size", value, expected: "a positive multiple of 16" });
                }
                vit.image_size = size;
            }
            return Ok(architecture);
        }
        if let Some(size) = self.image_size {
            let expected = "no such setting: this architecture takes images of any size";
            return Err(Error::Config { field: "image_size", value: size.to_string(), expected });
        }
        if self.dropout > 0.0 {
            let expected = "0: timm has dropout inside ViT's blocks alone";
            return Err(Error::Config { field: "dropout", value: self.dropout.to_string(), expected });
        }
        Ok(architecture)
    }
}

/// Sizes of a residual network: a 7×7 convolution of stride 2, a 3×3 max pooling of stride 2, then four stages.
///
/// resnet18 is `blocks = [2, 2, 2, 2]`, `widths = [64, 128, 256, 512]`, `stem_width = 64`, `strides = [1, 2, 2, 2]`,
/// `block = "basic"`; resnet50 `blocks = [3, 4, 6, 3]` with `block = "bottleneck"`; resnext50_32x4d has
/// `groups = 32`, `base_width = 4` as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Groups of a bottleneck's 3×3 convolution.
    #[serde(default = "one_group", skip_serializing_if = "is_one_group")]
    pub groups: usize,
    /// Channels of a group where the stage's width is 64: the 3×3 convolution has `width · base_width / 64 · groups`.
    #[serde(default = "plain_width", skip_serializing_if = "is_plain_width")]
    pub base_width: usize,
}

// The two settings are left out of what is written where they say nothing, so that the ids of cells with plain residual
// networks stay what they were.
fn one_group() -> usize {
    1
}

fn is_one_group(groups: &usize) -> bool {
    *groups == one_group()
}

fn plain_width() -> usize {
    64
}

fn is_plain_width(width: &usize) -> bool {
    *width == plain_width()
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
    pub const KINDS: &[(&str, &str)] = &[
        (
            "resnet",
            "residual network as timm builds it (blocks, widths, stem_width, strides, block, groups, base_width)",
        ),
        ("timm", "an architecture by timm's name (name, drop_path; ViT: image_size, dropout); the names are:"),
        ("  resnet", "resnet18 resnet34 resnet50 resnet101 resnext50_32x4d resnext101_32x8d"),
        ("  regnet", "regnetx_* and regnety_* of 002 004 006 008 016 032 040 064 080 120 160"),
        ("  convnext", "convnext_* of atto femto pico nano tiny small base"),
        ("  efficientnet", "efficientnet_* of b0 b1 b2 b3 b4"),
        ("  vit", "vit_tiny_*, vit_small_* and vit_base_* of patch16_224 patch16_384"),
    ];

    /// The architecture of timm of this name.
    pub fn timm(name: &str) -> Self {
        Self::Timm(TimmConfig::named(name))
    }

    pub(crate) fn architecture(&self) -> Result<Architecture> {
        match self {
            BackboneConfig::Resnet(config) => {
                config.validate()?;
                Ok(Architecture::Resnet(*config))
            }
            BackboneConfig::Timm(config) => config.architecture(),
        }
    }

    /// Checks that the configuration describes a network.
    ///
    /// # Errors
    /// [`Error::Config`] with the first field that does not fit, [`Error::UnknownArchitecture`].
    pub fn validate(&self) -> Result<()> {
        self.architecture().map(drop)
    }

    /// Checks that the backbone has the part that is to be frozen.
    ///
    /// # Errors
    /// Those of [`Self::validate`], and [`Error::Config`] for a stage that is not there.
    pub fn check_freeze(&self, freeze: crate::Freeze) -> Result<()> {
        freeze.extent(&self.architecture()?.stages()).map(drop)
    }

    /// Channels of the last feature map.
    ///
    /// # Errors
    /// Those of [`Self::validate`].
    pub fn channels(&self) -> Result<usize> {
        Ok(self.architecture()?.channels())
    }

    /// Height (or width) of the last feature map for images of `input` pixels. Residual networks, RegNet and
    /// EfficientNet round up, ConvNeXt rounds down, ViT takes multiples of 16 alone.
    ///
    /// # Errors
    /// Those of [`Self::validate`].
    pub fn map_size(&self, input: usize) -> Result<usize> {
        Ok(self.architecture()?.map_size(input))
    }

    /// Floating-point operations of one forward pass over one square image: two for each product of a convolution, a
    /// linear layer or attention.
    ///
    /// # Errors
    /// Those of [`Self::validate`].
    pub fn flops(&self, input: usize) -> Result<u64> {
        Ok(Backbone::new(self, skeleton::builder())?.flops(input))
    }

    /// What the names of timm's classifier begin with: a checkpoint's tensors of these names are not the backbone's.
    /// ConvNeXt's normalisation after the pooling is among them.
    ///
    /// # Errors
    /// Those of [`Self::validate`].
    pub fn classifier_prefix(&self) -> Result<&'static str> {
        Ok(self.architecture()?.classifier_prefix())
    }
}

/// `⌈n / stride⌉`: what an odd kernel padded by half of it makes of `n` pixels.
pub(crate) fn strided(n: usize, stride: usize) -> usize {
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
        for (field, value) in [("stem_width", self.stem_width), ("groups", self.groups)] {
            if value == 0 {
                return Err(Error::Config { field, value: "0".into(), expected: "at least 1" });
            }
        }
        let plain = self.groups == 1 && self.base_width == plain_width();
        if self.block == BlockKind::Basic && !plain {
            let value = format!("{} with `base_width` = {}", self.groups, self.base_width);
            let expected = "1 with `base_width` = 64 for basic blocks: only bottlenecks have groups";
            return Err(Error::Config { field: "groups", value, expected });
        }
        if self.widths.iter().any(|width| width * self.base_width / 64 == 0) {
            let (value, expected) = (self.base_width.to_string(), "at least one channel per group in every stage");
            return Err(Error::Config { field: "base_width", value, expected });
        }
        Ok(())
    }

    /// Channels of the last map.
    pub(crate) fn channels(&self) -> usize {
        self.widths[3] * self.block.expansion()
    }

    /// Size of the last map.
    pub(crate) fn map_size(&self, input: usize) -> usize {
        resnet::map_size(self, input)
    }
}
