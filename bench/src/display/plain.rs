//! Plain lines, for pipes and log files.

use std::collections::HashMap;

use indicatif::HumanBytes;
use records::{Event, Record};

use super::gauge::{Gauge, duration, joined};
use super::verdict_line;
use crate::clock::Stopwatch;
use crate::plan::Trial;
use crate::talk::tell;

/// Seconds between two epoch lines of a trial.
const EPOCH_SECONDS: f64 = 30.0;

/// Seconds between two lines about images that are decoded.
const DECODING_SECONDS: f64 = 10.0;

/// A line when a trial starts or ends and when images were decoded, and an epoch at most every [`EPOCH_SECONDS`].
pub(crate) struct Plain {
    trials: usize,
    ended: usize,
    names: HashMap<usize, (String, Stopwatch)>,
}

impl Plain {
    pub(crate) fn new(trials: usize, already_done: usize) -> Self {
        tell(&format!("{trials} trials, {already_done} finished before"));
        Self { trials, ended: already_done, names: HashMap::new() }
    }

    pub(crate) fn started(&mut self, index: usize, trial: &Trial, attempt: u32) {
        let again = if attempt > 1 { format!("  (attempt {attempt})") } else { String::new() };
        tell(&format!("start {}{again}", trial.id));
        self.names.insert(index, (trial.id.clone(), Stopwatch::start()));
    }

    pub(crate) fn event(&mut self, index: usize, event: &Event) {
        let Some((name, since)) = self.names.get_mut(&index) else {
            return;
        };
        match event {
            Event::Training { epochs, resumed_at_step, steps_per_epoch, .. } if *resumed_at_step > 0 => {
                tell(&format!("  {name}: goes on after step {resumed_at_step} of {}", epochs * steps_per_epoch));
            }
            Event::Waiting { split } => tell(&format!("  {name}: another process decodes the {split} images; waiting")),
            Event::Decoding { split, done, total, bytes, expected_bytes, seconds } => {
                let gauge = Gauge { done: *done, total: *total, seconds: *seconds };
                let size = HumanBytes(*bytes).to_string();
                if done == total {
                    let text = format!("  {name}: {total} {split} images decoded in {}", duration(*seconds));
                    tell(&joined([text, size, gauge.speed()]));
                } else if *done > 0 && since.seconds() >= DECODING_SECONDS {
                    let text = format!("  {name}: {done} of {total} {split} images decoded");
                    let size = format!("{size} of about {}", HumanBytes(*expected_bytes));
                    tell(&joined([text, size, gauge.speed(), gauge.left()]));
                    *since = Stopwatch::start();
                }
            }
            Event::Epoch { point } if since.seconds() >= EPOCH_SECONDS => {
                let top1 = point.test_top1.map_or(String::new(), |t| format!("  top-1 {:.1} %", 100.0 * t));
                tell(&format!("  {name}: epoch {}  loss {:.4}{top1}", point.epoch, point.loss));
                *since = Stopwatch::start();
            }
            _ => {}
        }
    }

    pub(crate) fn ended(&mut self, index: usize, record: &Record) {
        self.ended += 1;
        self.names.remove(&index);
        tell(&format!("[{}/{}] {}  {}", self.ended, self.trials, record.trial, verdict_line(record)));
    }
}
