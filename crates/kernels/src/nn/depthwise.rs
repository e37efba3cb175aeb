//! Depthwise convolution (one input channel per group) as direct loops over taps on padded maps: each output row is a sum
//! of scaled runs of its input. Outputs are summed in tiles of several rows and vectors side by side, which changes no sum.

use std::mem::MaybeUninit;

use super::buffers::{Real, fresh};
use super::columns::Geometry;
use super::conv::{Conv2dConfig, Want};
use super::dense::{Sum, by_pieces};
use super::wide::{Loop, wide};

/// Values that are summed side by side in one vector.
const LANES: usize = 8;
/// Vectors of a row that a tile has at most.
const VECTORS: usize = 4;
/// Values that a last run may reach beyond a padded map; what they give is dropped.
const SLACK: usize = LANES * VECTORS;

/// Output of the convolution, [B, O, H', W'].
pub(super) fn forward<T: Real>(g: &Geometry, x: &[T], w: &[T], bias: Option<&[T]>) -> Vec<T> {
    let (map, plane, og, taps) = (g.map(), g.plane(), g.og(), g.taps());
    let maps = |index: usize, y: &mut [MaybeUninit<T>]| {
        // `index` counts (image, input channel): exactly the planes of `x`.
        let channel = index % g.c_in;
        T::with_scratch(g.padded_plane() + SLACK, |scratch| {
            let padded = &mut scratch[..g.padded_plane() + SLACK];
            g.pad(&x[index * plane..(index + 1) * plane], &mut padded[..g.padded_plane()]);
            for (o, y) in (channel * og..).zip(y.chunks_mut(map)) {
                let bias = bias.map_or(T::ZERO, |bias| bias[o]);
                wide(Correlation { g, padded, w: &w[o * taps..(o + 1) * taps], bias, y });
            }
        });
    };
    // SAFETY: a correlation writes all of its map.
    unsafe { fresh(g.batch * g.c_out * map, (og * map, 1), maps) }
}

/// One output map.
struct Correlation<'a, T> {
    g: &'a Geometry,
    /// The padded map and [`SLACK`] further values.
    padded: &'a [T],
    w: &'a [T],
    bias: T,
    y: &'a mut [MaybeUninit<T>],
}

impl<T: Real> Loop for Correlation<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        // Four vectors of sums hide the latency of an addition: how they lie depends on the width.
        match self.g.ow.div_ceil(LANES) {
            ..=1 => self.tiles(4, 1),
            2 => self.tiles(2, 2),
            _ => self.tiles(1, VECTORS),
        }
    }
}

impl<T: Real> Correlation<'_, T> {
    /// Tiles of `rows` rows and `cols` vectors, four in all.
    #[inline(always)]
    fn tiles(self, rows: usize, cols: usize) {
        let Self { g, padded, w, bias, y } = self;
        for (tile, y) in y.chunks_mut(rows * g.ow).enumerate() {
            for start in (0..g.ow).step_by(cols * LANES) {
                // Rows beyond the last one repeat it; they are not written.
                let at = |n: usize| (tile * rows + n / cols).min(g.oh - 1) * g.run_step() + start + n % cols * LANES;
                let sums = four_sums(g, padded, w, bias, [at(0), at(1), at(2), at(3)]);
                for (n, sums) in sums.iter().enumerate() {
                    let (row, from) = (n / cols, start + n % cols * LANES);
                    if from < g.ow && (row + 1) * g.ow <= y.len() {
                        let to = &mut y[row * g.ow + from..(row + 1) * g.ow];
                        let len = to.len().min(LANES);
                        to[..len].write_copy_of_slice(&sums[..len]);
                    }
                }
            }
        }
    }
}

