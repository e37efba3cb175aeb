//! `bench plan --suite S`: cells and trials, what is outstanding, and what has to be fetched. Runs nothing, fetches
//! nothing, writes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use backbones::Algorithms;
use datasets::Resize;
use hub::{HubFile, Pins};
use indexmap::IndexMap;
use indicatif::HumanBytes;
use records::journal::{self, Records};
use records::{Record, Status};

use super::print;
use super::run::run_directory;
use crate::device::{self, Chosen, Place};
use crate::effort;
use crate::error::{ExpectedError, exit};
use crate::plan::{self, State};
use crate::run::Job;
use crate::run::cache::Need;
use crate::select::Selection;
use crate::suite::Suite;
use crate::weights::{self, Found};

/// Prints the plan of a run on the device that was asked for. What such a run would be refused for is refused here too, but for
/// `auto` it is a note: a plan may be made where there is no card.
pub(crate) fn plan(
    suite: &str,
    out: Option<PathBuf>,
    only: &[String],
    asked_device: &str,
) -> Result<i32, ExpectedError> {
    let suite = Suite::load(suite)?;
    let chosen = device::choose(asked_device)?;
    let places = chosen.workers(None);
    let unfit = fits(&suite, &places).err();
    let unfit = if asked_device == "auto" { unfit } else { unfit.map_or(Ok(None), Err)? };
    let selection = Selection::parse(only)?;
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
    let mut text = format!("{}: {}\n\n{}", suite.name, suite.description, of_devices(&chosen, &places));
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
    suite.notice().iter().for_each(|notice| text += &format!("note: {notice}\n"));
    unfit.iter().for_each(|error| text += &format!("note: a run on this machine is refused: {error}\n"));
    text.push('\n');
    let mut outstanding = Vec::new();
    for trial in &selected {
        let state = plan::state(&trial.id, &latest);
        let word = match &state {
            State::Finished { status } => (*status).to_owned(),
            State::Again { status, attempts } => format!("{status}, attempt {} next", attempts + 1),
            State::Outstanding => "outstanding".to_owned(),
        };
        if state.is_outstanding() {
            outstanding.push(Job { trial: (*trial).clone(), attempt: state.next_attempt() });
        }
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
    text += &format!("\n{cells} cells, {} trials, {} outstanding", selected.len(), outstanding.len());
    let estimate = estimate(&latest, &selected, outstanding.len(), places[0]);
    text += &estimate;
    text.push('\n');
    // Where a run would have to be asked for, trials that are done do not change that.
    if (estimate.is_empty() || asked_device == "auto") && chosen.is_cpu() && unfit.is_none() {
        text += &long_on_cpu(&outstanding, &plan, asked_device)?;
    }
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

/// Refuses what a run on these places would be refused for. A card is opened only where the suite needs to know its libraries.
fn fits(suite: &Suite, places: &[Place]) -> Result<(), ExpectedError> {
    suite.check_places(places)?;
    if suite.protocol.algorithms == Algorithms::Fast {
        for place in places {
            suite.check_libraries(*place, place.probed()?.as_ref())?;
        }
    }
    Ok(())
}

/// Lines about the devices that a run would use, one for each of the trials at a time.
fn of_devices(chosen: &Chosen, places: &[Place]) -> String {
    let line = |place: &Place| {
        let facts = device::facts(*place);
        let known: Vec<String> =
            facts.card.into_iter().chain(facts.driver.map(|driver| format!("driver {driver}"))).collect();
        let known = if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) };
        format!("device {place}{known}\n")
    };
    let note = chosen.note.iter().map(|note| format!("  note: {note}\n"));
    places.iter().map(line).chain(note).collect()
}

/// About a grid that takes long on the CPU: how long, and that a run has to be asked for where it was not.
fn long_on_cpu(outstanding: &[Job], plan: &plan::Plan, asked_device: &str) -> Result<String, ExpectedError> {
    let Some(estimate) = effort::estimate(outstanding, plan)? else { return Ok(String::new()) };
    let asked = if asked_device == "auto" { "; a run has to be asked for by `--device cpu`" } else { "" };
    Ok(format!("{estimate}{asked}\n"))
}

/// How long the outstanding trials may take, from the trials of this run that are done on such a device; nothing without any.
fn estimate(latest: &BTreeMap<&str, &Record>, selected: &[&plan::Trial], outstanding: usize, place: Place) -> String {
    let card = device::facts(place).card;
    let is_cpu = |device: &str| device == Place::Cpu.to_string();
    let alike = |record: &Record| {
        let on = &record.provenance;
        record.status == Status::Done && is_cpu(&on.device) == (place == Place::Cpu) && on.card == card
    };
    let seconds = |trial: &&plan::Trial| {
        let record = latest.get(trial.id.as_str()).filter(|record| alike(record))?;
        record.cost.as_ref().map(|cost| cost.seconds)
    };
    let mut seconds: Vec<f64> = selected.iter().filter_map(seconds).collect();
    if seconds.is_empty() || outstanding == 0 {
        return String::new();
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    format!(", about {:.1} minutes at the median of {} done", median * outstanding as f64 / 60.0, seconds.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests as fixtures;

    #[test]
    fn an_estimate_counts_done_trials_of_the_same_device() {
        let plan = fixtures::planned(&fixtures::smoke());
        let cost = |seconds| records::Cost {
            params: 1,
            params_train_only: 0,
            steps: 1,
            step_ms: 1.0,
            images_per_s: 1.0,
            input_wait_share: None,
            peak_memory_mb: 1.0,
            peak_device_memory_mb: None,
            smaller_algorithms: 0,
            seconds,
            resumed_at_step: 0,
        };
        let made = [
            (Status::Done, "cpu", 60.0),
            (Status::Done, "cuda:0", 6.0),
            (Status::TimedOut { seconds: 600.0 }, "cpu", 600.0),
            (Status::Done, "cpu", 90.0),
            (Status::Done, "cpu", 30.0),
        ];
        let record = |(trial, (status, device, seconds)): (&plan::Trial, (Status, &str, f64))| {
            let mut record = fixtures::record_of(trial, 1, status);
            (record.cost, record.provenance.device) = (Some(cost(seconds)), device.to_owned());
            record
        };
        let all = plan.trials.iter().zip(made).map(record).collect();
        let records = Records { all, ..Records::default() };
        let selected: Vec<&plan::Trial> = plan.trials.iter().collect();
        let latest = records.latest();
        let said = estimate(&latest, &selected, 3, Place::Cpu);
        assert_eq!(said, ", about 3.0 minutes at the median of 3 done");
        assert_eq!(estimate(&latest, &selected, 0, Place::Cpu), "");
        assert_eq!(estimate(&latest, &selected[5..], 3, Place::Cpu), "");
    }
}
