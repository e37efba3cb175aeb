//! Rotation about the centre.

use random::Stream;

use crate::math::{cos, sin};

/// A rotation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RotateParams {
    /// Counter-clockwise, in degrees.
    pub degrees: f64,
}

/// An angle uniform in `[−most, most]`.
pub fn draw(most: f64, stream: &mut Stream) -> RotateParams {
    RotateParams { degrees: stream.range(-most, most) }
}

/// Rotates `[3, S, S]` values, bilinear; what comes from outside is 0, the mean colour of normalised values.
///
/// # Panics
/// If `planes` does not hold `3·size²` values.
pub fn apply(planes: &mut [f32], size: usize, params: RotateParams) {
    assert_eq!(planes.len(), 3 * size * size, "rotate: planes of [3, {size}, {size}]");
    if params.degrees == 0.0 {
        return;
    }
    let angle = params.degrees * (std::f64::consts::PI / 180.0);
    let (sin, cos) = (sin(angle), cos(angle));
    let centre = (size as f64 - 1.0) / 2.0;
    let source = planes.to_vec();
    let area = size * size;
    let inside = 0..size as i64;
    for y in 0..size {
        for x in 0..size {
            let (dx, dy) = (x as f64 - centre, y as f64 - centre);
            let (sx, sy) = (cos * dx - sin * dy + centre, sin * dx + cos * dy + centre);
            let (left, top) = (sx.floor(), sy.floor());
            let (fx, fy) = ((sx - left) as f32, (sy - top) as f32);
            let mut value = [0.0f32; 3];
            for (row, wy) in [(top as i64, 1.0 - fy), (top as i64 + 1, fy)] {
                for (column, wx) in [(left as i64, 1.0 - fx), (left as i64 + 1, fx)] {
                    if inside.contains(&row) && inside.contains(&column) {
                        let at = row as usize * size + column as usize;
                        (0..3).for_each(|c| value[c] += wx * wy * source[c * area + at]);
                    }
                }
            }
            (0..3).for_each(|c| planes[c * area + y * size + x] = value[c]);
        }
    }
}
