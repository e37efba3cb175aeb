//! Events as JSON lines in a file, for programs that follow what happens.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::ExpectedError;
use crate::talk::tell;

/// A file to which events are appended, a line each.
pub(crate) struct EventLog {
    path: PathBuf,
    /// None once a line could not be written, which was told.
    file: Option<File>,
}

impl EventLog {
    /// Opens the file, which may be there; a pipe or `/dev/stdout` will do.
    pub(crate) fn open(path: &Path) -> Result<Self, ExpectedError> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|source| ExpectedError::File { action: "write", path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file: Some(file) })
    }

    /// Appends a line. That nobody can follow any more does not end the work, but it is told.
    pub(crate) fn write(&mut self, event: &impl Serialize) {
        let Some(file) = &mut self.file else { return };
        let line = serde_json::to_vec(event).map_err(std::io::Error::from);
        let written = line.and_then(|mut line| {
            line.push(b'\n');
            file.write_all(&line)
        });
        if let Err(error) = written {
            tell(&format!("note: no more events: cannot write {}: {error}", self.path.display()));
            self.file = None;
        }
    }
}
