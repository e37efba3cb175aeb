//! Rebuilds the reports of a run directory from its plan and its journal.

use records::Record;
use records::journal::Records;
use reports::{Layout, ReportContext};

use super::directory::{PlanFile, PlannedTrial, RunDirectory};
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
    }
}

/// Writes `results.csv`, `summary.csv` and `report.md`.
pub(crate) fn rebuild(run: &RunDirectory, plan: &PlanFile, records: &Records) -> Result<(), ExpectedError> {
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
