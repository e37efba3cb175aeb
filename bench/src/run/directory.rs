//! The run directory: what one invocation, and those that continue it, leave behind.
//!
//! `plan.json` (what was asked for), `records.jsonl` (the journal), `results.csv`, `summary.csv`, `report.md`
//! (rebuilt from the two), `predictions/<trial>.csv`, and `trials/<trial>/` with the checkpoint while a trial is
//! unfinished and what its process said on stderr.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use datasets::GroupMember;
use serde::{Deserialize, Serialize};

use crate::environment;
use crate::error::ExpectedError;
use crate::files;
use crate::plan::{Plan, Trial};
use crate::select::Selection;
use crate::suite::Suite;

/// Version of the layout of `plan.json`.
const PLAN_FORMAT: u32 = 1;

/// What was asked for, so that a report can be rebuilt without the suite file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanFile {
    /// [`PLAN_FORMAT`] of the writer.
    pub(crate) format: u32,
    /// Name of the suite.
    pub(crate) suite: String,
    /// Its description.
    pub(crate) description: String,
    /// The command that made the run.
    pub(crate) command: String,
    /// Methods in the order of the suite.
    pub(crate) methods: Vec<String>,
    /// Datasets in the order of the suite.
    pub(crate) datasets: Vec<String>,
    /// Backbones in the order of the suite.
    pub(crate) backbones: Vec<String>,
    /// Seeds in the order of the suite.
    pub(crate) seeds: Vec<u64>,
    /// Datasets that are reported as one, by the mean over them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Vec<PlannedGroup>,
    /// All trials of the suite.
    pub(crate) trials: Vec<PlannedTrial>,
}

/// Datasets that are reported as one: the stages of SoyAgeing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlannedGroup {
    /// Name of the mean.
    pub(crate) name: String,
    /// What a member is called, in the plural.
    pub(crate) noun: String,
    /// The members among the suite's datasets, by name.
    pub(crate) members: Vec<String>,
    /// How many members the mean is over.
    pub(crate) size: usize,
}

/// A trial of the suite, as a report needs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlannedTrial {
    /// Its id.
    pub(crate) id: String,
    /// Its method's name.
    pub(crate) method: String,
    /// Its dataset's name.
    pub(crate) dataset: String,
    /// Its backbone's name.
    pub(crate) backbone: String,
    /// Its seed.
    pub(crate) seed: u64,
    /// True if the latest command selected it.
    pub(crate) selected: bool,
}

impl PlanFile {
    /// Of a suite and its plan.
    pub(crate) fn new(suite: &Suite, plan: &Plan, selection: &Selection, command: String) -> Self {
        let trial = |t: &Trial| PlannedTrial {
            id: t.id.clone(),
            method: t.method.clone(),
            dataset: t.dataset.clone(),
            backbone: t.backbone.clone(),
            seed: t.seed,
            selected: selection.selects(t),
        };
        Self {
            format: PLAN_FORMAT,
            suite: suite.name.clone(),
            description: suite.description.clone(),
            command,
            methods: suite.methods.keys().cloned().collect(),
            datasets: suite.datasets.keys().cloned().collect(),
            backbones: suite.backbones.keys().cloned().collect(),
            seeds: suite.seeds.clone(),
            groups: groups(suite),
            trials: plan.trials.iter().map(trial).collect(),
        }
    }
}

