//! Convolution by matrix products: `Y = W · columns(X)`, `∂W = ∂Y · columns(X)ᵀ`, `∂X = fold(Wᵀ · ∂Y)`.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::buffers::{Real, fresh};
use super::columns::Geometry;
use super::conv::Want;
use super::product::{product, product_into, product_rows, rows, transposed, unwritten};
use crate::even::Even;

/// Columns that a matrix product should at least have: small maps are put side by side.
const COLUMNS: usize = 256;
/// Pieces of the batch over which the filter gradient is accumulated; fixed, so that sums never depend on threads.
const PIECES: usize = 8;
/// The same for filters of many values, whose partial gradients would cost more to write and add than they gain.
const LARGE_PIECES: usize = 4;
/// Values of such a filter.
const LARGE: usize = 256 * 1024;
/// Values that one task adds up.
const CHUNK: usize = 16 * 1024;

/// How many images share a matrix product.
fn images_per_product(g: &Geometry) -> usize {
    if g.is_pointwise() { 1 } else { COLUMNS.div_ceil(g.map()) }
}

/// Puts the columns of the images `first..first + count` of one group side by side.
fn gather_columns<T: Real>(
    g: &Geometry,
    x: &[T],
    group: usize,
    images: std::ops::Range<usize>,
    padded: &mut [T],
    columns: &mut [T],
) {
    let (map, pitch) = (g.map(), g.map() * images.len());
    for (slot, image) in images.enumerate() {
        let from = image * g.image() + group * g.cg() * g.plane();
        g.pad(&x[from..from + g.cg() * g.plane()], padded);
        g.fill_columns(padded, columns, pitch, slot * map);
    }
}

/// Output of the convolution, [B, O, H', W'], with accurate sums if `close`.
pub(super) fn forward<T: Real>(g: &Geometry, x: &[T], w: &[T], bias: Option<&[T]>, close: bool) -> Vec<T> {
    let per_image = g.c_out * g.map();
    let tile = images_per_product(g);
    // SAFETY: every group writes its maps of every image of the tile, so together they write all of it.
    unsafe {
        fresh(g.batch * per_image, (tile * per_image, 1), |index, y| {
            let first = index * tile;
            for group in 0..g.config.groups {
                let part = Part { g, x, images: first..first + y.len() / per_image, group, close };
                part.forward(w, y);
            }
            if let Some(bias) = bias {
                // SAFETY: as above, all of it is written.
                let y = y.assume_init_mut();
                for (map, o) in y.chunks_mut(g.map()).zip(bias.iter().cycle()) {
                    map.iter_mut().for_each(|v| *v += *o);
                }
            }
        })
    }
}

/// A group of the maps of a few images.
struct Part<'a, T> {
    g: &'a Geometry,
    x: &'a [T],
    images: std::ops::Range<usize>,
    group: usize,
    close: bool,
}

impl<T: Real> Part<'_, T> {
    /// Writes the group's maps of each image.
    fn forward(&self, w: &[T], y: &mut [MaybeUninit<T>]) {
        let Self { g, x, group, close, .. } = *self;
        let (og, map, taps, count) = (g.og(), g.map(), g.taps(), self.images.len());
        let w = &w[group * og * taps..(group + 1) * og * taps];
        if g.is_pointwise() {
            for (slot, image) in self.images.clone().enumerate() {
                let from = image * g.image() + group * g.cg() * g.plane();
                let to = (slot * g.c_out + group * og) * map;
                product_rows((og, map, taps), (&mut y[to..to + og * map], map), close, (w, taps), (&x[from..], map));
            }
            return;
        }
        let pitch = count * map;
        let padded_len = g.cg() * g.padded_plane();
        let direct = count == 1;
        let out_len = if direct { 0 } else { og * pitch };
        T::with_scratch(padded_len + taps * pitch + out_len, |scratch| {
            let (padded, rest) = scratch.split_at_mut(padded_len);
            let (columns, out) = rest.split_at_mut(taps * pitch);
            gather_columns(g, x, group, self.images.clone(), padded, columns);
            let size = (og, pitch, taps);
            if direct {
                let y = &mut y[group * og * map..(group + 1) * og * map];
                product_rows(size, (y, map), close, (w, taps), (columns, pitch));
            } else {
                product_rows(size, (unwritten(out), pitch), close, (w, taps), (columns, pitch));
                for slot in 0..count {
                    for o in 0..og {
                        let to = (slot * g.c_out + group * og + o) * map;
                        y[to..to + map].write_copy_of_slice(&out[o * pitch + slot * map..][..map]);
                    }
                }
            }
        });
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
    let tiles = |first: usize, count: usize, mut gx: Option<&mut [MaybeUninit<T>]>, mut gw: Option<Sum<T>>| {
        let tile = images_per_product(g).min(count);
        let mut start = 0;
        while start < count {
            let images = first + start..first + (start + tile).min(count);
            let gx = gx.as_deref_mut().map(|gx| &mut gx[start * g.image()..(start + images.len()) * g.image()]);
            let tile = Tile { g, x, w, gy, images };
            tile.backward(gx, gw.as_mut());
            start += tile.images.len();
        }
    };
    // SAFETY: each tile writes the maps of all groups of its images, or adds to the filters of all groups; the tiles cover
    // the piece.
    unsafe { by_pieces(g, want, w.len(), tiles) }
}

