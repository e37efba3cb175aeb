//! Writes zip archives: stored entries without times, so that the same content is the same file.

use std::io::{self, Write};

use flate2::Crc;

/// A zip archive that is being written. Up to 65,535 entries and 4 GiB.
pub(crate) struct ZipWriter<W: Write> {
    out: W,
    offset: u64,
    directory: Vec<u8>,
    entries: u16,
}

/// 1980-01-01, the earliest date of the format; midnight is 0.
const DATE: u16 = 0x21;
/// Needs version 2.0; names are UTF-8.
const VERSION: u16 = 20;
const UTF8: u16 = 1 << 11;

impl<W: Write> ZipWriter<W> {
    /// Writes to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self { out, offset: 0, directory: Vec::new(), entries: 0 }
    }

    /// Adds a file.
    pub(crate) fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let full = |what: &str| io::Error::new(io::ErrorKind::FileTooLarge, format!("a zip archive holds no {what}"));
        let size = u32::try_from(bytes.len()).map_err(|_| full("file of 4 GiB"))?;
        let header = u32::try_from(self.offset).map_err(|_| full("more than 4 GiB"))?;
        let length = u16::try_from(name.len()).map_err(|_| full("name that long"))?;
        self.entries = self.entries.checked_add(1).ok_or_else(|| full("more than 65535 files"))?;
        let mut crc = Crc::new();
        crc.update(bytes);
        // What the local header and the directory share.
        let mut shared = Vec::new();
        for half in [VERSION, UTF8, 0, 0, DATE] {
            shared.extend(half.to_le_bytes());
        }
        for word in [crc.sum(), size, size] {
            shared.extend(word.to_le_bytes());
        }
        shared.extend(length.to_le_bytes());
        shared.extend(0u16.to_le_bytes());
        let local = [&0x0403_4b50u32.to_le_bytes(), &shared[..], name.as_bytes()].concat();
        self.out.write_all(&local)?;
        self.out.write_all(bytes)?;
        self.offset += (local.len() + bytes.len()) as u64;
        self.directory.extend(0x0201_4b50u32.to_le_bytes());
        self.directory.extend(VERSION.to_le_bytes());
        self.directory.extend(&shared);
        // Comment, disk, internal and external attributes: none.
        self.directory.extend([0; 10]);
        self.directory.extend(header.to_le_bytes());
        self.directory.extend(name.as_bytes());
        Ok(())
    }

    /// Writes the directory and gives the writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        let too_big = |_| io::Error::new(io::ErrorKind::FileTooLarge, "a zip archive holds no more than 4 GiB");
        let size = u32::try_from(self.directory.len()).map_err(too_big)?;
        let offset = u32::try_from(self.offset).map_err(too_big)?;
        self.out.write_all(&self.directory)?;
        self.out.write_all(&0x0605_4b50u32.to_le_bytes())?;
        for half in [0, 0, self.entries, self.entries] {
            self.out.write_all(&half.to_le_bytes())?;
        }
        self.out.write_all(&size.to_le_bytes())?;
        self.out.write_all(&offset.to_le_bytes())?;
        self.out.write_all(&0u16.to_le_bytes())?;
        Ok(self.out)
    }
}
