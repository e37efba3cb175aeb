//! Views of images, made of bytes and recipes.

use super::device::{Device, Launch, View, arguments};
use crate::images::{OP, Recipes};
use crate::{Error, Result};

/// Threads of a block that has a thread for each pixel.
const THREADS: usize = 256;
/// Threads of the block that sums a view's grey levels.
const SUMMING: usize = 512;
/// Numbers that a block's sum shares.
const ROOM: usize = 32;

/// The views `[B, 3, S, S]` of `recipes`, whose words lie at `words` on the device, of images whose bytes lie at `pixels`.
///
/// # Errors
/// Views with more pixels than a kernel counts; what the device refuses.
pub(crate) fn views<D: Device>(
    device: &D,
    pixels: View<u8>,
    words: View<u32>,
    recipes: &Recipes,
) -> Result<D::Buffer<f32>> {
    assert!(pixels.len() >= recipes.pixels() && words.len() >= recipes.words().len(), "augment: room of the arguments");
    let (count, size, area) = (recipes.views(), recipes.size(), recipes.size() * recipes.size());
    let (rows, taps) = (recipes.most_rows(), most_taps(recipes));
    let n = count * area;
    if n.max(count * rows * size).max(2 * count * taps * size) >= 1 << 31 {
        let reason =
            format!("{count} views of {size}×{size} pixels are more than a kernel counts; take smaller batches");
        return Err(Error::Device { op: OP, reason });
    }
    let each = |n: usize| Launch { blocks: n.div_ceil(THREADS), threads: THREADS, shared: 0 };
    let (windows, weights) = (device.empty::<u32>(4 * count * size)?, device.empty::<u32>(2 * count * taps * size)?);
    let (middle, cut) = (device.empty::<u8>(count * rows * size * 3)?, device.empty::<u8>(n * 3)?);
    let (shifts, out) = (device.empty::<f32>(count)?, device.empty::<f32>(n * 3)?);
    let (windows, weights) = (device.view(&windows), device.view(&weights));
    let lines = 2 * count * size;
    device.launch("augment_taps", each(lines), arguments![words, windows, weights, lines, size, taps])?;
    // A view's pixels begin with a block.
    let launch = Launch { blocks: count * (rows * size).div_ceil(THREADS), ..each(0) };
    let (middle, cut) = (device.view(&middle), device.view(&cut));
    let arguments = arguments![pixels, words, windows, weights, middle, rows, size, taps];
    device.launch("augment_across", launch, arguments)?;
    device.launch("augment_down", each(n), arguments![middle, windows, weights, cut, n, rows, size, taps])?;
    let shifts = device.view(&shifts);
    if recipes.any_contrast() {
        let launch = Launch { blocks: count, threads: SUMMING, shared: ROOM + SUMMING };
        device.launch("augment_contrast", launch, arguments![cut, words, shifts, size, unit(area)])?;
    }
    let ([r, g, b], [sr, sg, sb]) = (recipes.mean().map(f64::from), recipes.deviation().map(f64::from));
    let arguments = arguments![cut, words, shifts, device.view(&out), n, size, r, g, b, sr, sg, sb];
    device.launch("augment_finish", each(n), arguments)?;
    Ok(out)
}

/// More taps than any pixel of the views has: a support of twice the reduction, and the rounding of both its ends.
fn most_taps(recipes: &Recipes) -> usize {
    (2 * recipes.most_side()).div_ceil(recipes.size()).max(2) + 2
}

/// Sums of `area` grey levels of at most 1 are exact in float64 if all are whole multiples of one over this.
fn unit(area: usize) -> f64 {
    2f64.powi(53 - area.next_power_of_two().trailing_zeros() as i32)
}
