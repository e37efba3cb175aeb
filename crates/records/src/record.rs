//! A record: everything that is kept of one attempt at a trial.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::identity::Digest;

/// Version of the layout of a record; a reader refuses a newer one.
pub const RECORD_FORMAT: u32 = 1;

/// One attempt at a trial, as a line of `records.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`RECORD_FORMAT`] of the writer.
    pub format: u32,
    /// Id of the trial: the cell's id and the seed.
    pub trial: String,
    /// 1 for the first attempt; a trial that failed is attempted again by the next invocation.
    pub attempt: u32,
    /// Id of the cell.
    pub cell: String,
    /// Name of the suite.
    pub suite: String,
    /// Name of the method in the suite.
    pub method: String,
    /// Name of the dataset in the suite.
    pub dataset: String,
    /// Name of the backbone in the suite.
    pub backbone: String,
    /// The seed.
    pub seed: u64,
    /// How the attempt ended.
    pub status: Status,
    /// Scores on the test split after the last epoch; present if and only if the status is `done`.
    pub scores: Option<Scores>,
    /// Best top-1 on the test split over the epochs at which it was evaluated: selected on test, never the headline.
    pub best: Option<Best>,
    /// One point an epoch.
    pub curve: Vec<EpochPoint>,
    /// What the trial cost.
    pub cost: Option<Cost>,
    /// The dataset as it was found.
    pub data: Option<DatasetFacts>,
    /// The per-image predictions.
    pub predictions: Option<FileRef>,
    /// Digest of the final weights.
    pub weights: Option<Digest>,
    /// Where and with what the trial ran.
    pub provenance: Provenance,
    /// The resolved configuration of the cell, from which its id is derived.
    pub config: Value,
}

/// How an attempt at a trial ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Trained and evaluated.
    Done,
    /// A value that must be finite was not.
    Diverged {
        /// Optimiser step, from 1.
        step: u64,
        /// What was not finite.
        what: String,
    },
    /// Something else went wrong.
    Failed {
        /// The stage in which it did.
        stage: Stage,
        /// The error, or the end of what the child process said.
        message: String,
    },
    /// The kernel's out-of-memory killer, or an allocation, ended the child process.
    OutOfMemory {
        /// What is known about it.
        message: String,
    },
    /// The attempt ran past its limit. What it had saved is kept, and the next attempt goes on from there.
    TimedOut {
        /// The limit.
        seconds: f64,
    },
    /// The combination makes no sense, for the reason given.
    Skipped {
        /// Why.
        reason: String,
    },
}

impl Status {
    /// The word for the `status` column.
    pub fn word(&self) -> &'static str {
        match self {
            Status::Done => "done",
            Status::Diverged { .. } => "diverged",
            Status::Failed { .. } => "failed",
            Status::OutOfMemory { .. } => "out_of_memory",
            Status::TimedOut { .. } => "timed_out",
            Status::Skipped { .. } => "skipped",
        }
    }

    /// True if another attempt would only repeat this one: the outcome is a property of the trial itself.
    pub fn is_final(&self) -> bool {
        matches!(self, Status::Done | Status::Diverged { .. } | Status::Skipped { .. })
    }

    /// One line about what went wrong; empty for `done`.
    pub fn detail(&self) -> String {
        match self {
            Status::Done => String::new(),
            Status::Diverged { step, what } => format!("{what} was not finite at step {step}"),
            Status::Failed { stage, message } => format!("{}: {message}", stage.word()),
            Status::OutOfMemory { message } => message.clone(),
            Status::TimedOut { seconds } => format!("ran past its limit of {seconds} s"),
            Status::Skipped { reason } => reason.clone(),
        }
    }
}

/// The stages of a trial, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Starting the child process.
    Start,
    /// Reading and decoding the dataset.
    Data,
    /// Building the network, reading weights or a checkpoint.
    Model,
    /// Training.
    Train,
    /// Evaluating on the test split.
    Evaluate,
    /// Writing predictions and the result.
    Write,
}

impl Stage {
    /// The word for messages.
    pub fn word(self) -> &'static str {
        match self {
            Stage::Start => "start",
            Stage::Data => "data",
            Stage::Model => "model",
            Stage::Train => "train",
            Stage::Evaluate => "evaluate",
            Stage::Write => "write",
        }
    }
}

