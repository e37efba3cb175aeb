//! What a person sees of a run: bars on a terminal, plain lines in a pipe. All of it goes to stderr.

mod bars;
pub(crate) mod downloads;
mod plain;

use std::io::IsTerminal;

use records::{Event, Record, Status};

use crate::plan::Trial;

/// A view of a run's progress.
pub(crate) enum Display {
    /// Bars for the grid, each running trial and its epoch.
    Bars(bars::Bars),
    /// A line when a trial starts or ends, and now and then an epoch.
    Plain(plain::Plain),
    /// Nothing, for tests.
    #[cfg(test)]
    Silent,
}

impl Display {
    /// Bars if stderr is a terminal, else lines.
    pub(crate) fn new(trials: usize, already_done: usize) -> Self {
        if std::io::stderr().is_terminal() {
            Self::Bars(bars::Bars::new(trials, already_done))
        } else {
            Self::Plain(plain::Plain::new(trials, already_done))
        }
    }

    #[cfg(test)]
    pub(crate) fn silent() -> Self {
        Self::Silent
    }

    /// A trial begins.
    pub(crate) fn started(&mut self, index: usize, trial: &Trial, attempt: u32) {
        match self {
            Self::Bars(bars) => bars.started(index, trial),
            Self::Plain(plain) => plain.started(index, trial, attempt),
            #[cfg(test)]
            Self::Silent => {}
        }
    }

    /// A running trial says something.
    pub(crate) fn event(&mut self, index: usize, event: &Event) {
        match self {
            Self::Bars(bars) => bars.event(index, event),
            Self::Plain(plain) => plain.event(index, event),
            #[cfg(test)]
            Self::Silent => {}
        }
    }

    /// A trial has ended and its record is kept.
    pub(crate) fn ended(&mut self, index: usize, record: &Record) {
        match self {
            Self::Bars(bars) => bars.ended(index, record),
            Self::Plain(plain) => plain.ended(index, record),
            #[cfg(test)]
            Self::Silent => {}
        }
    }

    /// Takes the bars away.
    pub(crate) fn finish(self) {
        if let Self::Bars(bars) = self {
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
