//! The images of a trial: its dataset, read, compared with the plan and decoded. The pixels are in mapped files, which
//! the first trial that needs them builds and all others share.

use std::path::PathBuf;
use std::sync::Arc;

use datasets::{CacheEvent, Dataset, DatasetError, DecodedSet, Item};
use records::{DatasetFacts, Digest, Stage};

use super::Failure;
use crate::environment;
use crate::plan::Trial;
use crate::run::directory::RunDirectory;
use crate::talk::tell;

/// The dataset, decoded.
pub(super) struct Images {
    pub(super) dataset: Dataset,
    pub(super) train: Arc<DecodedSet>,
    pub(super) test: DecodedSet,
}

impl Images {
    pub(super) fn read(trial: &Trial, run: &RunDirectory) -> Result<Self, Failure> {
        let failed = |e: &dyn std::fmt::Display| Failure::at(Stage::Data, e);
        let dataset = datasets::load(&trial.dataset, &trial.dataset_config, &trial.base).map_err(|e| failed(&e))?;
        if dataset.digest != trial.dataset_digest {
            return Err(Failure::at(Stage::Data, "the dataset has changed since the run was planned; run it again"));
        }
        let (working, folder) = (trial.protocol.working(), folder(run));
        let decoded = |items: &[Item]| DecodedSet::cached(items, working, &folder, &mut log).map_err(failure);
        let (train, test) = (decoded(&dataset.train)?, decoded(&dataset.test)?);
        Ok(Self { dataset, train: Arc::new(train), test })
    }

    pub(super) fn facts(&self) -> DatasetFacts {
        DatasetFacts {
            classes: self.dataset.classes.len() as u64,
            train: self.dataset.train.len() as u64,
            test: self.dataset.test.len() as u64,
            digest: Digest::from_hex(&self.dataset.digest),
            notices: self.dataset.notices.clone(),
        }
    }
}

/// Where decoded images are kept: where the environment says, for all runs, or in the run directory.
fn folder(run: &RunDirectory) -> PathBuf {
    environment::image_cache().unwrap_or_else(|| run.path().join("cache"))
}

/// What happened to a file goes to the trial's log, which is kept if the trial fails.
fn log(event: CacheEvent) {
    match event {
        CacheEvent::Waiting { path } => tell(&format!("waiting for another process that builds {}", path.display())),
        CacheEvent::Replacing { path, reason } => tell(&format!("{} is built anew: {reason}", path.display())),
        CacheEvent::Building { .. } | CacheEvent::Open { .. } => {}
    }
}

/// What cannot be written here could not be written by the next trial either.
fn failure(error: DatasetError) -> Failure {
    let stage = if matches!(error, DatasetError::Write { .. }) { Stage::Write } else { Stage::Data };
    Failure::at(stage, format!("{error}; {}", error.hint()))
}
