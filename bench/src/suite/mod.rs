//! Suites: what to run. A TOML file becomes a [`Suite`] in one step; whatever is wrong with the file is an error
//! that names file, line and column.

mod locate;
mod protocol;
mod unfit;
mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use backbones::{BackboneConfig, Freeze};
use datasets::DatasetConfig;
use hub::{HubFile, LOCK_NAME, Repo};
use indexmap::IndexMap;
use losses::MethodConfig;
use serde::{Deserialize, Serialize};

pub(crate) use locate::{available, find};
pub(crate) use protocol::{OptimizerConfig, Protocol, Schedule};
pub(crate) use unfit::Unfit;

use crate::environment;
use crate::error::exit;

/// A validated suite.
#[derive(Debug, Clone)]
pub(crate) struct Suite {
    /// Its name: the file's name without `.toml`.
    pub(crate) name: String,
    /// What messages call its file.
    pub(crate) file: String,
    /// Prose about it.
    pub(crate) description: String,
    /// Folder against which relative paths in it are resolved.
    pub(crate) base: PathBuf,
    /// Methods by name, in the order of the file.
    pub(crate) methods: IndexMap<String, MethodConfig>,
    /// Datasets by name.
    pub(crate) datasets: IndexMap<String, DatasetConfig>,
    /// Backbones by name.
    pub(crate) backbones: IndexMap<String, SuiteBackbone>,
    /// How a trial is trained and evaluated.
    pub(crate) protocol: Protocol,
    /// Seeds of the trials of a cell.
    pub(crate) seeds: Vec<u64>,
    /// Epochs between two checkpoints; changes no result.
    pub(crate) checkpoint_epochs: u64,
    /// Line and column of each of [`unfit::KEYS`]; of the protocol where the file does not have it.
    keys: BTreeMap<&'static str, (usize, usize)>,
}

/// A backbone of a suite: an architecture, weights that tell theirs, or both.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SuiteBackbone {
    /// The architecture, where the suite names it.
    pub(crate) architecture: Option<BackboneConfig>,
    /// Where its weights are; without, it begins with random values.
    pub(crate) weights: Option<WeightsConfig>,
    /// How much of it is not trained.
    pub(crate) freeze: Freeze,
}

/// Weights on the Hugging Face Hub, as timm stores them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WeightsConfig {
    /// The repository, such as `timm/resnet50.a1_in1k`.
    pub(crate) repo: String,
    /// A branch, tag or commit. What it is at the first fetch is pinned by the lock.
    #[serde(default = "default_revision")]
    pub(crate) revision: String,
}

fn default_revision() -> String {
    "main".into()
}

impl WeightsConfig {
    /// Its two files: `config.json` and `model.safetensors`.
    pub(crate) fn files(&self) -> Result<[HubFile; 2], hub::HubError> {
        let repo = Repo::model(&self.repo)?;
        let file = |path| HubFile::new(repo.clone(), &self.revision, path);
        Ok([file("config.json")?, file("model.safetensors")?])
    }
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
    /// It asks for what the device or the build cannot do.
    #[error(transparent)]
    Unfit(Box<Unfit>),
}

impl SuiteError {
    pub(crate) fn exit_code(&self) -> i32 {
        match self {
            Self::Unfit(unfit) if unfit.missing => exit::ENVIRONMENT,
            _ => exit::USAGE,
        }
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
            Self::Unfit(unfit) => unfit.hint.into(),
            Self::Invalid { .. } => "docs/FORMAT.md describes the keys of a suite file".into(),
        }
    }
}

impl Suite {
    /// Finds and reads the suite of this name or path. Its datasets of the benchmark are looked for in the data directory
    /// of the environment, unless the suite names another.
    pub(crate) fn load(name_or_path: &str) -> Result<Self, SuiteError> {
        let file = find(name_or_path)?;
        let mut suite = Self::parse(&file.name, &file.label, &file.text, &file.base)?;
        if let Some(directory) = environment::data_directory() {
            suite.datasets.values_mut().for_each(|config| config.set_data_directory(&directory));
        }
        Ok(suite)
    }

    /// Where what it fetches is pinned: `bench.lock` beside the suite file.
    pub(crate) fn lock(&self) -> PathBuf {
        self.base.join(LOCK_NAME)
    }

