//! `bench --suite S`: plan, run what is outstanding, report.

use std::path::{Path, PathBuf};

use records::journal::Records;
use records::{Journal, Provenance, Record};

use super::print;
use crate::cli::RunArguments;
use crate::device::Place;
use crate::display::Display;
use crate::display::events::EventLog;
use crate::error::{ExpectedError, exit};
use crate::plan::{self, Plan};
use crate::run::child::{self, ChildExecutor};
use crate::run::directory::{PlanFile, RunDirectory};
use crate::run::report::{self, Predictions};
use crate::run::{Job, Runner, Tally, interrupt};
use crate::select::Selection;
use crate::suite::Suite;
use crate::talk::tell;
use crate::{device, effort, environment, host, weights};

/// Runs a suite.
pub(crate) fn run(arguments: &RunArguments) -> Result<i32, ExpectedError> {
    let name = arguments.suite.as_deref().ok_or_else(|| ExpectedError::Usage {
        message: "no suite given".into(),
        hint: "start with `bench --suite ufg-smoke`; `bench list suites` shows what there is, `bench --help` the rest"
            .into(),
    })?;
    let suite = Suite::load(name)?;
    let chosen = device::choose(&arguments.device)?;
    chosen.note.iter().chain(&chosen.idle(arguments.jobs)).for_each(|note| tell(&format!("note: {note}")));
    let places = chosen.workers(arguments.jobs);
    suite.check_places(&places)?;
    suite.notice().iter().for_each(|notice| tell(&format!("note: {notice}")));
    let selection = Selection::parse(&arguments.only)?;
    if let Some(out) = arguments.out.as_ref().filter(|out| out.to_str().is_none()) {
        return Err(ExpectedError::Usage {
            message: format!("`--out {}`: the path is not UTF-8", out.display()),
            hint: "choose another directory".into(),
        });
    }
    let directory = run_directory(&suite, arguments.out.clone());
    let found = plan::read_datasets(&suite, |name| selection.may_select_dataset(name))?.complete()?;
    let backbones = weights::fetch(&suite, |name| selection.may_select(&[("backbone", name)]), arguments.offline)?;
    let plan = plan::plan(&suite, found.ready, &backbones.ready);
    let selected = selection.apply(&plan.trials)?;
    let _lock = directory.open()?;
    let (mut journal, mut records) = Journal::open(&directory.journal())?;
    let plan_file = PlanFile::new(&suite, &plan, &selection, command_line(name, arguments));
    directory.write_plan(&plan_file)?;
    // A run that was killed between a trial's record and the removal of its folder left the folder behind.
    records.latest().values().try_for_each(|record| after_record(&directory, record))?;
    found.notices.iter().chain(&backbones.notices).for_each(|notice| tell(&format!("note: {notice}")));
    for name in backbones.missing.keys() {
        tell(&format!("note: the weights of backbone `{name}` are not fetched; its trials are left out of the plan"));
    }
    selection.idle_patterns(&plan.trials).iter().for_each(|p| tell(&format!("note: `--only`: `{p}` matches nothing")));
    tell_notices(&plan, &records);
    let jobs = outstanding(&selected, &records);
    if arguments.device == "auto" && chosen.is_cpu() {
        effort::ask(name, &jobs, &plan)?;
    }
    let threads = (environment::threads().unwrap_or_else(host::cores) / places.len()).max(1);
    listen()?;
    let mut tally = Tally::default();
    if jobs.is_empty() {
        tell(&format!("all {} selected trials are finished; nothing to run", selected.len()));
    } else {
        let events = arguments.events.as_deref().map(EventLog::open).transpose()?;
        let mut display = Display::new(selected.len(), selected.len() - jobs.len(), events);
        let limit = arguments.trial_timeout;
        let executor = ChildExecutor { run: directory.clone(), executable: executable()?, threads, limit };
        let workers = workers(&suite, &places, threads)?;
        let runner = Runner { suite: &suite.name, workers: &workers, executor: &executor };
        let result = runner.run(&jobs, &mut journal, &mut display, |record| {
            records.all.push(record.clone());
            after_record(&directory, record)?;
            report::rebuild(&directory, &plan_file, &records, Predictions::Trusted)
        });
        display.finish();
        tally = result?;
        report::check_journal(&directory, &records)?;
    }
    report::rebuild(&directory, &plan_file, &records, Predictions::Checked)?;
    conclude(&directory, &plan_file, &selected, &records, tally)
}

