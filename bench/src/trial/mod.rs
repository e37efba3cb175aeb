//! One trial, in a process of its own: told on stdin, telling events on stdout.

mod checkpoint;
pub(crate) mod deadline;
mod evaluate;
mod failure;
mod images;
mod model;
mod optimizer;
mod sums;
mod train;
mod upload;

use std::fs::OpenOptions;
use std::io::{BufRead, Write};

use candle_core::Device;
use records::event::Outcome;
use records::{Event, Stage};

use crate::device::{Place, memory};
use crate::error::exit;
use crate::files;
use crate::run::child::Order;
use crate::run::directory::RunDirectory;
use crate::talk::tell;

pub(crate) use failure::Failure;
pub(crate) use model::Network;

/// Where a trial's events go.
pub(crate) struct Teller(std::io::Stdout);

impl Teller {
    /// Tells one event. A parent that is gone is noticed by the lifeline, not here.
    pub(crate) fn tell(&self, event: &Event) {
        let mut line = serde_json::to_vec(event).expect("an event is plain data");
        line.push(b'\n');
        let mut out = self.0.lock();
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }

    /// Tells that a stage begins.
    pub(crate) fn stage(&self, stage: Stage) {
        self.tell(&Event::Stage { stage });
    }
}

/// Reads the order, carries it out, tells the outcome; the exit code is 0 whenever an outcome was told.
pub(crate) fn main() -> i32 {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    let order: Order =
        match read.map_err(|e| e.to_string()).and_then(|_| serde_json::from_str(&line).map_err(|e| e.to_string())) {
            Ok(order) => order,
            Err(reason) => {
                tell(&format!("error: `bench trial` is for `bench` itself; no order on stdin: {reason}"));
                return exit::USAGE;
            }
        };
    end_with_parent();
    let teller = Teller(std::io::stdout());
    let outcome = carry_out(&order, &teller).unwrap_or_else(|failure| Outcome::bare(failure.into_status()));
    teller.tell(&Event::Ended { outcome: Box::new(outcome) });
    exit::DONE
}

/// Hears when the time is up, and ends this process when its standard input closes: the parent is gone, and the next one
/// must find the run directory still.
fn end_with_parent() {
    std::thread::spawn(|| {
        deadline::listen(std::io::stdin().lock());
        #[expect(clippy::exit, reason = "nobody is left to tell")]
        std::process::exit(exit::OUTSTANDING);
    });
}

fn carry_out(order: &Order, teller: &Teller) -> Result<Outcome, Failure> {
    let run = RunDirectory::at(&order.run);
    let folder = run.trial(&order.trial.id);
    let path = folder.join("lock");
    let cannot = |error: std::io::Error| Failure::at(Stage::Write, format!("cannot write {}: {error}", path.display()));
    let lock = OpenOptions::new().create(true).append(true).open(&path).map_err(cannot)?;
    // A child of a run that was killed may need a moment to notice; nobody else holds this lock.
    lock.lock().map_err(cannot)?;
    files::remove_leftovers(&folder);
    let outcome = train::carry_out(&order.trial, &run, &order.device, teller);
    drop(lock);
    outcome
}

/// The device of the order, with memory that it keeps from step to step.
fn opened(name: &str) -> Result<Device, Failure> {
    let unknown = || Failure::at(Stage::Start, format!("there is no device `{name}`"));
    let device = Place::named(name).ok_or_else(unknown)?.open().map_err(|e| Failure::at(Stage::Start, e))?;
    memory::keep(&device).map_err(|e| Failure::at(Stage::Start, e))?;
    Ok(device)
}
