//! Dense 3×3 convolutions of stride 1 by Winograd's minimal filters F(2×2, 3×3): sixteen products where the
//! definition has thirty-six (Lavin and Gray 2016, arXiv:1509.09308, section 4).
//!
//! With the matrices `A`, `B` and `G` of that section, 2×2 outputs of a filter `w` over 4×4 pixels `x` are
//! `y = Aᵀ [(G w Gᵀ) ⊙ (Bᵀ x B)] A`. The adjoint of this gives both gradients from one transform of `∂y`:
//! `∂x = B [(G w Gᵀ) ⊙ (A ∂y Aᵀ)] Bᵀ` and `∂w = Gᵀ [(Bᵀ x B) ⊙ (A ∂y Aᵀ)] G`, summed over channels and tiles, where each of
//! the sixteen entries is a matrix product. The transforms add and halve; their rounding is of the size of the products' own.
//!
//! Outputs are computed in float64, where somebody asks for accurate sums: with four ninths of the products that takes less
//! time than accurate sums in float32 do, and it rounds once. Gradients are computed in the type of the numbers.
//!
//! All sums run over the whole batch in one order, so the bits do not depend on the number of threads.

mod backward;
mod filters;
mod forward;
mod gradient_tiles;
mod tiles;

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

pub(super) use self::backward::backward;
use self::filters::Filters;
pub(super) use self::forward::{forward, forward_pairs};
use self::tiles::{POINTS, Tiling};
use super::buffers::Real;
use super::columns::Geometry;
use super::wide::wide;
use crate::even::Even;

/// Channels on each side that make the products large enough.
const CHANNELS: usize = 32;
/// Tiles of a batch that pay for the transforms of the filters.
const TILES: usize = 64;
/// Products of the definition that pay for three passes in place of one.
const WORK: usize = 128 * 1024 * 1024;
/// Bytes of a transformed part of the batch, which has at least an image, so that its tiles stay in the processor's caches.
const BYTES: usize = 4 * 1024 * 1024;
/// Rows that a task transforms.
const ROWS: usize = 8;

/// Whether a convolution is of this kind and gains by it.
pub(super) fn applies(g: &Geometry) -> bool {
    let config = g.config;
    if (g.kh, g.kw, config.stride, config.dilation, config.groups) != (3, 3, 1, 1, 1) {
        return false;
    }
    let tiling = Tiling::of(g);
    let (products, plain) = (POINTS * tiling.count(), 9 * g.map());
    let enough = g.batch * tiling.count() >= TILES && g.batch * plain * g.c_in * g.c_out >= WORK;
    enough && tiling.fits() && g.c_in.min(g.c_out) >= CHANNELS && 3 * products <= 2 * plain
}

/// Memory for `len` numbers.
fn room<T>(len: usize) -> Box<[MaybeUninit<T>]> {
    Box::new_uninit_slice(len)
}

/// The sixteen planes of a buffer, each cut into pieces of `piece` numbers: the pieces of each index together.
fn pieces<T>(buffer: &mut [T], piece: usize) -> Vec<[&mut [T]; POINTS]> {
    let plane = buffer.len() / POINTS;
    let mut planes: Vec<_> = buffer.chunks_mut(plane).map(|plane| plane.chunks_mut(piece)).collect();
    (0..plane.div_ceil(piece))
        .map(|_| std::array::from_fn(|point| planes[point].next().expect("all planes have as many pieces")))
        .collect()
}

/// `G w Gᵀ` of all filters, [16, O, C].
fn filters<T: Real>(g: &Geometry, w: &[T]) -> Box<[MaybeUninit<T>]> {
    let mut to = room(POINTS * g.c_out * g.c_in);
    let tasks: Vec<_> = pieces(&mut to, ROWS * g.c_in).into_iter().zip(w.chunks(ROWS * g.taps())).collect();
    tasks.into_par_iter().evenly(1).for_each(|(to, w)| wide(Filters { w, to }));
    to
}

/// Some images of the batch.
struct Part<'a> {
    g: &'a Geometry,
    tiling: Tiling,
    images: Range<usize>,
}

impl<'a> Part<'a> {
    /// The batch in parts of as many images, the first being one of the largest.
    fn all<T>(g: &'a Geometry) -> Vec<Self> {
        let tiling = Tiling::of(g);
        let image = size_of::<T>() * POINTS * g.c_in.max(g.c_out) * tiling.count();
        let parts = g.batch.div_ceil((BYTES / image).max(1));
        let images = g.batch.div_ceil(parts);
        let starts = (0..g.batch).step_by(images);
        starts.map(|first| Self { g, tiling, images: first..(first + images).min(g.batch) }).collect()
    }

    /// The numbers of the part's images, of so many each.
    fn range(&self, image: usize) -> Range<usize> {
        self.images.start * image..self.images.end * image
    }

    fn tiles(&self) -> usize {
        self.images.len() * self.tiling.count()
    }

