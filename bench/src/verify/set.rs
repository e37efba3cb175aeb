//! Sets of oracle files: the one in the binary, or a folder.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::oracle::OracleError;

include!(concat!(env!("OUT_DIR"), "/shipped_oracles.rs"));

/// One file of a set.
#[derive(Debug)]
pub(crate) struct OracleFile {
    /// Where it lies; for a shipped file its path inside the project.
    pub(crate) path: PathBuf,
    shipped: Option<&'static [u8]>,
}

impl OracleFile {
    /// The contents.
    pub(crate) fn bytes(&self) -> Result<Cow<'static, [u8]>, OracleError> {
        match self.shipped {
            Some(bytes) => Ok(Cow::Borrowed(bytes)),
            None => std::fs::read(&self.path)
                .map(Cow::Owned)
                .map_err(|source| OracleError::Read { path: self.path.clone(), source }),
        }
    }
}

/// The files of a set in the order of their names; at least one.
#[derive(Debug)]
pub(crate) struct Set {
    files: Vec<OracleFile>,
}

impl Set {
    /// The set that the binary carries, made by `ci/oracles/generate.py`.
    pub(crate) fn shipped() -> Self {
        let file = |&(name, bytes): &(&str, &'static [u8])| OracleFile {
            path: Path::new("ci/oracles/data").join(name),
            shipped: Some(bytes),
        };
        Self { files: SHIPPED.iter().map(file).collect() }
    }

    /// Every `*.safetensors` of a folder.
    pub(crate) fn folder(path: &Path) -> Result<Self, OracleError> {
        let read = |source| OracleError::Read { path: path.to_owned(), source };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                files.push(OracleFile { path, shipped: None });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        if files.is_empty() {
            return Err(OracleError::Empty { path: path.to_owned() });
        }
        Ok(Self { files })
    }

    /// The files.
    pub(crate) fn files(&self) -> &[OracleFile] {
        &self.files
    }
}
