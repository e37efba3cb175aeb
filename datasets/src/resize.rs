//! Antialiased resizing, as Pillow does it: a separable filter whose support grows with the reduction factor,
//! horizontal pass first, 22-bit fixed-point weights, 8-bit intermediate image. Equal to Pillow to the last bit on
//! the reference values of the tests, so that images prepared elsewhere and here are the same.
//!
//! That is Pillow up to version 12. Version 13 makes the vertical pass first where that is less work (a crop that is
//! reduced more in height than in width): one level apart with the bilinear kernel, more with the bicubic one where the
//! intermediate image is clamped.

mod passes;

use serde::{Deserialize, Serialize};

use crate::decode::{Rgb, RgbRef};
use passes::{Weights, across, down};

/// The interpolation kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Triangle, support 1.
    Bilinear,
    /// Keys' cubic with a = −1/2, support 2.
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic => {
                const A: f64 = -0.5;
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
        }
    }
}

/// How an image is brought to a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// The short side becomes `size`, the ratio of the sides is kept.
    ShortSide,
    /// Both sides become `size`, the ratio is not kept.
    Square,
}

/// The size at which images are held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Pixels; see [`Fit`].
    pub size: usize,
    /// Which side `size` is.
    pub fit: Fit,
    /// The kernel.
    pub filter: Filter,
}

impl Resize {
    /// The size `(width, height)` that an image of this size becomes. The long side is rounded down, as torchvision
    /// does.
    pub fn target(&self, width: usize, height: usize) -> (usize, usize) {
        let long = |long: usize, short: usize| (self.size as u64 * long as u64 / short.max(1) as u64) as usize;
        match self.fit {
            Fit::Square => (self.size, self.size),
            Fit::ShortSide if width <= height => (self.size, long(height, width)),
            Fit::ShortSide => (long(width, height), self.size),
        }
    }

    /// The image at that size; a copy if it has it already.
    pub fn apply(&self, image: RgbRef<'_>) -> Rgb {
        let (width, height) = self.target(image.width, image.height);
        resize(image, width, height, self.filter)
    }
}

/// The image at another size.
///
/// # Panics
/// If a side of the image or of the result is 0.
pub fn resize(image: RgbRef<'_>, width: usize, height: usize, filter: Filter) -> Rgb {
    let (mut middle, mut data) = (Vec::new(), Vec::new());
    resize_part(image, (0, 0, image.width, image.height), (width, height), filter, &mut middle, &mut data);
    Rgb { width, height, data }
}

