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

/// Channels on each side that make the products large enough.
const CHANNELS: usize = 32;
/// Tiles of a batch that pay for the transforms of the filters.
const TILES: usize = 64;
/// Bytes of a transformed part of the batch, so that its tiles stay in the processor's caches.
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
    tiling.fits() && g.c_in.min(g.c_out) >= CHANNELS && g.batch * tiling.count() >= TILES && 3 * products <= 2 * plain
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
    tasks.into_par_iter().for_each(|(to, w)| wide(Filters { w, to }));
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
        tasks.into_par_iter().enumerate().for_each(|(task, planes)| {
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
    use super::*;
    use crate::nn::Conv2dConfig;

    fn geometry(channels: [usize; 2], [batch, size, kernel]: [usize; 3], config: Conv2dConfig) -> Geometry {
        let out = config.output_size(size, kernel).unwrap();
        let ([c_in, c_out], [kh, kw], [height, width], [oh, ow]) = (channels, [kernel; 2], [size; 2], [out; 2]);
        Geometry { batch, c_in, height, width, c_out, kh, kw, oh, ow, config }
    }

    #[test]
    fn it_is_for_dense_filters_of_three_by_three_that_gain() {
        let padded = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
        let gains = |channels, sizes, config| applies(&geometry(channels, sizes, config));
        assert!(gains([32, 32], [8, 7, 3], padded) && gains([512, 64], [1, 16, 3], padded));
        assert!(!gains([31, 64], [8, 14, 3], padded), "few channels");
        assert!(!gains([64, 64], [2, 7, 3], padded), "few tiles");
        assert!(!gains([64, 64], [64, 3, 3], padded), "a map that tiles cover badly");
        assert!(!gains([64, 64], [1, 512, 3], padded), "rows that are too long");
        assert!(!gains([64, 64], [8, 14, 1], Conv2dConfig::default()), "another kernel");
        for other in [
            Conv2dConfig { stride: 2, ..padded },
            Conv2dConfig { dilation: 2, ..padded },
            Conv2dConfig { groups: 2, ..padded },
        ] {
            assert!(!gains([64, 64], [8, 14, 3], other), "{other:?}");
        }
    }

    #[test]
    fn parts_cover_the_batch() {
        let padded = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
        for (batch, size) in [(1, 8), (5, 40), (8, 56), (7, 100)] {
            let g = geometry([64, 32], [batch, size, 3], padded);
            let images: Vec<_> = Part::all::<f32>(&g).into_iter().flat_map(|part| part.images).collect();
            assert_eq!(images, (0..batch).collect::<Vec<_>>());
        }
        assert!(Part::all::<f64>(&geometry([64, 64], [8, 56, 3], padded)).len() > 1);
    }
}
