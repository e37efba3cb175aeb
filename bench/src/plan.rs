//! Plans: from a suite and its datasets to cells and trials, and from records to what is outstanding. Pure
//! functions, but for reading the datasets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use backbones::{BackboneConfig, Freeze};
use datasets::{Dataset, DatasetConfig, DatasetError};
use indexmap::IndexMap;
use losses::MethodConfig;
use records::identity::{cell_id, trial_id};
use records::{Digest, RESULTS_VERSION, Record};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::ExpectedError;
use crate::suite::{Protocol, Suite};
use crate::weights::ReadyBackbone;

/// What a plan needs to know of a dataset.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DatasetSummary {
    /// Digest over its names, labels, splits and contents.
    pub(crate) digest: String,
    /// Number of classes.
    pub(crate) classes: usize,
    /// Number of training images.
    pub(crate) train: usize,
    /// Number of test images.
    pub(crate) test: usize,
    /// What a user should know about it.
    pub(crate) notices: Vec<String>,
}

impl From<&Dataset> for DatasetSummary {
    fn from(dataset: &Dataset) -> Self {
        Self {
            digest: dataset.digest.clone(),
            classes: dataset.classes.len(),
            train: dataset.train.len(),
            test: dataset.test.len(),
            notices: dataset.notices.clone(),
        }
    }
}

/// The weights that a trial begins with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TrialWeights {
    /// The `model.safetensors`.
    pub(crate) path: PathBuf,
    /// Its SHA-256.
    pub(crate) sha256: Digest,
}

/// One trial: what a child process is told to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trial {
    /// Id: the cell's and the seed.
    pub(crate) id: String,
    /// Id of the cell.
    pub(crate) cell: String,
    /// Name of the method in the suite.
    pub(crate) method: String,
    /// Name of the dataset in the suite.
    pub(crate) dataset: String,
    /// Name of the backbone in the suite.
    pub(crate) backbone: String,
    /// The seed.
    pub(crate) seed: u64,
    /// Settings of the method.
    pub(crate) method_config: MethodConfig,
    /// Where the dataset is.
    pub(crate) dataset_config: DatasetConfig,
    /// Settings of the backbone.
    pub(crate) backbone_config: BackboneConfig,
    /// How much of the backbone is not trained.
    pub(crate) freeze: Freeze,
    /// What the backbone begins with; random values if there is none.
    pub(crate) weights: Option<TrialWeights>,
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// Digest that the dataset had when the trial was planned.
    pub(crate) dataset_digest: String,
    /// Folder against which relative paths are resolved.
    pub(crate) base: PathBuf,
    /// Epochs between two checkpoints.
    pub(crate) checkpoint_epochs: u64,
    /// The resolved configuration, from which the cell's id is derived.
    pub(crate) config: Value,
}

/// All trials of a suite, method by method within a dataset, in the order of the file.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The trials.
    pub(crate) trials: Vec<Trial>,
    /// The datasets by name.
    pub(crate) datasets: IndexMap<String, DatasetSummary>,
}

/// What is there of a suite's datasets.
#[derive(Debug, Default)]
pub(crate) struct FoundDatasets {
    /// Those that can be read.
    pub(crate) ready: IndexMap<String, DatasetSummary>,
    /// Those that have to be fetched or imported first, and what says so.
    pub(crate) missing: IndexMap<String, DatasetError>,
    /// What is wrong with those that are not needed.
    pub(crate) notices: Vec<String>,
}

impl FoundDatasets {
    /// Refuses where something is missing.
    pub(crate) fn complete(mut self) -> Result<Self, ExpectedError> {
        match self.missing.shift_remove_index(0) {
            Some((name, source)) => Err(ExpectedError::Dataset { name, source }),
            None => Ok(self),
        }
    }
}

/// Reads the suite's datasets, without decoding images. One that is `needed` must be readable, or still to be imported.
pub(crate) fn read_datasets(suite: &Suite, needed: impl Fn(&str) -> bool) -> Result<FoundDatasets, ExpectedError> {
    read_datasets_with(suite, needed, |_, _| {})
}

/// As [`read_datasets`]; `look` sees each dataset that is read, before all but its summary is forgotten.
pub(crate) fn read_datasets_with(
    suite: &Suite,
    needed: impl Fn(&str) -> bool,
    mut look: impl FnMut(&str, &Dataset),
) -> Result<FoundDatasets, ExpectedError> {
    let mut found = FoundDatasets::default();
    for (name, config) in &suite.datasets {
        match datasets::load(name, config, &suite.base) {
            Ok(dataset) => {
                look(name, &dataset);
                found.ready.insert(name.clone(), DatasetSummary::from(&dataset));
            }
            Err(source @ (DatasetError::NotImported { .. } | DatasetError::NoDataDirectory { .. })) if needed(name) => {
                found.missing.insert(name.clone(), source);
            }
            Err(source) => {
                let error = ExpectedError::Dataset { name: name.clone(), source };
                if needed(name) {
                    return Err(error);
                }
                found.notices.push(format!("{error}; it is not selected, and its trials are left out of the plan"));
            }
        }
    }
    Ok(found)
}