/// The rectangle `(left, top, width, height)` of the image at another size, into `data`; pixels outside the rectangle
/// have no influence (cut, then resize). `middle` is room for the work.
pub(crate) fn resize_part(
    image: RgbRef<'_>,
    (left, top, part_width, part_height): (usize, usize, usize, usize),
    (width, height): (usize, usize),
    filter: Filter,
    middle: &mut Vec<u8>,
    data: &mut Vec<u8>,
) {
    assert!(part_width > 0 && part_height > 0 && width > 0 && height > 0, "resize: a side is 0");
    assert!(left + part_width <= image.width && top + part_height <= image.height, "resize: part outside the image");
    let rows = (top..top + part_height).map(|y| &image.data[(y * image.width + left) * 3..][..part_width * 3]);
    let target = if part_height == height { &mut *data } else { &mut *middle };
    target.resize(part_height * width * 3, 0);
    if part_width == width {
        target.chunks_exact_mut(width * 3).zip(rows).for_each(|(out, row)| out.copy_from_slice(row));
    } else {
        across(rows, &Weights::new(part_width, width, filter), target);
    }
    if part_height != height {
        data.resize(height * width * 3, 0);
        down(middle, width * 3, &Weights::new(part_height, height, filter), data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Width and height, new width and height, filter, levels of the result. Made with Pillow 13.0.0:
    ///
    /// ```python
    /// import numpy as np
    /// from PIL import Image
    /// def img(w, h):
    ///     a = np.zeros((h, w, 3), np.uint8)
    ///     for y in range(h):
    ///         for x in range(w):
    ///             for c in range(3):
    ///                 a[y, x, c] = (37 * x + 101 * y + 59 * c + (x * y) % 7 * 13) % 256
    ///     return Image.fromarray(a)
    /// for w, h, W, H in [(7, 5, 3, 2), (4, 3, 6, 5), (11, 6, 4, 6), (5, 9, 5, 3)]:
    ///     for f in (Image.BILINEAR, Image.BICUBIC):
    ///         print(w, h, W, H, f, list(np.asarray(img(w, h).resize((W, H), f)).reshape(-1)))
    /// ```
    type Reference = (usize, usize, usize, usize, Filter, &'static [u8]);
    #[rustfmt::skip]
    const PILLOW: &[Reference] = &[
        (7, 5, 3, 2, Filter::Bilinear, &[95, 108, 122, 138, 126, 147, 149, 153, 97, 138, 99, 124, 131, 128, 134, 141, 134, 100]),
        (7, 5, 3, 2, Filter::Bicubic, &[89, 105, 124, 137, 128, 151, 153, 154, 95, 145, 99, 121, 128, 123, 139, 139, 138, 99]),
        (4, 3, 6, 5, Filter::Bilinear, &[0, 59, 118, 19, 78, 137, 43, 102, 161, 68, 127, 186, 93, 152, 211, 111, 170, 229, 40, 99, 158, 62, 121, 129, 89, 132, 105, 118, 91, 134, 146, 103, 162, 167, 124, 183, 101, 160, 219, 126, 185, 116, 159, 176, 21, 193, 38, 55, 226, 29, 88, 251, 54, 113, 162, 67, 126, 114, 96, 104, 76, 118, 91, 114, 87, 129, 153, 109, 168, 181, 138, 197, 202, 5, 64, 106, 37, 96, 20, 79, 138, 61, 120, 179, 104, 163, 222, 135, 194, 253]),
        (4, 3, 6, 5, Filter::Bicubic, &[0, 49, 107, 7, 65, 134, 34, 96, 173, 59, 135, 196, 86, 165, 223, 102, 181, 240, 29, 99, 165, 53, 124, 129, 91, 137, 101, 118, 87, 133, 148, 100, 165, 168, 125, 184, 98, 157, 233, 122, 196, 119, 159, 188, 7, 193, 26, 52, 230, 18, 92, 254, 57, 116, 178, 60, 126, 117, 94, 100, 64, 121, 85, 112, 83, 128, 157, 109, 174, 186, 143, 201, 224, 0, 47, 106, 19, 88, 0, 71, 148, 49, 127, 189, 100, 179, 237, 130, 209, 255]),
        (11, 6, 4, 6, Filter::Bilinear, &[42, 101, 160, 135, 181, 112, 120, 98, 97, 72, 131, 190, 158, 132, 92, 143, 91, 133, 122, 176, 116, 197, 85, 82, 89, 77, 136, 126, 172, 184, 171, 77, 89, 89, 125, 113, 126, 123, 158, 133, 107, 94, 102, 110, 169, 165, 125, 113, 196, 94, 82, 115, 132, 131, 163, 179, 38, 184, 82, 117, 142, 130, 189, 174, 92, 151, 217, 63, 122, 123, 158, 217]),
        (11, 6, 4, 6, Filter::Bicubic, &[35, 95, 165, 143, 193, 112, 120, 91, 89, 67, 131, 197, 160, 131, 91, 145, 82, 134, 114, 188, 119, 203, 82, 78, 89, 69, 135, 124, 186, 194, 178, 67, 81, 82, 126, 112, 124, 121, 160, 140, 107, 84, 97, 106, 178, 167, 133, 112, 201, 92, 78, 109, 130, 141, 167, 188, 25, 184, 75, 125, 141, 133, 192, 171, 94, 153, 226, 54, 113, 115, 166, 225]),
        (5, 9, 5, 3, Filter::Bilinear, &[94, 89, 148, 84, 143, 106, 137, 68, 127, 179, 142, 169, 81, 140, 135, 148, 122, 95, 152, 97, 156, 180, 68, 127, 105, 164, 166, 86, 88, 147, 138, 165, 128, 174, 73, 132, 111, 106, 101, 81, 140, 135, 126, 89, 148]),
        (5, 9, 5, 3, Filter::Bicubic, &[91, 85, 144, 77, 139, 106, 131, 71, 130, 178, 145, 173, 82, 148, 135, 154, 121, 96, 153, 101, 160, 182, 65, 130, 106, 165, 165, 83, 83, 148, 134, 165, 132, 175, 70, 129, 116, 110, 97, 79, 138, 132, 130, 87, 146]),
    ];

    fn pattern(width: usize, height: usize) -> Rgb {
        let level = |x: usize, y: usize, c: usize| ((37 * x + 101 * y + 59 * c + (x * y) % 7 * 13) % 256) as u8;
        let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| level(x, y, c))));
        Rgb { width, height, data: pixels.collect() }
    }

    #[test]
    fn levels_are_those_of_pillow() {
        for &(width, height, new_width, new_height, filter, want) in PILLOW {
            let got = resize(pattern(width, height).as_ref(), new_width, new_height, filter);
            assert_eq!((got.width, got.height), (new_width, new_height));
            assert_eq!(got.data, want, "{width}×{height} to {new_width}×{new_height} {filter:?}");
        }
    }

    #[test]
    fn a_part_is_cut_before_it_is_resized() {
        let image = pattern(12, 10);
        let (left, top, width, height) = (3, 2, 7, 5);
        let data = (top..top + height).flat_map(|y| image.data[(y * 12 + left) * 3..][..width * 3].to_vec()).collect();
        let part = Rgb { width, height, data };
        // Room that was used before changes nothing.
        let (mut middle, mut got) = (vec![9; 1000], vec![9; 1000]);
        resize_part(image.as_ref(), (left, top, width, height), (4, 4), Filter::Bicubic, &mut middle, &mut got);
        assert_eq!(got, resize(part.as_ref(), 4, 4, Filter::Bicubic).data);
    }

    #[test]
    fn targets_follow_the_fit() {
        let short = Resize { size: 256, fit: Fit::ShortSide, filter: Filter::Bilinear };
        assert_eq!(short.target(500, 375), (341, 256));
        assert_eq!(short.target(375, 500), (256, 341));
        assert_eq!(short.target(10, 10), (256, 256));
        assert_eq!(Resize { fit: Fit::Square, ..short }.target(500, 375), (256, 256));
    }

    proptest::proptest! {
        #[test]
        fn a_constant_image_stays_constant(
            level: u8, w in 1usize..40, h in 1usize..40, nw in 1usize..40, nh in 1usize..40, bicubic: bool,
        ) {
            let filter = if bicubic { Filter::Bicubic } else { Filter::Bilinear };
            let image = Rgb { width: w, height: h, data: vec![level; w * h * 3] };
            let got = resize(image.as_ref(), nw, nh, filter);
            proptest::prop_assert!(got.data.iter().all(|&v| v == level));
            proptest::prop_assert_eq!(got.data.len(), nw * nh * 3);
            proptest::prop_assert_eq!(resize(image.as_ref(), w, h, filter), image);
        }
    }
}
