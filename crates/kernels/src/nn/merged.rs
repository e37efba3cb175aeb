//! 1×1 convolutions of small maps: the maps of all images side by side make one matrix a channel set, so that products are
//! wide and no filter gradient has to be summed over pieces of the batch.

use super::buffers::{Real, fresh};
use super::columns::Geometry;
use super::conv::Want;
use super::product::{product_on_threads, product_rows, rows, transposed};

/// Maps of fewer pixels than this are merged.
const SMALL: usize = 128;
/// Rows of an output that one task computes at least, and tasks at most.
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
    // SAFETY: a row has the maps of all images.
    unsafe {
        fresh(maps.len(), (batch * map, 16), |c, row| {
            for (b, to) in row.chunks_mut(map).enumerate() {
                to.write_copy_of_slice(&maps[(b * channels + c) * map..][..map]);
            }
        })
    }
}

/// [C, B·map] to [B, C, map], each channel with its bias.
fn scatter<T: Real>(merged: &[T], channels: usize, map: usize, bias: Option<&[T]>) -> Vec<T> {
    let width = merged.len() / channels;
    // SAFETY: an image has the maps of all channels, and each is written.
    unsafe {
        fresh(merged.len(), (channels * map, 1), |b, image| {
            for (c, to) in image.chunks_mut(map).enumerate() {
                let from = &merged[c * width + b * map..][..map];
                match bias {
                    Some(bias) => to.iter_mut().zip(from).for_each(|(to, from)| {
                        to.write(*from + bias[c]);
                    }),
                    None => {
                        to.write_copy_of_slice(from);
                    }
                }
            }
        })
    }
}

/// Output of the convolution, [B, O, H', W'], with accurate sums if `close`.
pub(super) fn forward<T: Real>(g: &Geometry, x: &[T], w: &[T], bias: Option<&[T]>, close: bool) -> Vec<T> {
    let (width, inputs) = (g.batch * g.map(), g.c_in);
    let x = gather(x, inputs, g.map());
    if !close {
        let y = product_on_threads((g.c_out, width, inputs), (w, rows(inputs)), (&x, rows(width)), None);
        return scatter(&y, g.c_out, g.map(), bias);
    }
    let task = rows_of_task(g.c_out);
    // SAFETY: a product writes all of its result.
    let y = unsafe {
        fresh(g.c_out * width, (task * width, 1), |index, y| {
            let size = (y.len() / width, width, inputs);
            product_rows(size, (y, width), true, (&w[index * task * inputs..], inputs), (&x, width));
        })
    };
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
        let gx = product_on_threads((inputs, width, outputs), (w, transposed(inputs)), (&gy, rows(width)), None);
        scatter(&gx, inputs, g.map(), None)
    });
    let gw = want.weight.then(|| {
        let x = gather(x, inputs, g.map());
        product_on_threads((outputs, inputs, width), (&gy, rows(width)), (&x, transposed(width)), None)
    });
    (gx, gw)
}
