//! Encoded bytes to RGB, and whole splits to images of working size.

use std::io::Cursor;

use image::{ImageReader, Limits};
use rayon::prelude::*;

use crate::error::DatasetError;
use crate::model::Item;
use crate::resize::Resize;

/// Longest side that is decoded, in pixels.
pub const MAX_SIDE: u32 = 20_000;
/// Most memory that decoding one image may take, in bytes.
pub const MAX_ALLOCATION: u64 = 1 << 30;

/// An 8-bit RGB image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// `height · width · 3` levels, rows from the top, red green blue.
    pub data: Vec<u8>,
}

/// Decodes the image of an item. See [`decode_bytes`].
///
/// # Errors
/// [`DatasetError::Image`] with the item's place; [`DatasetError::Read`] or [`DatasetError::Changed`] if it lies in a
/// file that cannot be read or has changed.
pub fn decode(item: &Item) -> Result<Rgb, DatasetError> {
    decode_bytes(&item.bytes()?, &item.place)
}

/// Decodes an encoded image; its format is told from the bytes, not from a name.
///
/// Grey and palette images become RGB, an alpha channel is dropped without blending (as Pillow's `convert("RGB")`
/// does), 16-bit levels `v` become `round(v / 257)`. Of an animation the first frame is taken. EXIF orientation is
/// not applied.
///
/// # Errors
/// [`DatasetError::Image`]: damaged, unknown format, wider or higher than [`MAX_SIDE`], or more than
/// [`MAX_ALLOCATION`] bytes.
pub fn decode_bytes(bytes: &[u8], place: &str) -> Result<Rgb, DatasetError> {
    let error = |reason: String| DatasetError::Image { place: place.to_owned(), reason };
    if bytes.is_empty() {
        return Err(error("the image is empty (0 bytes)".into()));
    }
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| error(e.to_string()))?;
    if reader.format().is_none() {
        let start: Vec<String> = bytes.iter().take(4).map(|b| format!("{b:02x}")).collect();
        return Err(error(format!(
            "not an image in a known format (bmp, gif, jpeg, png, tiff, webp); it begins with {}",
            start.join(" ")
        )));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_ALLOCATION);
    reader.limits(limits);
    let image = reader.decode().map_err(|e| error(e.to_string()))?.into_rgb8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width == 0 || height == 0 {
        return Err(error(format!("the image is {width}×{height} pixels")));
    }
    Ok(Rgb { width, height, data: image.into_raw() })
}

/// One split, decoded and at working size, held in memory.
#[derive(Debug, Clone)]
pub struct DecodedSet {
    images: Vec<Rgb>,
    labels: Vec<u32>,
}

impl DecodedSet {
    /// Decodes and resizes all items, in parallel on rayon's current pool.
    ///
    /// # Errors
    /// That of the first (lowest index) item that cannot be decoded, whatever the number of threads.
    pub fn new(items: &[Item], working: Resize) -> Result<Self, DatasetError> {
        let results: Vec<Result<Rgb, DatasetError>> =
            items.par_iter().map(|item| decode(item).map(|image| working.apply(&image))).collect();
        let images = results.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(Self { images, labels: items.iter().map(|item| item.label).collect() })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// True if there is no image.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The images, in the order of the items.
    pub fn images(&self) -> &[Rgb] {
        &self.images
    }

    /// Their labels.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Bytes of pixel data held.
    pub fn memory(&self) -> usize {
        self.images.iter().map(|image| image.data.len()).sum()
    }
}
