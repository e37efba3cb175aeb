//! `ScoreTable`: records, checked, as rows (trials) and cells in the order of a layout.

use std::collections::BTreeMap;

use records::{Record, Scores, Status};

use crate::check::row;
use crate::error::ReportError;

/// The order in which names are shown, and the trials that there should be: every method with every dataset, backbone
/// and seed. Names that only records have come after, sorted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Layout {
    /// Methods.
    pub methods: Vec<String>,
    /// Datasets.
    pub datasets: Vec<String>,
    /// Backbones.
    pub backbones: Vec<String>,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// Datasets that are reported as one, by the mean over them.
    pub groups: Vec<Group>,
}

/// Datasets whose mean has a name: the stages of SoyAgeing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Name of the mean, such as `soyageing`.
    pub name: String,
    /// What a member is called, in the plural: `stages`.
    pub noun: String,
    /// The members that there are among the datasets.
    pub members: Vec<String>,
    /// How many members the mean is over. Where the datasets hold fewer, there is no mean.
    pub size: usize,
}

impl Group {
    /// How tables call the mean: `soyageing (mean of 5 stages)`.
    pub fn label(&self) -> String {
        format!("{} (mean of {} {})", self.name, self.size, self.noun)
    }

    /// True if all members are among the datasets.
    pub fn is_whole(&self) -> bool {
        self.members.len() == self.size
    }
}

/// The scores that tables show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Top-1 accuracy.
    Top1,
    /// Top-5 accuracy.
    Top5,
    /// Macro-F1.
    MacroF1,
    /// Negative log-likelihood, nats.
    Nll,
    /// Expected calibration error.
    Ece,
    /// Recall@1.
    RecallAt1,
    /// Recall@4.
    RecallAt4,
    /// mAP@R.
    MapAtR,
}

impl Metric {
    /// All of them, in the order of the columns.
    pub const ALL: [Self; 8] =
        [Self::Top1, Self::Top5, Self::MacroF1, Self::Nll, Self::Ece, Self::RecallAt1, Self::RecallAt4, Self::MapAtR];

    /// Name of the column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Top1 => "top1",
            Self::Top5 => "top5",
            Self::MacroF1 => "macro_f1",
            Self::Nll => "nll",
            Self::Ece => "ece",
            Self::RecallAt1 => "recall_at_1",
            Self::RecallAt4 => "recall_at_4",
            Self::MapAtR => "map_at_r",
        }
    }

    /// Its value among the scores of a trial; none where it is not defined.
    pub fn of(self, scores: &Scores) -> Option<f64> {
        let value = match self {
            Self::Top1 => scores.top1,
            Self::Top5 => scores.top5,
            Self::MacroF1 => scores.macro_f1,
            Self::Nll => scores.nll,
            Self::Ece => scores.ece,
            Self::RecallAt1 => scores.recall_at_1,
            Self::RecallAt4 => scores.recall_at_4,
            // Not defined where every class has a single image.
            Self::MapAtR => return scores.map_at_r,
        };
        Some(value)
    }
}

/// A trial: its latest attempt, and the scores if that attempt is done.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The record.
    pub record: &'a Record,
    /// Present if and only if the status is `done`.
    pub scores: Option<&'a Scores>,
}

/// What a cell is shown under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Setting<'a> {
    /// Method.
    pub method: &'a str,
    /// Dataset.
    pub dataset: &'a str,
    /// Backbone.
    pub backbone: &'a str,
}

/// A cell and its trials, by rising seed.
#[derive(Debug, Clone)]
pub struct CellRows<'a> {
    /// Its names.
    pub setting: Setting<'a>,
    /// Its id.
    pub cell: &'a str,
    /// Its trials.
    pub rows: Vec<Row<'a>>,
}

impl<'a> CellRows<'a> {
    /// The done trials.
    pub fn done(&self) -> impl Iterator<Item = (&'a Record, &'a Scores)> {
        self.rows.iter().filter_map(|row| row.scores.map(|scores| (row.record, scores)))
    }

    /// A score of all done trials that have it, by rising seed.
    pub fn values(&self, metric: Metric) -> Vec<f64> {
        self.done().filter_map(|(_, scores)| metric.of(scores)).collect()
    }

