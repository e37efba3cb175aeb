//! 1×1 convolutions of small maps: the maps of all images side by side make one matrix a channel set, so that products are
//! wide and no filter gradient has to be summed over pieces of the batch.

use rayon::prelude::*;

use super::buffers::{Real, zeros};
use super::columns::Geometry;
use super::conv::Want;
use super::product::{product, product_rows, rows, transposed, unwritten};

/// Maps of fewer pixels than this are merged.
const SMALL: usize = 128;
/// Rows of a result that one task computes at least, and tasks at most.
const ROWS: usize = 128;
const TASKS: usize = 4;

/// Whether a convolution is of this kind.
pub(super) fn applies(g: &Geometry) -> bool {
    g.is_pointwise() && g.config.groups == 1 && g.map() < SMALL && g.batch > 1
}

/// Rows of a task, by the shape alone.
fn rows_of_task(rows: usize) -> usize {
    rows.div_ceil(TASKS).max(ROWS)
}

/// [B, C, map] to [C, B·map].
fn gather<T: Real>(maps: &[T], channels: usize, map: usize) -> Vec<T> {
    let batch = maps.len() / (channels * map);
    let mut out = zeros::<T>(maps.len());
    out.par_chunks_mut(batch * map).enumerate().with_min_len(16).for_each(|(c, row)| {
        for (b, to) in row.chunks_mut(map).enumerate() {
            to.copy_from_slice(&maps[(b * channels + c) * map..][..map]);
        }
    });
    out
}

/// [C, B·map] to [B, C, map], each channel with its bias.
fn scatter<T: Real>(merged: &[T], channels: usize, map: usize, bias: Option<&[T]>) -> Vec<T> {
    let width = merged.len() / channels;
    let mut out = zeros::<T>(merged.len());
    out.par_chunks_mut(channels * map).enumerate().for_each(|(b, image)| {
        for (c, to) in image.chunks_mut(map).enumerate() {
            let from = &merged[c * width + b * map..][..map];
            match bias {
                Some(bias) => to.iter_mut().zip(from).for_each(|(to, from)| *to = *from + bias[c]),
                None => to.copy_from_slice(from),
            }
        }
    });
    out
}

/// Output of the convolution, [B, O, H', W'], with accurate sums if `close`.
pub(super) fn forward<T: Real>(g: &Geometry, x: &[T], w: &[T], bias: Option<&[T]>, close: bool) -> Vec<T> {
    let (width, inputs) = (g.batch * g.map(), g.c_in);
    let x = gather(x, inputs, g.map());
    let mut y = zeros::<T>(g.c_out * width);
    let task = rows_of_task(g.c_out);
    y.par_chunks_mut(task * width).zip(w.par_chunks(task * inputs)).for_each(|(y, w)| {
        let size = (y.len() / width, width, inputs);
        product_rows(size, (unwritten(y), width), close, (w, inputs), (&x, width));
    });
    scatter(&y, g.c_out, g.map(), bias)
}

/// Gradients in `x` and `weight`, those of them that are wanted.
pub(super) fn backward<T: Real>(
    g: &Geometry,
    x: &[T],
    w: &[T],
    gy: &[T],
    want: Want,
) -> (Option<Vec<T>>, Option<Vec<T>>) {
    let (width, inputs, outputs) = (g.batch * g.map(), g.c_in, g.c_out);
    let gy = gather(gy, outputs, g.map());
    let gx = want.x.then(|| {
        let mut gx = zeros::<T>(inputs * width);
        let task = rows_of_task(inputs);
        gx.par_chunks_mut(task * width).enumerate().for_each(|(index, gx)| {
            let size = (gx.len() / width, width, outputs);
            product(size, (gx, width), false, (&w[index * task..], transposed(inputs)), (&gy, rows(width)));
        });
        scatter(&gx, inputs, g.map(), None)
    });
    let gw = want.weight.then(|| {
        let x = gather(x, inputs, g.map());
        let mut gw = zeros::<T>(outputs * inputs);
        let task = rows_of_task(outputs);
        gw.par_chunks_mut(task * inputs).zip(gy.par_chunks(task * width)).for_each(|(gw, gy)| {
            let size = (gw.len() / inputs, inputs, width);
            product(size, (gw, inputs), false, (gy, rows(width)), (&x, transposed(width)));
        });
        gw
    });
    (gx, gw)
}
