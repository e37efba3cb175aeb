//! What a person sees of an import: a bar with bytes or images on a terminal, a few plain lines in a pipe. All of it goes
//! to stderr.

use std::io::IsTerminal;

use datasets::{DatasetError, ImportEvent, Imported};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::events::EventLog;
use super::gauge::{Gauge, duration, joined};
use crate::clock::Stopwatch;
use crate::talk::tell;

/// Seconds between two lines about the same import.
const LINE_SECONDS: f64 = 10.0;

/// Bytes that are hashed, and images.
const BYTES: &str = "{msg:<14} hashing   {bar:24} {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12} {eta:>4}";
const IMAGES: &str = "{prefix:<14} verifying {bar:24} {pos:>6}/{len} images  {wide_msg}";

/// Seconds between two events about the same import.
const EVENT_SECONDS: f64 = 0.25;

/// What a line of the file of events says.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Told<'a> {
    Waiting { dataset: &'a str },
    Hashing { dataset: &'a str, done_bytes: u64, total_bytes: u64 },
    Verifying { dataset: &'a str, done: u64, total: u64, bytes: u64, seconds: f64 },
    Imported { dataset: &'a str, digest: &'a str, new: bool },
    Refused { dataset: &'a str, message: String },
}

/// One import on its way.
pub(crate) struct Imports<'a> {
    name: String,
    bar: Option<ProgressBar>,
    events: Option<&'a mut EventLog>,
    /// Since the last event.
    told: Option<Stopwatch>,
    /// Since the images were begun.
    begun: Stopwatch,
    /// Since the last line.
    since: Stopwatch,
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; a mistake in one falls back to the library's own bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─")
}

impl<'a> Imports<'a> {
    /// Of this subset, from this file or folder; with a file of events, if there is one.
    pub(crate) fn new(name: &str, from: &str, events: Option<&'a mut EventLog>) -> Self {
        tell(&format!("importing {name} from {from}"));
        let bar = std::io::stderr().is_terminal().then(|| {
            ProgressBar::no_length().with_message(name.to_owned()).with_prefix(name.to_owned()).with_style(style(BYTES))
        });
        let (begun, since) = (Stopwatch::start(), Stopwatch::start());
        Self { name: name.to_owned(), bar, events, told: None, begun, since }
    }

    /// A word from the import.
    pub(crate) fn event(&mut self, event: &ImportEvent) {
        match event {
            ImportEvent::Waiting { path } => {
                self.write(true, |dataset| Told::Waiting { dataset });
                self.line(&format!("{}: another process works on {}; waiting", self.name, path.display()));
            }
            ImportEvent::Hashing { done, total } => self.hashing(*done, *total),
            ImportEvent::Verifying { done, total, bytes } => {
                if *done == 0 {
                    self.begun = Stopwatch::start();
                }
                let seconds = self.begun.seconds();
                self.verifying(Gauge { done: *done as u64, total: *total as u64, seconds }, *bytes);
            }
        }
    }

    /// Appends to the file of events; what is not `always` told only now and then.
    fn write<'n>(&'n mut self, always: bool, event: impl FnOnce(&'n str) -> Told<'n>) {
        let Some(events) = self.events.as_deref_mut() else { return };
        if always || self.told.is_none_or(|told| told.seconds() >= EVENT_SECONDS) {
            self.told = Some(Stopwatch::start());
            events.write(&event(&self.name));
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => tell(text),
        }
    }

    /// True if it is time for another line.
    fn due(&mut self) -> bool {
        let due = self.bar.is_none() && self.since.seconds() >= LINE_SECONDS;
        if due {
            self.since = Stopwatch::start();
        }
        due
    }

    fn hashing(&mut self, done: u64, total: u64) {
        let told = |dataset| Told::Hashing { dataset, done_bytes: done, total_bytes: total };
        self.write(done == 0 || done == total, told);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        } else if done < total && self.due() {
            tell(&format!("  {}: {} of {} hashed", self.name, HumanBytes(done), HumanBytes(total)));
        }
    }

    fn verifying(&mut self, gauge: Gauge, bytes: u64) {
        let Gauge { done, total, seconds } = gauge;
        let told = |dataset| Told::Verifying { dataset, done, total, bytes, seconds };
        self.write(done == 0 || done == total, told);
        let size = HumanBytes(bytes).to_string();
        if let Some(bar) = &self.bar {
            if done == 0 {
                bar.set_style(style(IMAGES));
            }
            bar.set_length(total);
            bar.set_message(joined([size, gauge.speed(), gauge.left()]));
            bar.set_position(done);
        } else if done == total && total > 0 {
            let (speed, time) = (gauge.speed(), duration(seconds));
            tell(&joined([format!("  {}: {total} images verified in {time}", self.name), size, speed]));
        } else if self.due() {
            let text = format!("  {}: {done} of {total} images verified", self.name);
            tell(&joined([text, size, gauge.speed(), gauge.left()]));
        }
    }

    /// Takes the bar away, and tells what came of it.
    pub(crate) fn finish(mut self, result: &Result<Imported, DatasetError>) {
        match result {
            Ok(imported) => self.write(true, |dataset| {
                let digest = &imported.dataset.digest;
                Told::Imported { dataset, digest, new: imported.new }
            }),
            Err(error) => self.write(true, |dataset| Told::Refused { dataset, message: error.to_string() }),
        }
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