/// Where and with what each of the trials runs that run at a time. Every card is opened once, so that one that cannot be
/// used ends the run before it begins, and given back, so that the trials have all of its memory.
fn workers(suite: &Suite, places: &[Place], threads: usize) -> Result<Vec<Provenance>, ExpectedError> {
    let mut workers: Vec<Provenance> = Vec::new();
    for (index, &place) in places.iter().enumerate() {
        if let Some(same) = places[..index].iter().position(|other| *other == place) {
            workers.push(workers[same].clone());
            continue;
        }
        let found = place.probed()?;
        suite.check_libraries(place, found.as_ref())?;
        let libraries = found.map(|libraries| libraries.to_string());
        workers.push(Provenance { libraries, ..host::provenance(place, threads) });
    }
    Ok(workers)
}

/// The run directory: what `--out` names, or `runs/<suite>`.
pub(crate) fn run_directory(suite: &Suite, out: Option<PathBuf>) -> RunDirectory {
    RunDirectory::at(&out.unwrap_or_else(|| Path::new("runs").join(&suite.name)))
}

/// The selected trials that have no final record.
fn outstanding(selected: &[&plan::Trial], records: &Records) -> Vec<Job> {
    let latest = records.latest();
    selected
        .iter()
        .map(|trial| (plan::state(&trial.id, &latest), *trial))
        .filter(|(state, _)| state.is_outstanding())
        .map(|(state, trial)| Job { trial: trial.clone(), attempt: state.next_attempt() })
        .collect()
}

/// A finished trial needs no checkpoint any more, and no empty log.
fn after_record(directory: &RunDirectory, record: &Record) -> Result<(), ExpectedError> {
    let folder = directory.trial(&record.trial);
    if record.status.is_final() {
        std::fs::remove_dir_all(&folder)
            .or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
            .map_err(|source| ExpectedError::File { action: "remove", path: folder, source })?;
    }
    Ok(())
}

fn conclude(
    directory: &RunDirectory,
    plan: &PlanFile,
    selected: &[&plan::Trial],
    records: &Records,
    tally: Tally,
) -> Result<i32, ExpectedError> {
    let latest = records.latest();
    let failed = selected.iter().filter(|t| latest.get(t.id.as_str()).is_some_and(|r| is_failure(r))).count();
    print(&reports::headline(&report::counting(plan, records), &report::layout(plan, records))?);
    tell(&format!("\nreport: {}", directory.path().join("report.md").display()));
    if tally.outstanding > 0 {
        tell(&format!("{} trials outstanding: the same command goes on", tally.outstanding));
        return Ok(exit::OUTSTANDING);
    }
    if failed > 0 {
        tell(&format!(
            "{failed} of {} trials failed; the report says how. The same command tries those again that may do better",
            selected.len()
        ));
        return Ok(exit::FAILED);
    }
    Ok(exit::DONE)
}

fn is_failure(record: &Record) -> bool {
    !matches!(record.status, records::Status::Done | records::Status::Skipped { .. })
}

fn listen() -> Result<(), ExpectedError> {
    interrupt::listen().map_err(|error| ExpectedError::Usage {
        message: format!("cannot listen for signals: {error}"),
        hint: String::new(),
    })
}

fn executable() -> Result<PathBuf, ExpectedError> {
    child::this_executable().map_err(|source| ExpectedError::File { action: "find", path: "bench".into(), source })
}

/// The command that makes this run again, for a shell. Paths as they were given.
fn command_line(suite: &str, arguments: &RunArguments) -> String {
    let mut words = vec!["--suite".to_owned(), suite.to_owned()];
    if let Some(out) = &arguments.out {
        words.extend(["--out".to_owned(), out.display().to_string()]);
    }
    for only in &arguments.only {
        words.extend(["--only".to_owned(), only.clone()]);
    }
    if arguments.offline {
        words.push("--offline".to_owned());
    }
    if arguments.device != "auto" {
        words.extend(["--device".to_owned(), arguments.device.clone()]);
    }
    if let Some(jobs) = arguments.jobs {
        words.extend(["--jobs".to_owned(), jobs.to_string()]);
    }
    if let Some(limit) = arguments.trial_timeout {
        words.extend(["--trial-timeout".to_owned(), limit.as_secs_f64().to_string()]);
    }
    words.iter().fold("bench".to_owned(), |line, word| line + " " + &quoted(word))
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn tell_notices(plan: &Plan, records: &Records) {
    for (name, summary) in &plan.datasets {
        for notice in &summary.notices {
            tell(&format!("note: dataset `{name}`: {notice}"));
        }
    }
    if let Some(torn) = &records.torn {
        tell(&format!("warning: {torn}"));
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_are_quoted_as_a_shell_needs_it() {
        assert_eq!(quoted("runs/a-1.toml"), "runs/a-1.toml");
        assert_eq!(quoted("method=ce|triplet"), "'method=ce|triplet'");
        assert_eq!(quoted("a leaf's"), r"'a leaf'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
