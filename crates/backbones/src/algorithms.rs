//! Which algorithms convolutions run by.

use candle_core::Device;
use kernels::libraries::{self, Library};
use kernels::nn::ConvLibrary;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// By which algorithms a backbone's convolutions run, see [`crate::Backbone::set_algorithms`]: `algorithms` in a suite file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithms {
    /// `deterministic`: those that give the same bits in every run ([`ConvLibrary::Automatic`]).
    #[default]
    Deterministic,
    /// `fast`: those of cuDNN that it expects to be the fastest ([`ConvLibrary::CudnnFast`]). Gradients may differ from run to
    /// run, and float32 products may be rounded to TF32.
    Fast,
}

impl std::fmt::Display for Algorithms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Deterministic => "deterministic",
            Self::Fast => "fast",
        })
    }
}

impl Algorithms {
    /// Refuses [`Algorithms::Fast`] anywhere but on a card with cuDNN, which is opened to see.
    ///
    /// # Errors
    /// [`Error::Algorithms`] with what is missing.
    pub fn check(self, device: &Device) -> Result<()> {
        if self == Self::Deterministic {
            return Ok(());
        }
        let reason = match libraries::of(device) {
            None => format!("this is {:?}", device.location()),
            Some(found) => match found.cudnn {
                Library::Version(_) => return Ok(()),
                absent => format!("cuDNN is {absent}"),
            },
        };
        Err(Error::Algorithms { reason })
    }

    pub(crate) fn library(self) -> ConvLibrary {
        match self {
            Self::Deterministic => ConvLibrary::Automatic,
            Self::Fast => ConvLibrary::CudnnFast,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backbone, BackboneConfig, skeleton};

    #[test]
    fn every_convolution_is_reached() {
        for name in ["resnet50", "regnety_002", "convnext_atto", "efficientnet_b0", "vit_tiny_patch16_224"] {
            let config = BackboneConfig::timm(name);
            let mut backbone = Backbone::new(&config, skeleton::builder()).unwrap();
            // Squeeze-and-excitation has filters of one tap and computes linear maps.
            let is_filter = |name: &str, shape: &[usize]| shape.len() == 4 && !name.contains(".se.");
            let tensors = skeleton::tensors_of(&config).unwrap();
            let expected: usize = tensors
                .iter()
                .filter(|(name, shape)| is_filter(name, shape))
                .map(|(_, s)| s.iter().product::<usize>())
                .sum();
            let mut reached = 0;
            for conv in backbone.convolutions() {
                assert_eq!(conv.library(), ConvLibrary::Automatic);
                reached += conv.elements();
                conv.set_library(Algorithms::Fast.library());
                assert_eq!(conv.library(), ConvLibrary::CudnnFast);
            }
            assert_eq!(reached, expected, "{name}");
        }
    }
}
