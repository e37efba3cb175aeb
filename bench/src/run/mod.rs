//! Running outstanding trials: child processes in, records out.

pub(crate) mod cache;
pub(crate) mod child;
pub(crate) mod directory;
pub(crate) mod interrupt;
pub(crate) mod report;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};

use records::event::Outcome;
use records::record::RECORD_FORMAT;
use records::{Event, Journal, Provenance, Record, Stage, Status};

use crate::display::Display;
use crate::error::ExpectedError;
use crate::plan::Trial;

/// Carries out one trial. Two implementations: child processes, and a script in the tests.
pub(crate) trait TrialExecutor: Sync {
    /// Runs the trial on `device` to its end, telling its events. `stop` becomes true when the run is to end early.
    fn execute(&self, trial: &Trial, device: &str, stop: &AtomicBool, on_event: &mut dyn FnMut(Event)) -> Ended;
}

/// How an execution ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By itself, or by a fault of the child; either way it becomes a record.
    Outcome(Box<Outcome>),
    /// Because the run is to end early: the trial stays outstanding.
    Interrupted,
}

/// A trial that is to be run.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// The trial.
    pub(crate) trial: Trial,
    /// The number of this attempt.
    pub(crate) attempt: u32,
}

/// What came of a run.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Trials that are done.
    pub(crate) done: usize,
    /// Trials that diverged, failed, ran out of memory or time.
    pub(crate) failed: usize,
    /// Trials that were not run, because the run ended early.
    pub(crate) outstanding: usize,
}

enum Message {
    Started(usize),
    Event(usize, Event),
    /// A job, the worker that did it, and how it ended.
    Ended(usize, usize, Ended),
}

/// What all trials of a run share.
pub(crate) struct Runner<'a> {
    /// Name of the suite.
    pub(crate) suite: &'a str,
    /// Where and with what trials run: one entry for each trial at a time, on the device that it names.
    pub(crate) workers: &'a [Provenance],
    /// What carries a trial out.
    pub(crate) executor: &'a dyn TrialExecutor,
}

impl Runner<'_> {
    /// Runs the jobs and appends a record for each as it ends; `after_record` is told.
    ///
    /// # Errors
    /// If a record cannot be written, or a trial could not write into the run directory: the run ends at once, and
    /// what was not recorded stays outstanding.
    pub(crate) fn run(
        &self,
        jobs: &[Job],
        journal: &mut Journal,
        display: &mut Display,
        mut after_record: impl FnMut(&Record) -> Result<(), ExpectedError>,
    ) -> Result<Tally, ExpectedError> {
        let queue = Mutex::new((0..jobs.len()).collect::<VecDeque<_>>());
        let stop = AtomicBool::new(false);
        let (sender, receiver) = mpsc::channel();
        let mut tally = Tally { outstanding: jobs.len(), ..Tally::default() };
        let mut failure = None;
        std::thread::scope(|scope| {
            for worker in (0..self.workers.len()).take(jobs.len()) {
                let sender = sender.clone();
                let (queue, stop) = (&queue, &stop);
                scope.spawn(move || self.work(worker, queue, jobs, stop, &sender));
            }
            drop(sender);
            for message in &receiver {
                let (index, worker, outcome) = match message {
                    Message::Started(index) => {
                        display.started(index, &jobs[index].trial, jobs[index].attempt);
                        continue;
                    }
                    Message::Event(index, event) => {
                        display.event(index, &event);
                        continue;
                    }
                    Message::Ended(index, worker, Ended::Outcome(outcome)) if failure.is_none() => {
                        (index, worker, outcome)
                    }
                    Message::Ended(..) => continue,
                };
                let record = self.record_of(&jobs[index], worker, *outcome);
                match keep(&record, journal).and_then(|()| after_record(&record)) {
                    Ok(()) => {
                        tally.count(&record.status);
                        display.ended(index, &record);
                    }
                    Err(error) => {
                        stop.store(true, Ordering::SeqCst);
                        failure = Some(error);
                    }
                }
            }
        });
        failure.map_or(Ok(tally), Err)
    }

    fn record_of(&self, job: &Job, worker: usize, outcome: Outcome) -> Record {
        let trial = &job.trial;
        Record {
            format: RECORD_FORMAT,
            trial: trial.id.clone(),
            attempt: job.attempt,
            cell: trial.cell.clone(),
            suite: self.suite.to_owned(),
            method: trial.method.clone(),
            dataset: trial.dataset.clone(),
            backbone: trial.backbone.clone(),
            seed: trial.seed,
            status: outcome.status,
            scores: outcome.scores,
            best: outcome.best,
            curve: outcome.curve,
            cost: outcome.cost,
            data: outcome.data,
            predictions: outcome.predictions,
            weights: outcome.weights,
            provenance: self.workers[worker].clone(),
            config: trial.config.clone(),
        }
    }

    /// Takes jobs from the queue until it is empty or the run is to end.
    fn work(
        &self,
        worker: usize,
        queue: &Mutex<VecDeque<usize>>,
        jobs: &[Job],
        stop: &AtomicBool,
        sender: &mpsc::Sender<Message>,
    ) {
        let stopped = || stop.load(Ordering::SeqCst) || interrupt::requested();
        while !stopped() {
            let next = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop_front();
            let Some(index) = next else {
                return;
            };
            // The receiver lives as long as this scope; sending cannot fail while it matters.
            let _ = sender.send(Message::Started(index));
            let ended = self.executor.execute(&jobs[index].trial, &self.workers[worker].device, stop, &mut |event| {
                let _ = sender.send(Message::Event(index, event));
            });
            if matches!(&ended, Ended::Outcome(o) if matches!(o.status, Status::Failed { stage: Stage::Write, .. })) {
                // The next trial could not write either.
                stop.store(true, Ordering::SeqCst);
            }
            let _ = sender.send(Message::Ended(index, worker, ended));
        }
    }
}

