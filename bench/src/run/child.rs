//! Trials as child processes: a panic, a kill or a lack of memory ends one trial, not the run.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use records::event::Outcome;
use records::{Cost, Event, Stage, Status};
use serde::{Deserialize, Serialize};

use super::directory::RunDirectory;
use super::{Ended, TrialExecutor, interrupt};
use crate::clock::Stopwatch;
use crate::device::memory;
use crate::plan::Trial;
use crate::trial::deadline::Word;
use crate::{environment, host};

/// How often a waiting parent looks whether the run is to end.
const POLL: Duration = Duration::from_millis(100);
/// How long a trial whose time is up may take to say what it came to, before it is killed. It looks after every step.
const GRACE: Duration = Duration::from_secs(20);
/// How many characters of what a child said a record keeps, from the beginning and from the end.
const FIRST_WORDS: usize = 500;
const LAST_WORDS: usize = 1500;

/// What a child is told, as one line of JSON on its standard input. The parent keeps the pipe open: when it
/// closes, the parent is gone, and the child ends too.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The trial.
    pub(crate) trial: Trial,
    /// The run directory.
    pub(crate) run: PathBuf,
    /// The device: `cpu`, or `cuda:N` as this process counts the cards.
    pub(crate) device: String,
}

/// Runs trials as child processes of this executable.
#[derive(Debug)]
pub(crate) struct ChildExecutor {
    /// The run directory.
    pub(crate) run: RunDirectory,
    /// This executable.
    pub(crate) executable: PathBuf,
    /// Worker threads of each child.
    pub(crate) threads: usize,
    /// How long a trial may take.
    pub(crate) limit: Option<Duration>,
}

impl TrialExecutor for ChildExecutor {
    fn execute(&self, trial: &Trial, device: &str, stop: &AtomicBool, on_event: &mut dyn FnMut(Event)) -> Ended {
        let outcome =
            |stage, message: String| Ended::Outcome(Box::new(Outcome::bare(Status::Failed { stage, message })));
        let folder = self.run.trial(&trial.id);
        let words = folder.join("stderr.log");
        let stderr = match fs::create_dir_all(&folder).and_then(|()| File::create(&words)) {
            Ok(file) => file,
            Err(error) => return outcome(Stage::Write, format!("cannot write {}: {error}", words.display())),
        };
        let kills_before = host::oom_kills();
        let mut child = match self.spawn(trial, device, stderr) {
            Ok(child) => child,
            Err(error) => return outcome(Stage::Start, format!("the child process did not start: {error}")),
        };
        let limit = self.limit.map(Limit::start);
        let followed = follow(&mut child, limit, stop, on_event);
        let status = match child.wait() {
            Ok(status) => status,
            Err(error) => return outcome(followed.stage, format!("the child process was lost: {error}")),
        };
        match followed.outcome {
            Some(outcome) => Ended::Outcome(outcome),
            None if followed.stopped || interrupt::requested() => Ended::Interrupted,
            None if followed.late.is_some() => Ended::Outcome(Box::new(followed.cut_short())),
            None => {
                let oom = kills_before < host::oom_kills();
                Ended::Outcome(Box::new(Outcome::bare(fault(followed.stage, status, oom, &words))))
            }
        }
    }
}

impl ChildExecutor {
    fn spawn(&self, trial: &Trial, device: &str, stderr: File) -> std::io::Result<Child> {
        let order = Order { trial: trial.clone(), run: self.run.path().to_owned(), device: device.to_owned() };
        let mut command = Command::new(&self.executable);
        command
            .arg("trial")
            .env(environment::THREADS, self.threads.to_string())
            .envs(environment::TRIAL.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr);
        #[cfg(unix)]
        {
            use std::os::unix::process::CommandExt;
            // A group of its own: Ctrl-C on the terminal reaches the parent alone, which then ends the child.
            command.arg0("bench").process_group(0);
        }
        let mut child = command.spawn()?;
        let told = child.stdin.as_mut().map_or(Ok(()), |stdin| tell(stdin, &order));
        if let Err(error) = told {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        Ok(child)
    }
}

/// The program that children run: this very one, also if its file was replaced since.
pub(crate) fn this_executable() -> std::io::Result<PathBuf> {
    let this = PathBuf::from("/proc/self/exe");
    if this.exists() { Ok(this) } else { std::env::current_exe() }
}

/// How long a child may take, and since when it runs.
struct Limit {
    clock: Stopwatch,
    most: Duration,
    /// Since when it has been told that its time is up.
    told: Option<Stopwatch>,
}

impl Limit {
    fn start(most: Duration) -> Self {
        Self { clock: Stopwatch::start(), most, told: None }
    }

