//! Random erasing (Zhong et al. 2020), with the parameters drawn as torchvision's `RandomErasing` draws them.

use random::Stream;

use crate::math::{exp, ln};

/// The rectangle to erase, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EraseParams {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// Draws a rectangle of a `size`×`size` view: share of the area uniform in `area`, log of height over width uniform in
/// the logs of `aspect`, position uniform. `None` if ten draws are as high or as wide as the view, and if the
/// greatest area is 0 (off).
pub fn draw(size: usize, area: [f64; 2], aspect: [f64; 2], stream: &mut Stream) -> Option<EraseParams> {
    if area[1] <= 0.0 {
        return None;
    }
    for _ in 0..10 {
        let share = stream.range(area[0], area[1]);
        let log_aspect = stream.range(ln(aspect[0]), ln(aspect[1]));
        if let Some((width, height)) = shape(size, share, log_aspect) {
            let top = stream.below(size - height + 1);
            let left = stream.below(size - width + 1);
            return Some(EraseParams { left, top, width, height });
        }
    }
    None
}

/// Width and height of a rectangle with this share of the area of a `size`×`size` view and this logarithm of height
/// over width; `None` if it is as high or as wide as the view.
pub fn shape(size: usize, share: f64, log_aspect: f64) -> Option<(usize, usize)> {
    let (target, aspect) = ((size * size) as f64 * share, exp(log_aspect));
    let height = (target * aspect).sqrt().round_ties_even() as usize;
    let width = (target / aspect).sqrt().round_ties_even() as usize;
    (height < size && width < size).then_some((width, height))
}

/// Sets the rectangle of `[3, S, S]` normalised values to 0, the mean colour.
///
/// # Panics
/// If `planes` does not hold `3·size²` values or the rectangle is not inside.
pub fn apply(planes: &mut [f32], size: usize, params: EraseParams) {
    assert_eq!(planes.len(), 3 * size * size, "erase: planes of [3, {size}, {size}]");
    assert!(params.left + params.width <= size && params.top + params.height <= size, "erase: {params:?} in {size}");
    for plane in planes.chunks_exact_mut(size * size) {
        for row in plane.chunks_exact_mut(size).skip(params.top).take(params.height) {
            row[params.left..params.left + params.width].fill(0.0);
        }
    }
}
