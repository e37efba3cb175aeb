//! The protocol's optimiser.

use std::collections::BTreeMap;

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use kernels::optim::{AdamW, AdamWConfig, GradientNorm, Parameter, Sgd, SgdConfig};
use records::Stage;

use super::Failure;
use crate::suite::OptimizerConfig;

/// One of the optimisers that a protocol may name.
pub(crate) enum Optimizer {
    Adamw(AdamW),
    Sgd(Sgd),
}

impl Optimizer {
    pub(crate) fn new(config: &OptimizerConfig, parameters: Vec<Parameter>) -> Result<Self, Failure> {
        let made = match config {
            OptimizerConfig::Adamw(s) => {
                let (learning_rate, weight_decay) = (s.learning_rate, s.weight_decay);
                let config = AdamWConfig { learning_rate, weight_decay, ..AdamWConfig::default() };
                AdamW::new(parameters, config).map(Self::Adamw)
            }
            OptimizerConfig::Sgd(s) => {
                let (learning_rate, momentum, weight_decay) = (s.learning_rate, s.momentum, s.weight_decay);
                let config = SgdConfig { learning_rate, momentum, weight_decay, nesterov: false };
                Sgd::new(parameters, config).map(Self::Sgd)
            }
        };
        made.map_err(|e| Failure::at(Stage::Model, e))
    }

    /// One step with the gradients scaled down to a norm of at most `most`, if there is a most; their norm comes back, and on
    /// a card stays there until it is read. A norm that is not finite makes no step.
    pub(crate) fn step(
        &mut self,
        gradients: &GradStore,
        rate: f64,
        most: Option<f64>,
    ) -> kernels::Result<GradientNorm> {
        match self {
            Self::Adamw(adamw) => adamw.step_clipped(gradients, rate, most),
            Self::Sgd(sgd) => sgd.step_clipped(gradients, rate, most),
        }
    }

    /// Its state, for a checkpoint.
    pub(crate) fn state(&self) -> BTreeMap<String, Tensor> {
        match self {
            Self::Adamw(adamw) => adamw.state(),
            Self::Sgd(sgd) => sgd.state(),
        }
    }

    /// Takes its state after `step` steps from a checkpoint.
    pub(crate) fn load_state(&mut self, state: &BTreeMap<String, Tensor>, step: u64) -> Result<(), Failure> {
        let loaded = match self {
            Self::Adamw(adamw) => adamw.load_state(state, step),
            Self::Sgd(sgd) => sgd.load_state(state, step),
        };
        loaded.map_err(|e| Failure::at(Stage::Model, e))
    }
}
