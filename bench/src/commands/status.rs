//! `bench status RUN`: what is done, failed and outstanding.

use std::path::Path;

use indicatif::HumanBytes;

use super::print;
use crate::error::{ExpectedError, exit};
use crate::plan::{State, state};
use crate::run::directory::RunDirectory;
use crate::run::{cache, report};

/// Prints the state of a run, a line for each trial that is not done, and the counts.
pub(crate) fn status(run: &Path) -> Result<i32, ExpectedError> {
    let directory = RunDirectory::at(run);
    let plan = directory.read_plan()?;
    let records = report::read_records(&directory)?;
    let latest = records.latest();
    let (mut done, mut failed, mut outstanding) = (0, 0, 0);
    let mut text = String::new();
    for id in plan.trials.iter().map(|t| &t.id) {
        match state(id, &latest) {
            State::Finished { status: "done" | "skipped" } => done += 1,
            State::Finished { status } | State::Again { status, .. } => {
                failed += 1;
                let detail = latest[id.as_str()].status.detail();
                text += &format!("{status:<14} {id}  {}\n", detail.lines().next().unwrap_or_default());
            }
            State::Outstanding => {
                outstanding += 1;
                let begun = directory.trial(id).join("checkpoint.safetensors").exists();
                text += &format!("{:<14} {id}\n", if begun { "begun" } else { "outstanding" });
            }
        }
    }
    for notice in report::prediction_notices(&directory, &report::counting(&plan, &records)) {
        text += &format!("note: {notice}\n");
    }
    text += &decoded_images(&directory, outstanding + failed > 0);
    text += &format!(
        "{}: {} trials: {done} done, {failed} failed, {outstanding} outstanding\n",
        plan.suite,
        plan.trials.len()
    );
    print(&text);
    Ok(match (outstanding, failed) {
        (0, 0) => exit::DONE,
        (0, _) => exit::FAILED,
        _ => exit::OUTSTANDING,
    })
}

/// A line about the decoded images, unless there are none: where they are, how large, and that they may go.
fn decoded_images(directory: &RunDirectory, needed: bool) -> String {
    let folder = directory.image_cache();
    let bytes = cache::bytes_in(&folder);
    if bytes == 0 {
        return String::new();
    }
    let shared = !folder.starts_with(directory.path());
    let end = match (shared, needed) {
        (true, _) => "shared by all runs; may be deleted while none is running",
        (false, true) => "the next trials use them",
        (false, false) => "needed no more; may be deleted",
    };
    format!("decoded images: {} in {}, {end}\n", HumanBytes(bytes), folder.display())
}
