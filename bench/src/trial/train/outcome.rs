//! What a trial came to and what it cost, at its end or when its time is up.

use records::event::Outcome;
use records::{Cost, Digest, FileRef, Stage, Status, predictions};

use super::super::Failure;
use super::super::checkpoint::{self, Progress};
use super::super::evaluate::Evaluation;
use super::super::images::Images;
use super::super::sums::median;
use super::Training;
use crate::clock::Stopwatch;
use crate::device::memory;
use crate::plan::Trial;
use crate::run::directory::RunDirectory;
use crate::{files, host};

/// What of a trial's cost training does not know.
#[derive(Clone, Copy)]
pub(super) struct Spent {
    /// The step from which this attempt went on.
    pub(super) resumed_at_step: u64,
    /// Since when it runs.
    pub(super) clock: Stopwatch,
}

/// What a trial came to whose time was up. Its checkpoint stays.
pub(super) fn cut_short(data: &Images, training: Training, failure: Failure, spent: Spent) -> Result<Outcome, Failure> {
    let cost = Some(training.cost(spent)?);
    let Progress { curve, best, .. } = training.progress;
    Ok(Outcome { best, curve, cost, data: Some(data.facts()), ..Outcome::bare(failure.into_status()) })
}

/// Writes the predictions and sums the trial up.
pub(super) fn finish(
    trial: &Trial,
    run: &RunDirectory,
    data: &Images,
    training: Training,
    evaluation: Evaluation,
    spent: Spent,
) -> Result<Outcome, Failure> {
    let text = predictions::to_csv(&evaluation.predictions);
    let relative = RunDirectory::predictions(&trial.id);
    let path = run.path().join(&relative);
    files::write_atomically(&path, text.as_bytes())
        .map_err(|e| Failure::at(Stage::Write, format!("cannot write {}: {e}", path.display())))?;
    Ok(Outcome {
        status: Status::Done,
        scores: Some(evaluation.scores),
        best: training.progress.best,
        weights: Some(checkpoint::digest(&training.network.store.tensors())?),
        cost: Some(training.cost(spent)?),
        curve: training.progress.curve,
        data: Some(data.facts()),
        predictions: Some(FileRef { path: relative, sha256: Digest::of(text.as_bytes()) }),
    })
}

impl Training<'_> {
    /// What this attempt has cost until now.
    pub(super) fn cost(&self, spent: Spent) -> Result<Cost, Failure> {
        let (params, params_train_only) = self.network.count();
        let seconds = self.epoch_seconds.max(f64::MIN_POSITIVE);
        Ok(Cost {
            params,
            params_train_only,
            steps: self.progress.step,
            step_ms: median(&self.step_ms),
            images_per_s: self.images as f64 / seconds,
            input_wait_share: Some(self.upload.waited_s() / seconds),
            peak_memory_mb: host::peak_memory_mb().unwrap_or(0.0),
            peak_device_memory_mb: memory::peak_mb(&self.device).map_err(|e| Failure::at(Stage::Evaluate, e))?,
            smaller_algorithms: kernels::libraries::smaller_algorithms() as u64,
            seconds: spent.clock.seconds(),
            resumed_at_step: spent.resumed_at_step,
        })
    }
}
