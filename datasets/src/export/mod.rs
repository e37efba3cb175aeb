//! Generated stand-ins for the subsets, written as the mirror's parquet and as the official archive.
//!
//! They have the real classes' shape (images per class and split, file names, folders), so that download, import,
//! verification and training can be tried without a single real image. They can never pass as a subset: the parquet
//! file says what it is in its metadata, the archive in `stand-in.json`, and every picture in a PNG text chunk that the
//! import looks for, whatever the rest of the file says.

mod archive;
mod table;

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use flate2::Crc;
use rayon::prelude::*;

use crate::error::DatasetError;
use crate::import::Mark;
use crate::leaf::Painter;
use crate::model::Split;
use crate::ufg::{Stage, Subset};
use archive::ArchiveSink;
use table::TableSink;

/// Images that are drawn at once, and rows of a row group.
const CHUNK: usize = 64;
/// How far classes lie apart ([`crate::GeneratedConfig::separation`]).
const SEPARATION: f64 = 1.5;
/// Bytes before the first chunk behind a PNG's header chunk.
const HEADER: usize = 33;

/// What to export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    /// Folder to write to. Files in it that have the names of the exported ones are replaced.
    pub out: PathBuf,
    /// Number of classes, 2 to that of the subset; all if None.
    pub classes: Option<usize>,
    /// Side of the pictures in pixels, 16 to 1024.
    pub size: usize,
    /// What everything is drawn from.
    pub seed: u64,
    /// Write the mirror's parquet file.
    pub parquet: bool,
    /// Write the official archive.
    pub archive: bool,
    /// Repeat the test images as split `val`, as the mirror does for Cotton80.
    pub validation: bool,
    /// Write the column `image` as the Hub's struct of `bytes` and `path`, with file names, and not as bytes alone.
    pub paths: bool,
}

/// One image to be drawn.
struct Job {
    class: usize,
    split: Split,
    index: usize,
    name: String,
}

/// One image that was drawn.
struct Picture<'a> {
    class: usize,
    class_name: &'a str,
    split: Split,
    name: &'a str,
    png: Vec<u8>,
}

/// Draws the stand-in of a subset and writes the files that are asked for: `<out>/<mirror's path>` and
/// `<out>/archives/<name>.zip`. The same options give the same bytes. Returns the files. `progress` is told how many
/// images of how many are drawn.
///
/// # Errors
/// [`DatasetError::Setting`] for options out of range, [`DatasetError::Write`].
pub fn export(
    subset: Subset,
    options: &ExportOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<PathBuf>, DatasetError> {
    let classes = options.classes.unwrap_or(subset.classes());
    check(subset, classes, options.size)?;
    let names = class_names(subset, classes);
    let jobs = jobs(subset, &names);
    let painter = Painter::new(options.seed.wrapping_mul(16).wrapping_add(species(subset)), SEPARATION);
    let mark = serde_json::to_string(&Mark { stand_in_of: subset.id().into(), classes })
        .map_err(|e| DatasetError::Write { path: options.out.clone(), source: e.into() })?;
    let archive_file = options.out.join("archives").join(format!("{}.zip", archive_name(subset)));
    let mut table = part(options.parquet, &options.out.join(subset.mirror_file()), |file| {
        TableSink::new(file, &mark, options.paths, options.validation)
    })?;
    let mut archive = part(options.archive, &archive_file, |file| {
        ArchiveSink::new(file, subset.archive_folder(), &mark, options.validation)
    })?;
    for (number, chunk) in jobs.chunks(CHUNK).enumerate() {
        progress(number * CHUNK, jobs.len());
        let pictures = chunk.par_iter().map(|job| draw(&painter, subset, job, &names, options.size));
        let pictures: Vec<Picture<'_>> = pictures.collect::<Result<_, _>>()?;
        if let Some((part, sink)) = &mut table {
            sink.write(&pictures).map_err(|source| part.error(source))?;
        }
        if let Some((part, sink)) = &mut archive {
            sink.write(&pictures).map_err(|source| part.error(source))?;
        }
    }
    progress(jobs.len(), jobs.len());
    let mut written = Vec::new();
    if let Some((part, sink)) = table {
        let file = sink.finish().map_err(|source| part.error(source))?;
        written.push(part.commit(file)?);
    }
    if let Some((part, sink)) = archive {
        let file = sink.finish().map_err(|source| part.error(source))?;
        written.push(part.commit(file)?);
    }
    Ok(written)
}

fn check(subset: Subset, classes: usize, size: usize) -> Result<(), DatasetError> {
    let error =
        |key, value: usize, reason: String| Err(DatasetError::Setting { key, value: value.to_string(), reason });
    if !(2..=subset.classes()).contains(&classes) {
        return error("--classes", classes, format!("`{subset}` has stand-ins of 2 to {} classes", subset.classes()));
    }
    if !(16..=1024).contains(&size) {
        return error("--size", size, "must be 16 to 1024 pixels".into());
    }
    Ok(())
}

/// A file that is being written under a temporary name; dropped before it is committed, it is removed.
struct PartFile {
    target: PathBuf,
    temporary: PathBuf,
    committed: bool,
}

type Part<S> = Option<(PartFile, S)>;

fn part<S>(
    wanted: bool,
    target: &Path,
    sink: impl FnOnce(BufWriter<File>) -> io::Result<S>,
) -> Result<Part<S>, DatasetError> {
    if !wanted {
        return Ok(None);
    }
    let folder = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|source| DatasetError::Write { path: folder.to_owned(), source })?;
    let name = target.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    let temporary = target.with_file_name(format!(".{name}.{}.part", std::process::id()));
    let part = PartFile { target: target.to_owned(), temporary, committed: false };
    let file = File::create(&part.temporary).map_err(|source| part.error(source))?;
    let sink = sink(BufWriter::new(file)).map_err(|source| part.error(source))?;
    Ok(Some((part, sink)))
}

