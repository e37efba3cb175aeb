//! Training: from an order to an outcome, going on from a checkpoint where there is one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use backbones::Pass;
use candle_core::{Device, Tensor};
use datasets::{TrainPlan, WantViews};
use kernels::optim::{CosineSchedule, clip_scale, gradient_norm};
use losses::{Batch, LossOut};
use random::{Axis, Seeds};
use records::event::Outcome;
use records::{Best, Cost, Digest, Event, FileRef, Stage, Status, predictions};

use super::checkpoint::{self, Progress};
use super::evaluate::{Evaluation, evaluate};
use super::images::Images;
use super::model::{AveragedNetwork, Network};
use super::optimizer::Optimizer;
use super::sums::Sums;
use super::upload::{Batches, ImageBatch, Upload};
use super::{Failure, Teller};
use crate::clock::Stopwatch;
use crate::files;
use crate::host;
use crate::plan::Trial;
use crate::run::directory::RunDirectory;
use crate::suite::Schedule;

/// Seconds between two step events.
const STEP_EVENT_SECONDS: f64 = 0.2;

/// Prefix of the network's tensors in a checkpoint.
const MODEL: &str = "model.";

/// Carries a trial out.
pub(crate) fn carry_out(trial: &Trial, run: &RunDirectory, device: &str, teller: &Teller) -> Result<Outcome, Failure> {
    let clock = Stopwatch::start();
    let device = match device {
        "cpu" => Device::Cpu,
        other => return Err(Failure::at(Stage::Start, format!("device `{other}` is not part of this build"))),
    };
    teller.stage(Stage::Data);
    let data = Images::read(trial, run, teller)?;
    teller.stage(Stage::Model);
    let mut training = Training::new(trial, &data, device, run)?;
    let resumed_at_step = training.progress.step;
    teller.tell(&Event::Training {
        epochs: trial.protocol.epochs,
        steps_per_epoch: training.steps_per_epoch,
        resumed_at_step,
        data: data.facts(),
    });
    teller.stage(Stage::Train);
    let mut last = None;
    while training.progress.epoch < trial.protocol.epochs {
        last = training.epoch(teller)?;
    }
    teller.stage(Stage::Evaluate);
    // The last epoch is always evaluated; only a trial that was stopped after its last checkpoint does it here.
    let evaluation = match last {
        Some(evaluation) => evaluation,
        None => training.evaluate()?,
    };
    teller.stage(Stage::Write);
    finish(trial, run, &data, training, evaluation, resumed_at_step, clock)
}

/// Writes the predictions and sums the trial up.
fn finish(
    trial: &Trial,
    run: &RunDirectory,
    data: &Images,
    training: Training,
    evaluation: Evaluation,
    resumed_at_step: u64,
    clock: Stopwatch,
) -> Result<Outcome, Failure> {
    let text = predictions::to_csv(&evaluation.predictions);
    let relative = RunDirectory::predictions(&trial.id);
    let path = run.path().join(&relative);
    files::write_atomically(&path, text.as_bytes())
        .map_err(|e| Failure::at(Stage::Write, format!("cannot write {}: {e}", path.display())))?;
    let (params, params_train_only) = training.network.count();
    Ok(Outcome {
        status: Status::Done,
        scores: Some(evaluation.scores),
        best: training.progress.best,
        weights: Some(checkpoint::digest(&training.network.store.tensors())?),
        cost: Some(Cost {
            params,
            params_train_only,
            steps: training.progress.step,
            step_ms: median(&training.step_ms),
            images_per_s: training.images as f64 / training.epoch_seconds.max(f64::MIN_POSITIVE),
            peak_memory_mb: host::peak_memory_mb().unwrap_or(0.0),
            seconds: clock.seconds(),
            resumed_at_step,
        }),
        curve: training.progress.curve,
        data: Some(data.facts()),
        predictions: Some(FileRef { path: relative, sha256: Digest::of(text.as_bytes()) }),
    })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]),
    }
}

/// A trial in training.
struct Training<'a> {
    trial: &'a Trial,
    data: &'a Images,
    device: Device,
    seeds: Seeds,
    network: Network,
    teacher: Option<AveragedNetwork>,
    optimizer: Optimizer,
    schedule: CosineSchedule,
    upload: Upload,
    steps_per_epoch: u64,
    total_steps: u64,
    checkpoint: PathBuf,
    progress: Progress,
    /// Milliseconds of the steps of this attempt.
    step_ms: Vec<f64>,
    /// Images that this attempt has trained on, and the seconds of its epochs without evaluation.
    images: u64,
    epoch_seconds: f64,
}