    /// Tells the child when its time is up, and kills it where it does not end in time: then the seconds for which it ran come
    /// back.
    fn look(&mut self, child: &mut Child) -> Option<f64> {
        if self.clock.elapsed() < self.most {
            return None;
        }
        let Some(told) = self.told else {
            self.told = Some(Stopwatch::start());
            let word = Word::TimeIsUp(self.most.as_secs_f64());
            // Where nobody listens any more, the child has ended.
            let _ = child.stdin.as_mut().map(|stdin| tell(stdin, &word));
            return None;
        };
        if told.elapsed() < GRACE {
            return None;
        }
        kill(child);
        Some(self.clock.seconds())
    }
}

/// Writes a line of JSON.
fn tell(to: &mut impl Write, what: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line).and_then(|()| to.flush())
}

/// Kills a child and whatever belongs to its group.
fn kill(child: &mut Child) {
    #[cfg(unix)]
    {
        // SAFETY: this is the C library's `kill`, which takes two numbers and touches no memory of ours.
        unsafe extern "C" {
            safe fn kill(process: i32, signal: i32) -> i32;
        }
        const SIGKILL: i32 = 9;
        // The child leads a group of its own, named by its id, which stays its own until `wait`. Below 2 that would be others.
        if let Ok(id @ 2..) = i32::try_from(child.id()) {
            kill(-id, SIGKILL);
        }
    }
    let _ = child.kill();
}

/// What a child said.
struct Followed {
    outcome: Option<Box<Outcome>>,
    stage: Stage,
    stopped: bool,
    /// The last it said about its cost.
    cost: Option<Cost>,
    /// Its limit and the seconds for which it ran, where it was killed for running past it, which a child may be that has said
    /// what it came to and then does not end.
    late: Option<(Duration, f64)>,
}

impl Followed {
    /// What came of a child that was killed because its time was up.
    fn cut_short(self) -> Outcome {
        let (limit, seconds) = self.late.unwrap_or_default();
        let cost = self.cost.map(|cost| Cost { seconds, ..cost });
        Outcome { cost, ..Outcome::bare(Status::TimedOut { seconds: limit.as_secs_f64() }) }
    }
}

/// Passes a child's events on until it says no more; kills it if the run is to end, or its time is up and it does not heed.
fn follow(child: &mut Child, mut limit: Option<Limit>, stop: &AtomicBool, on_event: &mut dyn FnMut(Event)) -> Followed {
    let mut followed = Followed { outcome: None, stage: Stage::Start, stopped: false, cost: None, late: None };
    let Some(stdout) = child.stdout.take() else {
        return followed;
    };
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(Event::Ended { outcome }) => followed.outcome = Some(outcome),
                Ok(event) => {
                    match &event {
                        Event::Stage { stage } => followed.stage = *stage,
                        Event::Cost { cost } => followed.cost = Some(cost.clone()),
                        _ => {}
                    }
                    on_event(event);
                }
                // Only our own events are written there; anything else is a line that a kill has torn.
                Err(_) => {}
            },
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if !followed.stopped && (stop.load(Ordering::SeqCst) || interrupt::requested()) {
            followed.stopped = true;
            kill(child);
        }
        if let Some(limit) = limit.as_mut().filter(|_| followed.late.is_none()) {
            followed.late = limit.look(child).map(|seconds| (limit.most, seconds));
        }
    }
    let _ = reader.join();
    followed
}

/// The status of a child that ended without saying how.
fn fault(stage: Stage, status: ExitStatus, oom: bool, words: &Path) -> Status {
    let said = last_words(words);
    let how = describe(status);
    if oom || memory::says_so(&said) {
        return Status::OutOfMemory { message: join(&how, &said) };
    }
    Status::Failed { stage, message: join(&how, &said) }
}

fn join(how: &str, said: &str) -> String {
    if said.is_empty() { how.to_owned() } else { format!("{how}: {said}") }
}

fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt;
        if let Some(signal) = status.signal() {
            return format!("the child process was ended by signal {signal}");
        }
    }
    format!("the child process ended with {status}")
}

/// What a child said on stderr, its middle left out where it is long.
fn last_words(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    let count = text.chars().count();
    if count <= FIRST_WORDS + LAST_WORDS {
        return text.to_owned();
    }
    let first: String = text.chars().take(FIRST_WORDS).collect();
    let last: String = text.chars().skip(count - LAST_WORDS).collect();
    format!("{first} […] {last}")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn status(words: &str, oom: bool) -> Status {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stderr.log");
        fs::write(&path, words).unwrap();
        // A panic's exit code.
        fault(Stage::Train, ExitStatus::from_raw(101 << 8), oom, &path)
    }

    #[test]
    fn a_child_that_died_for_lack_of_memory_is_told_apart_by_its_last_words() {
        let panic = "thread 'main' panicked at src/lib.rs:7:9:\nmemory for a copy: DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        for words in [panic, "memory allocation of 8589934592 bytes failed", "CUBLAS_STATUS_ALLOC_FAILED"] {
            let status = status(words, false);
            assert!(matches!(&status, Status::OutOfMemory { message } if message.contains(words)), "{status:?}");
        }
        assert!(matches!(status("", true), Status::OutOfMemory { .. }));
        for words in
            ["", "thread 'main' panicked: DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access\")"]
        {
            let status = status(words, false);
            assert!(matches!(status, Status::Failed { stage: Stage::Train, .. }), "{status:?}");
        }
    }
}
