//! What can go wrong with a dataset, and what to do about it.

use std::path::PathBuf;

use crate::model::Split;
use crate::ufg::{Subset, UfgId};

/// Whose business an error is. The command maps the kinds to exit codes and record statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The suite file asks for something that cannot be.
    Configuration,
    /// A file or folder is missing or cannot be read.
    Missing,
    /// A file or folder is there, but is no usable dataset.
    Content,
    /// One image cannot be decoded.
    Image,
}

/// Why a dataset could not be loaded or an image could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A setting is out of range.
    #[error("`{key}` = {value}: {reason}")]
    Setting {
        /// The key in the suite file.
        key: &'static str,
        /// The value found there.
        value: String,
        /// What is allowed.
        reason: String,
    },
    /// The path of a dataset does not exist.
    #[error("dataset `{name}`: {path} does not exist (looked at: {})", list(.tried))]
    NotFound {
        /// The dataset.
        name: String,
        /// The path as configured.
        path: PathBuf,
        /// Every place looked at.
        tried: Vec<PathBuf>,
    },
    /// A file or folder could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The parquet library could not read the file.
    #[error("{path}: not a readable parquet file: {source}")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The library's reason.
        source: parquet::errors::ParquetError,
    },
    /// A column is missing.
    #[error("{path} has no column `{column}`; its columns are: {}", .found.join(", "))]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The missing column.
        column: String,
        /// The columns there are.
        found: Vec<String>,
    },
    /// A column has another type than needed.
    #[error("{path}: column `{column}` is {found}, expected {expected}")]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its type in the file.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A value is null.
    #[error("{path} row {row}: column `{column}` is null")]
    Null {
        /// The file.
        path: PathBuf,
        /// Row, counted from 0 over the whole file.
        row: usize,
        /// The column.
        column: String,
    },
    /// A text column holds bytes that are not UTF-8.
    #[error("{path} row {row}: column `{column}` is not UTF-8 text")]
    NotText {
        /// The file.
        path: PathBuf,
        /// Row, counted from 0 over the whole file.
        row: usize,
        /// The column.
        column: String,
    },
    /// A split that is neither train, test nor val.
    #[error("{path} row {row}: unknown split `{value}`")]
    UnknownSplit {
        /// The file.
        path: PathBuf,
        /// Row, counted from 0 over the whole file.
        row: usize,
        /// The split named there.
        value: String,
    },
    /// A folder lacks a subfolder that ImageFolder has.
    #[error("{path} has no folder `{folder}`; it holds: {}", .found.join(", "))]
    MissingFolder {
        /// The dataset's folder.
        path: PathBuf,
        /// The missing subfolder.
        folder: String,
        /// The subfolders there are.
        found: Vec<String>,
    },
    /// A split without images.
    #[error("dataset `{name}`: it has no {split} images")]
    EmptySplit {
        /// The dataset.
        name: String,
        /// The empty split.
        split: Split,
    },
    /// Fewer than two classes.
    #[error("dataset `{name}`: it has only the class `{class}`")]
    OneClass {
        /// The dataset.
        name: String,
        /// Its class.
        class: String,
    },
    /// A class is tested that was never trained.
    #[error("dataset `{name}`: class `{class}` has test images ({place}) but no train images")]
    UntrainedClass {
        /// The dataset.
        name: String,
        /// The class.
        class: String,
        /// The first test image of the class.
        place: String,
    },
    /// A line, an entry or a row of a source cannot be used.
    #[error("{path}: {place}: {reason}")]
    Entry {
        /// The file or folder.
        path: PathBuf,
        /// The line, entry or row in it.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file or folder that is no source of a subset.
    #[error("{path}: {reason}")]
    Unrecognised {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// A source that does not hold what its subset consists of.
    #[error("{path} is not `{subset}`:\n{table}")]
    Counts {
        /// The file or folder.
        path: PathBuf,
        /// The subset.
        subset: Subset,
        /// Expected and found, a line each.
        table: String,
    },
    /// A stand-in in place of the subset, or the other way round.
    #[error("{path}: {reason}")]
    StandIn {
        /// The file or folder.
        path: PathBuf,
        /// What is there and what was asked for.
        reason: String,
    },
    /// A subset that is not in the data directory.
    #[error("`{subset}` has not been imported{}: there is no {path}", if *stand_in { " as a stand-in" } else { "" })]
    NotImported {
        /// The subset.
        subset: Subset,
        /// True if its stand-in was asked for.
        stand_in: bool,
        /// The manifest that was looked for.
        path: PathBuf,
    },
    /// No data directory is known.
    #[error("there is no data directory in which to look for `{id}`")]
    NoDataDirectory {
        /// The dataset.
        id: UfgId,
    },
    /// An import that is damaged or of another version.
    #[error("{path}: {reason}")]
    Store {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another content was imported before.
    #[error("{path} was imported from other images: its digest is {old}, that of {from} is {new}")]
    Different {
        /// The import.
        path: PathBuf,
        /// Its digest.
        old: String,
        /// The new source.
        from: PathBuf,
        /// The digest of its content.
        new: String,
    },
    /// The pixels of a cache are not what was written.
    #[error("cache of decoded images {path}: {reason}")]
    CacheDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file or folder could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An image cannot be decoded.
    #[error("{place}: {reason}")]
    Image {
        /// The file, and the row inside it.
        place: String,
        /// What the decoder says.
        reason: String,
    },
    /// An image file is no longer what it was when the dataset was loaded.
    #[error("{place} has changed since the dataset was loaded: sha256 was {expected}, is {found}")]
    Changed {
        /// The file.
        place: String,
        /// Hash at loading.
        expected: String,
        /// Hash now.
        found: String,
    },
}

impl DatasetError {
    /// Whose business the error is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Setting { .. } => ErrorKind::Configuration,
            Self::NotFound { .. }
            | Self::Read { .. }
            | Self::Changed { .. }
            | Self::NotImported { .. }
            | Self::NoDataDirectory { .. }
            | Self::Store { .. }
            | Self::CacheDamaged { .. }
            | Self::Write { .. } => ErrorKind::Missing,
            Self::Parquet { .. }
            | Self::MissingColumn { .. }
            | Self::ColumnType { .. }
            | Self::Null { .. }
            | Self::NotText { .. }
            | Self::UnknownSplit { .. }
            | Self::MissingFolder { .. }
            | Self::Entry { .. }
            | Self::Unrecognised { .. }
            | Self::Counts { .. }
            | Self::StandIn { .. }
            | Self::Different { .. }
            | Self::EmptySplit { .. }
            | Self::OneClass { .. }
            | Self::UntrainedClass { .. } => ErrorKind::Content,
            Self::Image { .. } => ErrorKind::Image,
        }
    }

    /// True if the data that the machine holds, rather than the suite file or a single image, is at fault.
    pub fn is_environment(&self) -> bool {
        matches!(self.kind(), ErrorKind::Missing | ErrorKind::Content)
    }

    /// True if the suite file is at fault.
    pub fn is_configuration(&self) -> bool {
        self.kind() == ErrorKind::Configuration
    }

    /// What the user can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Setting { key, .. } if key.starts_with("--") => "give the option another value",
            Self::Setting { .. } => "correct the value in the suite file",
            Self::NotFound { .. } => {
                "relative paths are looked up beside the suite file, then in the current folder; correct `path` or put \
                 the data there"
            }
            Self::Read { .. } => "check that the file exists, that you may read it and that the disk is healthy",
            Self::Parquet { .. } => {
                "download the file again and compare its size; a page saved in its place or a Git LFS pointer is not \
                 parquet"
            }
            Self::MissingColumn { .. } => {
                "the table needs `image` (bytes, or a struct with `bytes`), `split`, and `class_name` or `label`"
            }
            Self::ColumnType { .. } => "write the column again with the expected type",
            Self::Null { .. } | Self::NotText { .. } => "correct or remove the row",
            Self::UnknownSplit { .. } => "splits are `train`, `test`, and `val` or `validation`, which is dropped",
            Self::MissingFolder { .. } => {
                "an ImageFolder looks like <path>/train/<class>/image.png and <path>/test/<class>/image.png"
            }
            Self::EmptySplit { .. } => "a dataset needs train images to learn from and test images to be judged on",
            Self::OneClass { .. } => "a dataset needs at least two classes",
            Self::UntrainedClass { .. } => "give the class train images, or leave its test images out",
            Self::Entry { .. } => "correct it, or get it again from its source; nothing was imported",
            Self::Unrecognised { hint, .. } => hint,
            Self::Counts { .. } => {
                "only the whole, unchanged subset is imported under its id; use `parquet`, `folder` or `anno` for data of \
                 your own"
            }
            Self::StandIn { .. } => {
                "stand-ins are made by `bench export`, imported with `bench import --stand-in`, and used by datasets with \
                 `stand_in = true`; none of them mixes with the real subsets"
            }
            Self::NotImported { stand_in: false, .. } => {
                "`bench fetch --suite S` downloads it, `bench import PATH` takes the official archive or the mirror's \
                 parquet file"
            }
            Self::NotImported { stand_in: true, .. } => {
                "`bench export` makes stand-ins, `bench import --stand-in` imports them"
            }
            Self::NoDataDirectory { .. } => "set UFG_BENCH_DATA to a directory for imported datasets",
            Self::Store { .. } => "import the subset again with `bench import --replace PATH`",
            Self::Different { .. } => {
                "`--replace` puts the new one in its place; what was trained on the old one stays apart"
            }
            Self::CacheDamaged { .. } => {
                "run again: the file was removed (if it is still there, delete it) and will be built anew; check the disk \
                 if this happens twice"
            }
            Self::Write { .. } => {
                "check that you may write there and that there is room; nothing half-written was left"
            }
            Self::Image { .. } => "replace the image, or remove it from the dataset",
            Self::Changed { .. } => "leave the files of a dataset alone while a suite runs, then start again",
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}
