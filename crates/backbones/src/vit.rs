//! Vision transformers (Dosovitskiy et al. 2021), wired and named as timm's `vit_*_patch16_*`.

use candle_core::{D, Tensor};
use candle_nn::VarBuilder;
use candle_nn::init::Init;
use kernels::nn::{Flow, cast};

use crate::freeze::{Extent, Parts};
use crate::layers::{Conv, ConvSpec, LayerNorm, Linear, NARROW};
use crate::resample::resample_grid;
use crate::{Error, Pass, Result};

/// Pixels of a patch's side.
const PATCH: usize = 16;
/// Blocks.
const DEPTH: usize = 12;
/// Blocks of each of the four parts that freezing calls stages.
pub(crate) const STAGES: [usize; 4] = [DEPTH / 4; 4];
/// Numbers of a head.
const HEAD: usize = 64;

/// Sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VitConfig {
    width: usize,
    /// Image size that the position embedding is for.
    pub(crate) image_size: usize,
}

const fn vit(width: usize, image_size: usize) -> VitConfig {
    VitConfig { width, image_size }
}

/// timm's names.
pub(crate) const VARIANTS: &[(&str, VitConfig)] = &[
    ("vit_tiny_patch16_224", vit(192, 224)),
    ("vit_tiny_patch16_384", vit(192, 384)),
    ("vit_small_patch16_224", vit(384, 224)),
    ("vit_small_patch16_384", vit(384, 384)),
    ("vit_base_patch16_224", vit(768, 224)),
    ("vit_base_patch16_384", vit(768, 384)),
];

impl VitConfig {
    /// Numbers of a token.
    pub(crate) fn channels(&self) -> usize {
        self.width
    }

    /// Patches along a side of an image of `input` pixels.
    pub(crate) fn map_size(&self, input: usize) -> usize {
        input / PATCH
    }
}

/// What is left out in training.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    pub(crate) drop_path: f64,
    pub(crate) dropout: f64,
}

/// Patch embedding, position embedding, blocks and a last normalisation.
#[derive(Debug)]
pub(crate) struct Vit {
    patches: Conv,
    cls_token: Tensor,
    pos_embed: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    frozen: Extent,
}

impl Vit {
    pub(crate) fn new(config: &VitConfig, rates: Rates, parts: &Parts) -> Result<Self> {
        let width = config.width;
        let tokens = config.map_size(config.image_size).pow(2) + 1;
        let mut blocks = Vec::new();
        for index in 0..DEPTH {
            let drop_path = rates.drop_path * index as f64 / (DEPTH - 1) as f64;
            let vb = parts.block(index).pp("blocks").pp(index);
            blocks.push(Block::new(width, Rates { drop_path, ..rates }, vb)?);
        }
        // PyTorch's default for a convolution: uniform within 1/√fan-in, the bias too.
        let bound = 1.0 / ((3 * PATCH * PATCH) as f64).sqrt();
        let uniform = Init::Uniform { lo: -bound, up: bound };
        let spec = ConvSpec { init: uniform, ..ConvSpec::new(3, width, PATCH, PATCH).patches() };
        let vb = parts.stem();
        let embed = vb.pp("patch_embed.proj");
        let weight = embed.get_with_hints((width, 3, PATCH, PATCH), "weight", spec.init)?;
        let patches = Conv::of(weight, embed.get_with_hints(width, "bias", uniform)?, spec.config);
        let cls_token = vb.get_with_hints((1, 1, width), "cls_token", Init::Randn { mean: 0.0, stdev: 1e-6 })?;
        let pos_embed = vb.get_with_hints((1, tokens, width), "pos_embed", NARROW)?;
        let norm = LayerNorm::new(width, parts.end().pp("norm"))?;
        Ok(Self { patches, cls_token, pos_embed, blocks, norm, frozen: parts.extent })
    }