    /// Transformed numbers of this many channels.
    fn numbers(&self, channels: usize) -> usize {
        POINTS * channels * self.tiles()
    }

    /// Calls `f(channel, image, the map's sixteen rows of tiles)` for all maps, on all threads.
    fn each_map<T: Real>(
        &self,
        to: &mut [MaybeUninit<T>],
        channels: usize,
        f: impl Fn(usize, usize, [&mut [MaybeUninit<T>]; POINTS]) + Sync,
    ) {
        debug_assert_eq!(to.len(), self.numbers(channels));
        let tasks = pieces(to, ROWS * self.tiles());
        tasks.into_par_iter().enumerate().evenly(1).for_each(|(task, planes)| {
            let mut planes = planes.map(|plane| plane.chunks_mut(self.tiling.count()));
            for c in task * ROWS..(task * ROWS + ROWS).min(channels) {
                for image in self.images.clone() {
                    let to = planes.each_mut().map(|plane| plane.next().expect("a row for every map"));
                    f(c, image, to);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use random::{Axis, Seeds, Stream};
    use testkit::tolerance::{IDENTITY_F64, ORACLE_F32, ROUNDED_F32, assert_close};

    use super::*;
    use crate::nn::conv::Want;
    use crate::nn::pair::{Pair, joined};
    use crate::nn::{Conv2dConfig, dense};

    fn geometry(channels: [usize; 2], batch: usize, [height, width]: [usize; 2], config: Conv2dConfig) -> Geometry {
        let out = |size| config.output_size(size, 3).unwrap();
        let ([c_in, c_out], (oh, ow)) = (channels, (out(height), out(width)));
        Geometry { batch, c_in, height, width, c_out, kh: 3, kw: 3, oh, ow, config }
    }

    fn padded(padding: usize) -> Conv2dConfig {
        Conv2dConfig { padding, ..Conv2dConfig::default() }
    }

    #[test]
    fn it_is_for_dense_filters_of_three_by_three_that_gain() {
        let gains = |channels, (batch, size), config| applies(&geometry(channels, batch, [size; 2], config));
        assert!(gains([64, 64], (8, 56), padded(1)) && gains([512, 512], (8, 7), padded(1)));
        assert!(!gains([31, 640], (8, 56), padded(1)), "few channels");
        assert!(!gains([2048, 2048], (2, 7), padded(1)), "few tiles");
        assert!(!gains([64, 64], (8, 14), padded(1)), "little work");
        assert!(!gains([640, 640], (64, 3), padded(1)), "a map that tiles cover badly");
        assert!(!gains([64, 64], (1, 512), padded(1)), "rows that are too long");
        for other in [
            Conv2dConfig { stride: 2, ..padded(1) },
            Conv2dConfig { dilation: 2, ..padded(1) },
            Conv2dConfig { groups: 2, ..padded(1) },
        ] {
            assert!(!gains([256, 256], (8, 56), other), "{other:?}");
        }
        let pointwise = Geometry { kh: 1, kw: 1, ..geometry([256, 256], 8, [56; 2], padded(1)) };
        assert!(!applies(&pointwise));
    }

    #[test]
    fn parts_cover_the_batch() {
        for (batch, size) in [(1, 8), (5, 40), (8, 56), (7, 100)] {
            let g = geometry([64, 32], batch, [size; 2], padded(1));
            let parts = Part::all::<f32>(&g);
            assert!(
                parts.iter().all(|part| part.images.len() <= parts[0].images.len()),
                "the first is one of the largest"
            );
            let images: Vec<_> = parts.into_iter().flat_map(|part| part.images).collect();
            assert_eq!(images, (0..batch).collect::<Vec<_>>());
        }
        assert!(Part::all::<f64>(&geometry([64, 64], 8, [56; 2], padded(1))).len() > 1);
    }

    /// Odd and even maps, every padding that the rows of pixels treat in a way of its own, one part of the batch and more.
    fn problems() -> Vec<Geometry> {
        vec![
            geometry([3, 5], 2, [9, 11], padded(1)),
            geometry([8, 9], 3, [8, 8], padded(1)),
            geometry([17, 2], 1, [7, 14], padded(1)),
            geometry([2, 3], 2, [12, 11], padded(0)),
            geometry([4, 2], 2, [10, 13], padded(2)),
            geometry([2, 4], 1, [11, 12], padded(3)),
            geometry([2, 2], 1, [3, 5], padded(4)),
            geometry([1, 1], 1, [1, 1], padded(1)),
            geometry([2, 3], 1, [4, 256], padded(1)),
            geometry([32, 20], 5, [63, 41], padded(1)),
        ]
    }

    fn draw<T: Real>(n: usize, stream: &mut Stream) -> Vec<T> {
        // Numbers of float32, so that all types are given the same problem.
        (0..n).map(|_| T::down(f64::from(stream.normal() as f32))).collect()
    }

    /// `x`, `w` and `∂y` of a problem.
    fn data<T: Real>(g: &Geometry) -> [Vec<T>; 3] {
        let mut stream = Seeds::new(13).stream(Axis::Test, &[]);
        [g.batch * g.image(), g.c_out * g.taps(), g.batch * g.c_out * g.map()].map(|n| draw(n, &mut stream))
    }

    fn up<T: Real>(numbers: &[T]) -> Vec<f64> {
        numbers.iter().map(|v| v.up()).collect()
    }

    #[test]
    fn gradients_are_those_of_columns() {
        for g in problems() {
            let both = Want { x: true, weight: true };
            let [x, w, gy] = data::<f64>(&g);
            let (gx, gw) = dense::backward(&g, &x, &w, &gy, both);
            let (gx, gw) = (gx.unwrap(), gw.unwrap());
            let got = backward(&g, &x, &w, &gy, both);
            assert_close(&format!("{g:?} ∂x"), got.0.as_ref().unwrap(), &gx, gx.len(), IDENTITY_F64);
            assert_close(&format!("{g:?} ∂w"), got.1.as_ref().unwrap(), &gw, gw.len(), IDENTITY_F64);
            // One of them alone is the same bits.
            assert_eq!(backward(&g, &x, &w, &gy, Want { x: true, weight: false }), (got.0, None));
            assert_eq!(backward(&g, &x, &w, &gy, Want { x: false, weight: true }), (None, got.1));
            let [x, w, gy] = data::<f32>(&g);
            let (of_x, of_w) = backward(&g, &x, &w, &gy, both);
            assert_close(&format!("{g:?} float32 ∂x"), &up(&of_x.unwrap()), &gx, gx.len(), ORACLE_F32.gradient);
            assert_close(&format!("{g:?} float32 ∂w"), &up(&of_w.unwrap()), &gw, gw.len(), ORACLE_F32.gradient);
        }
    }

    #[test]
    fn outputs_are_those_of_columns_rounded_once() {
        for g in problems() {
            let [x, w, _] = data::<f64>(&g);
            let bias: Vec<f64> = (0..g.c_out).map(|o| o as f64 - 0.75).collect();
            let want = dense::forward(&g, &x, &w, Some(&bias), true);
            let [x, w, _] = data::<f32>(&g);
            let bias: Vec<f32> = bias.iter().map(|b| *b as f32).collect();
            let got = up(&forward(&g, &x, &w, Some(&bias)));
            let off = |got: &[f64], want: &[f64]| {
                let of = |(got, want): (&f64, &f64)| (got - want).abs() / want.abs().max(1e-5);
                assert_eq!(got.len(), want.len());
                got.iter().zip(want).map(of).fold(0.0, f64::max)
            };
            assert!(off(&got, &want) <= ROUNDED_F32, "{g:?}");
            // A pair holds what float64 has, all but a few bits.
            let rest: Vec<f32> = x.iter().map(|x| x * 1e-8).collect();
            let joined_x: Vec<f64> = x.iter().zip(&rest).map(|(high, rest)| joined(*high, *rest)).collect();
            let want = dense::forward(&g, &joined_x, &up(&w), None, true);
            let pairs = forward_pairs(&g, Pair { high: &x, rest: Some(&rest) }, &w);
            let got: Vec<f64> = pairs.high.iter().zip(&pairs.rest).map(|(high, rest)| joined(*high, *rest)).collect();
            assert_close(&format!("{g:?} pairs"), &got, &want, want.len(), IDENTITY_F64);
        }
    }

    #[test]
    fn a_pixel_that_is_not_finite_reaches_its_outputs_and_no_others() {
        // Tiles add and subtract pixels: none may cancel, nor spread over a whole tile.
        for (size, padding, bad) in [([9, 7], 1, f32::NAN), ([6, 8], 0, f32::INFINITY), ([5, 6], 2, f32::NEG_INFINITY)]
        {
            let g = geometry([2, 3], 2, size, padded(padding));
            let [x, w, gy] = data::<f32>(&g);
            for pixel in 0..g.plane() {
                let mut x = x.clone();
                x[g.image() + pixel] = bad;
                let meets = |out: usize, pixel: usize| (out..out + 3).contains(&(pixel + padding));
                for (index, y) in forward(&g, &x, &w, None).iter().enumerate() {
                    let (image, p, q) = (index / (g.c_out * g.map()), index / g.ow % g.oh, index % g.ow);
                    let hit = image == 1 && meets(p, pixel / g.width) && meets(q, pixel % g.width);
                    assert_eq!(!y.is_finite(), hit, "{g:?}, pixel {pixel}, output {index}: {y}");
                }
                let (_, gw) = backward(&g, &x, &w, &gy, Want { x: false, weight: true });
                assert!(gw.unwrap().iter().any(|v| !v.is_finite()), "{g:?}, pixel {pixel}");
            }
        }
    }
}
