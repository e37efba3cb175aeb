//! Checkpoints: everything that a trial needs to go on as if it had never stopped.
//!
//! One safetensors file: tensors by name (`model.*` for parameters and buffers, the optimiser's and the teacher's
//! state under names of their own), and the progress as JSON in the header's metadata. Written to a temporary name,
//! synced and renamed: a reader finds the old one or the new one.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};
use records::{Best, Digest, EpochPoint};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::Failure;
use crate::files;
use records::Stage;

/// Version of the layout.
const FORMAT: u32 = 1;
/// Key of the progress in the metadata.
const KEY: &str = "ufg-bench";

/// How far a trial has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    /// [`FORMAT`] of the writer.
    pub(crate) format: u32,
    /// The trial.
    pub(crate) trial: String,
    /// Epochs finished.
    pub(crate) epoch: u64,
    /// Steps made.
    pub(crate) step: u64,
    /// One point an epoch.
    pub(crate) curve: Vec<EpochPoint>,
    /// Best epoch on the test split so far.
    pub(crate) best: Option<Best>,
}

impl Progress {
    /// Of a trial that has not begun.
    pub(crate) fn start(trial: &str) -> Self {
        Self { format: FORMAT, trial: trial.into(), epoch: 0, step: 0, curve: vec![], best: None }
    }
}

/// Writes a checkpoint.
pub(crate) fn save(path: &Path, progress: &Progress, tensors: &BTreeMap<String, Tensor>) -> Result<(), Failure> {
    let text = serde_json::to_string(progress).map_err(|e| Failure::at(Stage::Write, e))?;
    let metadata = HashMap::from([(KEY.to_owned(), text)]);
    let bytes = safetensors::serialize(on_host(tensors)?.iter(), Some(metadata));
    let bytes = bytes.map_err(|e| Failure::at(Stage::Write, e))?;
    files::write_atomically(path, &bytes)
        .map_err(|e| Failure::at(Stage::Write, format!("cannot write the checkpoint {}: {e}", path.display())))
}

/// What a checkpoint holds.
pub(crate) type Checkpoint = (Progress, BTreeMap<String, Tensor>);

/// The tensors in the host's memory, one after the other: a card needs no room for copies.
fn on_host(tensors: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, Failure> {
    let copy = |(name, tensor): (&String, &Tensor)| Ok((name.clone(), tensor.to_device(&Device::Cpu)?));
    tensors.iter().map(copy).collect::<candle_core::Result<_>>().map_err(|e| Failure::at(Stage::Write, e))
}

/// Reads the checkpoint of `trial`, if there is one, into the host's memory: whoever takes a tensor of it brings it to
/// its device.
pub(crate) fn load(path: &Path, trial: &str) -> Result<Option<Checkpoint>, Failure> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(path, error)),
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| unusable(path, e))?;
    let text =
        header.metadata().as_ref().and_then(|m| m.get(KEY)).ok_or_else(|| unusable(path, "no progress in it"))?;
    let progress: Progress = serde_json::from_str(text).map_err(|e| unusable(path, e))?;
    if progress.format != FORMAT || progress.trial != trial {
        let what = format!("it has format {} and belongs to {}", progress.format, progress.trial);
        return Err(unusable(path, what));
    }
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| unusable(path, e))?;
    Ok(Some((progress, tensors.into_iter().collect())))
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> Failure {
    let path = path.display();
    Failure::at(
        Stage::Model,
        format!("the checkpoint {path} cannot be used: {why}; remove it to start the trial afresh"),
    )
}

/// SHA-256 over names, shapes, dtypes and values of tensors, whatever device they lie on.
pub(crate) fn digest(tensors: &BTreeMap<String, Tensor>) -> Result<Digest, Failure> {
    let bytes = safetensors::serialize(on_host(tensors)?.iter(), None).map_err(|e| Failure::at(Stage::Write, e))?;
    Ok(Digest::of(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors() -> BTreeMap<String, Tensor> {
        let a = Tensor::new(&[[0.1f32, f32::MIN_POSITIVE], [-0.0, 1e30]], &Device::Cpu).unwrap();
        BTreeMap::from([("model.a".to_owned(), a.clone()), ("adamw.exp_avg.a".to_owned(), (a * 2.0).unwrap())])
    }

    #[test]
    fn comes_back_bit_for_bit_and_only_for_its_trial() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint.safetensors");
        assert!(load(&path, "t").unwrap().is_none());
        let progress = Progress { epoch: 3, step: 12, ..Progress::start("t") };
        save(&path, &progress, &tensors()).unwrap();
        let (read, back) = load(&path, "t").unwrap().unwrap();
        assert_eq!(read, progress);
        assert_eq!(digest(&back).unwrap(), digest(&tensors()).unwrap());
        let other = load(&path, "u").unwrap_err();
        assert!(other.message.contains("belongs to t"), "{}", other.message);
    }

    #[test]
    fn a_truncated_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint.safetensors");
        save(&path, &Progress::start("t"), &tensors()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 7, 20, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let error = load(&path, "t").unwrap_err();
            assert!(error.message.contains("checkpoint.safetensors"), "{}", error.message);
        }
    }
}