impl<'a> Training<'a> {
    fn new(trial: &'a Trial, data: &'a Images, device: Device, run: &RunDirectory) -> Result<Self, Failure> {
        let network = Network::new(trial, data.dataset.classes.len(), &device)?;
        let teacher = AveragedNetwork::of(trial, &network, &device)?;
        let optimizer = Optimizer::new(&trial.protocol.optimizer, network.trained())?;
        let steps_per_epoch =
            datasets::batches(&(0..data.train.len()).collect::<Vec<_>>(), trial.protocol.batch_size, true).len() as u64;
        let Schedule::Cosine(cosine) = &trial.protocol.schedule;
        let total_steps = trial.protocol.epochs * steps_per_epoch;
        let schedule = CosineSchedule::new(
            trial.protocol.optimizer.learning_rate(),
            cosine.warmup_epochs * steps_per_epoch,
            total_steps,
            cosine.min_learning_rate,
        )
        .map_err(|e| Failure::at(Stage::Model, e))?;
        let mut training = Self {
            trial,
            data,
            seeds: Seeds::new(trial.seed),
            network,
            teacher,
            optimizer,
            schedule,
            upload: Upload::new(&device)?,
            steps_per_epoch,
            total_steps,
            checkpoint: run.trial(&trial.id).join("checkpoint.safetensors"),
            progress: Progress::start(&trial.id),
            step_ms: vec![],
            images: 0,
            epoch_seconds: 0.0,
            device,
        };
        training.resume()?;
        Ok(training)
    }

