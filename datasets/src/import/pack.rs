//! Checks images and writes them one after the other into a pack file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Cursor, Write};
use std::path::PathBuf;
use std::sync::Mutex;

use image::ImageReader;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::source::Row;
use super::store::{Building, Store};
use crate::decode::decode_bytes;
use crate::error::DatasetError;
use crate::export::is_marked;
use crate::manifest::Pack;
use crate::model::{hex, sha256_hex};
use crate::source::Part;

/// Longest side of an image that is imported, in pixels. An image of a single pixel is fine.
const MAX_SIDE: u32 = 16_384;
/// Most pixels of an image that is imported.
const MAX_PIXELS: u64 = 1 << 26;
/// Images with more pixels than this are decoded one at a time, so that memory does not grow with the threads.
const LARGE: u64 = 1 << 22;

/// An image that was checked.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    /// Of the encoded image, in hex.
    pub(super) sha256: String,
    /// SHA-256 of size and RGB levels: the same for two encodings of one picture.
    pub(super) pixels: [u8; 32],
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// A pack file that is complete, under its temporary name.
pub(super) struct Finished<'a> {
    pub(super) building: Building<'a>,
    pub(super) pack: Pack,
}

/// A pack file that is being written.
pub(super) struct Packer<'a> {
    building: Building<'a>,
    out: BufWriter<File>,
    hash: Sha256,
    length: u64,
    offsets: HashMap<String, u64>,
    packed: Vec<Packed>,
    stand_in: bool,
    large: Mutex<()>,
}

impl<'a> Packer<'a> {
    pub(super) fn create(store: &'a Store, stand_in: bool) -> Result<Self, DatasetError> {
        let (building, file) = store.build()?;
        Ok(Self {
            building,
            out: BufWriter::with_capacity(1 << 20, file),
            hash: Sha256::new(),
            length: 0,
            offsets: HashMap::new(),
            packed: Vec::new(),
            stand_in,
            large: Mutex::new(()),
        })
    }

    /// Checks images in parallel and appends those that are kept. The error is that of the first bad one.
    pub(super) fn push(&mut self, rows: &[Row], images: &[&[u8]]) -> Result<(), DatasetError> {
        let checked: Vec<Result<(String, [u8; 32]), DatasetError>> =
            rows.par_iter().zip(images).map(|(row, bytes)| self.check(row, bytes)).collect();
        for ((row, bytes), checked) in rows.iter().zip(images).zip(checked) {
            let (sha256, pixels) = checked?;
            let offset = match row.part {
                Part::Dropped(_) => 0,
                _ => self.append(&sha256, bytes)?,
            };
            self.packed.push(Packed { sha256, pixels, offset, bytes: bytes.len() as u64 });
        }
        Ok(())
    }

    fn check(&self, row: &Row, bytes: &[u8]) -> Result<(String, [u8; 32]), DatasetError> {
        let image = |reason: String| DatasetError::Image { place: row.place.clone(), reason };
        let size = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok();
        let size = size.and_then(|reader| reader.into_dimensions().ok());
        // Without a size the decoder below says what is wrong.
        let pixels = size.map_or(0, |(width, height)| u64::from(width) * u64::from(height));
        if let Some((width, height)) = size.filter(|&(w, h)| w.max(h) > MAX_SIDE || pixels > MAX_PIXELS) {
            let reason = format!("{width}×{height} pixels; the limits are {MAX_SIDE} a side and {MAX_PIXELS} in all");
            return Err(image(reason));
        }
        if is_marked(bytes) != self.stand_in {
            let reason = if self.stand_in {
                "the image is no generated stand-in, but its source says so of all"
            } else {
                "the image is a generated stand-in, not one of the subset"
            };
            return Err(DatasetError::StandIn { path: PathBuf::from(&row.place), reason: reason.into() });
        }
        let decoded = {
            let _one_at_a_time = (pixels > LARGE).then(|| self.large.lock());
            decode_bytes(bytes, &row.place)?
        };
        let mut hash = Sha256::new();
        hash.update((decoded.width as u64).to_le_bytes());
        hash.update((decoded.height as u64).to_le_bytes());
        hash.update(&decoded.data);
        Ok((sha256_hex(bytes), hash.finalize().into()))
    }

    /// Where the bytes lie in the pack file; they are appended unless they are there.
    fn append(&mut self, sha256: &str, bytes: &[u8]) -> Result<u64, DatasetError> {
        if let Some(&offset) = self.offsets.get(sha256) {
            return Ok(offset);
        }
        let offset = self.length;
        self.out.write_all(bytes).map_err(|source| self.building.error(source))?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        self.offsets.insert(sha256.to_owned(), offset);
        Ok(offset)
    }

    /// Syncs the file. What was packed is in the order of the rows.
    pub(super) fn finish(self) -> Result<(Finished<'a>, Vec<Packed>), DatasetError> {
        let Self { building, mut out, hash, length, packed, .. } = self;
        out.flush().and_then(|()| out.get_ref().sync_all()).map_err(|source| building.error(source))?;
        let digest = hex(&hash.finalize());
        let pack = Pack { file: format!("images-{}.pack", &digest[..16]), bytes: length };
        Ok((Finished { building, pack }, packed))
    }
}
