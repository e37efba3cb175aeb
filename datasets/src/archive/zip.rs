//! Reads zip archives, within limits, without ever writing what a name in them says.
//!
//! A reader of our own, because what is refused matters more here than what is supported: names that climb out of
//! their folder, two entries of one name, entries that unpack to much more than they should, links, encryption. Stored
//! and deflated entries, zip64. Numbers are little-endian (PKWARE's APPNOTE, sections 4.3 and 4.5.3).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::Crc;

use super::zip_entry::{Entry, Fields, central, plain, unpack};
use crate::error::DatasetError;

const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
const LOCAL: u32 = 0x0403_4b50;
/// Largest central directory that is read, in bytes.
const MAX_DIRECTORY: u64 = 1 << 28;
/// Entries that unpack to more than this many times their size are refused …
const MAX_RATIO: u64 = 200;
/// … from this size on.
const FREE_SIZE: u64 = 1 << 20;

/// A zip archive: its directory, and the open file.
#[derive(Debug)]
pub(crate) struct ZipArchive {
    path: PathBuf,
    file: File,
    length: u64,
    /// Files by name, `/` between folders.
    entries: BTreeMap<String, Entry>,
}

impl ZipArchive {
    /// Reads the directory of an archive.
    pub(crate) fn open(path: &Path) -> Result<Self, DatasetError> {
        let read = |source| DatasetError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        let mut archive = Self { path: path.to_owned(), file, length, entries: BTreeMap::new() };
        let (offset, size, count) = archive.find_directory()?;
        let directory = archive.bytes(offset, size).map_err(read)?;
        archive.parse(&directory, count)?;
        Ok(archive)
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all files, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// True if there is a file of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The content of a file, at most `limit` bytes.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, DatasetError> {
        let entry = self.entries.get(name).ok_or_else(|| self.entry(name, "it is not in the archive"))?;
        if entry.encrypted {
            return Err(self.entry(name, "it is encrypted"));
        }
        let largest = entry.size.max(entry.compressed);
        if largest > limit {
            return Err(self.entry(name, &format!("it has {largest} bytes; the limit is {limit}")));
        }
        if entry.size > FREE_SIZE && entry.size / entry.compressed.max(1) > MAX_RATIO {
            let reason = format!(
                "{} bytes unpack to {}, more than {MAX_RATIO} times as many: a decompression bomb",
                entry.compressed, entry.size
            );
            return Err(self.entry(name, &reason));
        }
        let data = self.data(entry).map_err(|reason| self.entry(name, &reason))?;
        let bytes = unpack(entry, &data).map_err(|reason| self.entry(name, &reason))?;
        let mut crc = Crc::new();
        crc.update(&bytes);
        if crc.sum() != entry.crc {
            return Err(self.entry(name, "its checksum is wrong: it is damaged"));
        }
        Ok(bytes)
    }

    fn entry(&self, name: &str, reason: &str) -> DatasetError {
        DatasetError::Entry { path: self.path.clone(), place: format!("entry `{name}`"), reason: reason.to_owned() }
    }

    fn broken(&self, reason: &str) -> DatasetError {
        DatasetError::Entry { path: self.path.clone(), place: "archive".into(), reason: reason.to_owned() }
    }

    fn bytes(&self, offset: u64, size: u64) -> io::Result<Vec<u8>> {
        if offset.checked_add(size).is_none_or(|end| end > self.length) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends too early"));
        }
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Offset, size and number of entries of the central directory.
    fn find_directory(&self) -> Result<(u64, u64, u64), DatasetError> {
        let none = || self.broken("no end of a zip directory: the file is truncated or no zip archive");
        let read = |source| DatasetError::Read { path: self.path.clone(), source };
        // The end record is 22 bytes and a comment of at most 65535.
        let tail_at = self.length.saturating_sub(22 + 65_535);
        let tail = self.bytes(tail_at, self.length - tail_at).map_err(read)?;
        let at = (0..tail.len().saturating_sub(21))
            .rev()
            .find(|&at| {
                tail[at..].starts_with(&END.to_le_bytes())
                    && at + 22 + usize::from(u16::from_le_bytes([tail[at + 20], tail[at + 21]])) == tail.len()
            })
            .ok_or_else(none)?;
        let mut fields = Fields(&tail[at + 4..]);
        let parts = (|| {
            let disks = (fields.u16()?, fields.u16()?);
            let count = (fields.u16()?, fields.u16()?);
            Some((disks, count, fields.u32()?, fields.u32()?))
        })();
        let (disks, (here, count), size, offset) = parts.ok_or_else(none)?;
        let end_at = tail_at + at as u64;
        let is_wide = count == u16::MAX || size == u32::MAX || offset == u32::MAX;
        if is_wide && let Some(found) = self.find_directory_64(end_at)? {
            return self.checked(found, end_at);
        }
        if disks != (0, 0) || here != count {
            return Err(self.broken("it is one part of an archive in several files"));
        }
        self.checked((offset.into(), size.into(), count.into()), end_at)
    }

