//! `kill -9` of the run, or of a trial's child, at any moment: the same command again leads to the same results.
#![cfg(unix)]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{Place, Said, THREE_METHODS, TWO_DATASETS, suite};
use random::{Axis, Seeds};

const EPOCHS: u64 = 12;

/// One test at a time, so that a disturbed run is as fast as the undisturbed one that it is timed by.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Process ids of the children of a process.
fn children(parent: u32) -> Vec<u32> {
    // The kernel lists them by the thread that started them.
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|t| std::fs::read_to_string(t.path().join("children")).unwrap_or_default());
    lists.flat_map(|l| l.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
}

fn kill(id: u32, signal: &str) {
    Command::new("kill").args([signal, &id.to_string()]).stderr(Stdio::null()).status().unwrap();
}

fn start(place: &Place) -> Child {
    place.command("run", &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Seconds that an undisturbed run takes here, and its results.
#[expect(clippy::disallowed_methods, reason = "a test may look at the clock to choose a moment")]
fn undisturbed(place: &Place) -> f64 {
    let begun = std::time::Instant::now();
    place.run("calm", &[], 0);
    begun.elapsed().as_secs_f64()
}

fn assert_same(place: &Place) {
    assert_eq!(place.results("run"), place.results("calm"));
    let files = |out: &str| -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = std::fs::read_dir(place.path(out).join("predictions"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .map(|p| (name(&p), std::fs::read(&p).unwrap()))
            .collect();
        files.sort();
        files
    };
    assert_eq!(files("run"), files("calm"));
    let left: Vec<_> = std::fs::read_dir(place.path("run/trials")).unwrap().collect();
    assert!(left.is_empty(), "no checkpoint stays behind a finished run: {left:?}");
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Random moments, as parts of what an undisturbed run takes; together well below the whole.
fn moments(seconds: f64, seed: u64) -> [Duration; 3] {
    let mut stream = Seeds::new(seed).stream(Axis::Test, &[]);
    std::array::from_fn(|_| Duration::from_secs_f64(stream.range(0.05, 0.2) * seconds))
}

#[test]
fn kill_9_of_the_run_at_random_moments_changes_no_result() {
    let _alone = alone();
    let place = Place::with_suite(&suite(EPOCHS, THREE_METHODS, TWO_DATASETS));
    let seconds = undisturbed(&place);
    for moment in moments(seconds, 11) {
        let mut run = start(&place);
        std::thread::sleep(moment);
        assert!(run.try_wait().unwrap().is_none(), "the kill hits a running process");
        kill(run.id(), "-9");
        run.wait().unwrap();
    }
    place.run("run", &[], 0);
    assert_same(&place);
}

#[test]
fn kill_9_of_a_trials_child_at_random_moments_changes_no_result() {
    let _alone = alone();
    let place = Place::with_suite(&suite(EPOCHS, THREE_METHODS, TWO_DATASETS));
    let seconds = undisturbed(&place);
    let mut run = start(&place);
    let mut killed = 0;
    for moment in moments(seconds, 12) {
        std::thread::sleep(moment);
        let victims = (0..200).find_map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            Some(children(run.id())).filter(|ids| !ids.is_empty())
        });
        for id in victims.expect("a child is running") {
            kill(id, "-9");
            killed += 1;
        }
    }
    assert!(killed >= 3);
    assert_eq!(run.wait().unwrap().code(), Some(10), "killed trials are recorded as failed");
    place.run("run", &[], 0);
    assert_same(&place);
}

#[test]
fn a_killed_child_is_a_failed_trial_and_the_grid_goes_on() {
    let _alone = alone();
    let place = Place::with_suite(&suite(40, "[methods.ce]\nce = {}\n", TWO_DATASETS));
    let mut run = start(&place);
    let victim = (0..400)
        .find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            children(run.id()).first().copied()
        })
        .expect("a child appears");
    kill(victim, "-9");
    assert_eq!(run.wait().unwrap().code(), Some(10));
    let rows = place.results("run");
    let statuses: Vec<&str> = rows.iter().map(|row| row["status"].as_str()).collect();
    assert_eq!(statuses, ["failed", "done"]);
    assert!(rows[0]["detail"].contains("signal 9"), "{}", rows[0]["detail"]);
}

#[test]
fn an_interrupted_run_says_that_trials_are_outstanding_and_goes_on_from_its_checkpoint() {
    let _alone = alone();
    let place = Place::with_suite(&suite(400, "[methods.cotap]\ncotap = { hidden = 16, output = 8 }\n", TWO_DATASETS));
    let run = place.command("run", &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let trials = std::fs::read_dir(place.path("run/trials"));
        trials.is_ok_and(|t| t.flatten().any(|e| e.path().join("checkpoint.safetensors").exists()))
    });
    assert!(begun, "a checkpoint appears");
    kill(run.id(), "-TERM");
    Said::of(run.wait_with_output().unwrap(), 5).stderr_has(&["outstanding", "goes on"]);
    let status = Said::of(place.bench(&["status", "run"]).output().unwrap(), 5);
    assert!(status.stdout.starts_with("begun "), "{}", status.stdout);
}
