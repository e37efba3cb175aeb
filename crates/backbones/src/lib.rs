//! Trainable backbones with timm's parameter names, and the store that holds and initialises their parameters.

mod algorithms;
mod architecture;
mod config;
mod convnext;
mod efficientnet;
mod error;
mod features;
mod freeze;
mod hub;
mod layers;
pub mod parity;
mod pass;
mod precision;
mod regnet;
mod resample;
mod resnet;
mod skeleton;
mod store;
mod vit;
mod weights;

use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

pub use algorithms::Algorithms;
use architecture::Architecture;
pub use architecture::architectures;
pub use config::{BackboneConfig, BlockKind, ResnetConfig, TimmConfig};
use convnext::Convnext;
use efficientnet::Efficientnet;
pub use error::{Error, Misfits, Result};
pub use features::Features;
pub use freeze::Freeze;
use freeze::Parts;
pub use hub::{CropMode, HubConfig, HubConfigError, Interpolation};
pub use layers::BatchStatistics;
use layers::Conv;
pub use pass::Pass;
pub use precision::Precision;
use regnet::Regnet;
pub use resample::resample_grid;
use resnet::Resnet;
pub use store::ParameterStore;
use vit::{Rates, Vit};
pub use weights::{LoadReport, NamedShape, WeightMisfits, Weights};

/// A network from images to feature maps.
#[derive(Debug)]
pub struct Backbone {
    network: Network,
    channels: usize,
    frozen: BTreeSet<String>,
    dtype: DType,
    device: Device,
    precision: Precision,
    algorithms: Algorithms,
}

#[derive(Debug)]
enum Network {
    Resnet(Resnet),
    Regnet(Regnet),
    Convnext(Convnext),
    Efficientnet(Efficientnet),
    Vit(Vit),
}

impl Backbone {
    /// Builds the network over the tensors of `vb`.
    ///
    /// Over [`ParameterStore::var_builder`] it is trainable. Over `VarBuilder::from_tensors` of detached tensors, such
    /// as those of `kernels::optim::Ema::tensors`, it is a teacher without a graph; detached tensors share memory with
    /// the averages, so one network built once always computes with the current ones.
    ///
    /// # Errors
    /// Those of [`BackboneConfig::validate`], or a tensor that `vb` lacks or has in another shape.
    pub fn new(config: &BackboneConfig, vb: VarBuilder) -> Result<Self> {
        Self::with_freeze(config, Freeze::None, vb)
    }

    /// [`Self::new`] with a part that is not trained, see [`Freeze`]. Such a network trains what
    /// [`ParameterStore::trained`] gives for [`Self::frozen`].
    ///
    /// # Errors
    /// Those of [`Self::new`] and [`BackboneConfig::check_freeze`].
    pub fn with_freeze(config: &BackboneConfig, freeze: Freeze, vb: VarBuilder) -> Result<Self> {
        let architecture = config.architecture()?;
        let (dtype, device) = (vb.dtype(), vb.device().clone());
        let parts = Parts::new(vb, freeze.extent(&architecture.stages())?);
        let rates = match config {
            BackboneConfig::Resnet(_) => Rates { drop_path: 0.0, dropout: 0.0 },
            BackboneConfig::Timm(config) => Rates { drop_path: config.drop_path, dropout: config.dropout },
        };
        let drop_path = rates.drop_path;
        let network = match &architecture {
            Architecture::Resnet(config) => Network::Resnet(Resnet::new(config, drop_path, &parts)?),
            Architecture::Regnet(config) => Network::Regnet(Regnet::new(config, drop_path, &parts)?),
            Architecture::Convnext(config) => Network::Convnext(Convnext::new(config, drop_path, &parts)?),
            Architecture::Efficientnet(config) => Network::Efficientnet(Efficientnet::new(config, drop_path, &parts)?),
            Architecture::Vit(config) => Network::Vit(Vit::new(config, rates, &parts)?),
        };
        let (channels, frozen) = (architecture.channels(), parts.frozen());
        Ok(Self {
            network,
            channels,
            frozen,
            dtype,
            device,
            precision: Precision::default(),
            algorithms: Algorithms::default(),
        })
    }

