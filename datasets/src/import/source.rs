//! The two kinds of sources: what they list, and their images in that order.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Import, ImportEvent, Mark};
use crate::archive::{Archive, Line, MAX_IMAGE, join};
use crate::error::DatasetError;
use crate::manifest::{Origin, SourceKind, StandIn};
use crate::model::{Split, hex};
use crate::source::{Column, Part, Table};
use crate::ufg::FileName;

/// Images of an archive that are read at once, and their total size from which on no more are.
const BATCH: usize = 32;
const BATCH_BYTES: usize = 1 << 26;
/// Bytes of a source file that are hashed at once.
const HASHED: usize = 1 << 20;

/// One image as its source lists it.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) part: Part,
    pub(super) class: String,
    pub(super) label: Option<i64>,
    pub(super) name: Option<String>,
    pub(super) place: String,
}

/// All images of a source, before any is read.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) rows: Vec<Row>,
    /// Set if the source says that it holds stand-ins.
    pub(super) mark: Option<StandIn>,
    pub(super) notices: Vec<String>,
    pub(super) origin: Origin,
}

/// Where the images are.
pub(super) enum Source {
    Table(Table, Column),
    /// An entry for each row.
    Archive(Archive, Vec<String>),
}

/// Opens a source and lists it.
pub(super) fn open(import: &Import, tell: &mut dyn FnMut(ImportEvent)) -> Result<(Source, Listing), DatasetError> {
    let name = import.path.file_name().map_or(String::new(), |n| n.to_string_lossy().into());
    let is_parquet = import.path.is_file() && starts_with(&import.path, b"PAR1")?;
    let (source, kind, rows, mark, notices) = if is_parquet { open_table(import)? } else { open_archive(import)? };
    let sha256 = (kind != SourceKind::Folder).then(|| hash(&import.path, tell)).transpose()?;
    Ok((source, Listing { rows, mark, notices, origin: Origin { kind, name, sha256 } }))
}

type Opened = (Source, SourceKind, Vec<Row>, Option<StandIn>, Vec<String>);

fn starts_with(path: &Path, magic: &[u8]) -> Result<bool, DatasetError> {
    let read = |source| DatasetError::Read { path: path.to_owned(), source };
    let mut start = Vec::new();
    File::open(path).map_err(read)?.take(magic.len() as u64).read_to_end(&mut start).map_err(read)?;
    Ok(start == magic)
}

fn hash(path: &Path, tell: &mut dyn FnMut(ImportEvent)) -> Result<String, DatasetError> {
    let read = |source| DatasetError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read)?;
    let total = file.metadata().map_err(read)?.len();
    let (mut hash, mut buffer, mut done) = (Sha256::new(), vec![0; HASHED], 0);
    tell(ImportEvent::Hashing { done, total });
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read(error)),
        };
        hash.update(&buffer[..count]);
        done += count as u64;
        tell(ImportEvent::Hashing { done, total });
    }
}

fn open_table(import: &Import) -> Result<Opened, DatasetError> {
    let table = Table::open(&import.path)?;
    let mark = table.metadata(Mark::KEY).map(|text| Mark::read(import, text.as_bytes(), "its metadata")).transpose()?;
    let image = table.image_column()?;
    let parts = table.splits()?;
    let classes = table.texts(&table.text_column("class_name")?.ok_or_else(|| table.missing("class_name"))?)?;
    let labels = match table.integer_column("label")? {
        Some(column) => table.integers(&column)?,
        None => vec![None; parts.len()],
    };
    let names = match table.image_path_column() {
        Some(column) => table.texts_or_null(&column)?,
        None => vec![None; parts.len()],
    };
    let mut rows = Vec::with_capacity(parts.len());
    for (row, (((part, class), label), path)) in parts.into_iter().zip(classes).zip(labels).zip(names).enumerate() {
        let name = path.as_ref().map(|path| path.rsplit(['/', '\\']).next().unwrap_or(path).to_owned());
        rows.push(Row { part, class, label, name, place: table.place(row) });
    }
    let notices = drop_strange_names(import, &mut rows);
    Ok((Source::Table(table, image), SourceKind::Parquet, rows, mark, notices))
}