/// Scores on the test split. Accuracies are fractions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// Images classified correctly; `top1` is this over `total`.
    pub correct: u64,
    /// Images in the split.
    pub total: u64,
    /// Top-1 accuracy.
    pub top1: f64,
    /// Top-5 accuracy.
    pub top5: f64,
    /// Unweighted mean of the classes' F1.
    pub macro_f1: f64,
    /// Mean negative log-likelihood, nats.
    pub nll: f64,
    /// Expected calibration error, 15 bins.
    pub ece: f64,
    /// Share of images whose nearest other image (cosine) is of the same class.
    pub recall_at_1: f64,
    /// The same among the nearest four.
    pub recall_at_4: f64,
    /// Mean average precision at R; none if no class has two images.
    pub map_at_r: Option<f64>,
    /// Accuracy of each class, by class id; none where a class has no test image.
    pub per_class: Vec<Option<f64>>,
}

/// The best epoch, chosen on the test split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Its top-1 accuracy.
    pub top1: f64,
    /// Which epoch, from 1; the first of several equals.
    pub epoch: u64,
}

/// One epoch of training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochPoint {
    /// From 1.
    pub epoch: u64,
    /// Mean total loss over the epoch's steps.
    pub loss: f64,
    /// Means of the loss's terms by name (`ce_anchor`, `ce_positive`, `method`).
    pub terms: BTreeMap<String, f64>,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Mean norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Diagnostics of the method, by name; empty for methods without any.
    pub diagnostics: BTreeMap<String, f64>,
    /// Top-1 on the test split, at epochs at which it was evaluated.
    pub test_top1: Option<f64>,
}

/// What a trial cost. Times are of the attempt that finished it, so a resumed trial reports its last part alone. Of an attempt
/// that ran past its limit it is what had been spent until then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Trainable numbers that are used at test time: backbone and classifier or graph head.
    pub params: u64,
    /// Trainable numbers that only training uses (projections, attention over parts).
    pub params_train_only: u64,
    /// Optimiser steps of the whole trial.
    pub steps: u64,
    /// Median milliseconds of a training step, data loading left out.
    pub step_ms: f64,
    /// Training images per second of whole epochs, evaluation left out (an image with two views counts once).
    pub images_per_s: f64,
    /// Share of that time for which training waited for images: the loop for the next batch, and a card for the end of a
    /// copy. Records of earlier builds do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_wait_share: Option<f64>,
    /// Largest resident memory of the child process, MiB.
    pub peak_memory_mb: f64,
    /// The most memory of the card that the trial's tensors held at a time, MiB: the high-water mark of what is in use in
    /// the driver's stream-ordered memory pool. What the driver and NVIDIA's libraries take for themselves comes on top.
    /// Left out where the trial ran on the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_device_memory_mb: Option<f64>,
    /// How many convolutions ran by an algorithm of cuDNN with less workspace, because the card's memory had run out: then the
    /// last bits may differ from those of a run with more memory. Left out where there were none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub smaller_algorithms: u64,
    /// Wall-clock seconds of the child process.
    pub seconds: f64,
    /// The step from which this attempt went on; 0 if it started afresh.
    pub resumed_at_step: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A dataset as it was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetFacts {
    /// Classes.
    pub classes: u64,
    /// Training images.
    pub train: u64,
    /// Test images.
    pub test: u64,
    /// Digest over names, labels, splits and contents.
    pub digest: Digest,
    /// What a user should know about it (a validation split left out, images shared by splits).
    pub notices: Vec<String>,
}

/// A file of the run, relative to its directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Path relative to the run's directory, with `/`.
    pub path: String,
    /// SHA-256 of its contents.
    pub sha256: Digest,
}

/// Where and with what a trial ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Version of the harness.
    pub version: String,
    /// Git revision that the binary was built from, if it was built from one.
    pub revision: Option<String>,
    /// True if the working tree differed from the revision at the time of the build.
    pub dirty: Option<bool>,
    /// Digest of the lock file of the dependencies.
    pub dependencies: Digest,
    /// Cargo profile and features of the binary.
    pub build: String,
    /// Device on which the trial ran (`cpu`, `cuda:0`).
    pub device: String,
    /// Name of the card; left out where the trial ran on the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<String>,
    /// Version of the card's driver and of the newest CUDA that it knows, such as `580.65.06, CUDA 13.0`; left out where the
    /// trial ran on the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// What kernels use on the card besides their own code, such as `cuDNN 9.21.0, cuSOLVER not built in`; left out where the
    /// trial ran on the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libraries: Option<String>,
    /// Processor model, and the vector extensions that the kernels pick by.
    pub cpu: String,
    /// Worker threads of the trial.
    pub threads: u64,
    /// Operating system and architecture.
    pub platform: String,
}
