//! Rotation about the centre.

use random::Stream;

use crate::math::wide::{Loop, wide};
use crate::math::{cos, sin};

/// A rotation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RotateParams {
    /// Counter-clockwise, in degrees.
    pub degrees: f64,
}

impl RotateParams {
    /// Sine and cosine of the angle, as [`apply`] uses them; `None` where nothing is turned.
    pub fn sine_cosine(self) -> Option<(f64, f64)> {
        let angle = self.degrees * (std::f64::consts::PI / 180.0);
        (self.degrees != 0.0).then(|| (sin(angle), cos(angle)))
    }
}

/// An angle uniform in `[−most, most]`.
pub fn draw(most: f64, stream: &mut Stream) -> RotateParams {
    RotateParams { degrees: stream.range(-most, most) }
}

/// Rotates `[3, S, S]` values, bilinear; what comes from outside is 0, the mean colour of normalised values.
///
/// That is torchvision's `rotate` on float tensors with bilinear interpolation and no `fill`, about the centre of the
/// image, without growing it.
///
/// # Panics
/// If `planes` does not hold `3·size²` values.
pub fn apply(planes: &mut [f32], size: usize, params: RotateParams) {
    assert_eq!(planes.len(), 3 * size * size, "rotate: planes of [3, {size}, {size}]");
    let Some((sin, cos)) = params.sine_cosine() else { return };
    let source = planes.to_vec();
    wide(Rotate { source: &source, planes, size, sin, cos });
}

struct Rotate<'a> {
    source: &'a [f32],
    planes: &'a mut [f32],
    size: usize,
    sin: f64,
    cos: f64,
}

impl Loop for Rotate<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let (size, area) = (self.size, self.size * self.size);
        let centre = (size as f64 - 1.0) / 2.0;
        for y in 0..size {
            for x in 0..size {
                let (dx, dy) = (x as f64 - centre, y as f64 - centre);
                let (sx, sy) = (self.cos * dx - self.sin * dy + centre, self.sin * dx + self.cos * dy + centre);
                let (left, top) = (sx.floor(), sy.floor());
                let (fx, fy) = ((sx - left) as f32, (sy - top) as f32);
                let value = self.sample(left as i64, top as i64, [1.0 - fx, fx], [1.0 - fy, fy]);
                (0..3).for_each(|c| self.planes[c * area + y * size + x] = value[c]);
            }
        }
    }
}

impl Rotate<'_> {
    /// The weighted sum of the four pixels from (`left`, `top`) on; those outside are 0.
    #[inline(always)]
    fn sample(&self, left: i64, top: i64, wx: [f32; 2], wy: [f32; 2]) -> [f32; 3] {
        let (size, area) = (self.size, self.size * self.size);
        let inside = 0..size as i64;
        let mut value = [0.0f32; 3];
        if inside.contains(&left)
            && inside.contains(&(left + 1))
            && inside.contains(&top)
            && inside.contains(&(top + 1))
        {
            let at = top as usize * size + left as usize;
            let weights = [wx[0] * wy[0], wx[1] * wy[0], wx[0] * wy[1], wx[1] * wy[1]];
            for (value, plane) in value.iter_mut().zip(self.source.chunks_exact(area)) {
                let (upper, lower) = (&plane[at..at + 2], &plane[at + size..at + size + 2]);
                for (weight, pixel) in weights.iter().zip(upper.iter().chain(lower)) {
                    *value += weight * pixel;
                }
            }
            return value;
        }
        for (row, wy) in (top..).zip(wy) {
            for (column, wx) in (left..).zip(wx) {
                if inside.contains(&row) && inside.contains(&column) {
                    let at = row as usize * size + column as usize;
                    (0..3).for_each(|c| value[c] += wx * wy * self.source[c * area + at]);
                }
            }
        }
        value
    }
}
