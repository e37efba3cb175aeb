//! Imports: the images of a subset, verified and kept in the data directory.
//!
//! A data directory holds a folder for each subset, with `manifest.json` ([`crate::Manifest`]) and one pack file in
//! which the encoded images lie one after the other; `stand-ins/` holds the same for generated stand-ins. Images are
//! streamed, a few at a time. Nothing is kept of a source that fails a check; the manifest, written last and renamed
//! into place, is what makes an import exist. A lock file beside the folder lets one process at a time import a subset.

mod find;
mod pack;
mod source;
mod store;
mod verify;

use std::path::{Path, PathBuf};

use crate::error::DatasetError;
use crate::manifest::{self, Manifest, ManifestItem, StandIn};
use crate::model::Dataset;
use crate::source::{DatasetConfig, Part, load};
use crate::ufg::{Subset, UfgConfig, UfgId};

pub use find::{Import, find_imports};
use pack::{Packed, Packer};
use source::{Listing, Source};
use store::Store;

/// How to import.
#[derive(Debug, Clone, Copy)]
pub struct ImportOptions<'a> {
    /// The data directory. It is created if need be.
    pub data: &'a Path,
    /// Take generated stand-ins, and nothing else. They are kept apart from the real subsets.
    pub stand_in: bool,
    /// Put it in the place of an earlier import of other images.
    pub replace: bool,
}

/// What happens while a subset is imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportEvent {
    /// Another process works on this subset's import.
    Waiting {
        /// The folder of the import.
        path: PathBuf,
    },
    /// The source file's bytes are hashed; told first with `done` = 0.
    Hashing {
        /// Bytes so far.
        done: u64,
        /// Length of the file.
        total: u64,
    },
    /// Images are decoded, compared and written; told first with `done` = 0.
    Verifying {
        /// Images so far.
        done: usize,
        /// All images.
        total: usize,
        /// Their encoded bytes so far.
        bytes: u64,
    },
}

/// What an import came to.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The subset.
    pub subset: Subset,
    /// The dataset as suites will see it.
    pub dataset: Dataset,
    /// Its manifest.
    pub manifest: PathBuf,
    /// False if the same images had been imported before.
    pub new: bool,
}

/// Imports one subset: lists what the source holds, compares it with what the subset consists of
/// ([`Subset::facts`]: classes, images of each split, images per class, splits by file name), decodes and hashes every
/// image, finds images that occur twice, and writes them to the data directory. `tell` hears what
/// happens. Images are handled a few at a time, in parallel on rayon's current pool; the result does not
/// depend on the number of threads.
///
/// # Errors
/// [`DatasetError::Counts`] with the table of what was expected and found, [`DatasetError::StandIn`],
/// [`DatasetError::Different`], [`DatasetError::Image`] and [`DatasetError::Entry`] with the place, and what reading
/// and writing files may bring. Whatever the error, the data directory holds what it held before.
pub fn import(
    import: &Import,
    options: ImportOptions<'_>,
    tell: &mut dyn FnMut(ImportEvent),
) -> Result<Imported, DatasetError> {
    let store = Store::open(options.data, import.subset, options.stand_in, tell)?;
    let (mut source, listing) = source::open(import, tell)?;
    check_mark(import, listing.mark.is_some(), options.stand_in)?;
    if let Some(old) = store.existing(options.replace)?
        && old.origin.sha256.is_some()
        && old.origin.sha256 == listing.origin.sha256
    {
        return imported(import.subset, options, false);
    }
    let facts = manifest::expected(import.subset, listing.mark).ok_or_else(|| DatasetError::StandIn {
        path: import.path.clone(),
        reason: format!("`{}` has no stand-in of that many classes", import.subset),
    })?;
    let verified = verify::listing(&import.path, import.subset, &facts, &listing)?;
    let mut packer = Packer::create(&store, options.stand_in)?;
    stream(&mut source, &listing, &mut packer, tell)?;
    let (finished, packed) = packer.finish()?;
    let mut notices = listing.notices.clone();
    notices.extend(verified.notices);
    notices.extend(verify::contents(&listing.rows, &packed));
    let items = items(&listing, &verified.labels, &packed);
    let manifest = Manifest::new(
        import.subset,
        listing.mark,
        listing.origin.clone(),
        finished.pack.clone(),
        verified.classes,
        notices,
        items,
    );
    if let Some(old) = store.existing(options.replace)? {
        if old.digest == manifest.digest {
            return imported(import.subset, options, false);
        }
        let (old, new) = (old.digest, manifest.digest);
        return Err(DatasetError::Different { path: store.folder().to_owned(), old, from: import.path.clone(), new });
    }
    store.commit(finished, &manifest)?;
    imported(import.subset, options, true)
}