    /// All tokens after the last normalisation, the class token first, and the patches along height and width.
    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<(Tensor, [usize; 2])> {
        let (batch, _, height, width) = x.dims4()?;
        if height == 0 || width == 0 || height % PATCH != 0 || width % PATCH != 0 {
            return Err(Error::ImageSize { height, width, multiple: PATCH });
        }
        let grid = [height / PATCH, width / PATCH];
        // Tokens are put together in the dtype of the class token and the positions, whatever that of the activations.
        let patches = cast(&self.patches.forward(&Flow::of(x)?)?.tensor()?, self.cls_token.dtype())?;
        let patches = patches.flatten_from(2)?.transpose(1, 2)?;
        let class = self.cls_token.broadcast_as((batch, 1, self.cls_token.dim(D::Minus1)?))?;
        let tokens = Tensor::cat(&[class, patches], 1)?;
        let tokens = tokens.broadcast_add(&self.positions(grid)?)?;
        let mut x = Flow::of(&cast(&tokens, x.dtype())?)?;
        for (index, block) in self.blocks.iter().enumerate() {
            x = pass.part(index < self.frozen.blocks, |pass| block.forward(&x, pass))?;
        }
        Ok((self.norm.tokens(&x)?.tensor()?, grid))
    }

    /// The position embedding for a grid of patches: as it is, or resampled.
    fn positions(&self, grid: [usize; 2]) -> Result<Tensor> {
        let patches = self.pos_embed.dim(1)? - 1;
        let side = patches.isqrt();
        if grid == [side, side] {
            return Ok(self.pos_embed.clone());
        }
        let class = self.pos_embed.narrow(1, 0, 1)?;
        let patches = self.pos_embed.narrow(1, 1, patches)?;
        Ok(Tensor::cat(&[class, resample_grid(&patches, [side, side], grid)?], 1)?)
    }

    /// All convolutions.
    pub(crate) fn convolutions(&mut self) -> Vec<&mut Conv> {
        vec![&mut self.patches]
    }

    pub(crate) fn flops(&self, mut size: usize) -> u64 {
        let patches = self.patches.flops(&mut size);
        let tokens = size * size + 1;
        patches + self.blocks.iter().map(|block| block.flops(tokens)).sum::<u64>()
    }
}

/// Attention and two linear layers, each after a normalisation and beside the identity.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
    width: usize,
    rates: Rates,
}

impl Block {
    fn new(width: usize, rates: Rates, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            norm1: LayerNorm::new(width, vb.pp("norm1"))?,
            qkv: Linear::new(width, 3 * width, vb.pp("attn.qkv"))?,
            proj: Linear::new(width, width, vb.pp("attn.proj"))?,
            norm2: LayerNorm::new(width, vb.pp("norm2"))?,
            fc1: Linear::new(width, 4 * width, vb.pp("mlp.fc1"))?,
            fc2: Linear::new(4 * width, width, vb.pp("mlp.fc2"))?,
            heads: width / HEAD,
            width,
            rates,
        })
    }

    fn forward(&self, x: &Flow, pass: &mut Pass) -> Result<Flow> {
        let Rates { drop_path, dropout } = self.rates;
        let y = self.qkv.forward(&self.norm1.tokens(x)?)?.attention(self.heads)?;
        let y = pass.dropout(self.proj.forward(&y)?, dropout)?;
        let x = x.add(&pass.drop_path(y, drop_path)?)?;
        let y = pass.dropout(self.fc1.forward(&self.norm2.tokens(&x)?)?.gelu()?, dropout)?;
        let y = pass.dropout(self.fc2.forward(&y)?, dropout)?;
        Ok(x.add(&pass.drop_path(y, drop_path)?)?)
    }

    fn flops(&self, tokens: usize) -> u64 {
        let layers = [&self.qkv, &self.proj, &self.fc1, &self.fc2].map(|layer| layer.flops(tokens));
        layers.iter().sum::<u64>() + 4 * (tokens * tokens * self.width) as u64
    }
}
