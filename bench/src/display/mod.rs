//! What a person sees of a run: bars on a terminal, plain lines in a pipe. All of it goes to stderr.

mod bars;
pub(crate) mod downloads;
pub(crate) mod events;
mod gauge;
pub(crate) mod imports;
mod plain;

use std::collections::HashMap;
use std::io::IsTerminal;

use records::{Event, Record, Status};
use serde::Serialize;

use crate::plan::Trial;
use events::EventLog;

/// A run's progress: what a person sees of it, and what a file of events is told.
pub(crate) struct Display {
    view: View,
    events: Option<EventLog>,
    /// Ids of the running trials.
    running: HashMap<usize, String>,
}

/// What a person sees.
enum View {
    /// Bars for the grid, each running trial and its epoch.
    Bars(bars::Bars),
    /// A line when a trial starts or ends, and now and then an epoch.
    Plain(plain::Plain),
    /// Nothing, for tests.
    #[cfg(test)]
    Silent,
}

/// A line of the file of events.
#[derive(Serialize)]
struct Line<'a, E> {
    trial: &'a str,
    #[serde(flatten)]
    event: E,
}

/// What the trial's process does not say itself.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Told<'a> {
    Started { attempt: u32 },
    Ended { status: &'a str, top1: Option<f64> },
}

impl Display {
    /// Bars if stderr is a terminal, else lines; and a file of events, if there is one.
    pub(crate) fn new(trials: usize, already_done: usize, events: Option<EventLog>) -> Self {
        let view = if std::io::stderr().is_terminal() {
            View::Bars(bars::Bars::new(trials, already_done))
        } else {
            View::Plain(plain::Plain::new(trials, already_done))
        };
        Self { view, events, running: HashMap::new() }
    }

    #[cfg(test)]
    pub(crate) fn silent() -> Self {
        Self { view: View::Silent, events: None, running: HashMap::new() }
    }

    fn write(&mut self, index: usize, event: impl Serialize) {
        if let (Some(events), Some(trial)) = (&mut self.events, self.running.get(&index)) {
            events.write(&Line { trial, event });
        }
    }

    /// A trial begins.
    pub(crate) fn started(&mut self, index: usize, trial: &Trial, attempt: u32) {
        self.running.insert(index, trial.id.clone());
        self.write(index, Told::Started { attempt });
        match &mut self.view {
            View::Bars(bars) => bars.started(index, trial),
            View::Plain(plain) => plain.started(index, trial, attempt),
            #[cfg(test)]
            View::Silent => {}
        }
    }

    /// A running trial says something.
    pub(crate) fn event(&mut self, index: usize, event: &Event) {
        self.write(index, event);
        match &mut self.view {
            View::Bars(bars) => bars.event(index, event),
            View::Plain(plain) => plain.event(index, event),
            #[cfg(test)]
            View::Silent => {}
        }
    }

    /// A trial has ended and its record is kept.
    pub(crate) fn ended(&mut self, index: usize, record: &Record) {
        let top1 = record.scores.as_ref().map(|scores| scores.top1);
        self.write(index, Told::Ended { status: record.status.word(), top1 });
        self.running.remove(&index);
        match &mut self.view {
            View::Bars(bars) => bars.ended(index, record),
            View::Plain(plain) => plain.ended(index, record),
            #[cfg(test)]
            View::Silent => {}
        }
    }

    /// Takes the bars away.
    pub(crate) fn finish(self) {
        if let View::Bars(bars) = self.view {
            bars.finish();
        }
    }
}

/// What a record came to, in one line.
fn verdict_line(record: &Record) -> String {
    let seconds = record.cost.as_ref().map_or(String::new(), |c| format!("  {:.1} s", c.seconds));
    match (&record.status, &record.scores) {
        (Status::Done, Some(scores)) => {
            format!("top-1 {:5.1} %  ({} of {}){seconds}", 100.0 * scores.top1, scores.correct, scores.total)
        }
        (status, _) => {
            let detail = status.detail();
            format!("{}: {}", status.word(), detail.lines().next().unwrap_or_default())
        }
    }
}
