//! Trainable backbones with timm's parameter names, and the store that holds and initialises their parameters.

mod config;
mod error;
mod layers;
mod resnet;
mod store;

use candle_core::Tensor;
use candle_nn::VarBuilder;

pub use config::{BackboneConfig, BlockKind, ResnetConfig};
pub use error::{Error, Misfits, Result};
pub use layers::BatchStatistics;
use resnet::Resnet;
pub use store::ParameterStore;

/// A network from images to feature maps.
#[derive(Debug)]
pub struct Backbone {
    network: Network,
    channels: usize,
}

#[derive(Debug)]
enum Network {
    Resnet(Resnet),
}

impl Backbone {
    /// Builds the network over the tensors of `vb`.
    ///
    /// Over [`ParameterStore::var_builder`] it is trainable. Over `VarBuilder::from_tensors` of detached tensors, such
    /// as those of `kernels::optim::Ema::tensors`, it is a teacher without a graph; detached tensors share memory with
    /// the averages, so one network built once always computes with the current ones.
    ///
    /// # Errors
    /// [`Error::Config`], or a tensor that `vb` lacks or has in another shape.
    pub fn new(config: &BackboneConfig, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let network = match config {
            BackboneConfig::Resnet(config) => Network::Resnet(Resnet::new(config, vb)?),
        };
        Ok(Self { network, channels: config.channels() })
    }

    /// The last feature map, [B, channels, H', W'], of images [B, 3, H, W].
    ///
    /// Deterministic: the same bits for the same input, whatever the number of threads.
    ///
    /// # Errors
    /// Images of the wrong shape or dtype, and [`Error::FrozenStatistics`] for [`BatchStatistics::Train`] on a network
    /// over plain tensors.
    pub fn forward_t(&self, x: &Tensor, statistics: BatchStatistics) -> Result<Tensor> {
        match &self.network {
            Network::Resnet(network) => network.forward(x, statistics),
        }
    }

    /// Channels of the last feature map.
    pub fn channels(&self) -> usize {
        self.channels
    }
}
