//! Residual networks (He et al. 2016), wired and named as timm's `resnet*`.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use kernels::nn;

use crate::layers::{BatchNorm, BatchStatistics, Conv};
use crate::{BlockKind, ResnetConfig, Result};

/// Stem and four stages of blocks.
#[derive(Debug)]
pub(crate) struct Resnet {
    conv1: Conv,
    bn1: BatchNorm,
    blocks: Vec<Block>,
}

impl Resnet {
    pub(crate) fn new(config: &ResnetConfig, vb: VarBuilder) -> Result<Self> {
        let conv1 = Conv::new(3, config.stem_width, 7, 2, vb.pp("conv1"))?;
        let bn1 = BatchNorm::new(config.stem_width, 1.0, vb.pp("bn1"))?;
        let mut blocks = Vec::new();
        let mut channels = config.stem_width;
        for stage in 0..4 {
            let vb = vb.pp(format!("layer{}", stage + 1));
            for index in 0..config.blocks[stage] {
                let stride = if index == 0 { config.strides[stage] } else { 1 };
                blocks.push(Block::new(config.block, channels, config.widths[stage], stride, vb.pp(index))?);
                channels = config.widths[stage] * config.block.expansion();
            }
        }
        Ok(Self { conv1, bn1, blocks })
    }

    pub(crate) fn forward(&self, x: &Tensor, statistics: BatchStatistics) -> Result<Tensor> {
        let x = self.bn1.forward(&self.conv1.forward(x)?, statistics, true)?;
        let mut x = nn::max_pool2d(&x, 3, 2, 1)?;
        for block in &self.blocks {
            x = block.forward(&x, statistics)?;
        }
        Ok(x)
    }
}

/// A residual block: convolutions, each with its normalisation, beside a shortcut.
#[derive(Debug)]
struct Block {
    layers: Vec<(Conv, BatchNorm)>,
    downsample: Option<(Conv, BatchNorm)>,
}

impl Block {
    fn new(kind: BlockKind, c_in: usize, width: usize, stride: usize, vb: VarBuilder) -> Result<Self> {
        let c_out = width * kind.expansion();
        // Input, output, kernel, stride of each convolution.
        let shapes: &[[usize; 4]] = match kind {
            BlockKind::Basic => &[[c_in, width, 3, stride], [width, width, 3, 1]],
            BlockKind::Bottleneck => &[[c_in, width, 1, 1], [width, width, 3, stride], [width, c_out, 1, 1]],
        };
        let mut layers = Vec::new();
        for (index, [c_in, c_out, kernel, stride]) in shapes.iter().copied().enumerate() {
            let number = index + 1;
            // A block starts as the identity: its last scale is 0.
            let gamma = if number == shapes.len() { 0.0 } else { 1.0 };
            let conv = Conv::new(c_in, c_out, kernel, stride, vb.pp(format!("conv{number}")))?;
            layers.push((conv, BatchNorm::new(c_out, gamma, vb.pp(format!("bn{number}")))?));
        }
        let downsample = if stride != 1 || c_in != c_out {
            let vb = vb.pp("downsample");
            Some((Conv::new(c_in, c_out, 1, stride, vb.pp(0))?, BatchNorm::new(c_out, 1.0, vb.pp(1))?))
        } else {
            None
        };
        Ok(Self { layers, downsample })
    }

    fn forward(&self, x: &Tensor, statistics: BatchStatistics) -> Result<Tensor> {
        let shortcut = match &self.downsample {
            Some((conv, norm)) => norm.forward(&conv.forward(x)?, statistics, false)?,
            None => x.clone(),
        };
        let mut y = x.clone();
        for (index, (conv, norm)) in self.layers.iter().enumerate() {
            let relu = index + 1 < self.layers.len();
            y = norm.forward(&conv.forward(&y)?, statistics, relu)?;
        }
        Ok(nn::add_relu(&y, &shortcut)?)
    }
}