    /// Trials that are neither done nor skipped.
    pub fn failed(&self) -> usize {
        self.rows.iter().filter(|r| !matches!(r.record.status, Status::Done | Status::Skipped { .. })).count()
    }
}

/// The latest attempt at each trial, in the order of a layout: by method, dataset, backbone, cell id and seed.
#[derive(Debug, Clone)]
pub struct ScoreTable<'a> {
    /// Methods: those of the layout, then others, sorted.
    pub methods: Vec<&'a str>,
    /// Datasets, likewise.
    pub datasets: Vec<&'a str>,
    /// Backbones, likewise.
    pub backbones: Vec<&'a str>,
    /// The cells of which there is a record.
    pub cells: Vec<CellRows<'a>>,
    /// The layout.
    pub layout: &'a Layout,
}

impl<'a> ScoreTable<'a> {
    /// Makes the table from any number of attempts in any order.
    ///
    /// # Errors
    /// [`ReportError`] if a latest attempt contradicts itself or holds a value that is not finite, or if an attempt
    /// or a seed of a cell occurs twice.
    pub fn new(records: &'a [Record], layout: &'a Layout) -> Result<Self, ReportError> {
        let latest = latest_attempts(records)?;
        let mut rows = latest.values().map(|record| row(record)).collect::<Result<Vec<_>, _>>()?;
        let methods = in_order(&layout.methods, rows.iter().map(|r| r.record.method.as_str()));
        let datasets = in_order(&layout.datasets, rows.iter().map(|r| r.record.dataset.as_str()));
        let backbones = in_order(&layout.backbones, rows.iter().map(|r| r.record.backbone.as_str()));
        let place = |names: &[&str], name: &str| names.iter().position(|n| *n == name);
        rows.sort_by_cached_key(|row| {
            let r = row.record;
            let names = (place(&methods, &r.method), place(&datasets, &r.dataset), place(&backbones, &r.backbone));
            (names, r.cell.clone(), r.seed)
        });
        Ok(Self { cells: cells(rows)?, methods, datasets, backbones, layout })
    }

    /// All trials, in order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'a>> {
        self.cells.iter().flat_map(|cell| cell.rows.iter().copied())
    }

    /// The cell of these names, if there is a record of it.
    pub fn cell(&self, setting: Setting<'_>) -> Option<&CellRows<'a>> {
        self.cells.iter().find(|cell| cell.setting == setting)
    }

    /// Refuses two cells with the same names: a table by names could show one of them only.
    ///
    /// # Errors
    /// [`ReportError::TwoCells`].
    pub fn check_names(&self) -> Result<(), ReportError> {
        match self.cells.windows(2).find(|pair| pair[0].setting == pair[1].setting) {
            None => Ok(()),
            Some(pair) => Err(ReportError::TwoCells {
                method: pair[0].setting.method.to_owned(),
                dataset: pair[0].setting.dataset.to_owned(),
                backbone: pair[0].setting.backbone.to_owned(),
                first: pair[0].cell.to_owned(),
                second: pair[1].cell.to_owned(),
            }),
        }
    }

    /// For each seed that is done on every dataset, by rising seed: the mean of a score over the datasets. Only such
    /// seeds, so that all means are over the same datasets. A group that is whole counts as one dataset, whose score is
    /// the mean over its members.
    pub fn means_over_datasets(&self, method: &str, backbone: &str, metric: Metric) -> Vec<f64> {
        let whole = || self.layout.groups.iter().filter(|group| group.is_whole());
        let grouped = |dataset: &str| whole().any(|group| group.members.iter().any(|member| member == dataset));
        let alone = self.datasets.iter().filter(|dataset| !grouped(dataset));
        let mut each: Vec<BTreeMap<u64, f64>> =
            alone.map(|dataset| self.by_seed(Setting { method, dataset, backbone }, metric)).collect();
        each.extend(whole().map(|group| self.group_by_seed(group, method, backbone, metric)));
        mean_by_seed(&each).into_values().collect()
    }

    /// For each seed that is done on every member of a group, by rising seed: the mean of a score over the members. None
    /// at all if the group is not whole.
    pub fn group_means(&self, group: &Group, method: &str, backbone: &str, metric: Metric) -> Vec<f64> {
        self.group_by_seed(group, method, backbone, metric).into_values().collect()
    }

    /// The most members of a group that are done for one and the same seed.
    pub fn members_done(&self, group: &Group, method: &str, backbone: &str) -> usize {
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for cell in self.members(group, method, backbone) {
            cell.done().for_each(|(record, _)| *counts.entry(record.seed).or_default() += 1);
        }
        counts.into_values().max().unwrap_or(0)
    }

    /// The cells of a group's members of which there is a record.
    pub(crate) fn members(&self, group: &Group, method: &str, backbone: &str) -> Vec<&CellRows<'a>> {
        group.members.iter().filter_map(|dataset| self.cell(Setting { method, dataset, backbone })).collect()
    }

    fn group_by_seed(&self, group: &Group, method: &str, backbone: &str, metric: Metric) -> BTreeMap<u64, f64> {
        if !group.is_whole() {
            return BTreeMap::new();
        }
        let of = |dataset: &String| self.by_seed(Setting { method, dataset, backbone }, metric);
        mean_by_seed(&group.members.iter().map(of).collect::<Vec<_>>())
    }

    /// A score of a cell's done trials that have it, by seed.
    fn by_seed(&self, setting: Setting<'_>, metric: Metric) -> BTreeMap<u64, f64> {
        let done = self.cell(setting).into_iter().flat_map(CellRows::done);
        done.filter_map(|(record, scores)| Some((record.seed, metric.of(scores)?))).collect()
    }

    /// Trials of the layout without any record, in order.
    pub fn missing(&self) -> Vec<(Setting<'a>, u64)> {
        let layout = self.layout;
        let mut missing = vec![];
        for method in &layout.methods {
            for dataset in &layout.datasets {
                for backbone in &layout.backbones {
                    let setting = Setting { method, dataset, backbone };
                    let known = |seed| {
                        let mut cells = self.cells.iter().filter(|c| c.setting == setting);
                        cells.any(|c| c.rows.iter().any(|r| r.record.seed == seed))
                    };
                    missing.extend(layout.seeds.iter().filter(|&&seed| !known(seed)).map(|&seed| (setting, seed)));
                }
            }
        }
        missing
    }
}