impl Tally {
    fn count(&mut self, status: &Status) {
        self.outstanding -= 1;
        match status {
            Status::Done | Status::Skipped { .. } => self.done += 1,
            _ => self.failed += 1,
        }
    }
}

/// Appends the record, unless the trial failed because the run directory cannot be written to: that is a matter of
/// the environment, and the trial stays outstanding.
fn keep(record: &Record, journal: &mut Journal) -> Result<(), ExpectedError> {
    if let Status::Failed { stage: Stage::Write, message } = &record.status {
        return Err(ExpectedError::Output { message: format!("trial {}: {message}", record.trial) });
    }
    Ok(journal.append(record)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Place;
    use crate::plan::tests as fixtures;

    /// Ends every third trial as failed, and stops the run at a given one. Where it is to meet, the first trials wait for
    /// one another, so that every worker has one.
    struct Scripted {
        cannot_write_at: Option<usize>,
        ids: Vec<String>,
        meeting: Option<std::sync::Barrier>,
        begun: std::sync::atomic::AtomicUsize,
        devices: Mutex<std::collections::BTreeMap<String, String>>,
    }

    impl TrialExecutor for Scripted {
        fn execute(&self, trial: &Trial, device: &str, _: &AtomicBool, on_event: &mut dyn FnMut(Event)) -> Ended {
            on_event(Event::Stage { stage: Stage::Train });
            self.devices.lock().unwrap().insert(trial.id.clone(), device.to_owned());
            if let Some(meeting) = &self.meeting
                && self.begun.fetch_add(1, Ordering::SeqCst) < DEVICES.len()
            {
                meeting.wait();
            }
            let index = self.ids.iter().position(|id| *id == trial.id).unwrap();
            let failed = |stage| Status::Failed { stage, message: "scripted".into() };
            let status = match index {
                i if self.cannot_write_at == Some(i) => failed(Stage::Write),
                i if i % 3 == 2 => failed(Stage::Train),
                _ => Status::Done,
            };
            Ended::Outcome(Box::new(Outcome::bare(status)))
        }
    }

    const DEVICES: [&str; 4] = ["cuda:0", "cuda:2", "cuda:0", "cuda:2"];

    fn scripted(cannot_write_at: Option<usize>, meeting: Option<std::sync::Barrier>, jobs: &[Job]) -> Scripted {
        let ids = jobs.iter().map(|j| j.trial.id.clone()).collect();
        Scripted { cannot_write_at, ids, meeting, begun: Default::default(), devices: Default::default() }
    }

    fn jobs() -> Vec<Job> {
        let trials = fixtures::planned(&fixtures::smoke()).trials;
        trials.into_iter().map(|trial| Job { trial, attempt: 1 }).collect()
    }

    /// The result and what the journal holds after it.
    fn run(executor: &Scripted, jobs: &[Job], devices: &[&str]) -> (Result<Tally, ExpectedError>, Vec<Record>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records.jsonl");
        let (mut journal, _) = Journal::open(&path).unwrap();
        let of = |device: &&str| Provenance { device: (*device).to_owned(), ..crate::host::provenance(Place::Cpu, 1) };
        let workers: Vec<Provenance> = devices.iter().map(of).collect();
        let mut display = Display::silent();
        let runner = Runner { suite: "s", workers: &workers, executor };
        let result = runner.run(jobs, &mut journal, &mut display, |_| Ok(()));
        (result, records::journal::read(&path).unwrap().all)
    }

    fn run_scripted(workers: usize, cannot_write_at: Option<usize>) -> (Result<Tally, ExpectedError>, usize) {
        let jobs = jobs();
        let (result, kept) = run(&scripted(cannot_write_at, None, &jobs), &jobs, &vec!["cpu"; workers]);
        (result, kept.len())
    }

    #[test]
    fn each_worker_has_its_device_and_each_record_names_the_one_of_its_trial() {
        let jobs = jobs();
        let executor = scripted(None, Some(std::sync::Barrier::new(DEVICES.len())), &jobs);
        let (result, kept) = run(&executor, &jobs, &DEVICES);
        assert_eq!(result.unwrap().outstanding, 0);
        let devices = executor.devices.into_inner().unwrap();
        assert_eq!(devices.len(), jobs.len());
        for record in &kept {
            assert_eq!(record.provenance.device, devices[&record.trial], "{}", record.trial);
        }
        let used: std::collections::BTreeSet<&str> = devices.values().map(String::as_str).collect();
        assert_eq!(used, DEVICES.into_iter().collect());
    }

    #[test]
    fn every_trial_becomes_one_record_whatever_the_number_of_workers() {
        for workers in [1, 3, 100] {
            let (result, kept) = run_scripted(workers, None);
            assert_eq!(result.unwrap(), Tally { done: 27, failed: 13, outstanding: 0 });
            assert_eq!(kept, 40);
        }
    }

    #[test]
    fn a_trial_that_cannot_write_ends_the_run_and_stays_outstanding() {
        let (result, kept) = run_scripted(1, Some(4));
        assert_eq!(result.unwrap_err().exit_code(), 3);
        assert_eq!(kept, 4);
    }
}
