//! Training: from an order to an outcome, going on from a checkpoint where there is one.

mod outcome;

use std::collections::BTreeMap;
use std::path::PathBuf;

use backbones::Pass;
use candle_core::{Device, Tensor};
use datasets::{TrainPlan, WantViews};
use kernels::optim::{CosineSchedule, GradientNorm};
use losses::{Batch, LossOut, Numbers};
use random::{Axis, Seeds};
use records::event::Outcome;
use records::{Best, Event, Stage};

use super::checkpoint::{self, Progress};
use super::evaluate::{Evaluation, evaluate};
use super::failure::Cause;
use super::images::Images;
use super::model::{AveragedNetwork, Network};
use super::optimizer::Optimizer;
use super::sums::Sums;
use super::upload::{Batches, ImageBatch, Upload};
use super::{Failure, Teller, deadline, opened};
use crate::clock::Stopwatch;
use crate::plan::Trial;
use crate::run::directory::RunDirectory;
use crate::suite::Schedule;
use outcome::{Spent, cut_short, finish};

/// Seconds between two step events.
const STEP_EVENT_SECONDS: f64 = 0.2;

/// Prefix of the network's tensors in a checkpoint.
const MODEL: &str = "model.";

/// Carries a trial out.
pub(crate) fn carry_out(trial: &Trial, run: &RunDirectory, device: &str, teller: &Teller) -> Result<Outcome, Failure> {
    let clock = Stopwatch::start();
    let device = opened(device)?;
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
    let spent = Spent { resumed_at_step, clock };
    teller.stage(Stage::Train);
    match train(&mut training, teller, spent) {
        Ok(evaluation) => {
            teller.stage(Stage::Write);
            finish(trial, run, &data, training, evaluation, spent)
        }
        Err(failure) if failure.is_timed_out() => cut_short(&data, training, failure, spent),
        Err(failure) => Err(failure),
    }
}

/// Trains to the end and evaluates.
fn train(training: &mut Training, teller: &Teller, spent: Spent) -> Result<Evaluation, Failure> {
    teller.tell(&Event::Cost { cost: training.cost(spent)? });
    let mut last = None;
    while training.progress.epoch < training.trial.protocol.epochs {
        last = training.epoch(teller)?;
        teller.tell(&Event::Cost { cost: training.cost(spent)? });
    }
    teller.stage(Stage::Evaluate);
    // The last epoch is always evaluated; only a trial that was stopped after its last checkpoint does it here.
    match last {
        Some(evaluation) => Ok(evaluation),
        None => training.evaluate(),
    }
}

/// The numbers of a step, if its loss is finite; waits for the device.
fn finite(out: &LossOut, step: u64) -> Result<Numbers, Failure> {
    checked(out.read(&[]).map_err(|e| Failure::at(Stage::Train, e))?, step)
}

/// The same with the norm of the gradient, in one copy from the device.
fn together(out: &LossOut, norm: &GradientNorm, step: u64) -> Result<(Numbers, f64), Failure> {
    let failed = |e: &dyn Cause| Failure::at(Stage::Train, e);
    if !norm.tensor().device().same_device(out.total.device()) {
        // No parameter had a gradient.
        return Ok((finite(out, step)?, norm.value().map_err(|e| failed(&e))?));
    }
    let numbers = checked(out.read(&[norm.tensor()]).map_err(|e| failed(&e))?, step)?;
    let norm = numbers.also.concat().iter().sum();
    Ok((numbers, norm))
}

fn checked(numbers: Numbers, step: u64) -> Result<Numbers, Failure> {
    if numbers.total.is_finite() { Ok(numbers) } else { Err(Failure::diverged(step, "the loss")) }
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
        let Some((progress, tensors)) = checkpoint::load(&self.checkpoint, &self.trial.id)? else {
            return Ok(());
        };
        let failed = |e: &dyn Cause| Failure::at(Stage::Model, e);
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
        let sums = self.steps(teller, clock);
        self.epoch_seconds += clock.seconds();
        let sums = sums?;
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

    /// The steps of the epoch that `clock` began with.
    fn steps(&mut self, teller: &Teller, clock: Stopwatch) -> Result<Sums, Failure> {
        let mut sums = Sums::default();
        let mut since_event: Option<Stopwatch> = None;
        for batch in self.loader(self.progress.epoch) {
            let batch = batch?;
            deadline::check(Stage::Train)?;
            let rate = self.schedule.at(self.progress.step);
            let images = batch.labels.len();
            let step_clock = Stopwatch::start();
            let (numbers, norm) = self.step(batch, rate)?;
            self.step_ms.push(1e3 * step_clock.seconds());
            self.images += images as u64;
            let loss = numbers.total;
            sums.add(&numbers, norm, rate);
            if since_event.is_none_or(|s| s.seconds() >= STEP_EVENT_SECONDS) {
                since_event = Some(Stopwatch::start());
                let images_per_s = self.images as f64 / (self.epoch_seconds + clock.seconds());
                teller.tell(&Event::Step { step: self.progress.step, loss, images_per_s });
            }
        }
        Ok(sums)
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

    /// One step; its numbers and the norm of its gradient come back, when the device is done with all of it.
    ///
    /// On the CPU a loss that is not finite ends the trial at once. A card is asked for its numbers when everything is
    /// launched, so that it never waits for the host in between.
    fn step(&mut self, batch: ImageBatch, rate: f64) -> Result<(Numbers, f64), Failure> {
        let step = self.progress.step + 1;
        let failed = |e: &dyn Cause| Failure::at(Stage::Train, e);
        let out = self.loss(batch, step)?;
        let at_hand = if self.device.is_cpu() { Some(finite(&out, step)?) } else { None };
        // What a kernel refuses on the way back is a matter of the loss, where that is not finite.
        let gradients = out.total.backward().map_err(|e| finite(&out, step).err().unwrap_or_else(|| failed(&e)))?;
        let most = self.trial.protocol.clip_norm;
        let norm = self.optimizer.step(&gradients, rate, most).map_err(|e| failed(&e))?;
        self.progress.step = step;
        if let Some(averaged) = &mut self.teacher {
            averaged.update(&self.network, step, self.total_steps)?;
        }
        let (numbers, norm) = match at_hand {
            Some(numbers) => (numbers, norm.value().map_err(|e| failed(&e))?),
            None => together(&out, &norm, step)?,
        };
        if norm.is_finite() { Ok((numbers, norm)) } else { Err(Failure::diverged(step, "the gradient")) }
    }

    fn loss(&self, batch: ImageBatch, step: u64) -> Result<LossOut, Failure> {
        let failed = |e: &dyn Cause| Failure::at(Stage::Train, e);
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