/// A sum that is first written and then added to.
pub(super) struct Sum<'a, T> {
    to: &'a mut [MaybeUninit<T>],
    /// Whether all of it is written.
    written: bool,
}

impl<T: Real> Sum<'_, T> {
    /// All of it, to add to: zeros at first.
    pub(super) fn begun(&mut self) -> &mut [T] {
        if !self.written {
            self.to.fill(MaybeUninit::new(T::ZERO));
            self.written = true;
        }
        // SAFETY: it is written.
        unsafe { self.to.assume_init_mut() }
    }
}

/// Runs `f(first image, images, gradient of these images, filter gradient)` on fixed pieces of the batch and adds the
/// filter gradients in order.
///
/// # Safety
/// `f` must write all of both gradients that it is given.
pub(super) unsafe fn by_pieces<T: Real>(
    g: &Geometry,
    want: Want,
    weights: usize,
    f: impl Fn(usize, usize, Option<&mut [MaybeUninit<T>]>, Option<Sum<T>>) + Sync,
) -> (Option<Vec<T>>, Option<Vec<T>>) {
    let pieces = if weights < LARGE { PIECES } else { LARGE_PIECES };
    let piece = g.batch.div_ceil(pieces).max(1);
    let len = g.batch * g.image();
    let mut gx = want.x.then(|| Vec::with_capacity(len));
    let slices: Vec<Option<&mut [MaybeUninit<T>]>> = match gx.as_mut() {
        Some(gx) => gx.spare_capacity_mut()[..len].chunks_mut(piece * g.image()).map(Some).collect(),
        None => (0..g.batch.div_ceil(piece)).map(|_| None).collect(),
    };
    let partial: Vec<Option<Vec<T>>> = slices
        .into_par_iter()
        .enumerate()
        .evenly(1)
        .map(|(index, gx)| {
            let first = index * piece;
            let mut gw = want.weight.then(|| Vec::with_capacity(weights));
            let sum = gw.as_mut().map(|gw| Sum { to: &mut gw.spare_capacity_mut()[..weights], written: false });
            f(first, piece.min(g.batch - first), gx, sum);
            // SAFETY: `f` has written all of it, as the caller promises.
            gw.iter_mut().for_each(|gw| unsafe { gw.set_len(weights) });
            gw
        })
        .collect();
    // SAFETY: the pieces cover the batch, and `f` has written all of each, as the caller promises.
    gx.iter_mut().for_each(|gx| unsafe { gx.set_len(len) });
    let gw = want.weight.then(|| {
        let mut parts = partial.into_iter().flatten();
        let mut sum = parts.next().unwrap_or_else(|| vec![T::ZERO; weights]);
        let rest: Vec<Vec<T>> = parts.collect();
        sum.par_chunks_mut(CHUNK).enumerate().evenly(1).for_each(|(index, sum)| {
            for part in &rest {
                sum.iter_mut().zip(&part[index * CHUNK..]).for_each(|(sum, part)| *sum += *part);
            }
        });
        sum
    });
    (gx, gw)
}

/// A few images of a backward pass.
struct Tile<'a, T> {
    g: &'a Geometry,
    x: &'a [T],
    w: &'a [T],
    gy: &'a [T],
    images: std::ops::Range<usize>,
}

