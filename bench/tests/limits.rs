//! `--trial-timeout`: a trial that runs past it is ended and recorded, the grid goes on, and a later run goes on from its
//! checkpoint to the same weights.
// Children are found by Linux's account of processes.
#![cfg(target_os = "linux")]

mod common;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Place, TWO_DATASETS, suite};
use records::{Record, Status, journal};

const METHOD: &str = "[methods.cotap]\ncotap = { hidden = 16, output = 8 }\n";

/// All records of a run, in their order.
fn records(place: &Place, out: &str) -> Vec<Record> {
    journal::read(&place.path(out).join("records.jsonl")).unwrap().all
}

fn has_checkpoint(place: &Place, out: &str, trial: &str) -> bool {
    place.path(out).join("trials").join(trial).join("checkpoint.safetensors").exists()
}

fn kill(id: u32, signal: &str) {
    Command::new("kill").args([signal, &id.to_string()]).stderr(Stdio::null()).status().unwrap();
}

#[test]
fn a_trial_past_its_limit_is_recorded_and_goes_on_later() {
    let place = Place::with_suite(&suite(150, METHOD, TWO_DATASETS));
    place.run("calm", &["--device", "cpu"], 0);
    let calm = records(&place, "calm");
    let seconds = calm.iter().map(|record| record.cost.as_ref().unwrap().seconds).fold(f64::INFINITY, f64::min);
    // The machine may be faster or slower than before.
    for (turn, part) in [0.6, 0.3, 0.15, 0.8].into_iter().enumerate() {
        // As nanoseconds, which is how it is kept.
        let (out, limit) = (format!("run{turn}"), Duration::from_secs_f64(part * seconds).as_secs_f64());
        let child = place.command(&out, &["--device", "cpu", "--trial-timeout", &limit.to_string()]).output().unwrap();
        let late = records(&place, &out);
        let is_late = |record: &&Record| record.status == Status::TimedOut { seconds: limit };
        if late.iter().filter(is_late).count() < 2
            || !late.iter().all(|record| has_checkpoint(&place, &out, &record.trial))
        {
            continue;
        }
        // Both trials were begun and ended: the grid went on after the first.
        assert_eq!(child.status.code(), Some(10), "{}", String::from_utf8_lossy(&child.stderr));
        for record in &late {
            let cost = record.cost.as_ref().unwrap();
            assert!(cost.steps > 0 && cost.params > 0 && cost.step_ms > 0.0 && cost.images_per_s > 0.0, "{cost:?}");
            assert!(cost.seconds > 0.5 * limit && cost.resumed_at_step == 0, "{cost:?}, limit {limit}");
            assert!(!record.curve.is_empty() && record.scores.is_none() && record.weights.is_none());
        }
        assert_eq!(place.results(&out)[0]["status"], "timed_out");
        let report = std::fs::read_to_string(place.path(&out).join("report.md")).unwrap();
        assert_eq!(report.matches(&format!(" ran past its limit of {limit} s |")).count(), 2, "{report}");
        // The same without a limit goes on to the same weights.
        place.run(&out, &["--device", "cpu"], 0);
        let after = records(&place, &out);
        assert_eq!(after.len(), 4);
        for (record, calm) in after[2..].iter().zip(&calm) {
            assert_eq!((&record.trial, record.attempt, &record.weights), (&calm.trial, 2, &calm.weights));
            assert!(record.cost.as_ref().unwrap().resumed_at_step > 0);
        }
        assert_eq!(place.results(&out).len(), 2);
        return;
    }
    panic!("no limit met both trials after their first checkpoint");
}

/// Ends with the test, whatever becomes of it.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// Process ids of the children of a process.
fn children(parent: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|t| std::fs::read_to_string(t.path().join("children")).unwrap_or_default());
    lists.flat_map(|l| l.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
}

#[test]
fn a_trial_that_hangs_is_killed_and_keeps_its_checkpoint() {
    let datasets = TWO_DATASETS.split("[datasets.soy]").next().unwrap();
    let place = Place::with_suite(&suite(100_000, METHOD, datasets));
    let mut command = place.command("run", &["--device", "cpu", "--trial-timeout", "8s"]);
    let mut run = Ended(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let trials = place.path("run/trials");
    let checkpoint = || {
        let folders = std::fs::read_dir(&trials).into_iter().flatten().flatten();
        folders.map(|folder| folder.path().join("checkpoint.safetensors")).find(|file| file.exists())
    };
    let file = (0..800).find_map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        checkpoint()
    });
    let file = file.expect("a checkpoint before the limit");
    let child = children(run.0.id())[0];
    // It neither hears nor dies of anything but a kill.
    kill(child, "-STOP");
    assert_eq!(run.0.wait().unwrap().code(), Some(10));
    let record = records(&place, "run").remove(0);
    assert_eq!(record.status, Status::TimedOut { seconds: 8.0 });
    let cost = record.cost.expect("what it said of its cost");
    assert!(cost.steps > 0 && cost.seconds > 8.0, "{cost:?}");
    assert!(file.exists() && !std::path::Path::new(&format!("/proc/{child}")).exists());
}
