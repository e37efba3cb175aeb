//! The images of a trial: its dataset, read, compared with the plan and decoded. The pixels are in mapped files, which
//! the first trial that needs them builds and all others share.

use std::sync::Arc;

use datasets::{CacheEvent, Dataset, DatasetError, DecodedSet, Item};
use records::{DatasetFacts, Digest, Event, Stage};

use super::failure::Cause;
use super::{Failure, Teller};
use crate::clock::Stopwatch;
use crate::plan::Trial;
use crate::run::directory::RunDirectory;
use crate::talk::tell;

/// Seconds between two events about the same file.
const TELL_SECONDS: f64 = 0.25;

/// The dataset, decoded.
pub(super) struct Images {
    pub(super) dataset: Dataset,
    pub(super) train: Arc<DecodedSet>,
    pub(super) test: Arc<DecodedSet>,
}

impl Images {
    pub(super) fn read(trial: &Trial, run: &RunDirectory, teller: &Teller) -> Result<Self, Failure> {
        let failed = |e: &dyn Cause| Failure::at(Stage::Data, e);
        let dataset = datasets::load(&trial.dataset, &trial.dataset_config, &trial.base).map_err(|e| failed(&e))?;
        if dataset.digest != trial.dataset_digest {
            return Err(Failure::at(Stage::Data, "the dataset has changed since the run was planned; run it again"));
        }
        let (working, folder) = (trial.protocol.working(), run.image_cache());
        let decoded = |split: &'static str, items: &[Item]| {
            let mut log = Log { split, teller, begun: Stopwatch::start(), told: None };
            DecodedSet::cached(items, working, &folder, &mut |event| log.hear(event)).map_err(failure)
        };
        let (train, test) = (decoded("train", &dataset.train)?, decoded("test", &dataset.test)?);
        Ok(Self { dataset, train: Arc::new(train), test: Arc::new(test) })
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

/// Passes on what happens to a file: progress to the parent, oddities to the trial's log, which is kept if it fails.
struct Log<'a> {
    split: &'static str,
    teller: &'a Teller,
    begun: Stopwatch,
    told: Option<Stopwatch>,
}

impl Log<'_> {
    fn hear(&mut self, event: CacheEvent) {
        match event {
            CacheEvent::Waiting { .. } => self.teller.tell(&Event::Waiting { split: self.split.to_owned() }),
            CacheEvent::Replacing { path, reason } => tell(&format!("{} is built anew: {reason}", path.display())),
            CacheEvent::Building { done, total, bytes, expected } => {
                if done == 0 {
                    self.begun = Stopwatch::start();
                }
                if done > 0 && done < total && self.told.is_some_and(|told| told.seconds() < TELL_SECONDS) {
                    return;
                }
                self.told = Some(Stopwatch::start());
                self.teller.tell(&Event::Decoding {
                    split: self.split.to_owned(),
                    done: done as u64,
                    total: total as u64,
                    bytes,
                    expected_bytes: expected,
                    seconds: self.begun.seconds(),
                });
            }
            CacheEvent::Open { .. } => {}
        }
    }
}

/// What cannot be written here could not be written by the next trial either.
fn failure(error: DatasetError) -> Failure {
    let stage = if matches!(error, DatasetError::Write { .. }) { Stage::Write } else { Stage::Data };
    Failure::at(stage, format!("{error}; {}", error.hint()))
}
