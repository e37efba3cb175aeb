//! Horizontal flip.

use random::Stream;

/// True with probability `p`.
pub fn draw(p: f64, stream: &mut Stream) -> bool {
    stream.chance(p)
}

/// Mirrors `[3, S, S]` values: the first column becomes the last.
///
/// # Panics
/// If `planes` does not hold `3·size²` values.
pub fn apply(planes: &mut [f32], size: usize) {
    assert_eq!(planes.len(), 3 * size * size, "flip: planes of [3, {size}, {size}]");
    planes.chunks_exact_mut(size.max(1)).for_each(<[f32]>::reverse);
}