/// The groups of a suite's datasets, in its order. A mean is over different members of one kind: a second copy of a member,
/// such as a stand-in beside the subset, belongs to a group of its own.
fn groups(suite: &Suite) -> Vec<PlannedGroup> {
    let mut groups: Vec<(Vec<GroupMember>, Vec<String>)> = vec![];
    for (name, config) in &suite.datasets {
        let Some(member) = config.group() else { continue };
        let fits = |known: &[GroupMember]| {
            known.iter().all(|other| other.belongs_with(&member) && other.member != member.member)
        };
        match groups.iter_mut().find(|(known, _)| fits(known)) {
            Some((known, names)) => {
                known.push(member);
                names.push(name.clone());
            }
            None => groups.push((vec![member], vec![name.clone()])),
        }
    }
    let planned = |(known, members): (Vec<GroupMember>, Vec<String>)| {
        let GroupMember { group, noun, size, .. } = known[0];
        PlannedGroup {
            name: group_name(&known, &members).unwrap_or(group.to_owned()),
            noun: noun.to_owned(),
            members,
            size,
        }
    };
    groups.into_iter().map(planned).collect()
}

/// What the names of the datasets have in common, where each is it with the member's own name behind it.
fn group_name(known: &[GroupMember], names: &[String]) -> Option<String> {
    let mut stems = known.iter().zip(names).map(|(member, name)| name.strip_suffix(member.suffix()));
    let first = stems.next().flatten().filter(|stem| !stem.is_empty())?;
    stems.all(|stem| stem == Some(first)).then(|| first.to_owned())
}

/// A run directory.
#[derive(Debug, Clone)]
pub(crate) struct RunDirectory {
    path: PathBuf,
}

/// Held while a process works in a run directory; freed when it ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

impl RunDirectory {
    /// The directory at `path`, which need not be there yet.
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The journal.
    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join("records.jsonl")
    }

    /// The folder of a trial.
    pub(crate) fn trial(&self, id: &str) -> PathBuf {
        self.path.join("trials").join(id)
    }

    /// Where its trials keep decoded images: where the environment says, for all runs, or its folder `cache`.
    pub(crate) fn image_cache(&self) -> PathBuf {
        environment::image_cache().unwrap_or_else(|| self.path.join("cache"))
    }

    /// The path of a trial's predictions, relative to the directory.
    pub(crate) fn predictions(id: &str) -> String {
        format!("predictions/{id}.csv")
    }

    /// Creates it where it is missing and takes its lock. A folder that holds other things is refused.
    pub(crate) fn open(&self) -> Result<Lock, ExpectedError> {
        self.refuse_foreign()?;
        for sub in ["", "predictions", "trials"] {
            files::create_dir(&self.path.join(sub))?;
        }
        let path = self.path.join("lock");
        let file_error = |source| ExpectedError::File { action: "write", path: path.clone(), source };
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(file_error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ExpectedError::Locked { path: self.path.clone() }),
            Err(TryLockError::Error(source)) => return Err(file_error(source)),
        }
        files::remove_leftovers(&self.path);
        files::remove_leftovers(&self.path.join("predictions"));
        Ok(Lock(file))
    }

    fn refuse_foreign(&self) -> Result<(), ExpectedError> {
        let Ok(mut entries) = std::fs::read_dir(&self.path) else {
            return Ok(());
        };
        let ours = ["plan.json", "records.jsonl", "lock"].iter().any(|name| self.path.join(name).exists());
        // A link that leads nowhere is ours too: its name says what it was meant to be.
        let ours = ours || self.path.join("records.jsonl").symlink_metadata().is_ok();
        if ours || entries.next().is_none() {
            return Ok(());
        }
        Err(ExpectedError::RunDirectory {
            path: self.path.clone(),
            reason: "is not empty and holds no run; its files would be overwritten".into(),
            hint: "choose a new or empty directory with `--out`".into(),
        })
    }

    /// Writes `plan.json`. A directory that holds a run of another suite is refused.
    pub(crate) fn write_plan(&self, plan: &PlanFile) -> Result<(), ExpectedError> {
        let path = self.path.join("plan.json");
        // A plan that cannot be read is written anew: it holds nothing that the suite does not say.
        if let Some(before) = std::fs::read(&path).ok().and_then(|text| parse_plan(&text).ok()) {
            if before.format > PLAN_FORMAT {
                return Err(newer(path, before.format));
            }
            if before.suite != plan.suite {
                return Err(ExpectedError::RunDirectory {
                    path: self.path.clone(),
                    reason: format!("holds a run of the suite `{}`, not of `{}`", before.suite, plan.suite),
                    hint: "choose another directory with `--out`".into(),
                });
            }
        }
        let mut text = serde_json::to_vec_pretty(plan).expect("a plan is plain data");
        text.push(b'\n');
        files::write(&path, &text)
    }

    /// Reads `plan.json`.
    pub(crate) fn read_plan(&self) -> Result<PlanFile, ExpectedError> {
        let path = self.path.join("plan.json");
        let text = std::fs::read(&path).map_err(|source| {
            if source.kind() == std::io::ErrorKind::NotFound {
                return ExpectedError::RunDirectory {
                    path: self.path.clone(),
                    reason: "is no run directory: it has no plan.json".into(),
                    hint: "give the directory that `bench --suite S --out DIR` wrote, by default runs/S".into(),
                };
            }
            ExpectedError::File { action: "read", path: path.clone(), source }
        })?;
        let plan = parse_plan(&text).map_err(|error| ExpectedError::RunDirectory {
            path: path.clone(),
            reason: format!("is no plan: {error}"),
            hint: "it was changed by hand or written by another version; `bench --suite S` writes it anew".into(),
        })?;
        if plan.format > PLAN_FORMAT {
            return Err(newer(path, plan.format));
        }
        Ok(plan)
    }
}

