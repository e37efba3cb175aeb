//! The network of a trial: backbone, head and objective over one parameter store, and the averaged copy of it that
//! some methods learn from.

use std::collections::BTreeMap;

use backbones::{Backbone, BatchStatistics, ParameterStore, Weights};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use kernels::optim::{Ema, Parameter, cosine_decay};
use losses::{Method, Teacher};
use random::Seeds;
use records::{Digest, Stage};

use super::Failure;
use super::failure::Cause;
use crate::plan::{Trial, TrialWeights};

/// Parameters whose names begin so serve training alone.
const TRAIN_ONLY: &str = "objective.";

/// A backbone and a method with their parameters.
pub(crate) struct Network {
    pub(crate) store: ParameterStore,
    pub(crate) backbone: Backbone,
    pub(crate) method: Method,
}

impl Network {
    /// With initial values that depend on the seed and each parameter's name alone; the backbone's are those of its
    /// weights where it has some.
    pub(crate) fn new(trial: &Trial, classes: usize, device: &Device) -> Result<Self, Failure> {
        let store = ParameterStore::new(Seeds::new(trial.seed), DType::F32, device);
        let vb = store.var_builder();
        let failed = |e: &dyn Cause| Failure::at(Stage::Model, e);
        let backbone = backbone(trial, &vb)?;
        let method = Method::new(&trial.method_config, backbone.channels(), classes, vb).map_err(|e| failed(&e))?;
        if let Some(weights) = &trial.weights {
            weights.read()?.load(&trial.backbone_config, &store).map_err(|e| failed(&e))?;
        }
        Ok(Self { store, backbone, method })
    }

    /// The parameters that are trained: all but those of the frozen part.
    pub(crate) fn trained(&self) -> Vec<Parameter> {
        self.store.trained(self.backbone.frozen())
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

/// A trial's backbone over these parameters, with the precision and the algorithms of the protocol.
fn backbone(trial: &Trial, vb: &VarBuilder<'static>) -> Result<Backbone, Failure> {
    let failed = |e: backbones::Error| Failure::at(Stage::Model, e);
    let mut backbone = Backbone::with_freeze(&trial.backbone_config, trial.freeze, vb.clone()).map_err(failed)?;
    backbone.set_precision(trial.protocol.precision).map_err(failed)?;
    backbone.set_algorithms(trial.protocol.algorithms).map_err(failed)?;
    Ok(backbone)
}

impl TrialWeights {
    /// The file, if it still is the one that the trial was planned with.
    fn read(&self) -> Result<Weights, Failure> {
        let failed = |e: &dyn Cause| Failure::at(Stage::Model, e);
        let path = self.path.display();
        let bytes = std::fs::read(&self.path).map_err(|e| failed(&format!("cannot read {path}: {e}")))?;
        let found = Digest::of(&bytes);
        if found != self.sha256 {
            let expected = &self.sha256;
            return Err(failed(&format!("{path}: SHA-256 {found}, but the trial was planned with {expected}")));
        }
        Weights::from_bytes(&self.path, bytes).map_err(|e| failed(&e))
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
        let failed = |e: &dyn Cause| Failure::at(Stage::Model, e);
        let average = Ema::new(&network.store.tensors()).map_err(|e| failed(&e))?;
        // The builder hands out the averages themselves, so the two networks below follow every update.
        let vb = VarBuilder::from_tensors(average.tensors().into_iter().collect(), DType::F32, device);
        let backbone = backbone(trial, &vb)?;
        let teacher = Teacher::new(&trial.method_config, backbone.channels(), vb).map_err(|e| failed(&e))?;
        Ok(Some(Self { average, backbone, teacher, base_decay }))
    }

    /// The teacher's tokens of some images. It sees them with the statistics of its own batch and changes none of
    /// its running ones.
    pub(crate) fn tokens(&self, images: &Tensor) -> Result<Tensor, Failure> {
        let failed = |e: &dyn Cause| Failure::at(Stage::Train, e);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{TrialWeights, tests as fixtures};
    use backbones::{BackboneConfig, Freeze};

    /// A trial with the smallest architecture and its weights in a file, drawn from another seed than the trial's.
    fn trial(dir: &std::path::Path) -> (Trial, BTreeMap<String, Tensor>) {
        let config = BackboneConfig::timm("regnetx_002");
        let store = ParameterStore::new(Seeds::new(99), DType::F32, &Device::Cpu);
        Backbone::new(&config, store.var_builder()).unwrap();
        let bytes = safetensors::serialize(store.tensors().iter(), None).unwrap();
        let path = dir.join("model.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        let mut trial = fixtures::planned(&fixtures::smoke()).trials.remove(0);
        trial.backbone_config = config;
        trial.weights = Some(TrialWeights { path, sha256: Digest::of(&bytes) });
        (trial, store.tensors())
    }

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_network_begins_with_its_weights_and_trains_what_is_not_frozen() {
        let dir = tempfile::tempdir().unwrap();
        let (mut trial, expected) = trial(dir.path());
        let network = Network::new(&trial, 10, &Device::Cpu).unwrap();
        let found = network.store.tensors();
        for (name, tensor) in &expected {
            assert_eq!(numbers(&found[name]), numbers(tensor), "{name}");
        }
        assert!(found.len() > expected.len(), "the head is there too");
        let names = |network: &Network| network.trained().iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        assert!(names(&network).contains(&"stem.conv.weight".to_owned()));
        trial.freeze = Freeze::All;
        let frozen = names(&Network::new(&trial, 10, &Device::Cpu).unwrap());
        assert!(!frozen.is_empty() && frozen.iter().all(|name| !expected.contains_key(name)), "{frozen:?}");
        trial.weights = None;
        let without = Network::new(&trial, 10, &Device::Cpu).unwrap().store.tensors();
        assert_ne!(numbers(&without["stem.conv.weight"]), numbers(&expected["stem.conv.weight"]));
    }

    #[test]
    fn weights_that_changed_since_the_plan_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (trial, _) = trial(dir.path());
        let path = dir.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let failure = Network::new(&trial, 10, &Device::Cpu).err().unwrap();
        let planned = trial.weights.unwrap().sha256;
        assert!(failure.message.contains(planned.hex()) && failure.message.contains("model.safetensors"));
        std::fs::remove_file(&path).unwrap();
    }
}
