//! From 8-bit pixels to normalised planes, with the flip and the jitter in one go.
//!
//! What depends on a level alone (division by 255, brightness that comes first, normalisation) is looked up in a table
//! of 256 values a channel, made with the same operations in the same order: the result is that of the separate steps to
//! the last bit.

use super::Normalise;
use crate::augment::JitterPart;
use crate::augment::jitter::{apply_steps, brightness};
use crate::decode::RgbRef;

/// The rectangle `(left, top, width, height)` of `image` as `[3, height, width]` in `planes`: levels over 255, mirrored
/// if `flip`, jittered by `steps`, normalised.
pub(super) fn render(
    image: RgbRef<'_>,
    part: (usize, usize, usize, usize),
    flip: bool,
    steps: &[(JitterPart, f32)],
    norm: &Normalise,
    planes: &mut [f32],
) {
    let leading = steps.iter().take_while(|(part, _)| *part == JitterPart::Brightness).count();
    let (by_table, rest) = steps.split_at(leading);
    let mut tables = [[0.0f32; 256]; 3];
    for (channel, table) in tables.iter_mut().enumerate() {
        for (level, value) in table.iter_mut().enumerate() {
            *value = by_table.iter().fold(level as f32 / 255.0, |v, &(_, factor)| brightness(v, factor));
            if rest.is_empty() {
                *value = norm.value(*value, channel);
            }
        }
    }
    look_up(image, part, flip, &tables, planes);
    if !rest.is_empty() {
        apply_steps(planes, rest);
        norm.apply(planes);
    }
}

fn look_up(
    image: RgbRef<'_>,
    (left, top, width, height): (usize, usize, usize, usize),
    flip: bool,
    [red, green, blue]: &[[f32; 256]; 3],
    planes: &mut [f32],
) {
    let area = width * height;
    let (r, rest) = planes.split_at_mut(area);
    let (g, b) = rest.split_at_mut(area);
    let targets = r.chunks_exact_mut(width).zip(g.chunks_exact_mut(width)).zip(b.chunks_exact_mut(width));
    for (y, ((r, g), b)) in targets.enumerate() {
        let row = &image.data[((top + y) * image.width + left) * 3..][..width * 3];
        let targets = r.iter_mut().zip(g).zip(b);
        let set = |(pixel, ((r, g), b)): (&[u8], ((&mut f32, &mut f32), &mut f32))| {
            (*r, *g, *b) = (red[usize::from(pixel[0])], green[usize::from(pixel[1])], blue[usize::from(pixel[2])]);
        };
        if flip {
            row.chunks_exact(3).rev().zip(targets).for_each(set);
        } else {
            row.chunks_exact(3).zip(targets).for_each(set);
        }
    }
}