/// File names in a table that follow another pattern altogether say nothing about splits.
fn drop_strange_names(import: &Import, rows: &mut [Row]) -> Vec<String> {
    let named = || rows.iter().filter_map(|row| row.name.as_deref());
    let Some(first) = named().next() else { return Vec::new() };
    if named().any(|name| FileName::parse(import.subset, name).is_ok()) {
        return Vec::new();
    }
    let notice = format!("file names such as `{first}` do not tell the split, so it is not checked against them");
    rows.iter_mut().for_each(|row| row.name = None);
    vec![notice]
}

fn open_archive(import: &Import) -> Result<Opened, DatasetError> {
    let archive = Archive::open(&import.path)?;
    let kind = if matches!(archive, Archive::Zip(_)) { SourceKind::Zip } else { SourceKind::Folder };
    let mark_file = join(&import.root, Mark::FILE);
    let mark = if archive.has(&mark_file) {
        Some(Mark::read(import, &archive.read(&mark_file, 1 << 16)?, &mark_file)?)
    } else {
        None
    };
    let (mut rows, mut entries) = (Vec::new(), Vec::new());
    let images = join(&import.root, "images");
    for (list, part) in [("train", Part::Train), ("test", Part::Test), ("val", Part::Dropped("val"))] {
        let lines = match archive.lines(&import.root, list)? {
            Some(lines) => lines,
            None if list == "val" => continue,
            None => {
                return Err(entry(import, &join(&import.root, &format!("anno/{list}.txt")), "there is no such file"));
            }
        };
        for line in &lines {
            let place = format!("{} line {}", join(&import.root, &format!("anno/{list}.txt")), line.number);
            let name = join(&images, &line.file);
            if !archive.has(&name) {
                return Err(entry(import, &place, &format!("there is no {name}")));
            }
            rows.push(row(import, part, line, place)?);
            entries.push(name);
        }
    }
    let notices = unlisted(&archive, &images, &entries)?;
    Ok((Source::Archive(archive, entries), kind, rows, mark, notices))
}

fn entry(import: &Import, place: &str, reason: &str) -> DatasetError {
    DatasetError::Entry { path: import.path.clone(), place: place.into(), reason: reason.into() }
}

/// What a line says, which must agree with the file name that it lists.
fn row(import: &Import, part: Part, line: &Line, place: String) -> Result<Row, DatasetError> {
    let wrong = |reason: String| entry(import, &place, &format!("`{}`: {reason}", line.file));
    let parsed = FileName::parse(import.subset, &line.file).map_err(wrong)?;
    let listed = match part {
        Part::Train => Some(Split::Train),
        Part::Test => Some(Split::Test),
        Part::Dropped(_) => None,
    };
    if let Some(listed) = listed.filter(|&listed| listed != parsed.split) {
        return Err(wrong(format!("it is listed as a {listed} image, but its name says {}", parsed.split)));
    }
    let (class, name) = (parsed.class.to_owned(), Some(line.file.clone()));
    Ok(Row { part, class, label: Some(line.label.into()), name, place })
}

fn unlisted(archive: &Archive, images: &str, entries: &[String]) -> Result<Vec<String>, DatasetError> {
    let listed: HashSet<&str> = entries.iter().filter_map(|entry| entry.rsplit('/').next()).collect();
    let files = archive.list(images)?;
    let mut others = files.iter().filter(|file| !listed.contains(file.as_str())).peekable();
    let Some(first) = others.peek().map(|first| (*first).clone()) else { return Ok(Vec::new()) };
    Ok(vec![format!("{} files in {images} are in no list, such as {first}", others.count())])
}

/// Is given a few images, and the row of the first.
type Each<'a> = dyn FnMut(usize, &[&[u8]]) -> Result<(), DatasetError> + 'a;

impl Source {
    /// Calls `each(row of the first, images)` for all rows in order, a few at a time.
    pub(super) fn stream(&mut self, each: &mut Each<'_>) -> Result<(), DatasetError> {
        match self {
            Source::Table(table, image) => table.images(image, &mut |first, images| {
                let images: Vec<&[u8]> = images.iter().map(|image| image.data()).collect();
                each(first, &images)
            }),
            Source::Archive(archive, entries) => {
                let mut first = 0;
                while first < entries.len() {
                    let (mut batch, mut bytes) = (Vec::new(), 0);
                    while first + batch.len() < entries.len() && batch.len() < BATCH && bytes < BATCH_BYTES {
                        let image = archive.read(&entries[first + batch.len()], MAX_IMAGE)?;
                        bytes += image.len();
                        batch.push(image);
                    }
                    each(first, &batch.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
                    first += batch.len();
                }
                Ok(())
            }
        }
    }
}
