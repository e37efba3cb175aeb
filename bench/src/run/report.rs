//! Rebuilds the reports of a run directory from its plan and its journal.

use records::journal::{self, Records};
use records::{Digest, JournalError, Record};
use reports::{Group, Layout, ReportContext};

use super::directory::{PlanFile, PlannedGroup, PlannedTrial, RunDirectory};
use crate::error::ExpectedError;
use crate::files;

/// The records that count for a plan: the latest attempt at each of its trials.
pub(crate) fn counting(plan: &PlanFile, records: &Records) -> Vec<Record> {
    let latest = records.latest();
    plan.trials.iter().filter_map(|t| latest.get(t.id.as_str()).map(|r| (*r).clone())).collect()
}

/// What a report covers, in the order of the suite: what the latest command selected, and what has a record.
pub(crate) fn layout(plan: &PlanFile, records: &Records) -> Layout {
    let latest = records.latest();
    let covered: Vec<&PlannedTrial> =
        plan.trials.iter().filter(|t| t.selected || latest.contains_key(t.id.as_str())).collect();
    let keep = |names: &[String], of: fn(&PlannedTrial) -> &String| -> Vec<String> {
        names.iter().filter(|name| covered.iter().any(|t| of(t) == *name)).cloned().collect()
    };
    Layout {
        methods: keep(&plan.methods, |t| &t.method),
        datasets: keep(&plan.datasets, |t| &t.dataset),
        backbones: keep(&plan.backbones, |t| &t.backbone),
        seeds: plan.seeds.iter().copied().filter(|seed| covered.iter().any(|t| t.seed == *seed)).collect(),
        groups: plan.groups.iter().filter_map(|group| covered_group(group, &covered)).collect(),
    }
}

/// A group with those of its members that a report covers; none if it covers none.
fn covered_group(group: &PlannedGroup, covered: &[&PlannedTrial]) -> Option<Group> {
    let is_covered = |member: &&String| covered.iter().any(|t| t.dataset == **member);
    let members: Vec<String> = group.members.iter().filter(is_covered).cloned().collect();
    let (name, noun) = (group.name.clone(), group.noun.clone());
    (!members.is_empty()).then_some(Group { name, noun, members, size: group.size })
}

/// Whether the predictions of the records are read and compared with their digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Predictions {
    /// They are; what is missing or changed becomes a notice.
    Checked,
    /// They are not: the report is one of many that a running suite writes.
    Trusted,
}

/// The records of a run; none if its journal has not been begun.
pub(crate) fn read_records(run: &RunDirectory) -> Result<Records, ExpectedError> {
    match journal::read(&run.journal()) {
        Err(JournalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(Records::default()),
        other => Ok(other?),
    }
}

/// Makes sure that the journal on the disk holds what was appended to it.
pub(crate) fn check_journal(run: &RunDirectory, records: &Records) -> Result<(), ExpectedError> {
    let (kept, appended) = (read_records(run)?.all.len(), records.all.len());
    if kept == appended {
        return Ok(());
    }
    Err(ExpectedError::RunDirectory {
        path: run.journal(),
        reason: format!("holds {kept} records, {appended} were appended; it was changed while the run went on"),
        hint: "leave the run directory alone while a run works in it; give the same command again".into(),
    })
}

/// What is wrong with the predictions of the records.
pub(crate) fn prediction_notices(run: &RunDirectory, records: &[Record]) -> Vec<String> {
    let notice = |record: &Record| {
        let file = record.predictions.as_ref()?;
        match std::fs::read(run.path().join(&file.path)) {
            Ok(bytes) if Digest::of(&bytes) == file.sha256 => None,
            Ok(_) => Some(format!("{} is not what the record says: its digest differs", file.path)),
            Err(_) => Some(format!("{} is missing", file.path)),
        }
    };
    records.iter().filter_map(notice).collect()
}

/// Writes `results.csv`, `summary.csv` and `report.md`.
pub(crate) fn rebuild(
    run: &RunDirectory,
    plan: &PlanFile,
    records: &Records,
    predictions: Predictions,
) -> Result<(), ExpectedError> {
    let counting = counting(plan, records);
    let layout = layout(plan, records);
    let mut notices: Vec<String> = records.torn.iter().cloned().collect();
    let ids: std::collections::BTreeSet<&str> = plan.trials.iter().map(|t| t.id.as_str()).collect();
    let stale = records.latest().keys().filter(|id| !ids.contains(*id)).count();
    let covered = layout.methods.len() * layout.datasets.len() * layout.backbones.len() * layout.seeds.len();
    if covered < plan.trials.len() {
        notices.push(format!(
            "this report covers {covered} of the suite's {} trials, as `--only` asked",
            plan.trials.len()
        ));
    }
    if stale > 0 {
        notices.push(format!(
            "{stale} trials in the journal belong to no cell of the suite as it is now; `bench plan` says why"
        ));
    }
    if predictions == Predictions::Checked {
        notices.extend(prediction_notices(run, &counting));
    }
    let context = ReportContext {
        suite: plan.suite.clone(),
        suite_description: plan.description.clone(),
        command: plan.command.clone(),
        notices,
    };
    let write = |name: &str, text: String| files::write(&run.path().join(name), text.as_bytes());
    write("results.csv", reports::results_csv(&counting, &layout)?)?;
    write("summary.csv", reports::summary_csv(&counting, &layout)?)?;
    write("report.md", reports::report_markdown(&counting, &layout, &context)?)
}
