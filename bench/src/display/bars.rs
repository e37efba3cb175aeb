//! Progress bars, for terminals.

use std::collections::HashMap;
use std::time::Duration;

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use records::{Event, Record, Stage};

use super::gauge::{Gauge, joined};
use super::verdict_line;
use crate::plan::Trial;

/// Bars for the grid, each running trial and its epoch.
pub(crate) struct Bars {
    all: MultiProgress,
    grid: ProgressBar,
    running: HashMap<usize, Running>,
}

struct Running {
    name: String,
    trial: ProgressBar,
    epoch: ProgressBar,
    steps_per_epoch: u64,
}

/// What the third bar counts.
const STEPS: &str = "epoch  {bar:30} {pos:>4}/{len} steps   {wide_msg}";
const IMAGES: &str = "images {bar:30} {pos:>4}/{len} {wide_msg}";

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; a mistake in one falls back to the library's own bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─")
}

impl Bars {
    pub(crate) fn new(trials: usize, already_done: usize) -> Self {
        let all = MultiProgress::new();
        let grid = all.add(ProgressBar::new(trials as u64));
        grid.set_style(style("grid   {bar:30} {pos:>4}/{len} trials  {elapsed_precise}"));
        grid.set_position(already_done as u64);
        grid.reset_eta();
        grid.enable_steady_tick(Duration::from_millis(500));
        Self { all, grid, running: HashMap::new() }
    }

    pub(crate) fn started(&mut self, index: usize, trial: &Trial) {
        let bar = self.all.add(ProgressBar::new(trial.protocol.epochs));
        bar.set_style(style("trial  {bar:30} {pos:>4}/{len} epochs  {wide_msg}"));
        let name = format!("{} on {} s{}", trial.method, trial.dataset, trial.seed);
        bar.set_message(format!("{name}  starting"));
        let epoch = self.all.add(ProgressBar::new(1));
        epoch.set_style(style(STEPS));
        self.running.insert(index, Running { name, trial: bar, epoch, steps_per_epoch: 1 });
    }

    pub(crate) fn event(&mut self, index: usize, event: &Event) {
        let Some(running) = self.running.get_mut(&index) else {
            return;
        };
        match event {
            Event::Stage { stage } => {
                let doing = match stage {
                    Stage::Train => return,
                    Stage::Data => "reading images",
                    Stage::Evaluate => "evaluating",
                    stage => stage.word(),
                };
                running.trial.set_message(format!("{}  {doing}", running.name));
            }
            Event::Waiting { split } => {
                running
                    .trial
                    .set_message(format!("{}  waiting: another process decodes the {split} images", running.name));
            }
            Event::Decoding { split, done, total, bytes, expected_bytes, seconds } => {
                if *done == 0 {
                    running
                        .trial
                        .set_message(format!("{}  decoding the {split} images, once for all trials", running.name));
                    running.epoch.set_style(style(IMAGES));
                }
                let gauge = Gauge { done: *done, total: *total, seconds: *seconds };
                let size = format!("{} of about {}", HumanBytes(*bytes), HumanBytes(*expected_bytes));
                running.epoch.set_length(*total);
                running.epoch.set_message(joined([gauge.speed(), gauge.left(), size]));
                running.epoch.set_position(*done);
            }
            Event::Training { epochs, steps_per_epoch, resumed_at_step, .. } => {
                running.steps_per_epoch = (*steps_per_epoch).max(1);
                running.trial.set_length(*epochs);
                running.trial.set_position(resumed_at_step / running.steps_per_epoch);
                running.trial.reset_eta();
                running.epoch.set_style(style(STEPS));
                running.epoch.set_message("");
                running.epoch.set_position(0);
                running.epoch.set_length(running.steps_per_epoch);
                running.trial.set_style(style("trial  {bar:30} {pos:>4}/{len} epochs  {eta:>4} left  {wide_msg}"));
                running.trial.set_message(running.name.clone());
            }
            Event::Step { step, loss, images_per_s } => {
                let within = (step - 1) % running.steps_per_epoch + 1;
                running.epoch.set_position(within);
                running.epoch.set_message(format!("loss {loss:.4}  {images_per_s:.0} images/s"));
            }
            Event::Epoch { point } => {
                running.trial.set_position(point.epoch);
                if let Some(top1) = point.test_top1 {
                    running.trial.set_message(format!("{}  top-1 {:.1} %", running.name, 100.0 * top1));
                }
            }
            Event::Checkpoint { .. } | Event::Cost { .. } | Event::Ended { .. } => {}
        }
    }

    pub(crate) fn ended(&mut self, index: usize, record: &Record) {
        if let Some(running) = self.running.remove(&index) {
            self.all.remove(&running.epoch);
            self.all.remove(&running.trial);
        }
        // Lines above the bars stay; an error here would only be a terminal that went away.
        let _ = self.all.println(format!(
            "{:<12} {:<12} s{:<6} {}",
            record.method,
            record.dataset,
            record.seed,
            verdict_line(record)
        ));
        // Only now is there something to estimate from.
        self.grid.set_style(style("grid   {bar:30} {pos:>4}/{len} trials  {elapsed_precise}, {eta} left"));
        self.grid.inc(1);
    }

    pub(crate) fn finish(self) {
        for running in self.running.into_values() {
            self.all.remove(&running.epoch);
            self.all.remove(&running.trial);
        }
        self.grid.finish_and_clear();
        // A terminal that is gone has nothing to clear.
        let _ = self.all.clear();
    }
}