impl PartFile {
    fn error(&self, source: io::Error) -> DatasetError {
        DatasetError::Write { path: self.target.clone(), source }
    }

    fn commit(mut self, file: BufWriter<File>) -> Result<PathBuf, DatasetError> {
        let written = file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&self.temporary, &self.target));
        written.map_err(|source| self.error(source))?;
        self.committed = true;
        Ok(self.target.clone())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Stages of SoyAgeing show the same cultivars.
fn species(subset: Subset) -> u64 {
    match subset {
        Subset::Cotton80 => 0,
        Subset::SoyLocal => 1,
        Subset::SoyGene => 2,
        Subset::SoyAgeing(_) => 3,
        Subset::SoyGlobal => 4,
    }
}

fn archive_name(subset: Subset) -> String {
    match subset {
        Subset::Cotton80 => "Cotton80".into(),
        Subset::SoyLocal => "SoyLocal".into(),
        Subset::SoyGene => "SoyGene".into(),
        Subset::SoyAgeing(stage) => format!("SoyAgeing-{}", stage.name()),
        Subset::SoyGlobal => "SoyGlobal".into(),
    }
}

/// Class names in the order of their ids.
fn class_names(subset: Subset, classes: usize) -> Vec<String> {
    let mut names: Vec<String> = (0..classes)
        .map(|i| match subset {
            // Three and four digits, so that the order by text is not that by number, as in the real names.
            Subset::SoyGene => format!("GDC{:03}", 8 + i * (subset.classes() - 1) / (classes - 1)),
            Subset::SoyAgeing(_) => format!("yd{:03}", 12 + i),
            _ => (i + 1).to_string(),
        })
        .collect();
    if subset == Subset::SoyGene {
        names.sort();
    }
    names
}

fn jobs(subset: Subset, names: &[String]) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (class, (train, test)) in subset.stand_in_shots(names.len()).into_iter().enumerate() {
        for (split, images) in [(Split::Train, train), (Split::Test, test)] {
            let name = |index| file_name(subset, &names[class], split, index);
            jobs.extend((0..images).map(|index| Job { class, split, index, name: name(index) }));
        }
    }
    jobs
}

fn file_name(subset: Subset, class: &str, split: Split, index: usize) -> String {
    let is_test = usize::from(split == Split::Test);
    match subset {
        Subset::SoyGene => format!("{class}-1-{:03}_{}_{split}.png", index + 1, 1 + is_test),
        Subset::SoyAgeing(stage) => format!("{class}_{}_{}_{split}.png", stage.name(), 1 + index + 5 * is_test),
        _ => format!("{class}_{}_{split}.png", 1 + 2 * index + is_test),
    }
}

fn draw<'a>(
    painter: &Painter,
    subset: Subset,
    job: &'a Job,
    names: &'a [String],
    size: usize,
) -> Result<Picture<'a>, DatasetError> {
    let stage = match subset {
        Subset::SoyAgeing(stage) => Stage::ALL.iter().position(|&s| s == stage).unwrap_or(0),
        _ => 0,
    };
    // Other leaves of the same cultivars at each stage.
    let png = painter.png(job.class, job.split, stage * 1000 + job.index, size, &job.name)?;
    let class_name = &names[job.class];
    Ok(Picture { class: job.class, class_name, split: job.split, name: &job.name, png: marked(&png) })
}

/// The PNG text chunk that every stand-in carries.
fn chunk() -> Vec<u8> {
    let body = b"tEXtComment\0generated stand-in of ufg-bench";
    let mut crc = Crc::new();
    crc.update(body);
    let length = (body.len() - 4) as u32;
    [&length.to_be_bytes()[..], body, &crc.sum().to_be_bytes()].concat()
}

/// A PNG with the mark behind its header.
fn marked(png: &[u8]) -> Vec<u8> {
    [&png[..HEADER], &chunk(), &png[HEADER..]].concat()
}

/// True if an encoded image is a stand-in.
pub(crate) fn is_marked(bytes: &[u8]) -> bool {
    bytes.get(HEADER..).is_some_and(|rest| rest.starts_with(&chunk()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ufg::{Classes, FileName};

    #[test]
    fn a_mark_is_seen_and_changes_no_pixel() {
        let png = Painter::new(1, 1.0).png(0, Split::Train, 0, 16, "here").unwrap();
        let with_mark = marked(&png);
        assert!(is_marked(&with_mark) && !is_marked(&png) && !is_marked(&png[..20]));
        assert_eq!(crate::decode_bytes(&with_mark, "").unwrap(), crate::decode_bytes(&png, "").unwrap());
    }

    #[test]
    fn names_follow_the_rules_of_their_subset() {
        for subset in Subset::ALL {
            for classes in [2, 7, subset.classes()] {
                let names = class_names(subset, classes);
                assert_eq!(Classes::new(subset, names.clone()).unwrap().names, names, "{subset}");
                let jobs = jobs(subset, &names);
                for job in &jobs {
                    let parsed = FileName::parse(subset, &job.name).unwrap_or_else(|e| panic!("{}: {e}", job.name));
                    assert_eq!((parsed.class, parsed.split), (names[job.class].as_str(), job.split));
                }
                let distinct: std::collections::BTreeSet<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
                assert_eq!(distinct.len(), jobs.len());
                assert_eq!(jobs.len(), subset.stand_in_facts(classes).train + subset.stand_in_facts(classes).test);
            }
        }
    }
}