    /// Sets what later passes store activations in. Parameters, images and features stay as they are.
    ///
    /// # Errors
    /// [`Error::Precision`] for [`Precision::BFloat16`] on the CPU or in float64; nothing is changed then.
    pub fn set_precision(&mut self, precision: Precision) -> Result<()> {
        precision.check(self.dtype, &self.device)?;
        self.precision = precision;
        Ok(())
    }

    /// What passes store activations in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Sets by which algorithms later passes convolve, forwards and backwards.
    ///
    /// # Errors
    /// [`Error::Algorithms`] for [`Algorithms::Fast`] where there is no cuDNN; nothing is changed then.
    pub fn set_algorithms(&mut self, algorithms: Algorithms) -> Result<()> {
        algorithms.check(&self.device)?;
        self.algorithms = algorithms;
        self.convolutions().into_iter().for_each(|conv| conv.set_library(algorithms.library()));
        Ok(())
    }

    /// By which algorithms passes convolve.
    pub fn algorithms(&self) -> Algorithms {
        self.algorithms
    }

    /// All its convolutions but those of squeeze-and-excitation, which are linear maps of means.
    fn convolutions(&mut self) -> Vec<&mut Conv> {
        match &mut self.network {
            Network::Resnet(network) => network.convolutions(),
            Network::Regnet(network) => network.convolutions(),
            Network::Convnext(network) => network.convolutions(),
            Network::Efficientnet(network) => network.convolutions(),
            Network::Vit(network) => network.convolutions(),
        }
    }

    /// The last feature map, [B, channels, H', W'], of images [B, 3, H, W]; for a ViT its patch tokens.
    ///
    /// Deterministic: the same bits for the same input, whatever the number of threads.
    ///
    /// # Errors
    /// Images of the wrong shape or dtype, [`Error::FrozenStatistics`] for [`BatchStatistics::Train`] on a network
    /// over plain tensors, and [`Error::NoStream`] for it where `drop_path` or `dropout` is above 0: those networks
    /// train through [`Self::features`].
    pub fn forward_t(&self, x: &Tensor, statistics: BatchStatistics) -> Result<Tensor> {
        self.features(x, &mut Pass::new(statistics))?.map()
    }

    /// What timm's `forward_features` gives: the last map, or all tokens of a ViT with the class token first.
    ///
    /// # Errors
    /// Those of [`Self::forward_t`].
    pub fn forward_features(&self, x: &Tensor, statistics: BatchStatistics) -> Result<Tensor> {
        Ok(self.features(x, &mut Pass::new(statistics))?.into_tensor())
    }

    /// The features of images [B, 3, H, W], to be looked at as map, tokens or pooled vector.
    ///
    /// # Errors
    /// Those of [`Self::forward_t`]; a pass of [`Pass::training`] has the stream that stochastic depth needs.
    pub fn features(&self, x: &Tensor, pass: &mut Pass) -> Result<Features> {
        let x = &self.precision.enter(x)?;
        let (features, grid) = match &self.network {
            Network::Resnet(network) => (network.forward(x, pass)?, None),
            Network::Regnet(network) => (network.forward(x, pass)?, None),
            Network::Convnext(network) => (network.forward(x, pass)?, None),
            Network::Efficientnet(network) => (network.forward(x, pass)?, None),
            Network::Vit(network) => {
                let (tokens, grid) = network.forward(x, pass)?;
                (tokens, Some(grid))
            }
        };
        let features = self.precision.leave(features)?;
        Ok(match grid {
            None => Features::of_map(features),
            Some(grid) => Features::of_tokens(features, grid),
        })
    }

    /// Names of the parameters and buffers that are not trained.
    pub fn frozen(&self) -> &BTreeSet<String> {
        &self.frozen
    }

    /// Channels of the last feature map.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Floating-point operations of one forward pass over one square image of `input` pixels.
    pub(crate) fn flops(&self, input: usize) -> u64 {
        match &self.network {
            Network::Resnet(network) => network.flops(input),
            Network::Regnet(network) => network.flops(input),
            Network::Convnext(network) => network.flops(input),
            Network::Efficientnet(network) => network.flops(input),
            Network::Vit(network) => network.flops(input),
        }
    }
}
