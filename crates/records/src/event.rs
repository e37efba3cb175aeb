//! What a trial says while it runs: JSON lines from the child process, read by displays and by the journal.

use serde::{Deserialize, Serialize};

use crate::identity::Digest;
use crate::record::{Best, Cost, DatasetFacts, EpochPoint, FileRef, Scores, Stage, Status};

/// One event of a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A stage began.
    Stage {
        /// Which.
        stage: Stage,
    },
    /// Another process decodes the images of a split; this one waits for it.
    Waiting {
        /// `train` or `test`.
        split: String,
    },
    /// Images of a split are decoded into the file that all trials share: told at the beginning, now and then, and at the
    /// end. Not told where the file is there already.
    Decoding {
        /// `train` or `test`.
        split: String,
        /// Images so far.
        done: u64,
        /// All images of the split.
        total: u64,
        /// Bytes of the file so far.
        bytes: u64,
        /// Bytes that the whole file will have, estimated from some of its images.
        expected_bytes: u64,
        /// Seconds since the beginning.
        seconds: f64,
    },
    /// Training begins or goes on.
    Training {
        /// Epochs of the whole trial.
        epochs: u64,
        /// Steps of an epoch.
        steps_per_epoch: u64,
        /// Step from which it goes on; 0 for a fresh start.
        resumed_at_step: u64,
        /// The dataset as it was found.
        data: DatasetFacts,
    },
    /// A step was made (throttled: not every one is told).
    Step {
        /// Steps made so far in the whole trial.
        step: u64,
        /// Loss of this step.
        loss: f64,
        /// Images per second, lately.
        images_per_s: f64,
    },
    /// An epoch was finished.
    Epoch {
        /// Its numbers.
        point: EpochPoint,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// Steps that it covers.
        step: u64,
    },
    /// What this attempt has cost until now: told when training begins, and after every epoch.
    Cost {
        /// The cost.
        cost: Cost,
    },
    /// The trial ended by itself; always the last event.
    Ended {
        /// What it came to.
        outcome: Box<Outcome>,
    },
}

/// What a child process came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Scores after the last epoch, if done.
    pub scores: Option<Scores>,
    /// Best epoch on the test split.
    pub best: Option<Best>,
    /// One point an epoch, those before a resumption included.
    pub curve: Vec<EpochPoint>,
    /// What it cost.
    pub cost: Option<Cost>,
    /// The dataset as it was found.
    pub data: Option<DatasetFacts>,
    /// The per-image predictions.
    pub predictions: Option<FileRef>,
    /// Digest of the final weights.
    pub weights: Option<Digest>,
}

impl Outcome {
    /// An outcome that has nothing but a status.
    pub fn bare(status: Status) -> Self {
        Self {
            status,
            scores: None,
            best: None,
            curve: vec![],
            cost: None,
            data: None,
            predictions: None,
            weights: None,
        }
    }
}
