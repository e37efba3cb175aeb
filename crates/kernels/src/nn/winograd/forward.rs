//! Outputs of the convolutions, in float64 and then rounded.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::tiles::{InputTiles, OutputTiles};
use super::{Part, ROWS, filters, room};
use crate::even::Even;
use crate::nn::buffers::Real;
use crate::nn::columns::Geometry;
use crate::nn::pair::{Join, Pair, Pairs, Split, Target};
use crate::nn::product::{product_into, rows, unwritten};
use crate::nn::wide::{Loop, wide};

/// Output of the convolution, [B, O, H', W'], rounded once.
pub(in crate::nn) fn forward<T: Real>(g: &Geometry, x: &[T], w: &[T], bias: Option<&[T]>) -> Vec<T> {
    let len = g.batch * g.c_out * g.map();
    let mut y = Vec::with_capacity(len);
    let widen = |range: Range<usize>, to: &mut [f64]| wide(Widen { from: &x[range], to });
    each_part(g, w, widen, |part, products| {
        let to = y.spare_capacity_mut()[part.range(g.c_out * g.map())].par_chunks_mut(g.map());
        to.enumerate().evenly(ROWS).for_each(|(index, to)| {
            let bias = bias.map_or(0.0, |bias| bias[index % g.c_out].up());
            part.output(products, index, |from| wide(Round { from, bias, to }));
        });
    });
    // SAFETY: the parts cover the batch, and every map of a part is written.
    unsafe { y.set_len(len) };
    y
}

/// Output of the convolution, [B, O, H', W'], from pairs to pairs.
pub(in crate::nn) fn forward_pairs(g: &Geometry, x: Pair, w: &[f32]) -> Pairs {
    let len = g.batch * g.c_out * g.map();
    let (mut high, mut rest) = (Vec::with_capacity(len), Vec::with_capacity(len));
    let join = |range: Range<usize>, to: &mut [f64]| wide(Join { from: x.at(range), to });
    each_part(g, w, join, |part, products| {
        let range = part.range(g.c_out * g.map());
        let high = high.spare_capacity_mut()[range.clone()].par_chunks_mut(g.map());
        let rest = rest.spare_capacity_mut()[range].par_chunks_mut(g.map());
        high.zip(rest).enumerate().evenly(ROWS).for_each(|(index, (high, rest))| {
            part.output(products, index, |from| wide(Split { from, to: Target { high, rest } }));
        });
    });
    // SAFETY: the parts cover the batch, and both halves of every map of a part are written.
    unsafe {
        high.set_len(len);
        rest.set_len(len);
    }
    Pairs { high, rest }
}

/// Calls `take(part, products)` for all parts of the batch, the products being [16, O, tiles]. `load` gives numbers of `x`.
fn each_part<T: Real>(
    g: &Geometry,
    w: &[T],
    load: impl Fn(Range<usize>, &mut [f64]) + Sync,
    mut take: impl FnMut(&Part, &[f64]),
) {
    let w: Vec<f64> = w.iter().map(|w| w.up()).collect();
    let filters = filters(g, &w);
    // SAFETY: `filters` writes all of them.
    let filters = unsafe { filters.assume_init_ref() };
    let parts = Part::all::<f64>(g);
    // The first part is one of the largest.
    let (mut x, mut products) = (room(parts[0].numbers(g.c_in)), room(parts[0].numbers(g.c_out)));
    for part in &parts {
        let x = &mut x[..part.numbers(g.c_in)];
        part.each_map(x, g.c_in, |c, image, to| {
            f64::with_scratch(g.plane(), |map| {
                let from = image * g.image() + c * g.plane();
                load(from..from + g.plane(), map);
                wide(InputTiles { map, tiling: part.tiling, to });
            });
        });
        let products = &mut products[..part.numbers(g.c_out)];
        // SAFETY: `each_map` has written the tiles of all maps of the part.
        part.multiply_forward(filters, unsafe { x.assume_init_ref() }, products);
        // SAFETY: the products are written.
        take(part, unsafe { products.assume_init_ref() });
    }
}

impl Part<'_> {
    /// `m = ŵ x̂` of each of the sixteen entries.
    fn multiply_forward(&self, filters: &[f64], x: &[f64], products: &mut [MaybeUninit<f64>]) {
        let (tiles, inputs, outputs) = (self.tiles(), self.g.c_in, self.g.c_out);
        let factors = filters.par_chunks(outputs * inputs).zip(x.par_chunks(inputs * tiles));
        products.par_chunks_mut(outputs * tiles).zip(factors).evenly(1).for_each(|(to, (w, x))| {
            product_into((outputs, tiles, inputs), (to, tiles), (w, rows(inputs)), (x, rows(tiles)));
        });
    }

    /// Hands the part's output map of this index to `f`.
    fn output(&self, products: &[f64], index: usize, f: impl FnOnce(&[f64])) {
        let (g, tiles, count) = (self.g, self.tiles(), self.tiling.count());
        let (image, o) = (index / g.c_out, index % g.c_out);
        let from = std::array::from_fn(|point| &products[(point * g.c_out + o) * tiles + image * count..][..count]);
        f64::with_scratch(g.map(), |map| {
            wide(OutputTiles { from, tiling: self.tiling, to: unwritten(map) });
            f(map);
        });
    }
}

/// Numbers to float64.
struct Widen<'a, T> {
    from: &'a [T],
    to: &'a mut [f64],
}

impl<T: Real> Loop for Widen<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        self.to.iter_mut().zip(self.from).for_each(|(to, from)| *to = from.up());
    }
}

/// Numbers from float64, with a bias.
struct Round<'a, T> {
    from: &'a [f64],
    bias: f64,
    to: &'a mut [MaybeUninit<T>],
}

impl<T: Real> Loop for Round<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            to.write(T::down(*from + self.bias));
        }
    }
}
