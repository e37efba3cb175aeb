//! The images of a trial: its dataset, read, compared with the plan and decoded.

use std::sync::Arc;

use datasets::{Dataset, DecodedSet};
use records::{DatasetFacts, Digest, Stage};

use super::Failure;
use crate::plan::Trial;

/// The dataset, decoded.
pub(super) struct Images {
    pub(super) dataset: Dataset,
    pub(super) train: Arc<DecodedSet>,
    pub(super) test: DecodedSet,
}

impl Images {
    pub(super) fn read(trial: &Trial) -> Result<Self, Failure> {
        let failed = |e: &dyn std::fmt::Display| Failure::at(Stage::Data, e);
        let dataset = datasets::load(&trial.dataset, &trial.dataset_config, &trial.base).map_err(|e| failed(&e))?;
        if dataset.digest != trial.dataset_digest {
            return Err(Failure::at(Stage::Data, "the dataset has changed since the run was planned; run it again"));
        }
        let working = trial.protocol.working();
        let train = DecodedSet::new(&dataset.train, working).map_err(|e| failed(&e))?;
        let test = DecodedSet::new(&dataset.test, working).map_err(|e| failed(&e))?;
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