fn parse_plan(text: &[u8]) -> serde_json::Result<PlanFile> {
    serde_json::from_slice(text)
}

fn newer(path: PathBuf, format: u32) -> ExpectedError {
    ExpectedError::RunDirectory {
        path,
        reason: format!("has format {format}, this version reads up to {PLAN_FORMAT}"),
        hint: "use the version that wrote it".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The groups of a suite with these datasets.
    fn groups_of(datasets: &str) -> Vec<(String, Vec<String>)> {
        let smoke = include_str!("../../../suites/ufg-smoke.toml");
        let text = smoke[..smoke.find("[datasets.").unwrap()].to_owned() + datasets;
        let suite = Suite::parse("s", "s.toml", &text, Path::new(".")).unwrap();
        let all = groups(&suite);
        assert!(all.iter().all(|group| (group.noun.as_str(), group.size) == ("stages", 5)));
        all.into_iter().map(|group| (group.name, group.members)).collect()
    }

    fn stage(name: &str, id: &str, more: &str) -> String {
        format!("[datasets.{name}]\nufg = {{ id = \"{id}\"{more} }}\n")
    }

    #[test]
    fn stages_of_soyageing_are_a_group() {
        let stages = |stem: &str| ["r1", "r3", "r4", "r5", "r6"].map(|stage| format!("{stem}-{stage}")).to_vec();
        let whole = stage("soyageing", "soyageing", "") + &stage("cotton", "cotton80", "");
        assert_eq!(groups_of(&whole), [("soyageing".to_owned(), stages("soyageing"))]);
        // A name of one's own; a stand-in beside it is another group.
        let two = stage("leaves", "soyageing", "") + &stage("toy", "soyageing", ", stand_in = true");
        assert_eq!(groups_of(&two), [("leaves".to_owned(), stages("leaves")), ("toy".to_owned(), stages("toy"))]);
        // One by one, under any names, from different places; the same stage twice is no mean of two.
        let single = stage("young", "soyageing-r1", "")
            + &stage("old", "soyageing-r6", ", data = \"elsewhere\"")
            + &stage("young-too", "soyageing-r1", ", data = \"elsewhere\"");
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            groups_of(&single),
            [("soyageing".to_owned(), strings(&["young", "old"])), ("soyageing".to_owned(), strings(&["young-too"]))]
        );
        let none = stage("pooled", "soyageing-pooled", "") + &stage("cotton", "cotton80", "");
        assert_eq!(groups_of(&none), []);
    }
}
