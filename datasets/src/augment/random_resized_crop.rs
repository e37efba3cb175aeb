//! Random resized crop, with the parameters drawn as torchvision's `RandomResizedCrop` draws them.

use random::Stream;

use crate::decode::Rgb;
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
    let area = (width * height) as f64;
    for _ in 0..10 {
        let target = area * stream.range(scale[0], scale[1]);
        let aspect = exp(stream.range(ln(ratio[0]), ln(ratio[1])));
        let w = (target * aspect).sqrt().round_ties_even() as usize;
        let h = (target / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let top = stream.below(height - h + 1);
            let left = stream.below(width - w + 1);
            return CropParams { left, top, width: w, height: h };
        }
    }
    centred(width, height, ratio)
}

fn centred(width: usize, height: usize, ratio: [f64; 2]) -> CropParams {
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
pub fn apply(image: &Rgb, crop: CropParams, size: usize) -> Rgb {
    resize_part(image, (crop.left, crop.top, crop.width, crop.height), size, size, Filter::Bilinear)
}
