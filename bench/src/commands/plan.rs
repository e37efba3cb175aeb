//! `bench plan --suite S`: cells and trials, and what is outstanding. Runs nothing, writes nothing.

use std::path::PathBuf;

use records::journal::{self, Records};

use super::print;
use super::run::run_directory;
use crate::error::{ExpectedError, exit};
use crate::plan::{self, State};
use crate::select::Selection;
use crate::suite::Suite;

/// Prints the plan.
pub(crate) fn plan(suite: &str, out: Option<PathBuf>, only: &[String]) -> Result<i32, ExpectedError> {
    let suite = Suite::load(suite)?;
    let selection = Selection::parse(only)?;
    let (found, unreadable) = plan::read_datasets(&suite, |name| selection.may_select_dataset(name))?;
    let plan = plan::plan(&suite, found);
    let selected = selection.apply(&plan.trials)?;
    let directory = run_directory(&suite, out);
    let records = if directory.journal().exists() { journal::read(&directory.journal())? } else { Records::default() };
    let latest = records.latest();
    let mut text = format!("{}: {}\n\n", suite.name, suite.description);
    for (name, data) in &plan.datasets {
        text += &format!(
            "dataset {name}: {} classes, {} train, {} test, digest {}\n",
            data.classes,
            data.train,
            data.test,
            &data.digest[..10.min(data.digest.len())]
        );
        data.notices.iter().for_each(|notice| text += &format!("  note: {notice}\n"));
    }
    unreadable.iter().for_each(|notice| text += &format!("note: {notice}\n"));
    selection.idle_patterns(&plan.trials).iter().for_each(|p| text += &format!("note: `{p}` matches nothing\n"));
    text.push('\n');
    let mut outstanding = 0;
    for trial in &selected {
        let state = plan::state(&trial.id, &latest);
        let word = match &state {
            State::Finished { status } => (*status).to_owned(),
            State::Again { status, attempts } => format!("{status}, attempt {} next", attempts + 1),
            State::Outstanding => "outstanding".to_owned(),
        };
        outstanding += usize::from(state.is_outstanding());
        text += &format!("{:<28} {}\n", word, trial.id);
    }
    let stale: Vec<String> = latest
        .values()
        .filter_map(|record| Some(format!("  {}: {}\n", record.trial, plan::why_stale(record, &plan)?)))
        .collect();
    if !stale.is_empty() {
        text += &format!("\n{} stored records do not count for this plan:\n{}", stale.len(), stale.concat());
    }
    let cells = selected.iter().map(|t| t.cell.as_str()).collect::<std::collections::BTreeSet<_>>().len();
    text += &format!("\n{cells} cells, {} trials, {outstanding} outstanding", selected.len());
    text += &estimate(&latest, &selected, outstanding);
    text.push('\n');
    print(&text);
    Ok(exit::DONE)
}

/// How long the outstanding trials may take, from the trials of this run that are done; nothing without any.
fn estimate(
    latest: &std::collections::BTreeMap<&str, &records::Record>,
    selected: &[&plan::Trial],
    outstanding: usize,
) -> String {
    let mut seconds: Vec<f64> =
        selected.iter().filter_map(|t| latest.get(t.id.as_str())?.cost.as_ref().map(|c| c.seconds)).collect();
    if seconds.is_empty() || outstanding == 0 {
        return String::new();
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    format!(", about {:.1} minutes at the median of {} done", median * outstanding as f64 / 60.0, seconds.len())
}
