//! Sources of datasets.

mod folder;
mod parquet;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::DatasetError;
use crate::leaf::{self, GeneratedConfig};
use crate::model::{Dataset, Found, Item};

/// Where a dataset comes from: `generated = { … }`, `parquet = { path = "…" }` or `folder = { path = "…" }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatasetConfig {
    /// Leaf scans drawn from a seed.
    Generated(GeneratedConfig),
    /// A parquet file.
    Parquet(ParquetConfig),
    /// A folder of images.
    Folder(FolderConfig),
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

impl DatasetConfig {
    /// The kinds by their names in a suite file, with a line about each.
    pub const KINDS: &[(&str, &str)] = &[
        ("generated", "leaf scans drawn by a program, with their shot structure (classes, train_per_class, …)"),
        ("parquet", "a file with the columns image, class_name and/or label, split (path)"),
        ("folder", "an ImageFolder with train/<class>/* and test/<class>/* (path)"),
    ];

    /// Checks what can be checked without touching a file.
    ///
    /// # Errors
    /// [`DatasetError::Setting`] for a value out of range.
    pub fn validate(&self) -> Result<(), DatasetError> {
        let (key, path) = match self {
            DatasetConfig::Generated(config) => return config.validate(),
            DatasetConfig::Parquet(config) => ("parquet.path", &config.path),
            DatasetConfig::Folder(config) => ("folder.path", &config.path),
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