/// Refuses stand-ins where the subset is wanted, and the other way round.
fn check_mark(import: &Import, marked: bool, wanted: bool) -> Result<(), DatasetError> {
    let reason = match (marked, wanted) {
        (true, false) => format!("these are generated stand-ins of `{}`, not its images", import.subset),
        (false, true) => format!("a stand-in of `{}` was asked for, and this is none", import.subset),
        _ => return Ok(()),
    };
    Err(DatasetError::StandIn { path: import.path.clone(), reason })
}

fn stream(
    source: &mut Source,
    listing: &Listing,
    packer: &mut Packer<'_>,
    tell: &mut dyn FnMut(ImportEvent),
) -> Result<(), DatasetError> {
    let (total, mut bytes) = (listing.rows.len(), 0);
    tell(ImportEvent::Verifying { done: 0, total, bytes });
    source.stream(&mut |first, images| {
        let rows = &listing.rows[first..first + images.len()];
        packer.push(rows, images)?;
        bytes += images.iter().map(|image| image.len() as u64).sum::<u64>();
        tell(ImportEvent::Verifying { done: first + images.len(), total, bytes });
        Ok(())
    })
}

/// The items of both splits in canonical order.
fn items(listing: &Listing, labels: &[u32], packed: &[Packed]) -> [Vec<ManifestItem>; 2] {
    let mut splits = [Vec::new(), Vec::new()];
    for ((row, &label), packed) in listing.rows.iter().zip(labels).zip(packed) {
        let items = match row.part {
            Part::Train => &mut splits[0],
            Part::Test => &mut splits[1],
            Part::Dropped(_) => continue,
        };
        items.push(ManifestItem {
            label,
            sha256: packed.sha256.clone(),
            offset: packed.offset,
            bytes: packed.bytes,
            place: row.place.clone(),
            name: row.name.clone(),
        });
    }
    for items in &mut splits {
        items.sort_by(|a, b| (a.label, &a.sha256, &a.place).cmp(&(b.label, &b.sha256, &b.place)));
    }
    splits
}

/// What is in the data directory now, read as a suite reads it.
fn imported(subset: Subset, options: ImportOptions<'_>, new: bool) -> Result<Imported, DatasetError> {
    let data = std::path::absolute(options.data)
        .map_err(|source| DatasetError::Read { path: options.data.to_owned(), source })?;
    let manifest = manifest::manifest_path(&data, subset, options.stand_in);
    let config = UfgConfig { id: UfgId::One(subset), stand_in: options.stand_in, data: Some(data) };
    let dataset = load(subset.id(), &DatasetConfig::Ufg(config), Path::new(""))?;
    Ok(Imported { subset, dataset, manifest, new })
}

/// What a source of stand-ins says of them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mark {
    /// Id of the subset that they stand in for.
    pub(crate) stand_in_of: String,
    /// How many classes there are.
    pub(crate) classes: usize,
}

impl Mark {
    /// Key of the parquet file's metadata.
    pub(crate) const KEY: &'static str = "ufg-bench.stand-in";
    /// File of the archive, beside `images` and `anno`.
    pub(crate) const FILE: &'static str = "stand-in.json";

    fn read(import: &Import, text: &[u8], place: &str) -> Result<StandIn, DatasetError> {
        let error = |reason: String| DatasetError::Entry { path: import.path.clone(), place: place.into(), reason };
        let mark: Mark = serde_json::from_slice(text).map_err(|e| error(format!("it is damaged: {e}")))?;
        if mark.stand_in_of != import.subset.id() {
            let reason = format!("these are stand-ins of `{}`, not of `{}`", mark.stand_in_of, import.subset);
            return Err(DatasetError::StandIn { path: import.path.clone(), reason });
        }
        Ok(StandIn { classes: mark.classes })
    }
}