/// The configuration of a cell, from which its id is derived. Weights and freezing are left out where there are none, so
/// that cells from before there were any keep their ids.
fn configuration(method: &MethodConfig, backbone: &ReadyBackbone, dataset: &DatasetSummary) -> Value {
    let mut config = json!({
        "results_version": RESULTS_VERSION,
        "method": to_value(&method.resolved()),
        "backbone": to_value(&backbone.config),
        "protocol": to_value(&backbone.protocol),
        "dataset": dataset.digest,
    });
    if let Some(weights) = &backbone.weights {
        config["weights"] = to_value(&weights.sha256);
    }
    if backbone.freeze != Freeze::None {
        config["freeze"] = to_value(&backbone.freeze);
    }
    config
}

/// The plan of a suite with the datasets and backbones that are there.
pub(crate) fn plan(
    suite: &Suite,
    datasets: IndexMap<String, DatasetSummary>,
    backbones: &IndexMap<String, ReadyBackbone>,
) -> Plan {
    let mut trials = Vec::new();
    for (dataset, dataset_config) in suite.datasets.iter().filter(|(name, _)| datasets.contains_key(*name)) {
        for (backbone, ready) in backbones {
            for (method, method_config) in &suite.methods {
                let config = configuration(method_config, ready, &datasets[dataset]);
                let cell = cell_id(method, dataset, backbone, &config);
                trials.extend(suite.seeds.iter().map(|&seed| Trial {
                    id: trial_id(&cell, seed),
                    cell: cell.clone(),
                    method: method.clone(),
                    dataset: dataset.clone(),
                    backbone: backbone.clone(),
                    seed,
                    method_config: method_config.resolved(),
                    dataset_config: dataset_config.clone(),
                    backbone_config: ready.config.clone(),
                    freeze: ready.freeze,
                    weights: ready.weights.clone(),
                    protocol: ready.protocol.clone(),
                    dataset_digest: datasets[dataset].digest.clone(),
                    base: suite.base.clone(),
                    checkpoint_epochs: suite.checkpoint_epochs,
                    config: config.clone(),
                }));
            }
        }
    }
    Plan { trials, datasets }
}

fn to_value<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("settings are plain data")
}

/// What is to be done about a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Its record is final.
    Finished {
        /// The record's status.
        status: &'static str,
    },
    /// It failed and is attempted again.
    Again {
        /// Attempts so far.
        attempts: u32,
        /// The last record's status.
        status: &'static str,
    },
    /// There is no record of it.
    Outstanding,
}

impl State {
    /// True if the trial is to be run.
    pub(crate) fn is_outstanding(&self) -> bool {
        !matches!(self, State::Finished { .. })
    }

    /// The number of the next attempt.
    pub(crate) fn next_attempt(&self) -> u32 {
        match self {
            State::Again { attempts, .. } => attempts + 1,
            _ => 1,
        }
    }
}

/// The state of a trial, given the latest records.
pub(crate) fn state(trial: &str, latest: &BTreeMap<&str, &Record>) -> State {
    match latest.get(trial) {
        None => State::Outstanding,
        Some(record) if record.status.is_final() => State::Finished { status: record.status.word() },
        Some(record) => State::Again { attempts: record.attempt, status: record.status.word() },
    }
}

/// Why a stored record does not count for the plan any more: what the plan no longer has, or the first differences
/// between its configuration and that of the planned cell with the same names. None if it does count.
pub(crate) fn why_stale(record: &Record, plan: &Plan) -> Option<String> {
    if plan.trials.iter().any(|t| t.id == record.trial) {
        return None;
    }
    let names = [
        ("method", &record.method, plan.trials.iter().any(|t| t.method == record.method)),
        ("dataset", &record.dataset, plan.trials.iter().any(|t| t.dataset == record.dataset)),
        ("backbone", &record.backbone, plan.trials.iter().any(|t| t.backbone == record.backbone)),
    ];
    if let Some((kind, name, _)) = names.into_iter().find(|(_, _, planned)| !planned) {
        return Some(format!("the plan has no {kind} `{name}`"));
    }
    let same = |t: &&Trial| t.method == record.method && t.dataset == record.dataset && t.backbone == record.backbone;
    let trial = plan.trials.iter().find(same)?;
    if trial.cell == record.cell {
        return Some(format!("{} is no seed of the suite", record.seed));
    }
    let mut differences = Vec::new();
    diff("", &record.config, &trial.config, &mut differences);
    differences.truncate(3);
    Some(differences.join("; "))
}