    fn checked(&self, found: (u64, u64, u64), end_at: u64) -> Result<(u64, u64, u64), DatasetError> {
        let (offset, size, count) = found;
        let fits = offset.checked_add(size).is_some_and(|end| end <= end_at);
        // A directory entry has at least 46 bytes.
        if !fits || size > MAX_DIRECTORY || count > size / 46 {
            return Err(self.broken(&format!("its directory ({count} entries, {size} bytes at {offset}) is damaged")));
        }
        Ok(found)
    }

    fn find_directory_64(&self, end_at: u64) -> Result<Option<(u64, u64, u64)>, DatasetError> {
        let read = |source| DatasetError::Read { path: self.path.clone(), source };
        let Some(locator_at) = end_at.checked_sub(20) else { return Ok(None) };
        let locator = self.bytes(locator_at, 20).map_err(read)?;
        let mut fields = Fields(&locator);
        if fields.u32() != Some(LOCATOR_64) {
            return Ok(None);
        }
        let at = fields.take(4).and_then(|_| fields.u64()).unwrap_or(u64::MAX);
        let record = self.bytes(at, 56).map_err(read)?;
        let mut fields = Fields(&record);
        let parts = (|| {
            let signature = fields.u32()?;
            fields.take(8 + 2 + 2 + 4 + 4 + 8)?;
            let (count, size, offset) = (fields.u64()?, fields.u64()?, fields.u64()?);
            (signature == END_64).then_some((offset, size, count))
        })();
        parts.map(Some).ok_or_else(|| self.broken("its zip64 directory is damaged"))
    }

    fn parse(&mut self, directory: &[u8], count: u64) -> Result<(), DatasetError> {
        let mut fields = Fields(directory);
        for number in 0..count {
            let (entry, is_link) = central(&mut fields)
                .ok_or_else(|| self.broken(&format!("entry {number} of its directory is damaged")))?;
            let Ok(text) = std::str::from_utf8(&entry.raw) else {
                let lossy = String::from_utf8_lossy(&entry.raw).into_owned();
                return Err(self.entry(&lossy, "its name is not UTF-8"));
            };
            let text = text.to_owned();
            let name = plain(&text).map_err(|reason| self.entry(&text, reason))?;
            if text.ends_with(['/', '\\']) {
                continue;
            }
            if is_link {
                return Err(self.entry(&text, "it is a link"));
            }
            if self.entries.insert(name, entry).is_some() {
                return Err(self.entry(&text, "there are two entries of this name"));
            }
        }
        Ok(())
    }

    /// The packed bytes of an entry.
    fn data(&self, entry: &Entry) -> Result<Vec<u8>, String> {
        let ends = |_| "the archive ends before it does: it is truncated".to_owned();
        let header = self.bytes(entry.header, 30).map_err(ends)?;
        let mut fields = Fields(&header);
        let signature = fields.u32();
        let lengths = fields.take(22).and_then(|_| Some((fields.u16()?, fields.u16()?)));
        let (Some(LOCAL), Some((name, extra))) = (signature, lengths) else {
            return Err("its header is damaged".into());
        };
        let stored = self.bytes(entry.header + 30, name.into()).map_err(ends)?;
        if stored != entry.raw {
            return Err("its header has another name than the directory".into());
        }
        self.bytes(entry.header + 30 + u64::from(name) + u64::from(extra), entry.compressed).map_err(ends)
    }
}
