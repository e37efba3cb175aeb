//! Horizontal flip.

use random::Stream;

use crate::decode::Rgb;

/// True with probability `p`.
pub fn draw(p: f64, stream: &mut Stream) -> bool {
    stream.chance(p)
}

/// Mirrors the image: the first column becomes the last.
pub fn apply(image: &mut Rgb) {
    if image.width == 0 {
        return;
    }
    for row in image.data.chunks_exact_mut(image.width * 3) {
        let (mut left, mut right) = (0, image.width - 1);
        while left < right {
            (0..3).for_each(|c| row.swap(left * 3 + c, right * 3 + c));
            left += 1;
            right -= 1;
        }
    }
}
