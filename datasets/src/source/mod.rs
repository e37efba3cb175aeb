//! Sources of datasets.

mod anno;
mod fence;
mod folder;
mod imported;
mod parquet;
mod rows;
mod table;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::DatasetError;
use crate::leaf::{self, GeneratedConfig};
use crate::model::{Dataset, Found, Item};
use crate::ufg::{GroupMember, UfgConfig};

pub(crate) use folder::regular;
pub(crate) use parquet::disagreement;
pub use rows::ParquetImages;
pub(crate) use table::{Column, Table};

/// The split that a source names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Train,
    Test,
    /// A validation split, under this name: told and left out.
    Dropped(&'static str),
}

/// Where a dataset comes from: `ufg = { id = "…" }`, `generated = { … }`, `parquet = { path = "…" }`,
/// `folder = { path = "…" }` or `anno = { path = "…" }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatasetConfig {
    /// Leaf scans drawn from a seed.
    Generated(GeneratedConfig),
    /// A parquet file.
    Parquet(ParquetConfig),
    /// A folder of images.
    Folder(FolderConfig),
    /// A folder of images with lists.
    Anno(AnnoConfig),
    /// A dataset of the UFG benchmark.
    Ufg(UfgConfig),
}

/// A parquet file with the columns `image` (encoded bytes, or a struct with a field `bytes`), `split` (`train`, `test`;
/// `val` and `validation` are dropped) and `class_name` (text) or `label` (integer).
///
/// Class ids come from `class_name` over the whole table, in numeric order if all names are whole numbers and in
/// lexicographic order if not; `label` is used only if there is no `class_name`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParquetConfig {
    /// The file. Relative paths are looked up beside the suite file, then in the current folder.
    pub path: PathBuf,
}

/// A folder in the ImageFolder layout: `train/<class>/<image>` and `test/<class>/<image>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The folder. Relative paths are looked up beside the suite file, then in the current folder.
    pub path: PathBuf,
}

/// A folder in the layout of the UFG archives: `images/*`, and the lists `anno/train.txt` and `anno/test.txt` with a line
/// `filename label` for each image. Labels count from 1 and are the names of the classes. `anno/val.txt` is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnoConfig {
    /// The folder. Relative paths are looked up beside the suite file, then in the current folder.
    pub path: PathBuf,
}

impl DatasetConfig {
    /// The kinds by their names in a suite file, with a line about each.
    pub const KINDS: &[(&str, &str)] = &[
        ("generated", "leaf scans drawn by a program, with their shot structure (classes, train_per_class, …)"),
        ("parquet", "a file with the columns image, class_name and/or label, split (path)"),
        ("folder", "an ImageFolder with train/<class>/* and test/<class>/* (path)"),
        ("anno", "a folder with images/*, anno/train.txt and anno/test.txt, labels from 1 (path)"),
        (
            "ufg",
            "a dataset of the UFG benchmark, fetched or imported before (id, stand_in, data); ids: cotton80, soylocal, \
             soygene, soyageing (the five stages, a dataset each), soyageing-r1, -r3, -r4, -r5, -r6, soyageing-pooled, \
             soyglobal",
        ),
    ];

    /// The datasets that this one stands for, each with what is added to its name: itself, or for `soyageing` its five
    /// stages (`-r1` …).
    pub fn expanded(&self) -> Vec<(String, DatasetConfig)> {
        match self {
            DatasetConfig::Ufg(config) => {
                config.expanded().into_iter().map(|(suffix, one)| (suffix, DatasetConfig::Ufg(one))).collect()
            }
            _ => vec![(String::new(), self.clone())],
        }
    }

    /// The mean of which this dataset is a part: SoyAgeing's for a stage.
    pub fn group(&self) -> Option<GroupMember> {
        if let DatasetConfig::Ufg(config) = self { config.group() } else { None }
    }

    /// Sets the data directory of a dataset of the benchmark whose settings name none.
    pub fn set_data_directory(&mut self, directory: &Path) {
        if let DatasetConfig::Ufg(config) = self {
            config.data.get_or_insert_with(|| directory.to_owned());
        }
    }

    /// Checks what can be checked without touching a file.
    ///
    /// # Errors
    /// [`DatasetError::Setting`] for a value out of range.
    pub fn validate(&self) -> Result<(), DatasetError> {
        let (key, path) = match self {
            DatasetConfig::Generated(config) => return config.validate(),
            DatasetConfig::Parquet(config) => ("parquet.path", &config.path),
            DatasetConfig::Folder(config) => ("folder.path", &config.path),
            DatasetConfig::Anno(config) => ("anno.path", &config.path),
            DatasetConfig::Ufg(config) => match &config.data {
                Some(data) => ("ufg.data", data),
                None => return Ok(()),
            },
        };
        if path.as_os_str().is_empty() {
            let reason = "a path is needed".to_owned();
            return Err(DatasetError::Setting { key, value: "\"\"".into(), reason });
        }
        Ok(())
    }
}

/// Loads a dataset: reads or generates the encoded images, hashes them, derives classes and labels, and checks that
/// it can be learned from and judged on. Images are not decoded.
///
/// `base` is the folder of the suite file: a relative path is looked up there, then in the current folder.
///
/// # Errors
/// See [`DatasetError`]; its `kind` tells the suite file's fault from the data's.
pub fn load(name: &str, config: &DatasetConfig, base: &Path) -> Result<Dataset, DatasetError> {
    config.validate()?;
    let found = match config {
        DatasetConfig::Generated(config) => leaf::generate(config)?,
        DatasetConfig::Parquet(config) => parquet::read(&locate(name, &config.path, base)?)?,
        DatasetConfig::Folder(config) => folder::read(&locate(name, &config.path, base)?)?,
        DatasetConfig::Anno(config) => anno::read(&locate(name, &config.path, base)?)?,
        DatasetConfig::Ufg(config) => imported::read(config, base)?,
    };
    found.finish(name)
}

fn locate(name: &str, path: &Path, base: &Path) -> Result<PathBuf, DatasetError> {
    let mut tried = vec![base.join(path)];
    if !path.is_absolute() && base != Path::new("") {
        tried.push(path.to_owned());
    }
    for candidate in &tried {
        match candidate.try_exists() {
            Ok(true) => return Ok(candidate.clone()),
            Ok(false) => {}
            Err(source) => return Err(DatasetError::Read { path: candidate.clone(), source }),
        }
    }
    Err(DatasetError::NotFound { name: name.to_owned(), path: path.to_owned(), tried })
}

/// Says what a dropped validation split shares with the splits that are kept: a copy of the test split would make
/// model selection on it selection on the test images.
fn notice_dropped(found: &mut Found, split: &str, hashes: &[String]) {
    if hashes.is_empty() {
        return;
    }
    let mut notice = format!("{} images of split `{split}` dropped", hashes.len());
    for (name, items) in [("test", &found.test), ("train", &found.train)] {
        let known: HashSet<&str> = items.iter().map(|item: &Item| item.sha256.as_str()).collect();
        let shared = hashes.iter().filter(|hash| known.contains(hash.as_str())).count();
        if shared > 0 {
            notice.push_str(&format!("; {shared} of them are {name} images"));
        }
    }
    found.notices.push(notice);
}