/// Four vectors of outputs whose runs start at `at`: each is the bias and then the taps in order.
#[inline(always)]
fn four_sums<T: Real>(g: &Geometry, padded: &[T], w: &[T], bias: T, at: [usize; 4]) -> [[T; LANES]; 4] {
    let [mut a, mut b, mut c, mut d] = [[bias; LANES]; 4];
    for (ky, w) in w.chunks(g.kw).enumerate() {
        for (kx, w) in w.iter().enumerate() {
            let tap = g.run(0, ky, kx);
            add_scaled(&mut a, *w, &padded[at[0] + tap..]);
            add_scaled(&mut b, *w, &padded[at[1] + tap..]);
            add_scaled(&mut c, *w, &padded[at[2] + tap..]);
            add_scaled(&mut d, *w, &padded[at[3] + tap..]);
        }
    }
    [a, b, c, d]
}

#[inline(always)]
fn add_scaled<T: Real>(sums: &mut [T; LANES], w: T, x: &[T]) {
    if let Some(x) = x.first_chunk::<LANES>() {
        sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += w * *x);
    }
}

#[inline(always)]
fn add_product<T: Real>(sums: &mut [T; LANES], x: &[T], y: &[T; LANES]) {
    if let Some(x) = x.first_chunk::<LANES>() {
        sums.iter_mut().zip(x).zip(y).for_each(|((sum, x), y)| *sum += *x * *y);
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
    let mirror = Mirror::of(g);
    let padded_len = g.padded_plane().max(mirror.as_ref().map_or(0, |m| m.g.padded_plane())) + SLACK;
    let row_starts = |oy: usize| (oy * g.run_step()..).step_by(LANES).take(pitch(g) / LANES);
    let starts: Vec<usize> = (0..g.oh).flat_map(row_starts).collect();
    let maps = |first: usize, count: usize, mut gx: Option<&mut [MaybeUninit<T>]>, mut gw: Option<Sum<T>>| {
        let mut gw = gw.as_mut().map(Sum::begun);
        T::with_scratch(padded_len + g.oh * pitch(g), |scratch| {
            let (padded, rows) = scratch.split_at_mut(padded_len);
            for slot in 0..count * g.c_in {
                let index = first * g.c_in + slot;
                let gy = &gy[index * og * map..(index + 1) * og * map];
                let filters = (slot % g.c_in) * og * g.taps()..(slot % g.c_in + 1) * og * g.taps();
                if let Some(gw) = gw.as_deref_mut() {
                    g.pad(&x[index * plane..(index + 1) * plane], &mut padded[..g.padded_plane()]);
                    padded[g.padded_plane()..].fill(T::ZERO);
                    for (gy, gw) in gy.chunks(map).zip(gw[filters.clone()].chunks_mut(g.taps())) {
                        let rows = &mut rows[..g.oh * pitch(g)];
                        wide(FilterGradient { g, padded, gy, rows, starts: &starts, gw });
                    }
                }
                if let Some(gx) = gx.as_deref_mut() {
                    let gx = &mut gx[slot * plane..(slot + 1) * plane];
                    match &mirror {
                        Some(mirror) => mirror.data_gradient(gy, &w[filters], padded, gx),
                        None => {
                            let padded = &mut padded[..g.padded_plane()];
                            wide(DataGradient { g, w: &w[filters], gy, padded });
                            g.unpad(padded, gx);
                        }
                    }
                }
            }
        });
    };
    // SAFETY: the gradient of every map is written, and the sum of the filters' is.
    unsafe { by_pieces(g, want, w.len(), maps) }
}

/// Length of an output row in whole vectors.
fn pitch(g: &Geometry) -> usize {
    g.ow.next_multiple_of(LANES)
}

/// Adds a map's share to the gradient of its filter: `Σ gy · x` over the outputs for every tap, in fixed partial sums.
struct FilterGradient<'a, T> {
    g: &'a Geometry,
    /// The padded map and at least [`LANES`] further finite values.
    padded: &'a [T],
    gy: &'a [T],
    /// Room for the rows of `gy` in whole vectors.
    rows: &'a mut [T],
    /// Where the run of each vector of `rows` starts under the first tap.
    starts: &'a [usize],
    gw: &'a mut [T],
}

