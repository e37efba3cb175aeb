//! How long a grid would take on this machine's CPU, told before it begins by default.

use backbones::BatchStatistics;
use candle_core::{DType, Device, Tensor};

use crate::clock::Stopwatch;
use crate::error::ExpectedError;
use crate::plan::{Plan, Trial};
use crate::run::Job;
use crate::talk::tell;
use crate::trial::Network;

/// Image passes of training from which on a grid is timed and asked about. A pass of the smallest networks takes about a
/// millisecond on one core.
const MANY: u64 = 2_000_000;
/// Images of the timed batch.
const IMAGES: usize = 8;
/// Work of a training step for that of its forward pass.
const STEP: f64 = 3.0;

/// Refuses a grid that nobody would want on a CPU without having asked for it, with an estimate.
///
/// # Errors
/// [`ExpectedError::Usage`] where there is one to tell; a network that cannot be built.
pub(crate) fn ask(suite: &str, jobs: &[Job], plan: &Plan) -> Result<(), ExpectedError> {
    let Some(estimate) = estimate(jobs, plan)? else { return Ok(()) };
    tell(&estimate);
    Err(ExpectedError::Usage {
        message: format!("so long a run of `{suite}` on the CPU has to be asked for; no GPU can be used here"),
        hint: "`--device cpu` starts it on the CPU all the same; `--only` selects a part of it".into(),
    })
}

/// How long the trials would take on this CPU, where they have more than [`MANY`] image passes: timed on a batch.
///
/// # Errors
/// A network that cannot be built.
pub(crate) fn estimate(jobs: &[Job], plan: &Plan) -> Result<Option<String>, ExpectedError> {
    let passes = |trial: &Trial| {
        let images = plan.datasets.get(&trial.dataset).map_or(0, |data| data.train as u64);
        let views = 1 + u64::from(trial.method_config.views().positive);
        trial.protocol.epochs.saturating_mul(images).saturating_mul(views)
    };
    let each: Vec<u64> = jobs.iter().map(|job| passes(&job.trial)).collect();
    let total = each.iter().fold(0u64, |sum, n| sum.saturating_add(*n));
    if total < MANY {
        return Ok(None);
    }
    let Some((job, _)) = jobs.iter().zip(&each).max_by_key(|(_, n)| **n) else { return Ok(None) };
    let classes = plan.datasets.get(&job.trial.dataset).map_or(1, |data| data.classes);
    let seconds = seconds_per_pass(&job.trial, classes)
        .map_err(|reason| ExpectedError::Weights { backbone: job.trial.backbone.clone(), reason })?;
    Ok(Some(in_words(jobs.len(), total, seconds)))
}

/// The estimate in words.
fn in_words(trials: usize, passes: u64, seconds_per_pass: f64) -> String {
    let hours = passes as f64 * seconds_per_pass / 3600.0;
    format!(
        "estimate: {trials} trials with {:.1} million image passes of {:.0} ms each on this CPU (timed on one batch): about \
         {hours:.0} hours",
        passes as f64 / 1e6,
        seconds_per_pass * 1e3
    )
}

/// Seconds that training takes for one image of a trial, from its network's forward pass over one batch.
fn seconds_per_pass(trial: &Trial, classes: usize) -> Result<f64, String> {
    let trial = Trial { weights: None, ..trial.clone() };
    let network = Network::new(&trial, classes, &Device::Cpu).map_err(|failure| failure.message)?;
    let size = trial.protocol.input_size;
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let images = Tensor::ones((IMAGES, 3, size, size), DType::F32, &Device::Cpu).map_err(|e| text(&e))?;
    let forward = || network.backbone.forward_t(&images, BatchStatistics::Eval).map(drop).map_err(|e| text(&e));
    forward()?;
    let clock = Stopwatch::start();
    forward()?;
    Ok(clock.seconds() * STEP / IMAGES as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_passes_times_seconds() {
        let text = in_words(105, 7_200_000, 0.25);
        assert!(text.contains("105 trials with 7.2 million image passes of 250 ms each"), "{text}");
        assert!(text.ends_with("about 500 hours"), "{text}");
    }
}