fn diff(path: &str, old: &Value, new: &Value, out: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let (old, new) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                diff(&path, old, new, out);
            }
        }
        _ if old != new => out.push(format!("{path}: {old} became {new}")),
        _ => {}
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use records::record::RECORD_FORMAT;
    use records::{Stage, Status};

    pub(crate) fn smoke() -> Suite {
        Suite::load("ufg-smoke").unwrap()
    }

    pub(crate) fn summaries(suite: &Suite) -> IndexMap<String, DatasetSummary> {
        let summary = |name: &String| DatasetSummary {
            digest: records::Digest::of(name.as_bytes()).hex().into(),
            classes: 10,
            train: 30,
            test: 30,
            notices: vec![],
        };
        suite.datasets.keys().map(|name| (name.clone(), summary(name))).collect()
    }

    /// The suite's plan, as if its datasets were there. It has no weights.
    pub(crate) fn planned(suite: &Suite) -> Plan {
        let found = crate::weights::find(suite, |_| true).unwrap();
        assert!(found.missing.is_empty());
        plan(suite, summaries(suite), &found.ready)
    }

    pub(crate) fn record_of(trial: &Trial, attempt: u32, status: Status) -> Record {
        Record {
            format: RECORD_FORMAT,
            trial: trial.id.clone(),
            attempt,
            cell: trial.cell.clone(),
            suite: "ufg-smoke".into(),
            method: trial.method.clone(),
            dataset: trial.dataset.clone(),
            backbone: trial.backbone.clone(),
            seed: trial.seed,
            status,
            scores: None,
            best: None,
            curve: vec![],
            cost: None,
            data: None,
            predictions: None,
            weights: None,
            provenance: crate::host::provenance(crate::device::Place::Cpu, 1),
            config: trial.config.clone(),
        }
    }

    #[test]
    fn ids_do_not_depend_on_the_order_of_methods_and_datasets() {
        let suite = smoke();
        let mut reversed = suite.clone();
        reversed.methods.reverse();
        reversed.datasets.reverse();
        let ids = |s: &Suite| {
            let mut ids: Vec<String> = planned(s).trials.into_iter().map(|t| t.id).collect();
            ids.sort();
            ids
        };
        assert_eq!(ids(&suite), ids(&reversed));
        assert_eq!(ids(&suite).len(), 40);
        let mut distinct = ids(&suite);
        distinct.dedup();
        assert_eq!(distinct.len(), 40);
    }

    #[test]
    fn what_changes_a_number_changes_the_id_and_says_why() {
        let suite = smoke();
        let before = planned(&suite);
        let mut other = suite.clone();
        other.protocol.epochs += 1;
        let after = planned(&other);
        assert!(before.trials.iter().zip(&after.trials).all(|(a, b)| a.cell != b.cell));
        let stale = record_of(&before.trials[0], 1, Status::Done);
        let (old, new) = (suite.protocol.epochs, other.protocol.epochs);
        assert_eq!(why_stale(&stale, &after), Some(format!("protocol.epochs: {old} became {new}")));
        assert_eq!(why_stale(&stale, &before), None);
        other = suite.clone();
        other.methods.shift_remove("ce");
        let fewer = planned(&other);
        assert_eq!(why_stale(&stale, &fewer), Some("the plan has no method `ce`".into()));
        other = suite.clone();
        other.seeds = vec![1];
        let reseeded = planned(&other);
        assert_eq!(why_stale(&stale, &reseeded), Some("42 is no seed of the suite".into()));
        // How often checkpoints are written changes no number.
        other = suite.clone();
        other.checkpoint_epochs += 1;
        assert_eq!(planned(&other).trials[0].cell, before.trials[0].cell);
    }

    #[test]
    fn a_default_written_out_is_the_same_cell() {
        let text = crate::suite::find("ufg-smoke").unwrap().text;
        let written = text.replace("triplet = {}", "triplet = { margin = 0.2 }");
        assert_ne!(text, written);
        let parse = |text: &str| Suite::parse("ufg-smoke", "x", text, std::path::Path::new(".")).unwrap();
        let (a, b) = (parse(&text), parse(&written));
        let cells = |s: &Suite| planned(s).trials.into_iter().map(|t| t.cell).collect::<Vec<_>>();
        assert_eq!(cells(&a), cells(&b));
    }

    proptest! {
        /// Whatever was recorded before, a trial is outstanding exactly if its latest attempt is not final.
        #[test]
        fn outstanding_is_what_has_no_final_record(history in prop::collection::vec((0usize..5, 0usize..3), 0..20)) {
            let suite = smoke();
            let plan = planned(&suite);
            let mut records = records::journal::Records::default();
            let mut last: BTreeMap<usize, (u32, bool)> = BTreeMap::new();
            for (which, how) in history {
                let (attempts, is_final) = last.get(&which).copied().unwrap_or((0, false));
                if is_final {
                    continue;
                }
                let status = match how {
                    0 => Status::Done,
                    1 => Status::Failed { stage: Stage::Train, message: "x".into() },
                    _ => Status::Diverged { step: 1, what: "loss".into() },
                };
                last.insert(which, (attempts + 1, status.is_final()));
                records.all.push(record_of(&plan.trials[which], attempts + 1, status));
            }
            let latest = records.latest();
            for (index, trial) in plan.trials.iter().enumerate() {
                let expected = last.get(&index).copied();
                let state = state(&trial.id, &latest);
                prop_assert_eq!(state.is_outstanding(), !expected.is_some_and(|(_, is_final)| is_final));
                prop_assert_eq!(state.is_outstanding().then(|| state.next_attempt()),
                    (!expected.is_some_and(|e| e.1)).then(|| expected.map_or(1, |e| e.0 + 1)));
            }
        }
    }
}
