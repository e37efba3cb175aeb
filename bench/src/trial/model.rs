//! The network of a trial: backbone, head and objective over one parameter store, and the averaged copy of it that
//! some methods learn from.

use std::collections::BTreeMap;

use backbones::{Backbone, BatchStatistics, ParameterStore};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use kernels::optim::{Ema, cosine_decay};
use losses::{Method, Teacher};
use random::Seeds;
use records::Stage;

use super::Failure;
use crate::plan::Trial;

/// Parameters whose names begin so serve training alone.
const TRAIN_ONLY: &str = "objective.";

/// A backbone and a method with their parameters.
pub(crate) struct Network {
    pub(crate) store: ParameterStore,
    pub(crate) backbone: Backbone,
    pub(crate) method: Method,
}

impl Network {
    /// With initial values that depend on the seed and each parameter's name alone.
    pub(crate) fn new(trial: &Trial, classes: usize, device: &Device) -> Result<Self, Failure> {
        let store = ParameterStore::new(Seeds::new(trial.seed), DType::F32, device);
        let vb = store.var_builder();
        let failed = |e: &dyn std::fmt::Display| Failure::at(Stage::Model, e);
        let backbone = Backbone::new(&trial.backbone_config, vb.clone()).map_err(|e| failed(&e))?;
        let method = Method::new(&trial.method_config, backbone.channels(), classes, vb).map_err(|e| failed(&e))?;
        Ok(Self { store, backbone, method })
    }

    /// Trainable numbers: those that a test needs, and those that training alone needs.
    pub(crate) fn count(&self) -> (u64, u64) {
        let (mut test, mut train_only) = (0, 0);
        for parameter in self.store.parameters() {
            let numbers = parameter.var.elem_count() as u64;
            if parameter.name.starts_with(TRAIN_ONLY) {
                train_only += numbers;
            } else {
                test += numbers;
            }
        }
        (test, train_only)
    }
}

/// The exponential moving average of a network: a second network whose parameters follow the first one's.
pub(crate) struct AveragedNetwork {
    average: Ema,
    backbone: Backbone,
    teacher: Teacher,
    base_decay: f64,
}

impl AveragedNetwork {
    /// The teacher that a method asks for, if it does; it starts as a copy of the network.
    pub(crate) fn of(trial: &Trial, network: &Network, device: &Device) -> Result<Option<Self>, Failure> {
        let Some(base_decay) = trial.method_config.teacher_decay() else {
            return Ok(None);
        };
        let failed = |e: &dyn std::fmt::Display| Failure::at(Stage::Model, e);
        let average = Ema::new(&network.store.tensors()).map_err(|e| failed(&e))?;
        // The builder hands out the averages themselves, so the two networks below follow every update.
        let vb = VarBuilder::from_tensors(average.tensors().into_iter().collect(), DType::F32, device);
        let backbone = Backbone::new(&trial.backbone_config, vb.clone()).map_err(|e| failed(&e))?;
        let teacher = Teacher::new(&trial.method_config, backbone.channels(), vb).map_err(|e| failed(&e))?;
        Ok(Some(Self { average, backbone, teacher, base_decay }))
    }

    /// The teacher's tokens of some images. It sees them with the statistics of its own batch and changes none of
    /// its running ones.
    pub(crate) fn tokens(&self, images: &Tensor) -> Result<Tensor, Failure> {
        let failed = |e: &dyn std::fmt::Display| Failure::at(Stage::Train, e);
        let map = self.backbone.forward_t(images, BatchStatistics::TrainFrozen).map_err(|e| failed(&e))?;
        self.teacher.tokens(&map.detach()).map_err(|e| failed(&e))
    }

    /// Moves the averages towards the network after step `step` of `total`: `decay · average + (1 − decay) · network`,
    /// with a decay that rises from its base to 1 along a cosine.
    pub(crate) fn update(&mut self, network: &Network, step: u64, total: u64) -> Result<(), Failure> {
        let decay = cosine_decay(self.base_decay, step, total);
        self.average.update(&network.store.tensors(), decay).map_err(|e| Failure::at(Stage::Train, e))
    }

    /// Its state, for a checkpoint.
    pub(crate) fn state(&self) -> Result<BTreeMap<String, Tensor>, Failure> {
        self.average.state().map_err(|e| Failure::at(Stage::Write, e))
    }

    /// Takes its state from a checkpoint.
    pub(crate) fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), Failure> {
        self.average.load_state(state).map_err(|e| Failure::at(Stage::Model, e))
    }
}
