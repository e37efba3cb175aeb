//! What can go wrong with a dataset, and what to do about it.

use std::path::PathBuf;

use crate::model::Split;

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
    #[error("dataset `{name}` has no {split} images")]
    EmptySplit {
        /// The dataset.
        name: String,
        /// The empty split.
        split: Split,
    },
    /// Fewer than two classes.
    #[error("dataset `{name}` has only the class `{class}`")]
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
            Self::NotFound { .. } | Self::Read { .. } | Self::Changed { .. } => ErrorKind::Missing,
            Self::Parquet { .. }
            | Self::MissingColumn { .. }
            | Self::ColumnType { .. }
            | Self::Null { .. }
            | Self::NotText { .. }
            | Self::UnknownSplit { .. }
            | Self::MissingFolder { .. }
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
            Self::Image { .. } => "replace the image, or remove it from the dataset",
            Self::Changed { .. } => "leave the files of a dataset alone while a suite runs, then start again",
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}
