//! A file of pixels in use.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::Mmap;

use super::format::{Entry, parse};
use super::{CacheEvent, Key, build};
use crate::decode::RgbRef;
use crate::error::DatasetError;
use crate::model::Item;
use crate::resize::Resize;

/// A mapped file whose header and index are right.
#[derive(Debug)]
pub(crate) struct CacheFile {
    path: PathBuf,
    map: Mmap,
    entries: Vec<Entry>,
    /// Which images' checksums were found right.
    checked: Vec<AtomicBool>,
}

/// What is at the path of a file.
enum Found {
    Good(CacheFile),
    Nothing,
    Bad(String),
}

impl CacheFile {
    /// Opens the file, or builds it first.
    pub(crate) fn open_or_build(
        items: &[Item],
        working: Resize,
        folder: &Path,
        tell: &mut dyn FnMut(CacheEvent),
    ) -> Result<Self, DatasetError> {
        let key = Key::new(items, working);
        let path = key.path(folder);
        if let Found::Good(file) = Self::open(&path, key, items.len())? {
            return Ok(file.told(tell));
        }
        let write = |path: &Path, source| DatasetError::Write { path: path.to_owned(), source };
        fs::create_dir_all(folder).map_err(|e| write(folder, e))?;
        let lock_path = path.with_extension("lock");
        let lock = OpenOptions::new().create(true).append(true).open(&lock_path).map_err(|e| write(&lock_path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                tell(CacheEvent::Waiting { path: path.clone() });
                lock.lock().map_err(|e| write(&lock_path, e))?;
            }
            Err(TryLockError::Error(e)) => return Err(write(&lock_path, e)),
        }
        // Whoever held the lock may have built the file.
        match Self::open(&path, key, items.len())? {
            Found::Good(file) => return Ok(file.told(tell)),
            Found::Nothing => {}
            Found::Bad(reason) => tell(CacheEvent::Replacing { path: path.clone(), reason }),
        }
        build::build(items, working, key, &path, tell)?;
        match Self::open(&path, key, items.len())? {
            Found::Good(file) => Ok(file.told(tell)),
            Found::Nothing => Err(Self::damaged(&path, "it has just been built and is gone".into())),
            Found::Bad(reason) => Err(Self::damaged(&path, format!("it has just been built, but {reason}"))),
        }
    }

    fn told(self, tell: &mut dyn FnMut(CacheEvent)) -> Self {
        tell(CacheEvent::Open { path: self.path.clone(), bytes: self.length() });
        self
    }

    fn damaged(path: &Path, reason: String) -> DatasetError {
        DatasetError::CacheDamaged { path: path.to_owned(), reason }
    }

    fn open(path: &Path, key: Key, images: usize) -> Result<Found, DatasetError> {
        let read = |source| DatasetError::Read { path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            // If the folder is none either, the attempt to build will say so.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Found::Nothing);
            }
            Err(e) => return Err(read(e)),
        };
        let metadata = file.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(read(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file")));
        }
        if metadata.len() == 0 {
            return Ok(Found::Bad("it is empty".into()));
        }
        // SAFETY: nobody writes into a file that has this name. It is written under another one and renamed when it is
        // whole, and replaced by renaming another file over it, which leaves the mapped one as it is.
        let map = unsafe { Mmap::map(&file) }.map_err(read)?;
        Ok(match parse(&map, key, images) {
            Ok(entries) => {
                let checked = entries.iter().map(|_| AtomicBool::new(false)).collect();
                Found::Good(Self { path: path.to_owned(), map, entries, checked })
            }
            Err(reason) => Found::Bad(reason),
        })
    }

    /// Length of the file in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.map.len() as u64
    }

    /// An image; the first look at it compares its checksum. A file that is found damaged is removed.
    pub(crate) fn image(&self, index: usize) -> Result<RgbRef<'_>, DatasetError> {
        let entry = &self.entries[index];
        let (width, height) = (entry.width as usize, entry.height as usize);
        // The index was checked against the length of the map, so the range lies inside.
        let data = &self.map[entry.offset as usize..][..width * height * 3];
        if !self.checked[index].load(Ordering::Relaxed) {
            let found = crc32fast::hash(data);
            if found != entry.crc {
                let reason = format!(
                    "the pixels of image {index} have the checksum {found:08x}, written were {:08x}",
                    entry.crc
                );
                // If it cannot be removed, the hint tells the user to do so.
                let _ = fs::remove_file(&self.path);
                return Err(Self::damaged(&self.path, reason));
            }
            self.checked[index].store(true, Ordering::Relaxed);
        }
        Ok(RgbRef { width, height, data })
    }
}
