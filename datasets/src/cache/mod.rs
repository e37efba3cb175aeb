//! Decoded pixels in a memory-mapped file.
//!
//! A file holds the images of one list of items at one working size: a header, an index with size, place and CRC-32 of
//! each image, and the pixels (see [`mod@format`]). Header and index are checked whenever a file is opened: a torn,
//! truncated or foreign file is built anew. The pixels of an image are checked when a process first looks at it, so
//! that opening a file of gigabytes reads none of them; a mismatch is an error, and the file is removed, so that the
//! next to want it builds it again.

mod build;
mod file;
mod format;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::DatasetError;
use crate::in_order::decode_in_order;
use crate::model::{Item, hex};
use crate::resize::{Filter, Fit, Resize};
pub(crate) use file::CacheFile;

/// Version of the pixels; to be raised when decoding or resizing changes a level.
const PIXELS_VERSION: u32 = 1;
/// Images that [`estimate_cache`] decodes at most.
const SAMPLE: usize = 16;

/// What happens while a file is opened or built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheEvent {
    /// Another process is building this file.
    Waiting {
        /// The file.
        path: PathBuf,
    },
    /// There is a file that cannot be used; it is replaced.
    Replacing {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Images have been decoded and written; told first with `done` = 0.
    Building {
        /// Images so far.
        done: usize,
        /// All images.
        total: usize,
        /// Bytes so far.
        bytes: u64,
        /// Bytes of the whole file, by [`estimate_cache`].
        expected: u64,
    },
    /// The file is in use.
    Open {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        bytes: u64,
    },
}

/// Which pixels a file holds: SHA-256 over versions, working size and the contents in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key([u8; 32]);

impl Key {
    fn new(items: &[Item], working: Resize) -> Self {
        let fit = match working.fit {
            Fit::ShortSide => "short side",
            Fit::Square => "square",
        };
        let filter = match working.filter {
            Filter::Bilinear => "bilinear",
            Filter::Bicubic => "bicubic",
        };
        let mut hash = Sha256::new();
        hash.update(b"ufg-bench pixels\0");
        hash.update(PIXELS_VERSION.to_le_bytes());
        hash.update((working.size as u64).to_le_bytes());
        for word in [fit, filter].into_iter().chain(items.iter().map(|item| item.sha256.as_str())) {
            hash.update((word.len() as u64).to_le_bytes());
            hash.update(word);
        }
        Self(hash.finalize().into())
    }

    fn path(self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.pixels", &hex(&self.0)[..32]))
    }
}

/// The file in `folder` that holds the pixels of these items at this working size, or will hold them.
pub fn cache_path(items: &[Item], working: Resize, folder: &Path) -> PathBuf {
    Key::new(items, working).path(folder)
}

/// About how many bytes the file of these items will have: up to 16 of them, evenly spread, are decoded. Exact where
/// all images have the same sides.
///
/// # Errors
/// As [`crate::DecodedSet::new`], for those images.
pub fn estimate_cache(items: &[Item], working: Resize) -> Result<u64, DatasetError> {
    let sample: Vec<usize> = (0..items.len().min(SAMPLE)).map(|k| k * items.len() / SAMPLE.min(items.len())).collect();
    let (count, mut bytes) = (sample.len().max(1) as u128, 0u128);
    decode_in_order(
        items,
        sample,
        working,
        SAMPLE,
        |image| image.data.len(),
        |lengths| {
            bytes += lengths.into_iter().map(|(_, length)| length as u128).sum::<u128>();
            Ok(())
        },
    )?;
    let pixels = bytes * items.len() as u128 / count;
    Ok(format::head_length(items.len()) + u64::try_from(pixels).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
