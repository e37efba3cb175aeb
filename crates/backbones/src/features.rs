//! Feature taps: one result, seen as map, tokens or pooled vector.

use candle_core::Tensor;

use crate::Result;

/// What a backbone makes of a batch of images.
#[derive(Debug, Clone)]
pub struct Features {
    tensor: Tensor,
    /// Patches along height and width, where the tensor holds tokens.
    grid: Option<[usize; 2]>,
}

impl Features {
    /// Of a map [B, C, H, W].
    pub(crate) fn of_map(tensor: Tensor) -> Self {
        Self { tensor, grid: None }
    }

    /// Of tokens [B, 1 + h·w, C], the class token first.
    pub(crate) fn of_tokens(tensor: Tensor, grid: [usize; 2]) -> Self {
        Self { tensor, grid: Some(grid) }
    }

    /// The last map, [B, C, H, W]; of a ViT its patch tokens, without the class token.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn map(&self) -> Result<Tensor> {
        match self.grid {
            None => Ok(self.tensor.clone()),
            Some([height, width]) => {
                let (batch, _, channels) = self.tensor.dims3()?;
                let patches = self.tensor.narrow(1, 1, height * width)?.transpose(1, 2)?.contiguous()?;
                Ok(patches.reshape((batch, channels, height, width))?)
            }
        }
    }

    /// Tokens [B, N, C]: those of a ViT, the class token first, or the pixels of the last map.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn tokens(&self) -> Result<Tensor> {
        match self.grid {
            None => Ok(self.tensor.flatten_from(2)?.transpose(1, 2)?.contiguous()?),
            Some(_) => Ok(self.tensor.clone()),
        }
    }

    /// One vector an image, [B, C]: the class token of a ViT, or the mean over the last map. It is what timm's classifier
    /// sees, apart from ConvNeXt's, which normalises the mean first.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn pooled(&self) -> Result<Tensor> {
        match self.grid {
            None => Ok(kernels::nn::global_mean(&self.tensor)?),
            Some(_) => Ok(self.tensor.narrow(1, 0, 1)?.squeeze(1)?),
        }
    }

    /// The tensor itself: timm's `forward_features`.
    pub fn into_tensor(self) -> Tensor {
        self.tensor
    }
}
