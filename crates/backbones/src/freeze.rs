//! Freezing: the first part of a backbone as it came, without gradients.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How much of a backbone, from the images on, is not trained: `freeze` in a suite file.
///
/// The *stem* is what stands before the first block: a residual network's or RegNet's or EfficientNet's first convolution
/// with its normalisation, ConvNeXt's patch convolution with its normalisation, a ViT's patch embedding, class token and
/// position embedding. *Stages* are counted from 1 and include all before them: `layer1` to `layer4` of a residual network,
/// `s1` to `s4` of RegNet, `stages.0` to `stages.3` of ConvNeXt (each with the downsampling before it), `blocks.0` to
/// `blocks.6` of EfficientNet; a ViT has no stages, so its twelve blocks make four of three. *Half* is the stem and the first
/// `⌊n/2⌋` of all n blocks, which may end inside a stage: `layer3.0` is the last frozen block of resnet50. What stands behind
/// the last block (EfficientNet's `conv_head` and `bn2`, a ViT's `norm`) is frozen by `all` alone.
///
/// What is frozen keeps its parameters bit for bit and no gradient is computed for it; its batch normalisations use the
/// running statistics and leave them as they are, whatever the pass asks for; and it has neither stochastic depth nor
/// dropout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Freeze {
    /// `none`: everything is trained.
    #[default]
    None,
    /// `stem`: what stands before the first block.
    Stem,
    /// `stage1`, `stage2`, …: the stem and the stages up to this one.
    Stage(usize),
    /// `half`: the stem and the first half of the blocks, rounded down.
    Half,
    /// `all`: the whole backbone; heads and objectives are trained on fixed features.
    All,
}

impl std::fmt::Display for Freeze {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Stem => f.write_str("stem"),
            Self::Stage(number) => write!(f, "stage{number}"),
            Self::Half => f.write_str("half"),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for Freeze {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let stage = || text.strip_prefix("stage")?.parse().ok().filter(|number| *number > 0);
        match text {
            "none" => Ok(Self::None),
            "stem" => Ok(Self::Stem),
            "half" => Ok(Self::Half),
            "all" => Ok(Self::All),
            _ => stage().map(Self::Stage).ok_or_else(|| Error::Config {
                field: "freeze",
                value: text.to_owned(),
                expected: "none, stem, stage1, stage2, …, half or all",
            }),
        }
    }
}

impl TryFrom<String> for Freeze {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Freeze> for String {
    fn from(freeze: Freeze) -> Self {
        freeze.to_string()
    }
}

impl Freeze {
    /// How far it reaches in a network with these numbers of blocks in its stages.
    ///
    /// # Errors
    /// [`Error::Config`] for a stage that is not there.
    pub(crate) fn extent(self, stages: &[usize]) -> Result<Extent> {
        let blocks: usize = stages.iter().sum();
        let of = |blocks| Extent { stem: true, blocks, end: false };
        match self {
            Self::None => Ok(Extent::default()),
            Self::Stem => Ok(of(0)),
            Self::Stage(number) if (1..=stages.len()).contains(&number) => Ok(of(stages[..number].iter().sum())),
            Self::Stage(_) => Err(Error::Config {
                field: "freeze",
                value: self.to_string(),
                expected: match stages.len() {
                    4 => "a stage of this backbone: stage1 to stage4",
                    7 => "a stage of this backbone: stage1 to stage7",
                    _ => "a stage that this backbone has",
                },
            }),
            Self::Half => Ok(of(blocks / 2)),
            Self::All => Ok(Extent { stem: true, blocks, end: true }),
        }
    }
}

/// How far freezing reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Extent {
    /// Whether what stands before the blocks is frozen.
    pub(crate) stem: bool,
    /// Frozen blocks, from the first one on.
    pub(crate) blocks: usize,
    /// Whether what stands behind the blocks is frozen.
    pub(crate) end: bool,
}

/// Builders for the two parts of a network.
pub(crate) struct Parts<'a> {
    trained: VarBuilder<'a>,
    still: VarBuilder<'a>,
    names: Names,
    pub(crate) extent: Extent,
}

/// Names of frozen tensors.
type Names = Arc<Mutex<BTreeSet<String>>>;

impl<'a> Parts<'a> {
    pub(crate) fn new(vb: VarBuilder<'a>, extent: Extent) -> Self {
        let names = Names::default();
        let (dtype, device) = (vb.dtype(), vb.device().clone());
        let backend = Still { inner: vb.clone(), names: Arc::clone(&names) };
        Self { trained: vb, still: VarBuilder::from_backend(Box::new(backend), dtype, device), names, extent }
    }

    fn of(&self, frozen: bool) -> VarBuilder<'a> {
        if frozen { self.still.clone() } else { self.trained.clone() }
    }

    /// For what stands before the blocks.
    pub(crate) fn stem(&self) -> VarBuilder<'a> {
        self.of(self.extent.stem)
    }

    /// For a block, counted over all stages from 0.
    pub(crate) fn block(&self, index: usize) -> VarBuilder<'a> {
        self.of(index < self.extent.blocks)
    }

    /// For what stands behind the blocks.
    pub(crate) fn end(&self) -> VarBuilder<'a> {
        self.of(self.extent.end)
    }

    /// Names of what was built frozen, without the builder's prefix.
    pub(crate) fn frozen(&self) -> BTreeSet<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Hands out tensors that share memory with those of `inner`, outside every graph, and remembers their full names.
struct Still<'a> {
    inner: VarBuilder<'a>,
    names: Names,
}

impl Still<'_> {
    fn remember(&self, name: &str, tensor: Tensor) -> Tensor {
        let prefix = self.inner.prefix();
        let full = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(full);
        tensor.detach()
    }
}

impl SimpleBackend for Still<'_> {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, _: &Device) -> candle_core::Result<Tensor> {
        Ok(self.remember(name, self.inner.get_with_hints_dtype(shape, name, init, dtype)?))
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _: &Device) -> candle_core::Result<Tensor> {
        Ok(self.remember(name, self.inner.get_unchecked_dtype(name, dtype)?))
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.inner.contains_tensor(name)
    }
}
