//! Convolution from pairs to pairs of float32, by float64 products of as many columns as stay in a cache.

use super::buffers::Real;
use super::columns::Geometry;
use super::pair::{Join, Pair, Pairs, Split, Target, fresh_pairs};
use super::product::{product, rows};
use super::wide::wide;
use super::{strided, winograd};

/// Columns that a product should at least have: small maps are put side by side.
const COLUMNS: usize = 256;
/// Numbers that the columns of a product are at most, a megabyte: larger maps are cut into strips. But a strip has at least
/// `NARROW` columns, or a row of pixels.
const NUMBERS: usize = 128 * 1024;
const NARROW: usize = 64;

/// Output of the convolution, [B, O, H', W'].
pub(super) fn forward(g: &Geometry, x: Pair, w: &[f32]) -> Pairs {
    if strided::applies(g) {
        let (high, rest) = (strided::met(g, x.high), x.rest.map(|rest| strided::met(g, rest)));
        return forward(&strided::plain(g), Pair { high: &high, rest: rest.as_deref() }, w);
    }
    if winograd::applies(g) {
        return winograd::forward_pairs(g, x, w);
    }
    let w: Vec<f64> = w.iter().map(|w| w.up()).collect();
    let per_image = g.c_out * g.map();
    let tile = COLUMNS.div_ceil(g.map());
    // SAFETY: every group writes its maps of every image of the tile, so together they write all of it.
    unsafe {
        fresh_pairs(g.batch * per_image, (tile * per_image, 1), |index, mut y| {
            let first = index * tile;
            let images = first..first + y.high.len() / per_image;
            for (group, w) in w.chunks(g.og() * g.taps()).enumerate() {
                let part = Part { g, x, w, images: images.clone(), group };
                if g.is_pointwise() { part.pointwise(&mut y) } else { part.columns(&mut y) }
            }
        })
    }
}

/// A group of the maps of a few images.
struct Part<'a> {
    g: &'a Geometry,
    x: Pair<'a>,
    w: &'a [f64],
    images: std::ops::Range<usize>,
    group: usize,
}

impl Part<'_> {
    /// The group's maps of an image.
    fn maps_of(&self, image: usize) -> Pair<'_> {
        let len = self.g.cg() * self.g.plane();
        let from = image * self.g.image() + self.group * len;
        self.x.at(from..from + len)
    }

    /// Pixels of a strip of every map: all, where several images are side by side.
    fn strip(&self) -> usize {
        let (taps, map) = (self.g.taps(), self.g.map());
        if self.images.len() > 1 { map } else { (NUMBERS / taps).max(NARROW).min(map) }
    }

    fn pointwise(&self, y: &mut Target) {
        let g = self.g;
        let (map, strip, count) = (g.map(), self.strip(), self.images.len());
        f64::with_scratch((g.cg() + g.og()) * strip * count, |scratch| {
            for first in (0..map).step_by(strip) {
                let len = strip.min(map - first);
                let (columns, out) = scratch.split_at_mut(g.cg() * len * count);
                for (slot, image) in self.images.clone().enumerate() {
                    let maps = self.maps_of(image);
                    for (c, row) in columns.chunks_mut(len * count).enumerate() {
                        let from = maps.at(c * map + first..c * map + first + len);
                        wide(Join { from, to: &mut row[slot * len..][..len] });
                    }
                }
                self.multiply(columns, out, (first, len), y);
            }
        });
    }

    fn columns(&self, y: &mut Target) {
        let g = self.g;
        let (plane, padded, count) = (g.cg() * g.plane(), g.cg() * g.padded_plane(), self.images.len());
        let strip = (self.strip() / g.ow).max(1);
        f64::with_scratch(plane + padded + (g.taps() + g.og()) * strip * g.ow * count, |scratch| {
            let (maps, rest) = scratch.split_at_mut(plane);
            let (padded, products) = rest.split_at_mut(padded);
            for first in (0..g.oh).step_by(strip) {
                // The geometry of these rows alone; their first runs start further on.
                let rows = Geometry { oh: strip.min(g.oh - first), ..*g };
                let pitch = rows.map() * count;
                let (columns, out) = products.split_at_mut(g.taps() * pitch);
                for (slot, image) in self.images.clone().enumerate() {
                    if first == 0 {
                        wide(Join { from: self.maps_of(image), to: &mut *maps });
                        g.pad(maps, padded);
                    }
                    rows.fill_columns(&padded[first * g.run_step()..], columns, pitch, slot * rows.map());
                }
                self.multiply(columns, out, (first * g.ow, rows.map()), y);
            }
        });
    }

    /// The pixels `first..first + len` of every map, from their columns: each image's side by side in the rows of `out`.
    fn multiply(&self, columns: &[f64], out: &mut [f64], (first, len): (usize, usize), y: &mut Target) {
        let g = self.g;
        let pitch = self.images.len() * len;
        let out = &mut out[..g.og() * pitch];
        product((g.og(), pitch, g.taps()), (out, pitch), false, (self.w, rows(g.taps())), (columns, rows(pitch)));
        for (o, row) in out.chunks(pitch).enumerate() {
            for (slot, from) in row.chunks(len).enumerate() {
                let to = (slot * g.c_out + self.group * g.og() + o) * g.map() + first;
                wide(Split { from, to: y.at(to..to + len) });
            }
        }
    }
}
