//! `bench --suite S`: plan, run what is outstanding, report.

use std::path::{Path, PathBuf};

use records::journal::Records;
use records::{Journal, Record};

use super::print;
use crate::cli::RunArguments;
use crate::display::Display;
use crate::error::{ExpectedError, exit};
use crate::plan::{self, Plan, State};
use crate::run::child::ChildExecutor;
use crate::run::directory::{PlanFile, RunDirectory};
use crate::run::{Job, Runner, Tally, interrupt, report};
use crate::select::Selection;
use crate::suite::Suite;
use crate::{environment, host};

/// Runs a suite.
pub(crate) fn run(arguments: &RunArguments) -> Result<i32, ExpectedError> {
    let name = arguments.suite.as_deref().ok_or_else(|| ExpectedError::Usage {
        message: "no suite given".into(),
        hint: "start with `bench --suite ufg-smoke`; `bench list suites` shows what there is, `bench --help` the rest"
            .into(),
    })?;
    let suite = Suite::load(name)?;
    let device = device(&arguments.device)?;
    let selection = Selection::parse(&arguments.only)?;
    let directory = run_directory(&suite, arguments.out.clone());
    let plan = plan::plan(&suite, plan::read_datasets(&suite)?);
    let selected = selection.apply(&plan.trials)?;
    let _lock = directory.open()?;
    let (mut journal, mut records) = Journal::open(&directory.journal())?;
    let plan_file = PlanFile::new(&suite, &plan, &selection, command_line(name, arguments));
    directory.write_plan(&plan_file)?;
    tell_notices(&plan, &records);
    let jobs = outstanding(&selected, &records);
    let threads = (environment::threads().unwrap_or_else(host::cores) / usize::from(arguments.jobs)).max(1);
    listen()?;
    let mut tally = Tally::default();
    if jobs.is_empty() {
        tell(&format!("all {} selected trials are finished; nothing to run", selected.len()));
    } else {
        let mut display = Display::new(selected.len(), selected.len() - jobs.len());
        let executor =
            ChildExecutor { run: directory.clone(), executable: executable()?, threads, device: device.clone() };
        let provenance = host::provenance(&device, threads);
        let runner = Runner {
            suite: &suite.name,
            workers: usize::from(arguments.jobs),
            executor: &executor,
            provenance: &provenance,
        };
        let result = runner.run(&jobs, &mut journal, &mut display, |record| {
            records.all.push(record.clone());
            after_record(&directory, record)?;
            report::rebuild(&directory, &plan_file, &records)
        });
        display.finish();
        tally = result.map_err(|error| in_directory(error, &directory))?;
    }
    report::rebuild(&directory, &plan_file, &records)?;
    conclude(&directory, &plan_file, &selected, &records, tally)
}

/// The device that is asked for. This build computes on the CPU alone.
fn device(asked: &str) -> Result<String, ExpectedError> {
    match asked {
        "auto" | "cpu" => Ok("cpu".into()),
        cuda if cuda == "cuda" || cuda.strip_prefix("cuda:").is_some_and(|n| n.parse::<u16>().is_ok()) => {
            Err(ExpectedError::Device { device: asked.into(), reason: "this version computes on the CPU alone".into() })
        }
        _ => Err(ExpectedError::Usage {
            message: format!("unknown device `{asked}`"),
            hint: "devices are auto, cpu and cuda:N".into(),
        }),
    }
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

/// Names the run directory in an error that came from a trial's attempt to write into it.
fn in_directory(error: ExpectedError, directory: &RunDirectory) -> ExpectedError {
    match error {
        ExpectedError::RunDirectory { path, reason, hint } if path.is_relative() && !path.exists() => {
            ExpectedError::RunDirectory { path: directory.path().join("trials").join(path), reason, hint }
        }
        other => other,
    }
}

fn conclude(
    directory: &RunDirectory,
    plan: &PlanFile,
    selected: &[&plan::Trial],
    records: &Records,
    tally: Tally,
) -> Result<i32, ExpectedError> {
    let latest = records.latest();
    let failed = selected.iter().filter(|t| {
        latest
            .get(t.id.as_str())
            .is_some_and(|r| !matches!(plan::state(&t.id, &latest), State::Outstanding) && is_failure(r))
    });
    let failed = failed.count();
    print(&reports::headline(&report::counting(plan, records), &report::layout(plan, records))?);
    tell(&format!("\nreport: {}", directory.path().join("report.md").display()));
    if interrupt::requested() || tally.outstanding > 0 {
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
    std::env::current_exe().map_err(|source| ExpectedError::File { action: "find", path: "bench".into(), source })
}

/// The command that makes this run again. Paths as they were given.
fn command_line(suite: &str, arguments: &RunArguments) -> String {
    let mut command = format!("bench --suite {suite}");
    if let Some(out) = &arguments.out {
        command += &format!(" --out {}", out.display());
    }
    for only in &arguments.only {
        command += &format!(" --only '{only}'");
    }
    if arguments.device != "auto" {
        command += &format!(" --device {}", arguments.device);
    }
    if arguments.jobs != 1 {
        command += &format!(" --jobs {}", arguments.jobs);
    }
    command
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

#[expect(clippy::print_stderr, reason = "talk goes to stderr")]
fn tell(line: &str) {
    eprintln!("{line}");
}