impl<T: Real> Tile<'_, T> {
    /// Writes the gradient of these images, and adds to the filter gradient.
    fn backward(&self, mut gx: Option<&mut [MaybeUninit<T>]>, mut gw: Option<&mut Sum<T>>) {
        for group in 0..self.g.config.groups {
            if self.g.is_pointwise() {
                self.pointwise(group, gx.as_deref_mut(), gw.as_deref_mut());
            } else {
                self.columns(group, gx.as_deref_mut(), gw.as_deref_mut());
            }
        }
        if let Some(gw) = gw {
            gw.written = true;
        }
    }

    /// Adds `∂Y · columns(X)ᵀ` of some columns to the group's filter gradient.
    fn add_filters(&self, group: usize, gw: &mut Sum<T>, (gy, x): (&[T], &[T]), (pitch, again): (usize, bool)) {
        let (og, taps) = (self.g.og(), self.g.taps());
        let to = &mut gw.to[group * og * taps..(group + 1) * og * taps];
        let (size, gy, x) = ((og, taps, pitch), (gy, rows(pitch)), (x, transposed(pitch)));
        if gw.written || again {
            // SAFETY: the first products of the group have written it.
            product(size, (unsafe { to.assume_init_mut() }, taps), true, gy, x);
        } else {
            product_into(size, (to, taps), gy, x);
        }
    }

    fn weights(&self, group: usize) -> &[T] {
        let len = self.g.og() * self.g.taps();
        &self.w[group * len..(group + 1) * len]
    }

    /// Gradient maps of one image's group.
    fn gy_of(&self, image: usize, group: usize) -> &[T] {
        let len = self.g.og() * self.g.map();
        &self.gy[image * self.g.c_out * self.g.map() + group * len..][..len]
    }

    fn pointwise(&self, group: usize, mut gx: Option<&mut [MaybeUninit<T>]>, mut gw: Option<&mut Sum<T>>) {
        let g = self.g;
        let (og, cg, map) = (g.og(), g.cg(), g.map());
        for (slot, image) in self.images.clone().enumerate() {
            let gy = self.gy_of(image, group);
            if let Some(gw) = gw.as_deref_mut() {
                let x = &self.x[image * g.image() + group * cg * map..][..cg * map];
                self.add_filters(group, gw, (gy, x), (map, slot > 0));
            }
            if let Some(gx) = gx.as_deref_mut() {
                let gx = &mut gx[slot * g.image() + group * cg * map..][..cg * map];
                let w = self.weights(group);
                product_into((cg, map, og), (gx, map), (w, transposed(cg)), (gy, rows(map)));
            }
        }
    }

    fn columns(&self, group: usize, gx: Option<&mut [MaybeUninit<T>]>, gw: Option<&mut Sum<T>>) {
        let g = self.g;
        let (og, map, taps, count) = (g.og(), g.map(), g.taps(), self.images.len());
        let pitch = count * map;
        let padded_len = g.cg() * g.padded_plane();
        let gathered_len = if count == 1 { 0 } else { og * pitch };
        T::with_scratch(padded_len + taps * pitch + gathered_len, |scratch| {
            let (padded, rest) = scratch.split_at_mut(padded_len);
            let (columns, gathered) = rest.split_at_mut(taps * pitch);
            let gy: &[T] = if count == 1 {
                self.gy_of(self.images.start, group)
            } else {
                self.gather_gradient(group, gathered);
                gathered
            };
            if let Some(gw) = gw {
                gather_columns(g, self.x, group, self.images.clone(), padded, columns);
                self.add_filters(group, gw, (gy, columns), (pitch, false));
            }
            if let Some(gx) = gx {
                let w = self.weights(group);
                product((taps, pitch, og), (columns, pitch), false, (w, transposed(taps)), (gy, rows(pitch)));
                for (slot, gx) in gx.chunks_mut(g.image()).enumerate() {
                    padded.fill(T::ZERO);
                    g.add_columns(columns, padded, pitch, slot * map);
                    let len = g.cg() * g.plane();
                    g.unpad(padded, &mut gx[group * len..(group + 1) * len]);
                }
            }
        });
    }

    /// The gradient maps of the tile's images side by side, row `o`.
    fn gather_gradient(&self, group: usize, gathered: &mut [T]) {
        let (map, pitch) = (self.g.map(), self.images.len() * self.g.map());
        for (slot, image) in self.images.clone().enumerate() {
            for (o, from) in self.gy_of(image, group).chunks(map).enumerate() {
                gathered[o * pitch + slot * map..][..map].copy_from_slice(from);
            }
        }
    }
}
