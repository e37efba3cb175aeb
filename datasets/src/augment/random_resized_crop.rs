//! Random resized crop, with the parameters drawn as torchvision's `RandomResizedCrop` draws them.

use random::Stream;

use crate::decode::{Rgb, RgbRef};
use crate::math::{exp, ln};
use crate::resize::{Filter, resize_part};

/// A rectangle of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropParams {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// Draws a rectangle: area uniform in `scale` (as a share of the image), log of width over height uniform in the logs
/// of `ratio`, position uniform. After ten draws that do not fit into the image: the largest centred rectangle whose
/// ratio is as near to the image's as `ratio` allows.
pub fn draw(width: usize, height: usize, scale: [f64; 2], ratio: [f64; 2], stream: &mut Stream) -> CropParams {
    for _ in 0..10 {
        let share = stream.range(scale[0], scale[1]);
        let log_ratio = stream.range(ln(ratio[0]), ln(ratio[1]));
        if let Some((w, h)) = shape(width, height, share, log_ratio) {
            let top = stream.below(height - h + 1);
            let left = stream.below(width - w + 1);
            return CropParams { left, top, width: w, height: h };
        }
    }
    centred(width, height, ratio)
}

/// Width and height of a rectangle with this share of the area of a `width`×`height` image and this logarithm of width
/// over height; `None` if it does not fit.
pub fn shape(width: usize, height: usize, share: f64, log_ratio: f64) -> Option<(usize, usize)> {
    let (target, aspect) = ((width * height) as f64 * share, exp(log_ratio));
    let w = (target * aspect).sqrt().round_ties_even() as usize;
    let h = (target / aspect).sqrt().round_ties_even() as usize;
    ((1..=width).contains(&w) && (1..=height).contains(&h)).then_some((w, h))
}

/// The largest centred rectangle whose ratio is as near to the image's as `ratio` allows.
pub fn centred(width: usize, height: usize, ratio: [f64; 2]) -> CropParams {
    let image = width as f64 / height as f64;
    let (w, h) = if image < ratio[0] {
        (width, (width as f64 / ratio[0]).round_ties_even() as usize)
    } else if image > ratio[1] {
        ((height as f64 * ratio[1]).round_ties_even() as usize, height)
    } else {
        (width, height)
    };
    let (w, h) = (w.clamp(1, width), h.clamp(1, height));
    CropParams { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
}

/// Cuts the rectangle out and resizes it to `size`×`size` (antialiased bilinear).
///
/// # Panics
/// If the rectangle is empty or not inside the image.
pub fn apply(image: RgbRef<'_>, crop: CropParams, size: usize) -> Rgb {
    let (mut middle, mut data) = (Vec::new(), Vec::new());
    apply_into(image, crop, size, &mut middle, &mut data);
    Rgb { width: size, height: size, data }
}

/// [`apply`], into `data`; `middle` is room for the work.
pub(crate) fn apply_into(image: RgbRef<'_>, crop: CropParams, size: usize, middle: &mut Vec<u8>, data: &mut Vec<u8>) {
    let part = (crop.left, crop.top, crop.width, crop.height);
    resize_part(image, part, (size, size), Filter::Bilinear, middle, data);
}
