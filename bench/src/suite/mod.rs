//! Suites: what to run. A TOML file becomes a [`Suite`] in one step; whatever is wrong with the file is an error
//! that names file, line and column.

mod locate;
mod protocol;
mod wire;

use std::path::{Path, PathBuf};

use backbones::BackboneConfig;
use datasets::DatasetConfig;
use indexmap::IndexMap;
use losses::MethodConfig;

pub(crate) use locate::{available, find};
pub(crate) use protocol::{OptimizerConfig, Protocol, Schedule};

use crate::error::exit;

/// A validated suite.
#[derive(Debug, Clone)]
pub(crate) struct Suite {
    /// Its name: the file's name without `.toml`.
    pub(crate) name: String,
    /// Prose about it.
    pub(crate) description: String,
    /// Folder against which relative paths in it are resolved.
    pub(crate) base: PathBuf,
    /// Methods by name, in the order of the file.
    pub(crate) methods: IndexMap<String, MethodConfig>,
    /// Datasets by name.
    pub(crate) datasets: IndexMap<String, DatasetConfig>,
    /// Backbones by name.
    pub(crate) backbones: IndexMap<String, BackboneConfig>,
    /// How a trial is trained and evaluated.
    pub(crate) protocol: Protocol,
    /// Seeds of the trials of a cell.
    pub(crate) seeds: Vec<u64>,
    /// Epochs between two checkpoints; changes no result.
    pub(crate) checkpoint_epochs: u64,
}

/// What is wrong with a suite.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuiteError {
    /// No such suite.
    #[error("there is no suite `{name}`")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The suites that there are.
        available: Vec<String>,
    },
    /// The file could not be read.
    #[error("cannot read the suite file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is no suite.
    #[error("{file}:{line}:{column}: {message}")]
    Invalid {
        /// The file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong, with the names that are accepted.
        message: String,
    },
}

impl SuiteError {
    pub(crate) fn exit_code(&self) -> i32 {
        exit::USAGE
    }

    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Unknown { available, .. } => {
                format!("suites that there are: {}; or give the path of a .toml file", available.join(", "))
            }
            Self::Read { source, .. } if source.kind() == std::io::ErrorKind::InvalidData => {
                "a suite file is text in UTF-8; save it so".into()
            }
            Self::Read { .. } => "check the path".into(),
            Self::Invalid { .. } => "docs/FORMAT.md describes the keys of a suite file".into(),
        }
    }
}

impl Suite {
    /// Finds and reads the suite of this name or path.
    pub(crate) fn load(name_or_path: &str) -> Result<Self, SuiteError> {
        let file = find(name_or_path)?;
        Self::parse(&file.name, &file.label, &file.text, &file.base)
    }

    /// Parses a suite file. `label` is what errors call the file.
    pub(crate) fn parse(name: &str, label: &str, text: &str, base: &Path) -> Result<Self, SuiteError> {
        wire::parse(text, name, base).map_err(|error| {
            let (line, column) = position(text, error.offset);
            SuiteError::Invalid { file: label.into(), line, column, message: error.message }
        })
    }
}

/// Line and column, from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
    let start = before.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
    (line, String::from_utf8_lossy(&before[start..]).chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smoke() -> String {
        find("ufg-smoke").unwrap().text
    }

    fn error_of(text: &str) -> String {
        Suite::parse("s", "s.toml", text, Path::new(".")).unwrap_err().to_string()
    }

    #[test]
    fn the_shipped_suites_are_valid() {
        let suite = Suite::load("ufg-smoke").unwrap();
        assert_eq!(suite.datasets.len(), 5);
        assert_eq!(suite.methods.len(), 8);
        for name in MethodConfig::NAMES {
            assert!(suite.methods.values().any(|m| m.name() == *name), "ufg-smoke lacks {name}");
        }
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_place_and_the_accepted_names() {
        let text = smoke().replace("\nepochs =", "\nepoch =");
        let line = text.lines().position(|l| l.starts_with("epoch =")).unwrap() + 1;
        let message = error_of(&text);
        assert!(message.starts_with(&format!("s.toml:{line}:1: ")), "{message}");
        assert!(message.contains("unknown field `epoch`") && message.contains("`batch_size`"), "{message}");
    }

    #[test]
    fn a_misspelt_method_or_dataset_is_named_with_the_accepted_names() {
        let message = error_of(&smoke().replace("\ntriplet = {", "\ntripplet = {"));
        assert!(message.contains("`tripplet`") && message.contains("`pac-mcl-bw`"), "{message}");
        let message = error_of(&smoke().replacen("generated = {", "generatd = {", 1));
        assert!(message.contains("`generatd`") && message.contains("`parquet`"), "{message}");
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_place() {
        let text = smoke().replace("\nbatch_size = 10", "\nbatch_size = 0");
        let line = text.lines().position(|l| l.starts_with("batch_size =")).unwrap() + 1;
        let message = error_of(&text);
        assert!(message.starts_with(&format!("s.toml:{line}:")), "{message}");
        assert!(message.contains("batch_size"), "{message}");
    }

    #[test]
    fn positions_count_characters() {
        assert_eq!(position("a\nüb = 1", 5), (2, 3));
        assert_eq!(position("", 0), (1, 1));
    }
}