impl<T: Real> Loop for FilterGradient<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self { g, padded, gy, rows, starts, gw } = self;
        for (row, gy) in rows.chunks_mut(pitch(g)).zip(gy.chunks(g.ow)) {
            row[..g.ow].copy_from_slice(gy);
            row[g.ow..].fill(T::ZERO);
        }
        let (vectors, _) = rows.as_chunks::<LANES>();
        for (ky, gw) in gw.chunks_mut(g.kw).enumerate() {
            for (kx, gw) in gw.iter_mut().enumerate() {
                *gw += tap_sum(&padded[g.run(0, ky, kx)..], vectors, starts);
            }
        }
    }
}

/// `Σ gy · x` of one tap: four vectors of partial sums, which are then added in order.
#[inline(always)]
fn tap_sum<T: Real>(padded: &[T], vectors: &[[T; LANES]], starts: &[usize]) -> T {
    let [mut a, mut b, mut c, mut d] = [[T::ZERO; LANES]; 4];
    let (fours, rest) = vectors.as_chunks::<4>();
    let (four_starts, rest_starts) = starts.as_chunks::<4>();
    for (gy, at) in fours.iter().zip(four_starts) {
        add_product(&mut a, &padded[at[0]..], &gy[0]);
        add_product(&mut b, &padded[at[1]..], &gy[1]);
        add_product(&mut c, &padded[at[2]..], &gy[2]);
        add_product(&mut d, &padded[at[3]..], &gy[3]);
    }
    for (gy, at) in rest.iter().zip(rest_starts) {
        add_product(&mut a, &padded[*at..], gy);
    }
    let mut sum = T::ZERO;
    for lane in 0..LANES {
        sum += (a[lane] + b[lane]) + (c[lane] + d[lane]);
    }
    sum
}

/// The data gradient as a convolution of the output's gradient with the filter turned round: stride 1, one filter a map.
struct Mirror {
    g: Geometry,
}

impl Mirror {
    fn of(g: &Geometry) -> Option<Self> {
        let Conv2dConfig { stride, padding, dilation, .. } = g.config;
        let span = dilation * (g.kh - 1);
        let fits = stride == 1 && g.og() == 1 && g.kh == g.kw && span >= padding;
        let config = Conv2dConfig { padding: span.checked_sub(padding)?, ..g.config };
        let turned = Geometry { height: g.oh, width: g.ow, oh: g.height, ow: g.width, config, ..*g };
        fits.then_some(Self { g: turned })
    }

    fn data_gradient<T: Real>(&self, gy: &[T], w: &[T], padded: &mut [T], gx: &mut [MaybeUninit<T>]) {
        let g = &self.g;
        g.pad(gy, &mut padded[..g.padded_plane()]);
        let turned: Vec<T> = w.iter().rev().copied().collect();
        wide(Correlation { g, padded, w: &turned, bias: T::ZERO, y: gx });
    }
}

/// The data gradient in padded phases: scaled rows of `gy` added where their taps lie.
struct DataGradient<'a, T> {
    g: &'a Geometry,
    w: &'a [T],
    gy: &'a [T],
    padded: &'a mut [T],
}

impl<T: Real> Loop for DataGradient<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self { g, w, gy, padded } = self;
        padded.fill(T::ZERO);
        for (gy, w) in gy.chunks(g.map()).zip(w.chunks(g.taps())) {
            for (oy, gy) in gy.chunks(g.ow).enumerate() {
                for (ky, w) in w.chunks(g.kw).enumerate() {
                    for (kx, w) in w.iter().enumerate() {
                        let run = &mut padded[g.run(oy, ky, kx)..][..g.ow];
                        run.iter_mut().zip(gy).for_each(|(x, gy)| *x += *w * *gy);
                    }
                }
            }
        }
    }
}
