//! `bench plan --suite S`: cells and trials, what is outstanding, and what has to be fetched. Runs nothing, fetches
//! nothing, writes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use datasets::Resize;
use hub::{HubFile, Pins};
use indexmap::IndexMap;
use indicatif::HumanBytes;
use records::journal::{self, Records};

use super::print;
use super::run::run_directory;
use crate::device;
use crate::error::{ExpectedError, exit};
use crate::plan::{self, State};
use crate::run::cache::Need;
use crate::select::Selection;
use crate::suite::Suite;
use crate::weights::{self, Found};

/// Prints the plan.
pub(crate) fn plan(suite: &str, out: Option<PathBuf>, only: &[String]) -> Result<i32, ExpectedError> {
    let suite = Suite::load(suite)?;
    let selection = Selection::parse(only)?;
    let unfit = device::choose("auto").and_then(|chosen| Ok(suite.check_places(&chosen.places)?));
    let directory = run_directory(&suite, out);
    let backbones = weights::find(&suite, |name| selection.may_select(&[("backbone", name)]))?;
    let mut workings: Vec<Resize> = Vec::new();
    for working in backbones.ready.values().map(|ready| ready.protocol.working()) {
        if !workings.contains(&working) {
            workings.push(working);
        }
    }
    let cache = directory.image_cache();
    let mut needs: BTreeMap<String, Need> = BTreeMap::new();
    let needed = |name: &str| selection.may_select_dataset(name);
    let found = plan::read_datasets_with(&suite, needed, |name, dataset| {
        if needed(name) {
            needs.insert(name.to_owned(), Need::of(dataset, &workings, &cache));
        }
    })?;
    let plan = plan::plan(&suite, found.ready, &backbones.ready);
    let waiting = waiting(&suite, &plan, &backbones.missing, &selection);
    let selected = match selection.apply(&plan.trials) {
        Err(ExpectedError::NothingSelected { .. }) if waiting > 0 => Vec::new(),
        selected => selected?,
    };
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
        let decoded = needs.get(name).map(Need::text).filter(|decoded| !decoded.is_empty());
        decoded.iter().for_each(|decoded| text += &format!("  decoded images: {decoded}\n"));
        data.notices.iter().for_each(|notice| text += &format!("  note: {notice}\n"));
    }
    for (name, why) in &found.missing {
        text += &format!("dataset {name}: to fetch or import: {why}\n");
    }
    text += &of_backbones(&suite, &backbones)?;
    found.notices.iter().chain(&backbones.notices).for_each(|notice| text += &format!("note: {notice}\n"));
    selection.idle_patterns(&plan.trials).iter().for_each(|p| text += &format!("note: `{p}` matches nothing\n"));
    unfit.err().iter().for_each(|error| text += &format!("note: a run on this machine is refused: {error}\n"));
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
    text += &decoded_images(needs.values(), &cache);
    if waiting > 0 {
        text += &format!(
            "{waiting} more trials wait for what is to be fetched; they have ids after `bench fetch --suite {}`\n",
            suite.name
        );
    }
    print(&text);
    Ok(exit::DONE)
}

/// A line about the decoded images of all datasets: how large they are, and where they lie.
fn decoded_images<'a>(needs: impl Iterator<Item = &'a Need>, cache: &Path) -> String {
    let total = needs.fold(Need::default(), Need::and);
    let text = total.text();
    if text.is_empty() { text } else { format!("decoded images, in {}: {text}\n", cache.display()) }
}

/// Trials that are selected and have no id yet, because the images or weights that enter it are not there.
fn waiting(suite: &Suite, plan: &plan::Plan, missing: &IndexMap<String, Vec<HubFile>>, selection: &Selection) -> usize {
    let there =
        |dataset: &String, backbone: &String| plan.datasets.contains_key(dataset) && !missing.contains_key(backbone);
    let seeds: Vec<String> = suite.seeds.iter().map(u64::to_string).collect();
    let mut count = 0;
    for dataset in suite.datasets.keys() {
        for backbone in suite.backbones.keys().filter(|backbone| !there(dataset, backbone)) {
            for method in suite.methods.keys() {
                let of = |seed: &&String| {
                    let names = [("method", method), ("dataset", dataset), ("backbone", backbone), ("seed", *seed)];
                    selection.may_select(&names.map(|(key, name)| (key, name.as_str())))
                };
                count += seeds.iter().filter(of).count();
            }
        }
    }
    count
}

/// Lines about the weights: what is there, and what has to be fetched, with sizes where the lock knows them.
fn of_backbones(suite: &Suite, backbones: &Found) -> Result<String, ExpectedError> {
    let mut text = String::new();
    let pins = Pins::read(&suite.lock()).map_err(ExpectedError::hub)?;
    for (name, backbone) in &suite.backbones {
        if let Some(files) = backbones.missing.get(name) {
            for file in files {
                let size = pins.get(file).map_or("size unknown".to_owned(), |pin| HumanBytes(pin.size).to_string());
                text += &format!("backbone {name}: to fetch: {file}, {size}\n");
            }
        } else if let (Some(ready), Some(weights)) = (backbones.ready.get(name), &backbone.weights)
            && let Some(found) = &ready.weights
        {
            text += &format!("backbone {name}: weights of {}, SHA-256 {}…\n", weights.repo, found.sha256.short());
        }
    }
    Ok(text)
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
