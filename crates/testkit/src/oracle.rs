//! Oracle files: expected values and gradients computed by independent code.
//!
//! They lie in the folder `shared` beside the project (`../shared` from its root), one safetensors file a case,
//! `oracles/data/<op>.<case>.safetensors`; `oracles/FORMAT.md` there says what each holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// A tensor of an oracle file: row-major float64 values and a shape. Integer tensors are converted.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Sizes of the dimensions.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: Vec<f64>,
}

impl Array {
    /// The values as indices.
    ///
    /// # Panics
    /// If a value is not a whole number ≥ 0.
    pub fn indices(&self) -> Vec<usize> {
        self.values
            .iter()
            .map(|&v| {
                assert!(v >= 0.0 && v.fract() == 0.0, "{v} is no index");
                v as usize
            })
            .collect()
    }
}

/// Why an oracle file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum OracleError {
    /// The file or folder could not be read.
    #[error(
        "cannot read {path}: {source} (the oracle files lie in the folder `shared` beside the project; set UFG_BENCH_SHARED to use another)"
    )]
    Read {
        /// What was to be read.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not what FORMAT.md describes.
    #[error("{path}: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// One case of one op.
#[derive(Debug, Clone)]
pub struct Case {
    /// The op, such as `spd_log`.
    pub op: String,
    /// The case, such as `well8`.
    pub case: String,
    /// Attributes of the op, as strings.
    pub attributes: BTreeMap<String, String>,
    /// Inputs, expected outputs, cotangents and expected gradients by name.
    pub tensors: BTreeMap<String, Array>,
}

impl Case {
    /// Reads one file.
    pub fn read(path: &Path) -> Result<Self, OracleError> {
        let format = |reason: String| OracleError::Format { path: path.to_owned(), reason };
        let bytes = std::fs::read(path).map_err(|source| OracleError::Read { path: path.to_owned(), source })?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| format(e.to_string()))?;
        let mut attributes: BTreeMap<String, String> =
            header.metadata().clone().unwrap_or_default().into_iter().collect();
        let file = SafeTensors::deserialize(&bytes).map_err(|e| format(e.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let values = match view.dtype() {
                Dtype::F64 => view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
                Dtype::I64 => {
                    view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect()
                }
                other => return Err(format(format!("tensor `{name}` has dtype {other:?}, expected F64 or I64"))),
            };
            tensors.insert(name, Array { shape: view.shape().to_vec(), values });
        }
        let mut take = |key: &str| {
            attributes.remove(key).ok_or_else(|| OracleError::Format {
                path: path.to_owned(),
                reason: format!("no `{key}` in __metadata__"),
            })
        };
        Ok(Self { op: take("op")?, case: take("case")?, attributes, tensors })
    }

    /// The tensor of this name.
    ///
    /// # Panics
    /// If there is none: the test asks for what FORMAT.md does not promise.
    pub fn tensor(&self, name: &str) -> &Array {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}.{} has no tensor `{name}`", self.op, self.case))
    }

    /// A numeric attribute.
    ///
    /// # Panics
    /// If it is missing or no number.
    pub fn number(&self, name: &str) -> f64 {
        let text = self.text(name);
        text.parse().unwrap_or_else(|_| panic!("{}.{}: attribute `{name}` = `{text}` is no number", self.op, self.case))
    }

    /// An attribute as text.
    ///
    /// # Panics
    /// If it is missing.
    pub fn text(&self, name: &str) -> &str {
        self.attributes.get(name).unwrap_or_else(|| panic!("{}.{} has no attribute `{name}`", self.op, self.case))
    }
}

/// The folder `shared` beside the project, or what `UFG_BENCH_SHARED` names.
pub fn shared_dir() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "the one place where tests read the environment")]
    let named = std::env::var_os("UFG_BENCH_SHARED");
    named.map(PathBuf::from).unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"))
}

/// All cases of `op` whose case name starts with `prefix`, by name.
///
/// # Panics
/// With a clear message if the folder is missing or holds no such case: a test that compares with nothing
/// must fail.
pub fn cases(op: &str, prefix: &str) -> Vec<Case> {
    let dir = shared_dir().join("oracles/data");
    let entries = std::fs::read_dir(&dir)
        .map_err(|source| OracleError::Read { path: dir.clone(), source })
        .unwrap_or_else(|e| panic!("{e}"));
    let start = format!("{op}.{prefix}");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable folder").path())
        .filter(|p| {
            p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&start) && n.ends_with(".safetensors"))
        })
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no oracle file {start}* in {}", dir.display());
    paths.iter().map(|p| Case::read(p).unwrap_or_else(|e| panic!("{e}"))).collect()
}