    /// Parses a suite file. `label` is what errors call the file.
    pub(crate) fn parse(name: &str, label: &str, text: &str, base: &Path) -> Result<Self, SuiteError> {
        wire::parse(text, name, label, base).map_err(|error| {
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

    /// The suites of the folder, by name.
    fn shipped() -> Vec<(String, Suite)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../suites");
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let paths = paths.filter(|path| path.extension().is_some_and(|e| e == "toml"));
        let load = |path: PathBuf| {
            let suite = Suite::load(path.to_str().unwrap()).unwrap_or_else(|e| panic!("{e}"));
            (suite.name.clone(), suite)
        };
        paths.map(load).collect()
    }

    #[test]
    fn suites_over_other_backbones_differ_from_the_full_one_in_nothing_else() {
        let shipped = shipped();
        let of = |name: &str| &shipped.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name}")).1;
        let full = of("ufg-full");
        assert_eq!((full.datasets.len(), full.methods.len(), full.seeds.len()), (9, 8, 3));
        for (name, method) in &full.methods {
            assert_eq!(name, method.name());
        }
        for (name, architecture) in [
            ("ufg-full", "resnet50"),
            ("ufg-convnext-tiny", "convnext_tiny"),
            ("ufg-efficientnet-b0", "efficientnet_b0"),
            ("ufg-vit-small", "vit_small_patch16_224"),
        ] {
            let suite = of(name);
            assert_eq!((&suite.methods, &suite.datasets), (&full.methods, &full.datasets), "{name}");
            assert_eq!((&suite.protocol, &suite.seeds), (&full.protocol, &full.seeds), "{name}");
            let backbone = suite.backbones.values().next().unwrap();
            assert_eq!(backbone.architecture, Some(BackboneConfig::timm(architecture)), "{name}");
            let weights = backbone.weights.as_ref().unwrap();
            assert!(weights.repo.starts_with(&format!("timm/{architecture}.")), "{name}: {}", weights.repo);
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
    fn shipped_suites_ask_for_commits_whose_weights_the_shipped_lock_pins() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../suites");
        let pins = hub::Pins::read(&folder.join(LOCK_NAME)).unwrap();
        let mut asked = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let suite = Suite::parse("s", path.to_str().unwrap(), &text, &folder).unwrap();
            for config in suite.backbones.values().filter_map(|backbone| backbone.weights.as_ref()) {
                let [_, weights] = config.files().unwrap();
                if config.revision == "main" {
                    assert_eq!(config.repo, "timm/vit_small_patch16_224.augreg_in1k", "{path:?}");
                    continue;
                }
                let pin = pins.get(&weights).unwrap_or_else(|| panic!("{weights} is not pinned"));
                assert_eq!(pin.commit, config.revision);
                asked += 1;
            }
        }
        assert_eq!(asked, pins.len());
    }

    #[test]
    fn weights_may_tell_architecture_and_preprocessing() {
        let text = smoke();
        let begin = text.find("resnet = {").unwrap();
        let line = &text[begin..begin + text[begin..].find('\n').unwrap()];
        let with = |new: &str| text.replace(line, new);
        let parse = |text: &str| Suite::parse("s", "s.toml", text, Path::new("x")).unwrap();
        let suite = parse(&with("weights = { repo = \"timm/resnet50.a1_in1k\" }\nfreeze = \"half\""));
        let backbone = &suite.backbones["narrow"];
        assert_eq!((backbone.architecture.as_ref(), backbone.freeze), (None, Freeze::Half));
        let files = backbone.weights.as_ref().unwrap().files().unwrap();
        assert_eq!(files[1].to_string(), "timm/resnet50.a1_in1k/model.safetensors at main");
        assert_eq!(suite.lock(), Path::new("x/bench.lock"));
        let both = "timm = { name = \"resnet50\" }\nweights = { repo = \"a/b\", revision = \"v1\" }";
        assert_eq!(parse(&with(both)).backbones["narrow"].architecture, Some(BackboneConfig::timm("resnet50")));
        // The short side of test images may be left out where the weights tell it, and nowhere else.
        let without = with(both).replace("\nresize = 72", "");
        assert_eq!(parse(&without).protocol.resize, None);
        let message = error_of(&text.replace("\nresize = 72", ""));
        assert!(message.contains("`protocol.resize` is missing") && message.contains("`narrow`"), "{message}");
        for (bad, word) in [
            (format!("{line}\ntimm = {{ name = \"resnet50\" }}"), "keep one"),
            (format!("{line}\nweights = {{ repo = \"a/b\" }}"), "leave `resnet` out"),
            ("freeze = \"half\"".to_owned(), "expected `resnet`, `timm` or `weights`"),
            ("weights = { repo = \"a b\" }".to_owned(), "`a b` is no repository"),
            ("weights = { repo = \"a/b\", revision = \"../c\" }".to_owned(), "is no revision"),
            ("weights = { repository = \"a/b\" }".to_owned(), "unknown field `repository`"),
            ("timm = { name = \"resnet50\" }\nfreeze = \"stage9\"".to_owned(), "stage9"),
            ("resnt = {}".to_owned(), "unknown field `resnt`"),
        ] {
            let message = error_of(&with(&bad));
            assert!(message.starts_with("s.toml:") && message.contains(word), "{word}: {message}");
        }
    }

    #[test]
    fn a_dataset_that_stands_for_several_becomes_these() {
        let text = smoke();
        let datasets = &text[text.find("[datasets.").unwrap()..];
        let with = |new: &str| text.replace(datasets, new);
        let parse = |new: &str| Suite::parse("s", "s.toml", &with(new), Path::new("."));
        let all =
            "[datasets.cotton80]\nufg = { id = \"cotton80\" }\n[datasets.soyageing]\nufg = { id = \"soyageing\" }\n";
        let names: Vec<String> = parse(all).unwrap().datasets.into_keys().collect();
        let stages = ["soyageing-r1", "soyageing-r3", "soyageing-r4", "soyageing-r5", "soyageing-r6"];
        assert_eq!(names[0], "cotton80");
        assert_eq!(names[1..], stages);
        let twice = format!("{all}[datasets.soyageing-r3]\nufg = {{ id = \"soyageing-r3\" }}\n");
        let message = parse(&twice).unwrap_err().to_string();
        assert!(message.contains("`soyageing-r3`"), "{message}");
        let message = parse("[datasets.a]\nufg = { id = \"cotton\" }\n").unwrap_err().to_string();
        assert!(message.contains("unknown dataset id `cotton`") && message.contains("`soyglobal`"), "{message}");
    }

    #[test]
    fn positions_count_characters() {
        assert_eq!(position("a\nüb = 1", 5), (2, 3));
        assert_eq!(position("", 0), (1, 1));
    }
}
