//! Gradients of the convolutions.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::filters::FilterGradients;
use super::gradient_tiles::{GradientTiles, InputGradients};
use super::tiles::{InputTiles, POINTS};
use super::{Part, ROWS, filters, room};
use crate::even::Even;
use crate::nn::buffers::{Real, fresh};
use crate::nn::columns::Geometry;
use crate::nn::conv::Want;
use crate::nn::product::{product, product_into, rows, transposed};
use crate::nn::wide::wide;

/// Gradients in `x` and `weight`, those of them that are wanted.
pub(in crate::nn) fn backward<T: Real>(
    g: &Geometry,
    x: &[T],
    w: &[T],
    gy: &[T],
    want: Want,
) -> (Option<Vec<T>>, Option<Vec<T>>) {
    let all = Part::all::<T>(g);
    let filters = want.x.then(|| filters(g, w));
    let mut gw = want.weight.then(|| room::<T>(POINTS * g.c_out * g.c_in));
    let mut gx = Vec::with_capacity(if want.x { g.batch * g.image() } else { 0 });
    let mut parts = Parts::new(g, &all[0], want);
    for part in &all {
        part.transform(x, gy, &mut parts);
        // SAFETY: `transform` has written what is read of the parts, and the filters are written, as are the sums from the
        // second part of the batch on.
        unsafe { part.multiply(filters.as_deref(), &mut parts, gw.as_deref_mut()) };
        if want.x {
            let gx = &mut gx.spare_capacity_mut()[part.range(g.image())];
            // SAFETY: `multiply` has written the maps' tiles.
            part.restore(unsafe { parts.maps[..part.numbers(g.c_in)].assume_init_ref() }, gx);
        }
    }
    if want.x {
        // SAFETY: the parts of the batch cover it, and `restore` writes all images of a part.
        unsafe { gx.set_len(g.batch * g.image()) };
    }
    // SAFETY: the products have written all of them.
    let gw = gw.map(|gw| filter_gradients(g, unsafe { gw.assume_init_ref() }));
    (want.x.then_some(gx), gw)
}

/// `Gᵀ m G` of the sums, [O, C, 3, 3].
fn filter_gradients<T: Real>(g: &Geometry, sums: &[T]) -> Vec<T> {
    let plane = g.c_out * g.c_in;
    // SAFETY: the loop writes the nine numbers of each channel of a row.
    unsafe {
        fresh(plane * 9, (g.taps(), ROWS), |o, to| {
            let from = std::array::from_fn(|point| &sums[point * plane + o * g.c_in..][..g.c_in]);
            wide(FilterGradients { from, to });
        })
    }
}

/// The transformed numbers of a part of the batch.
struct Parts<T> {
    /// `Bᵀ x B`, [16, C, tiles].
    x: Box<[MaybeUninit<T>]>,
    /// `A ∂y Aᵀ`, [16, O, tiles].
    gy: Box<[MaybeUninit<T>]>,
    /// The products that make ∂x, [16, C, tiles].
    maps: Box<[MaybeUninit<T>]>,
}

impl<T> Parts<T> {
    /// Room for the first part of the batch, and so for all.
    fn new(g: &Geometry, first: &Part, want: Want) -> Self {
        let of = |channels: usize| room(first.numbers(channels));
        Self { x: of(if want.weight { g.c_in } else { 0 }), gy: of(g.c_out), maps: of(if want.x { g.c_in } else { 0 }) }
    }
}

impl Part<'_> {
    /// Writes `A ∂y Aᵀ`, and `Bᵀ x B` where there is room for it.
    fn transform<T: Real>(&self, x: &[T], gy: &[T], parts: &mut Parts<T>) {
        let g = self.g;
        if !parts.x.is_empty() {
            let to = &mut parts.x[..self.numbers(g.c_in)];
            self.each_map(to, g.c_in, |c, image, to| {
                let map = &x[image * g.image() + c * g.plane()..][..g.plane()];
                wide(InputTiles { map, tiling: self.tiling, to });
            });
        }
        let to = &mut parts.gy[..self.numbers(g.c_out)];
        self.each_map(to, g.c_out, |o, image, to| {
            let map = &gy[(image * g.c_out + o) * g.map()..][..g.map()];
            wide(GradientTiles { map, tiling: self.tiling, to });
        });
    }

    /// `m = ŵᵀ ∂ŷ` for the gradient in `x`, and `∂ŵ += ∂ŷ x̂ᵀ`, of each of the sixteen entries.
    ///
    /// # Safety
    /// The part's tiles of `x` and of `∂y` must be written, as must `filters`, and `sums` unless this is the first part.
    unsafe fn multiply<T: Real>(
        &self,
        filters: Option<&[MaybeUninit<T>]>,
        parts: &mut Parts<T>,
        sums: Option<&mut [MaybeUninit<T>]>,
    ) {
        let (tiles, inputs, outputs) = (self.tiles(), self.g.c_in, self.g.c_out);
        let Parts { x, gy, maps } = parts;
        let in_maps = |(point, to, w): (usize, &mut [MaybeUninit<T>], &[MaybeUninit<T>])| {
            // SAFETY: as the caller promises.
            let (w, gy) = unsafe { (w.assume_init_ref(), matrix(gy, point, outputs * tiles)) };
            product_into((inputs, tiles, outputs), (to, tiles), (w, transposed(inputs)), (gy, rows(tiles)));
        };
        let in_sums = |(point, to): (usize, &mut [MaybeUninit<T>])| {
            // SAFETY: as the caller promises.
            let (gy, x) = unsafe { (matrix(gy, point, outputs * tiles), matrix(x, point, inputs * tiles)) };
            let (gy, x) = ((gy, rows(tiles)), (x, transposed(tiles)));
            let size = (outputs, inputs, tiles);
            if self.images.start == 0 {
                product_into(size, (to, inputs), gy, x);
            } else {
                // SAFETY: as the caller promises.
                product(size, (unsafe { to.assume_init_mut() }, inputs), true, gy, x);
            }
        };
        let maps = maps.get_mut(..self.numbers(inputs)).unwrap_or_default().chunks_mut((inputs * tiles).max(1));
        let maps: Vec<_> = maps.zip(filters.unwrap_or_default().chunks(inputs * outputs)).enumerate().collect();
        let sums: Vec<_> = sums.unwrap_or_default().chunks_mut(inputs * outputs).enumerate().collect();
        rayon::join(
            || maps.into_par_iter().evenly(1).for_each(|(point, (to, w))| in_maps((point, to, w))),
            || sums.into_par_iter().evenly(1).for_each(in_sums),
        );
    }

    /// `B m Bᵀ` of the products, overlapping tiles added: the gradient of the part's images.
    fn restore<T: Real>(&self, products: &[T], gx: &mut [MaybeUninit<T>]) {
        let (g, tiles, count) = (self.g, self.tiles(), self.tiling.count());
        gx.par_chunks_mut(g.plane()).enumerate().evenly(ROWS).for_each(|(index, to)| {
            let (image, c) = (index / g.c_in, index % g.c_in);
            let from = std::array::from_fn(|point| &products[(point * g.c_in + c) * tiles + image * count..][..count]);
            wide(InputGradients { from, tiling: self.tiling, to });
        });
    }
}

/// One of the sixteen matrices of `len` numbers.
///
/// # Safety
/// It must be written.
unsafe fn matrix<T>(buffer: &[MaybeUninit<T>], point: usize, len: usize) -> &[T] {
    // SAFETY: as the caller promises.
    unsafe { buffer[point * len..][..len].assume_init_ref() }
}
