//! Depthwise convolution (one input channel per group) as a direct loop over taps: each output row is a sum of
//! scaled runs of a padded map.

use rayon::prelude::*;

use super::buffers::Real;
use super::columns::Geometry;
use super::conv::Want;
use super::dense::by_pieces;
use super::wide::{Loop, wide};

/// Output values of a row that are summed side by side.
const LANES: usize = 8;

/// Output of the convolution, [B, O, H', W'].
pub(super) fn forward<T: Real>(g: &Geometry, x: &[T], w: &[T], bias: Option<&[T]>) -> Vec<T> {
    let (map, plane, og, taps) = (g.map(), g.plane(), g.og(), g.taps());
    let mut y = vec![T::ZERO; g.batch * g.c_out * map];
    y.par_chunks_mut(og * map).enumerate().for_each(|(index, y)| {
        // `index` counts (image, input channel): exactly the planes of `x`.
        let channel = index % g.c_in;
        T::with_scratch(g.padded_plane() + LANES, |padded| {
            g.pad(&x[index * plane..(index + 1) * plane], &mut padded[..g.padded_plane()]);
            for (o, y) in (channel * og..).zip(y.chunks_mut(map)) {
                let bias = bias.map_or(T::ZERO, |bias| bias[o]);
                wide(Forward { g, padded, w: &w[o * taps..(o + 1) * taps], bias, y });
            }
        });
    });
    y
}

/// One output map.
struct Forward<'a, T> {
    g: &'a Geometry,
    /// The padded map, and [`LANES`] values that a last run may reach beyond it; what they give is dropped.
    padded: &'a [T],
    w: &'a [T],
    bias: T,
    y: &'a mut [T],
}

impl<T: Real> Loop for Forward<'_, T> {
    type Out = ();

    /// Each output is its bias and then the taps in order, whatever the lanes.
    #[inline(always)]
    fn run(self) {
        let Self { g, padded, w, bias, y } = self;
        for (oy, y) in y.chunks_mut(g.ow).enumerate() {
            for (chunk, y) in y.chunks_mut(LANES).enumerate() {
                let mut sums = [bias; LANES];
                for (ky, w) in w.chunks(g.kw).enumerate() {
                    for (kx, w) in w.iter().enumerate() {
                        let at = g.run(oy, ky, kx) + chunk * LANES;
                        if let Some(x) = padded[at..].first_chunk::<LANES>() {
                            for (sum, x) in sums.iter_mut().zip(x) {
                                *sum += *w * *x;
                            }
                        }
                    }
                }
                y.copy_from_slice(&sums[..y.len()]);
            }
        }
    }
}

/// Gradients in `x` and `weight`, those of them that are wanted.
pub(super) fn backward<T: Real>(
    g: &Geometry,
    x: &[T],
    w: &[T],
    gy: &[T],
    want: Want,
) -> (Option<Vec<T>>, Option<Vec<T>>) {
    let (map, plane, og) = (g.map(), g.plane(), g.og());
    by_pieces(g, want, w.len(), |first, count, mut gx, mut gw| {
        T::with_scratch(g.padded_plane(), |padded| {
            for slot in 0..count * g.c_in {
                let index = first * g.c_in + slot;
                let gy = &gy[index * og * map..(index + 1) * og * map];
                let filters = (slot % g.c_in) * og * g.taps()..(slot % g.c_in + 1) * og * g.taps();
                if let Some(gw) = gw.as_deref_mut() {
                    g.pad(&x[index * plane..(index + 1) * plane], padded);
                    filter_gradient(g, padded, gy, &mut gw[filters.clone()]);
                }
                if let Some(gx) = gx.as_deref_mut() {
                    data_gradient(g, &w[filters], gy, padded);
                    g.unpad(padded, &mut gx[slot * plane..(slot + 1) * plane]);
                }
            }
        });
    })
}

fn filter_gradient<T: Real>(g: &Geometry, padded: &[T], gy: &[T], gw: &mut [T]) {
    for (gy, gw) in gy.chunks(g.map()).zip(gw.chunks_mut(g.taps())) {
        each_run(g, |oy, tap, run| gw[tap] += dot(&gy[oy * g.ow..(oy + 1) * g.ow], &padded[run..run + g.ow]));
    }
}

fn data_gradient<T: Real>(g: &Geometry, w: &[T], gy: &[T], padded: &mut [T]) {
    padded.fill(T::ZERO);
    for (gy, w) in gy.chunks(g.map()).zip(w.chunks(g.taps())) {
        each_run(g, |oy, tap, run| {
            let gy = &gy[oy * g.ow..(oy + 1) * g.ow];
            padded[run..run + g.ow].iter_mut().zip(gy).for_each(|(x, gy)| *x += w[tap] * *gy);
        });
    }
}

/// Calls `f(output row, tap, start of the run in the padded map)`.
#[inline(always)]
fn each_run(g: &Geometry, mut f: impl FnMut(usize, usize, usize)) {
    for oy in 0..g.oh {
        for ky in 0..g.kh {
            for kx in 0..g.kw {
                f(oy, ky * g.kw + kx, g.run(oy, ky, kx));
            }
        }
    }
}

/// Inner product in eight fixed lanes.
fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::ZERO; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let mut sum = T::ZERO;
    for (a, b) in a8.remainder().iter().zip(b8.remainder()) {
        sum += *a * *b;
    }
    for (a, b) in a8.zip(b8) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += *a * *b;
        }
    }
    for lane in lanes {
        sum += lane;
    }
    sum
}
