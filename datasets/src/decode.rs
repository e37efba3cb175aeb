//! Encoded bytes to RGB, and whole splits to images of working size.

use std::io::Cursor;

use image::{ImageFormat, ImageReader, Limits};
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
    if reader.format() == Some(ImageFormat::Jpeg) && !jpeg_is_whole(bytes) {
        return Err(error("the JPEG ends before its end marker: it is truncated".into()));
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

/// True if a JPEG has an end-of-image marker after its scans. Decoders fill what a truncated file lacks with grey
/// and say nothing.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const START: u8 = 0xd8;
    const END: u8 = 0xd9;
    let mut at = 0;
    while at + 1 < bytes.len() {
        // Outside segments: entropy-coded data, in which ff is followed by 00 or a restart marker, or fill bytes.
        if bytes[at] != 0xff {
            at += 1;
            continue;
        }
        match bytes[at + 1] {
            0xff => at += 1,
            END => return true,
            0x00 | 0x01 | START | 0xd0..=0xd7 => at += 2,
            _ => {
                let Some(length) = bytes.get(at + 2..at + 4) else { return false };
                at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
            }
        }
    }
    false
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_jpeg_is_refused_wherever_it_ends() {
        let image = image::RgbImage::from_fn(120, 90, |x, y| image::Rgb([(x * 2) as u8, (y * 2) as u8, (x * y) as u8]));
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
        let bytes = bytes.into_inner();
        assert!(decode_bytes(&bytes, "whole").is_ok());
        assert!(decode_bytes(&[&bytes[..], b"what a camera left behind"].concat(), "trailing bytes").is_ok());
        for cut in (10..bytes.len()).step_by(bytes.len() / 40).chain([bytes.len() - 1, bytes.len() - 2]) {
            let error = decode_bytes(&bytes[..cut], "leaf.jpg").unwrap_err().to_string();
            assert!(error.contains("leaf.jpg"), "{error}");
        }
    }
}
