//! The folder of a subset in the data directory: one writer at a time, and never half an import.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::ImportEvent;
use super::pack::Finished;
use crate::error::DatasetError;
use crate::manifest::{Manifest, folder, manifest_path};
use crate::ufg::Subset;

/// How the names of unfinished files end.
const PART: &str = ".part";
/// How those of pack files begin and end.
const PACK: (&str, &str) = ("images-", ".pack");

/// A subset's folder, locked as long as this lives.
pub(super) struct Store {
    data: PathBuf,
    subset: Subset,
    stand_in: bool,
    folder: PathBuf,
    _lock: File,
}

/// An unfinished pack file. Dropped before it is committed, it leaves nothing behind.
pub(super) struct Building<'a> {
    store: &'a Store,
    path: PathBuf,
    committed: bool,
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> DatasetError {
    move |source| DatasetError::Write { path: path.to_owned(), source }
}

impl Store {
    /// Locks the folder of a subset, and waits while another process works there.
    pub(super) fn open(
        data: &Path,
        subset: Subset,
        stand_in: bool,
        tell: &mut dyn FnMut(ImportEvent),
    ) -> Result<Self, DatasetError> {
        let folder = folder(data, subset, stand_in);
        let parent = folder.parent().unwrap_or(data);
        fs::create_dir_all(parent).map_err(write_error(parent))?;
        let path = parent.join(format!("{}.lock", subset.id()));
        let lock = OpenOptions::new().create(true).append(true).open(&path).map_err(write_error(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                tell(ImportEvent::Waiting { path: folder.clone() });
                lock.lock().map_err(write_error(&path))?;
            }
            Err(TryLockError::Error(error)) => return Err(write_error(&path)(error)),
        }
        let store = Self { data: data.to_owned(), subset, stand_in, folder, _lock: lock };
        store.remove_leftovers();
        Ok(store)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The manifest that is there, unless it is to be replaced.
    pub(super) fn existing(&self, replace: bool) -> Result<Option<Manifest>, DatasetError> {
        if replace {
            return Ok(None);
        }
        match Manifest::read(&self.data, self.subset, self.stand_in) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(DatasetError::NotImported { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins a pack file.
    pub(super) fn build(&self) -> Result<(Building<'_>, File), DatasetError> {
        fs::create_dir_all(&self.folder).map_err(write_error(&self.folder))?;
        let path = self.folder.join(format!("images{PART}"));
        let building = Building { store: self, path, committed: false };
        let file = File::create(&building.path).map_err(write_error(&building.path))?;
        Ok((building, file))
    }

    /// Makes a complete pack file and its manifest the import of the subset.
    pub(super) fn commit(&self, finished: Finished<'_>, manifest: &Manifest) -> Result<(), DatasetError> {
        let Finished { mut building, pack } = finished;
        let target = self.folder.join(&pack.file);
        fs::rename(&building.path, &target).map_err(write_error(&target))?;
        building.committed = true;
        let path = manifest_path(&self.data, self.subset, self.stand_in);
        let temporary = path.with_extension(format!("json{PART}"));
        let bytes = manifest.to_bytes().map_err(|e| write_error(&path)(e.into()))?;
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| File::open(&self.folder)?.sync_all());
        if let Err(source) = written {
            let old = self.existing(false).ok().flatten();
            self.remove_packs(old.as_ref().map(|old| old.pack.file.as_str()));
            self.remove_leftovers();
            return Err(write_error(&path)(source));
        }
        self.remove_packs(Some(&pack.file));
        Ok(())
    }

    /// Removes what an importer that was killed left, or one that failed.
    fn remove_leftovers(&self) {
        self.remove(|name| name.ends_with(PART));
        // A pack file without a manifest, from a kill between the two renames.
        if !manifest_path(&self.data, self.subset, self.stand_in).exists() {
            self.remove_packs(None);
            // Goes only if it is empty.
            let _ = fs::remove_dir(&self.folder);
        }
    }

    fn remove_packs(&self, keep: Option<&str>) {
        self.remove(|name| name.starts_with(PACK.0) && name.ends_with(PACK.1) && Some(name) != keep);
    }

    fn remove(&self, which: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(&which) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Building<'_> {
    pub(super) fn error(&self, source: io::Error) -> DatasetError {
        write_error(&self.path)(source)
    }
}

impl Drop for Building<'_> {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.path);
            let _ = fs::remove_dir(&self.store.folder);
        }
    }
}