/// The mean over all maps for each seed that all of them have.
fn mean_by_seed(each: &[BTreeMap<u64, f64>]) -> BTreeMap<u64, f64> {
    let Some((first, others)) = each.split_first() else { return BTreeMap::new() };
    let complete = first.keys().filter(|seed| others.iter().all(|other| other.contains_key(seed)));
    complete.map(|seed| (*seed, each.iter().map(|one| one[seed]).sum::<f64>() / each.len() as f64)).collect()
}

fn latest_attempts(records: &[Record]) -> Result<BTreeMap<&str, &Record>, ReportError> {
    let mut attempts = BTreeMap::new();
    for record in records {
        if attempts.insert((record.trial.as_str(), record.attempt), record).is_some() {
            return Err(ReportError::DuplicateAttempt { trial: record.trial.clone(), attempt: record.attempt });
        }
    }
    // Attempts of a trial come in rising order, so the last one stays.
    Ok(attempts.into_iter().map(|((trial, _), record)| (trial, record)).collect())
}

/// The names of the layout, then those that only records have, sorted; each once.
fn in_order<'a>(first: &'a [String], found: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = vec![];
    let mut others: Vec<&str> = found.collect();
    others.sort_unstable();
    for name in first.iter().map(String::as_str).chain(others) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Groups sorted rows by cell.
fn cells(rows: Vec<Row<'_>>) -> Result<Vec<CellRows<'_>>, ReportError> {
    let mut cells: Vec<CellRows<'_>> = vec![];
    for row in rows {
        let r = row.record;
        let setting = Setting { method: &r.method, dataset: &r.dataset, backbone: &r.backbone };
        match cells.last_mut().filter(|c| c.cell == r.cell && c.setting == setting) {
            Some(cell) => {
                let before = cell.rows[cell.rows.len() - 1].record;
                if before.seed == r.seed {
                    let (first, second) = (before.trial.clone(), r.trial.clone());
                    return Err(ReportError::DuplicateSeed { first, second });
                }
                cell.rows.push(row);
            }
            None => cells.push(CellRows { setting, cell: &r.cell, rows: vec![row] }),
        }
    }
    Ok(cells)
}
