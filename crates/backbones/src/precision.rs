//! What activations are stored in.

use candle_core::{DType, Device, Tensor};
use kernels::nn::cast;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What the activations of a backbone are stored in, see [`crate::Backbone::set_precision`]: `precision` in a suite file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Precision {
    /// `float32`: activations have the dtype of the parameters.
    #[default]
    #[serde(rename = "float32")]
    Float32,
    /// `bfloat16`: activations and their gradients are bfloat16, and weights are rounded to it where they multiply them, as in
    /// Micikevicius et al. 2018 (section 3.1) with a type that needs no scaling of the loss. Parameters, their gradients, sums
    /// and the statistics of normalisations stay float32, and so do images and features.
    #[serde(rename = "bfloat16")]
    BFloat16,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Float32 => "float32",
            Self::BFloat16 => "bfloat16",
        })
    }
}

impl Precision {
    /// Refuses bfloat16 anywhere but beside float32 parameters on a card.
    pub(crate) fn check(self, dtype: DType, device: &Device) -> Result<()> {
        if self == Self::Float32 || dtype == DType::F32 && device.is_cuda() {
            return Ok(());
        }
        Err(Error::Precision { dtype, device: format!("{:?}", device.location()) })
    }

    /// Images as activations.
    pub(crate) fn enter(self, images: &Tensor) -> Result<Tensor> {
        match self {
            Self::Float32 => Ok(images.clone()),
            Self::BFloat16 => Ok(cast(images, DType::BF16)?),
        }
    }

    /// Activations as features.
    pub(crate) fn leave(self, features: Tensor) -> Result<Tensor> {
        match self {
            Self::Float32 => Ok(features),
            Self::BFloat16 => Ok(cast(&features, DType::F32)?),
        }
    }
}
