//! Building a file of pixels: beside its final name, synced, then renamed.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::format::{Entry, head, head_length};
use super::{CacheEvent, Key, estimate_cache};
use crate::decode::Rgb;
use crate::error::DatasetError;
use crate::in_order::decode_in_order;
use crate::model::Item;
use crate::resize::Resize;

/// Images that are decoded before they are written, at most, and bytes that they should take.
const CHUNK_IMAGES: u64 = 64;
const CHUNK_BYTES: u64 = 64 << 20;

/// A file that is being written; removed when dropped before [`Partial::finish`].
struct Partial {
    path: PathBuf,
    target: PathBuf,
    writer: Option<BufWriter<File>>,
}

impl Partial {
    fn create(target: &Path) -> Result<Self, DatasetError> {
        let path = target.with_extension(format!("{}.part", std::process::id()));
        let file = File::create(&path).map_err(|source| DatasetError::Write { path: path.clone(), source })?;
        Ok(Self { path, target: target.to_owned(), writer: Some(BufWriter::with_capacity(1 << 20, file)) })
    }

    fn write(&mut self, work: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<(), DatasetError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        work(writer).map_err(|source| DatasetError::Write { path: self.path.clone(), source })
    }

    fn finish(mut self, head: &[u8]) -> Result<(), DatasetError> {
        self.write(|writer| {
            writer.seek(SeekFrom::Start(0))?;
            writer.write_all(head)?;
            writer.flush()?;
            writer.get_ref().sync_all()
        })?;
        let error = |source| DatasetError::Write { path: self.target.clone(), source };
        fs::rename(&self.path, &self.target).map_err(error)?;
        self.writer = None;
        // The name is as lasting as the content only once the folder is synced, where a folder can be opened.
        #[cfg(unix)]
        if let Some(folder) = self.target.parent() {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(error)?;
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.writer.take().is_some() {
            // Whatever went wrong has been told already; a leftover is removed by the next build.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Builds the file at `path`. The caller holds its lock.
pub(super) fn build(
    items: &[Item],
    working: Resize,
    key: Key,
    path: &Path,
    tell: &mut dyn FnMut(CacheEvent),
) -> Result<(), DatasetError> {
    remove_leftovers(path);
    let expected = estimate_cache(items, working)?;
    let mut partial = Partial::create(path)?;
    let mut length = head_length(items.len());
    let mut entries = vec![None; items.len()];
    let mut done = 0;
    let mut event = |done: usize, bytes| tell(CacheEvent::Building { done, total: items.len(), bytes, expected });
    event(0, 0);
    partial.write(|writer| writer.seek(SeekFrom::Start(length)).map(|_| ()))?;
    let each = (expected / items.len().max(1) as u64).max(1);
    let chunk = (CHUNK_BYTES / each).clamp(1, CHUNK_IMAGES) as usize;
    let checked = |image: Rgb| (crc32fast::hash(&image.data), image);
    decode_in_order(items, (0..items.len()).collect(), working, chunk, checked, |images| {
        done += images.len();
        for (index, (crc, image)) in images {
            entries[index] = Some(entry(&image, crc, length, &items[index])?);
            length += image.data.len() as u64;
            partial.write(|writer| writer.write_all(&image.data))?;
        }
        event(done, length);
        Ok(())
    })?;
    // Every index was among those to be decoded.
    let entries: Vec<Entry> = entries.into_iter().flatten().collect();
    partial.finish(&head(key, &entries, length))
}

fn entry(image: &Rgb, crc: u32, offset: u64, item: &Item) -> Result<Entry, DatasetError> {
    let side = |n: usize| {
        u32::try_from(n).map_err(|_| DatasetError::Image { place: item.place.clone(), reason: format!("{n} pixels") })
    };
    Ok(Entry { offset, width: side(image.width)?, height: side(image.height)?, crc })
}

/// Removes what builders that were killed left: of this file, whose lock the caller holds, and of any other whose lock
/// nobody holds.
fn remove_leftovers(path: &Path) {
    let Some((folder, stem)) = path.parent().zip(path.file_stem()) else { return };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = PathBuf::from(entry.file_name());
        let Some(other) = name.file_stem().and_then(|inner| Path::new(inner).file_stem()) else { continue };
        if name.extension().is_none_or(|e| e != "part") {
            continue;
        }
        // The lock is kept until the leftover is gone. Without a lock file it is none of ours.
        let lock = (other != stem).then(|| File::open(folder.join(other).with_extension("lock")));
        let free = lock.as_ref().is_none_or(|lock| lock.as_ref().is_ok_and(|lock| lock.try_lock().is_ok()));
        if free {
            // One that stays takes room, and does no other harm.
            let _ = fs::remove_file(entry.path());
        }
    }
}
