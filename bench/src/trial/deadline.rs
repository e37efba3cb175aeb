//! The end of a trial's time: the parent says so on the trial's standard input, and the trial stops at the next step.

use std::io::BufRead;
use std::sync::OnceLock;

use records::Stage;
use serde::{Deserialize, Serialize};

use super::Failure;

/// What a running child is told, as a line of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    /// The trial has run past its limit, in seconds.
    TimeIsUp(f64),
}

/// The limit, once it has passed.
static PASSED: OnceLock<f64> = OnceLock::new();

/// Hears what the parent says until it is gone.
pub(super) fn listen(words: impl BufRead) {
    for line in words.lines().map_while(Result::ok) {
        if let Ok(Word::TimeIsUp(seconds)) = serde_json::from_str(&line) {
            let _ = PASSED.set(seconds);
        }
    }
}

/// Refuses to go on once the time is up.
pub(super) fn check(stage: Stage) -> Result<(), Failure> {
    PASSED.get().map_or(Ok(()), |&seconds| Err(Failure::timed_out(stage, seconds)))
}
