//! The journal `records.jsonl`: one record a line, appended and flushed to the disk as it is made.
//!
//! A crash can only tear the last line. A reader drops such a line and says so; anything else that is wrong
//! with the file is an error that names the line.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::record::{RECORD_FORMAT, Record};

/// What can be wrong with a journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A record that would not be the same when read back.
    #[error("the record of {trial} would not come back from {path} as it is: a number in it is not finite")]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The trial.
        trial: String,
    },
    /// A line that is no record.
    #[error("{path}:{line}: not a record: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A line written by a newer version.
    #[error("{path}:{line}: record format {found}, this version reads up to {RECORD_FORMAT}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Its format.
        found: u64,
    },
    /// Two lines with the same trial and attempt.
    #[error("{path}:{line}: trial {trial}, attempt {attempt} is already on line {first}")]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// The second line, from 1.
        line: usize,
        /// The first line.
        first: usize,
        /// The trial.
        trial: String,
        /// The attempt.
        attempt: u32,
    },
}

/// The records of a run, in the order in which they were made.
#[derive(Debug, Default)]
pub struct Records {
    /// All attempts.
    pub all: Vec<Record>,
    /// A warning if a torn last line was dropped.
    pub torn: Option<String>,
}

impl Records {
    /// The latest attempt at each trial, by trial id.
    pub fn latest(&self) -> BTreeMap<&str, &Record> {
        let mut latest: BTreeMap<&str, &Record> = BTreeMap::new();
        for record in &self.all {
            let entry = latest.entry(&record.trial).or_insert(record);
            if record.attempt >= entry.attempt {
                *entry = record;
            }
        }
        latest
    }
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens or creates the journal for appending. A torn last line is cut off, so that the next record starts
    /// on a line of its own; the records that were there come back.
    pub fn open(path: &Path) -> Result<(Self, Records), JournalError> {
        let io_error = |action| move |source| JournalError::Io { action, path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io_error("open"))?;
        let mut text = Vec::new();
        let is_regular = file.metadata().map_err(io_error("read"))?.is_file();
        if is_regular {
            file.read_to_end(&mut text).map_err(io_error("read"))?;
        }
        let (records, whole) = parse(path, &text)?;
        if whole < text.len() {
            file.set_len(whole as u64).map_err(io_error("repair"))?;
            file.seek(SeekFrom::End(0)).map_err(io_error("repair"))?;
        } else if text.last().is_some_and(|&b| b != b'\n') {
            file.write_all(b"\n").map_err(io_error("repair"))?;
        }
        Ok((Self { path: path.to_owned(), file }, records))
    }

    /// Appends one record and waits until it is on the disk. A record that could only be written in part is
    /// taken back; one with a number that is not finite is refused.
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let io_error = |source| JournalError::Io { action: "append to", path: self.path.clone(), source };
        let mut line = serde_json::to_vec(record).map_err(|e| io_error(e.into()))?;
        // JSON has no NaN: it would come back as nothing, or make the line unreadable.
        if serde_json::from_slice::<Record>(&line).ok().as_ref() != Some(record) {
            return Err(JournalError::NotFinite { path: self.path.clone(), trial: record.trial.clone() });
        }
        line.push(b'\n');
        let before = self.file.metadata().map_err(io_error)?.len();
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        written.map_err(|source| {
            // Best effort: a line that stays torn is dropped by the next reader.
            let _ = self.file.set_len(before);
            io_error(source)
        })
    }
}

/// Reads a journal without opening it for writing.
pub fn read(path: &Path) -> Result<Records, JournalError> {
    let bytes =
        std::fs::read(path).map_err(|source| JournalError::Io { action: "read", path: path.to_owned(), source })?;
    Ok(parse(path, &bytes)?.0)
}

/// The records of a journal's bytes, and how many of the bytes are whole lines.
fn parse(path: &Path, bytes: &[u8]) -> Result<(Records, usize), JournalError> {
    let mut records = Records::default();
    let mut first_line: BTreeMap<(String, u32), usize> = BTreeMap::new();
    let lines = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
    // A last line that lacks nothing but its end is a record.
    let whole = if parse_line(path, 0, &bytes[lines..]).is_ok() { bytes.len() } else { lines };
    for (index, line) in bytes[..whole].split(|&b| b == b'\n').enumerate() {
        let number = index + 1;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let record = parse_line(path, number, line)?;
        if let Some(&first) = first_line.get(&(record.trial.clone(), record.attempt)) {
            let (trial, attempt) = (record.trial, record.attempt);
            return Err(JournalError::Duplicate { path: path.to_owned(), line: number, first, trial, attempt });
        }
        first_line.insert((record.trial.clone(), record.attempt), number);
        records.all.push(record);
    }
    if whole < bytes.len() {
        records.torn = Some(format!(
            "{}: dropped a torn last line of {} bytes (the writer was stopped while writing it)",
            path.display(),
            bytes.len() - whole
        ));
    }
    Ok((records, whole))
}

fn parse_line(path: &Path, line: usize, bytes: &[u8]) -> Result<Record, JournalError> {
    let bad = |reason: String| JournalError::Line { path: path.to_owned(), line, reason };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    let found = value.get("format").and_then(serde_json::Value::as_u64).ok_or_else(|| bad("no `format`".into()))?;
    if found > u64::from(RECORD_FORMAT) {
        return Err(JournalError::Newer { path: path.to_owned(), line, found });
    }
    serde_json::from_value(value).map_err(|e| bad(e.to_string()))
}
