//! Encoded bytes to RGB, as Pillow's `Image.open(f).convert("RGB")`.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

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

impl Rgb {
    /// The same pixels, borrowed.
    pub fn as_ref(&self) -> RgbRef<'_> {
        RgbRef { width: self.width, height: self.height, data: &self.data }
    }
}

/// An 8-bit RGB image whose pixels are somebody else's: an [`Rgb`]'s, or a mapped file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RgbRef<'a> {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// As [`Rgb::data`].
    pub data: &'a [u8],
}

/// Decodes the image of an item. See [`decode_bytes`].
///
/// # Errors
/// [`DatasetError::Image`] with the item's place; [`DatasetError::Read`] or [`DatasetError::Changed`] if it lies in a
/// file that cannot be read or has changed.
pub fn decode(item: &Item) -> Result<Rgb, DatasetError> {
    decode_bytes(&item.bytes()?, &item.place)
}

/// Decodes the image of an item and brings it to the working size.
///
/// # Errors
/// As [`decode`], and [`DatasetError::Image`] if so narrow an image would need more than [`MAX_ALLOCATION`] bytes at
/// that size.
pub fn decode_working(item: &Item, working: Resize) -> Result<Rgb, DatasetError> {
    bring_to_size(decode(item)?, item, working)
}

/// As [`decode_working`], of bytes that were read before.
pub(crate) fn decode_working_bytes(item: &Item, bytes: Vec<u8>, working: Resize) -> Result<Rgb, DatasetError> {
    let bytes = item.unchanged(bytes)?;
    bring_to_size(decode_bytes(&bytes, &item.place)?, item, working)
}

fn bring_to_size(image: Rgb, item: &Item, working: Resize) -> Result<Rgb, DatasetError> {
    let (width, height) = working.target(image.width, image.height);
    if width as u64 * height as u64 * 3 > MAX_ALLOCATION {
        let (from, to) = ((image.width, image.height), (width, height));
        let reason = format!("{}×{} pixels would become {}×{}: too narrow an image", from.0, from.1, to.0, to.1);
        return Err(DatasetError::Image { place: item.place.clone(), reason });
    }
    Ok(if (width, height) == (image.width, image.height) { image } else { working.apply(image.as_ref()) })
}

/// Decodes an encoded image; its format is told from the bytes, not from a name. The result is that of Pillow's
/// `Image.open(f).convert("RGB")`, which is what torchvision's `default_loader` gives:
///
/// - grey (8 bits and less), bilevel and palette images are spread out;
/// - an alpha channel or a transparent colour is dropped without blending;
/// - 16-bit levels `v` of colour images and of grey with alpha become `⌊v / 256⌋`;
/// - 16-bit levels of grey without alpha become `min(v, 255)`. Pillow does not scale them: an image that uses the whole
///   range turns almost white. Such images should be made 8-bit before they become a dataset;
/// - CMYK and YCCK become RGB without a colour profile;
/// - of an animation the first frame is taken, and EXIF orientation is not applied.
///
/// Equal to the last bit, but for CMYK TIFF (at most 1 level) and the rounding inside JPEG: at most 2 levels on the
/// reference files with whole chroma, 3 with subsampled chroma; over 300 photographs with subsampled chroma 0.13 levels in
/// the mean and 5 at most. TIFF with a palette or with grey and alpha cannot be read.
///
/// # Errors
/// [`DatasetError::Image`]: damaged, unknown format, floating-point levels, wider or higher than [`MAX_SIDE`], or more
/// than [`MAX_ALLOCATION`] bytes.
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
    let decoder = reader.into_decoder().map_err(|e| error(refusal(&e)))?;
    if decoder.total_bytes() > MAX_ALLOCATION {
        let (width, height) = decoder.dimensions();
        return Err(error(format!("{width}×{height} pixels are more than the limit of {MAX_ALLOCATION} bytes")));
    }
    let image = DynamicImage::from_decoder(decoder).map_err(|e| error(refusal(&e)))?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width == 0 || height == 0 {
        return Err(error(format!("the image is {width}×{height} pixels")));
    }
    let Some(data) = to_rgb(image, is_grey_png(bytes)) else {
        return Err(error("its levels are floating-point numbers, whose range nobody knows".into()));
    };
    Ok(Rgb { width, height, data })
}

/// What the decoder says, and the limits where it is they that refuse.
fn refusal(error: &ImageError) -> String {
    if matches!(error, ImageError::Limits(_)) {
        return format!("{error}; the limits are {MAX_SIDE} pixels a side and {MAX_ALLOCATION} bytes");
    }
    error.to_string()
}

/// True for a PNG whose header says grey without alpha. If it names a transparent level the decoder makes it grey with
/// alpha.
fn is_grey_png(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x89PNG") && bytes.get(25) == Some(&0)
}

/// The levels as Pillow converts them; `None` for floating-point levels.
fn to_rgb(image: DynamicImage, grey_png: bool) -> Option<Vec<u8>> {
    let high = |v: u16| (v >> 8) as u8;
    Some(match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageLuma16(image) => image.pixels().flat_map(|p| [p.0[0].min(255) as u8; 3]).collect(),
        DynamicImage::ImageLumaA16(image) if grey_png => {
            image.pixels().flat_map(|p| [p.0[0].min(255) as u8; 3]).collect()
        }
        DynamicImage::ImageLumaA16(image) => image.pixels().flat_map(|p| [high(p.0[0]); 3]).collect(),
        DynamicImage::ImageRgb16(image) => image.pixels().flat_map(|p| p.0.map(high)).collect(),
        DynamicImage::ImageRgba16(image) => image.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]].map(high)).collect(),
        DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_) => return None,
        other => other.into_rgb8().into_raw(),
    })
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

    #[test]
    fn a_side_beyond_the_limit_is_refused_with_the_limit() {
        let mut bytes = Cursor::new(Vec::new());
        image::GrayImage::new(MAX_SIDE + 1, 1).write_to(&mut bytes, ImageFormat::Png).unwrap();
        let error = decode_bytes(&bytes.into_inner(), "leaf.png").unwrap_err().to_string();
        assert!(error.starts_with("leaf.png: ") && error.contains("the limits are 20000 pixels a side"), "{error}");
    }

    #[test]
    fn floating_point_levels_are_refused() {
        assert_eq!(to_rgb(DynamicImage::ImageRgb32F(image::Rgb32FImage::new(1, 1)), false), None);
        assert_eq!(to_rgb(DynamicImage::ImageRgba32F(image::Rgba32FImage::new(1, 1)), false), None);
    }

    #[test]
    fn an_image_too_narrow_for_its_working_size_is_refused() {
        let mut bytes = Cursor::new(Vec::new());
        image::GrayImage::new(1, 20_000).write_to(&mut bytes, ImageFormat::Png).unwrap();
        let image = crate::model::ImageSource::Bytes(bytes.into_inner().into());
        let item = Item { image, label: 0, place: "row 5".into(), sha256: String::new() };
        let working = |size| Resize { size, fit: crate::Fit::ShortSide, filter: crate::Filter::Bilinear };
        assert_eq!(
            decode_working(&item, working(256)).unwrap_err().to_string(),
            "row 5: 1×20000 pixels would become 256×5120000: too narrow an image"
        );
        assert_eq!(decode_working(&item, working(1)).unwrap().height, 20_000);
        assert_eq!(decode_working(&item, working(4)).unwrap().height, 80_000);
    }
}
