//! One oracle file: attributes and tensors by name, with errors that name the file.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// Why oracle files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OracleError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is nothing to compare with.
    #[error("{path} holds no oracle file")]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// The file is not what the format describes.
    #[error("{path}: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Parity files of backbones that cannot be used.
    #[error("{0}")]
    Parity(#[from] backbones::parity::ParityError),
    /// The op is not one of ours.
    #[error("{path}: unknown op `{op}`")]
    UnknownOp {
        /// The file.
        path: PathBuf,
        /// The op that it names.
        op: String,
    },
}

impl OracleError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Read { .. } => {
                "check the path and its permissions; without `--oracles` the set in the binary is used".into()
            }
            Self::Empty { .. } => {
                "`--oracles` takes a folder of files <op>.<case>.safetensors; ci/oracles/generate.py writes one".into()
            }
            Self::Format { .. } => {
                "ci/oracles/FORMAT.md says what each op's file holds; make the file again or move it away".into()
            }
            Self::Parity(error) => parity_hint(error),
            Self::UnknownOp { .. } => format!("ops are {}", super::ops::Op::names().join(", ")),
        }
    }
}

fn parity_hint(error: &backbones::parity::ParityError) -> String {
    use backbones::parity::ParityError as Error;
    match error {
        Error::Read { .. } => {
            "check the path and its permissions; without `--backbones` the set in the binary is used".into()
        }
        Error::Empty { .. } => {
            "`--backbones` takes a folder of pairs <arch>.json and <arch>.safetensors; ci/backbones/generate.py writes \
             them"
                .into()
        }
        Error::Architecture { .. } => "`bench list backbones` shows the names; move the file away".into(),
        Error::Format { .. } | Error::Names { .. } => {
            "ci/backbones/README.md says what the files hold; make them again or move them away".into()
        }
    }
}

/// A tensor of a file: float64 values, row by row. Integers are converted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Array {
    /// Sizes of the dimensions.
    pub(crate) shape: Vec<usize>,
    /// Row-major values.
    pub(crate) values: Vec<f64>,
}

/// One case of one op.
#[derive(Debug)]
pub(crate) struct Case {
    /// The file.
    pub(crate) path: PathBuf,
    /// The op, such as `spd_log`.
    pub(crate) op: String,
    /// The case, such as `wide12`.
    pub(crate) name: String,
    attributes: BTreeMap<String, String>,
    tensors: BTreeMap<String, Array>,
    used: RefCell<BTreeSet<String>>,
}

impl Case {
    /// Reads the bytes of a file.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, OracleError> {
        let format = |reason: String| OracleError::Format { path: path.to_owned(), reason };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| format(format!("no safetensors file: {e}")))?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| format(format!("no complete safetensors file: {e}")))?;
        let mut attributes: BTreeMap<String, String> =
            header.metadata().clone().unwrap_or_default().into_iter().collect();
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let (words, _) = view.data().as_chunks::<8>();
            let values = match view.dtype() {
                Dtype::F64 => words.iter().map(|b| f64::from_le_bytes(*b)).collect(),
                Dtype::I64 => words.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
                other => return Err(format(format!("tensor `{name}` is of dtype {other:?}, neither F64 nor I64"))),
            };
            tensors.insert(name, Array { shape: view.shape().to_vec(), values });
        }
        let mut take =
            |key: &str| attributes.remove(key).ok_or_else(|| format(format!("no attribute `{key}` in __metadata__")));
        let (op, name) = (take("op")?, take("case")?);
        Ok(Self { path: path.to_owned(), op, name, attributes, tensors, used: RefCell::default() })
    }

    /// An error that names this file.
    pub(crate) fn wrong(&self, reason: String) -> OracleError {
        OracleError::Format { path: self.path.clone(), reason }
    }

    /// The tensor of this name.
    pub(crate) fn tensor(&self, name: &str) -> Result<&Array, OracleError> {
        self.used.borrow_mut().insert(name.to_owned());
        self.tensors.get(name).ok_or_else(|| self.wrong(format!("no tensor `{name}`, which op `{}` needs", self.op)))
    }

    /// The tensor of this name with `rank` dimensions, none of them 0.
    pub(crate) fn ranked(&self, name: &str, rank: usize) -> Result<&Array, OracleError> {
        let array = self.tensor(name)?;
        if array.shape.len() == rank && !array.shape.contains(&0) {
            return Ok(array);
        }
        Err(self.wrong(format!("tensor `{name}` is {:?}, not of {rank} dimensions above 0", array.shape)))
    }

    /// A tensor of indices.
    pub(crate) fn indices(&self, name: &str) -> Result<Vec<u32>, OracleError> {
        let whole = |&v: &f64| {
            let fits = v >= 0.0 && v.fract() == 0.0 && v <= f64::from(u32::MAX);
            fits.then_some(v as u32).ok_or_else(|| self.wrong(format!("tensor `{name}` holds {v}, which is no index")))
        };
        self.tensor(name)?.values.iter().map(whole).collect()
    }

    /// An attribute as text.
    pub(crate) fn text(&self, name: &str) -> Result<&str, OracleError> {
        self.optional(name)
            .ok_or_else(|| self.wrong(format!("no attribute `{name}` in __metadata__, which op `{}` needs", self.op)))
    }

    /// An attribute that a file may leave out.
    pub(crate) fn optional(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    /// A numeric attribute.
    pub(crate) fn number(&self, name: &str) -> Result<f64, OracleError> {
        let text = self.text(name)?;
        text.parse().map_err(|_| self.wrong(format!("attribute `{name}` = `{text}` is no number")))
    }

    /// An attribute that counts something.
    pub(crate) fn count(&self, name: &str) -> Result<usize, OracleError> {
        let text = self.text(name)?;
        text.parse().map_err(|_| self.wrong(format!("attribute `{name}` = `{text}` is no whole number")))
    }

    /// Refuses a file that holds a tensor which the op did not ask for: it would go by uncompared.
    pub(crate) fn all_used(&self) -> Result<(), OracleError> {
        let used = self.used.borrow();
        match self.tensors.keys().find(|name| !used.contains(*name)) {
            None => Ok(()),
            Some(name) => Err(self.wrong(format!("tensor `{name}` is none of op `{}`", self.op))),
        }
    }

    /// Counts all tensors as asked for.
    pub(crate) fn use_all(&self) {
        self.used.borrow_mut().extend(self.tensors.keys().cloned());
    }
}