    /// Goes on from the checkpoint, if there is one.
    fn resume(&mut self) -> Result<(), Failure> {
        let Some((progress, tensors)) = checkpoint::load(&self.checkpoint, &self.trial.id, &self.device)? else {
            return Ok(());
        };
        let failed = |e: &dyn std::fmt::Display| Failure::at(Stage::Model, e);
        let model: BTreeMap<String, Tensor> = tensors
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(MODEL)?.to_owned(), tensor.clone())))
            .collect();
        self.network.store.load(&model).map_err(|e| failed(&e))?;
        if let Some(averaged) = &mut self.teacher {
            averaged.load_state(&tensors)?;
        }
        self.optimizer.load_state(&tensors, progress.step)?;
        self.progress = progress;
        Ok(())
    }

    fn save(&self, teller: &Teller) -> Result<(), Failure> {
        let mut tensors = self.optimizer.state();
        let model = self.network.store.tensors().into_iter().map(|(name, t)| (format!("{MODEL}{name}"), t));
        tensors.extend(model);
        if let Some(averaged) = &self.teacher {
            tensors.extend(averaged.state()?);
        }
        checkpoint::save(&self.checkpoint, &self.progress, &tensors)?;
        teller.tell(&Event::Checkpoint { step: self.progress.step });
        Ok(())
    }

    /// Trains one epoch; evaluates and saves where the protocol says so. The evaluation of the last epoch comes back.
    fn epoch(&mut self, teller: &Teller) -> Result<Option<Evaluation>, Failure> {
        let clock = Stopwatch::start();
        let index = self.progress.epoch;
        let mut sums = Sums::default();
        let mut since_event: Option<Stopwatch> = None;
        for batch in self.loader(index) {
            let batch = batch?;
            let rate = self.schedule.at(self.progress.step);
            let images = batch.labels.len();
            let step_clock = Stopwatch::start();
            let (out, norm) = self.step(batch, rate)?;
            self.step_ms.push(1e3 * step_clock.seconds());
            self.images += images as u64;
            let loss = sums.add(&out, norm, rate)?;
            if since_event.is_none_or(|s| s.seconds() >= STEP_EVENT_SECONDS) {
                since_event = Some(Stopwatch::start());
                let images_per_s = self.images as f64 / (self.epoch_seconds + clock.seconds());
                teller.tell(&Event::Step { step: self.progress.step, loss, images_per_s });
            }
        }
        self.epoch_seconds += clock.seconds();
        self.progress.epoch += 1;
        let epoch = self.progress.epoch;
        let is_last = epoch == self.trial.protocol.epochs;
        let evaluation = if is_last || epoch.is_multiple_of(self.trial.protocol.evaluate_epochs) {
            Some(self.evaluate()?)
        } else {
            None
        };
        let top1 = evaluation.as_ref().map(|e| e.scores.top1);
        if let Some(top1) = top1.filter(|&t| self.progress.best.is_none_or(|best| t > best.top1)) {
            self.progress.best = Some(Best { top1, epoch });
        }
        let point = sums.point(epoch, top1);
        teller.tell(&Event::Epoch { point: point.clone() });
        self.progress.curve.push(point);
        if is_last || epoch.is_multiple_of(self.trial.checkpoint_epochs) {
            self.save(teller)?;
        }
        Ok(evaluation.filter(|_| is_last))
    }

    fn loader(&self, epoch: u64) -> Batches {
        let protocol = &self.trial.protocol;
        let order = datasets::epoch_order(self.seeds, epoch, self.data.train.len());
        let views = self.trial.method_config.views();
        let plan = TrainPlan {
            augment: protocol.augment.clone(),
            size: protocol.input_size,
            norm: protocol.normalise(),
            seeds: self.seeds,
            epoch,
            want: WantViews { positive: views.positive, teacher: views.teacher },
        };
        let batches = datasets::batches(&order, protocol.batch_size, true);
        self.upload.epoch(&self.data.train, batches, plan)
    }

    /// One step; the norm of its gradient comes back with the loss.
    fn step(&mut self, batch: ImageBatch, rate: f64) -> Result<(LossOut, f64), Failure> {
        let step = self.progress.step + 1;
        let failed = |e: &dyn std::fmt::Display| Failure::at(Stage::Train, e);
        let out = self.loss(batch, step)?;
        let loss = out.total.to_dtype(candle_core::DType::F64).and_then(|t| t.to_scalar::<f64>());
        if !loss.map_err(|e| failed(&e))?.is_finite() {
            return Err(Failure::diverged(step, "the loss"));
        }
        let gradients = out.total.backward().map_err(|e| failed(&e))?;
        let norm = gradient_norm(self.optimizer.parameters(), &gradients).map_err(|e| failed(&e))?;
        if !norm.is_finite() {
            return Err(Failure::diverged(step, "the gradient"));
        }
        let scale = self.trial.protocol.clip_norm.map_or(Ok(1.0), |max| clip_scale(norm, max));
        let scale = scale.map_err(|e| failed(&e))?;
        self.optimizer.step(&gradients, rate, scale).map_err(|e| failed(&e))?;
        self.progress.step = step;
        if let Some(averaged) = &mut self.teacher {
            averaged.update(&self.network, step, self.total_steps)?;
        }
        Ok((out, norm))
    }

    fn loss(&self, batch: ImageBatch, step: u64) -> Result<LossOut, Failure> {
        let failed = |e: &dyn std::fmt::Display| Failure::at(Stage::Train, e);
        let forward = |x: &Tensor, view: u64| {
            let mut dropout = self.seeds.stream(Axis::Dropout, &[step, view]);
            self.network.backbone.features(x, &mut Pass::training(&mut dropout))?.map()
        };
        let anchor_map = forward(&batch.anchor, 0).map_err(|e| failed(&e))?;
        let positive_map = batch.positive.as_ref().map(|x| forward(x, 1)).transpose().map_err(|e| failed(&e))?;
        let teacher_tokens = match (&self.teacher, &batch.teacher) {
            (Some(averaged), Some(views)) => Some(averaged.tokens(views)?),
            _ => None,
        };
        let stream = self.seeds.stream(Axis::Objective, &[step]);
        let batch = Batch {
            anchor_map: &anchor_map,
            positive_map: positive_map.as_ref(),
            teacher_tokens: teacher_tokens.as_ref(),
            labels: &batch.labels,
            stream: &stream,
        };
        self.network.method.loss(&batch).map_err(|e| match e.is_non_finite() {
            true => Failure::diverged(step, format!("the input of a kernel ({e})")),
            false => failed(&e),
        })
    }

    fn evaluate(&self) -> Result<Evaluation, Failure> {
        let (items, classes) = (&self.data.dataset.test, self.data.dataset.classes.len());
        let (protocol, step) = (&self.trial.protocol, self.progress.step);
        evaluate(&self.network, &self.data.test, items, classes, protocol, &self.device, step)
    }
}
