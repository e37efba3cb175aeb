//! A plain float32 product on all threads.
//!
//! The factors are put in the order of the tiles once, for all threads (the left one only where it is not row by row); each
//! task then makes a few rows of the result, in blocks of the right factor that stay in the second cache. So tasks can be
//! many, and no thread waits long for the last.
//!
//! A number is the sum of its products in the order of the depth, in parts that depend on the depth alone.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::panels::{pack, turn};
use super::plain_tile::{Before, Place, PlainTile, Rows};
use super::vector::{LANES, Line, PANEL, ROWS, Register, Vector};
use super::{Size, Strides};
use crate::even::Even;
use crate::nn::buffers::fresh;

/// Depth of a block, at most: deeper products are cut into equal parts, whole vectors long.
const DEPTH: usize = 384;
/// Vectors of a block of the right factor: a quarter of a megabyte, half of a usual second cache.
const VECTORS: usize = 8 * 1024;
/// Panels that one task puts in order.
const PANELS: usize = 8;
/// Tiles of the left factor that one task puts in order.
const TILES: usize = 48;
/// Rows of a task, at least and at most: whole tiles.
const TASK: [usize; 2] = [24, 96];
/// Tasks that there should be.
const TASKS: usize = 16;

/// `lhs · rhs`, with a number added to each column where there is a `bias`; one of each factor's strides is 1.
///
/// # Safety
/// The processor has the register's instructions, and AVX2 and FMA.
pub(super) unsafe fn multiply<W: Register>(
    (m, n, k): Size,
    (lhs, strides): (&[f32], Strides),
    rhs: (&[f32], Strides),
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let depth = k.div_ceil(k.div_ceil(DEPTH)).next_multiple_of(LANES);
    let panels = in_order((n, W::COLUMNS, PANELS), (k, depth), |rows, columns, to| {
        // SAFETY: as the caller promises.
        unsafe { pack(rows, columns, rhs, PANEL * W::VECTORS, Line::unwritten(to)) };
    });
    let turned = (strides.col != 1).then(|| {
        in_order((m, ROWS, TILES), (k, depth), |rows, columns, to| turn(rows, columns, (lhs, strides.col), to))
    });
    // SAFETY: `pack` and `turn` write all that they are given.
    let (panels, turned) = unsafe { (panels.assume_init_ref(), turned.as_ref().map(|tiles| tiles.assume_init_ref())) };
    let left = turned.map_or(Left::Rows(lhs, strides.row), Left::Tiles);
    let product = Product { size: (m, n, k), depth, left, panels: Line::vectors(panels), bias };
    let rows = m.div_ceil(TASKS).next_multiple_of(TASK[0]).clamp(TASK[0], TASK[1]);
    // SAFETY: a task writes all of its rows; the rest as the caller promises.
    unsafe { fresh(m * n, (rows * n, 1), |index, y| product.rows::<W>(index * rows, y)) }
}

/// `len` rows or columns of a factor in strips of `width`, in blocks of the depth, as `put` writes them: all of what it is
/// given, for which it gets the first row and rows, and the first column and columns. A task has some `strips`.
fn in_order<T: Send>(
    (len, width, strips): Size,
    (k, depth): (usize, usize),
    put: impl Fn((usize, usize), (usize, usize), &mut [MaybeUninit<T>]) + Sync,
) -> Box<[MaybeUninit<T>]> {
    let each = width * size_of::<f32>() / size_of::<T>();
    let row = len.div_ceil(width) * each;
    let mut ordered = Box::new_uninit_slice(k * row);
    let blocks = ordered.chunks_mut(depth * row).enumerate();
    let tasks: Vec<_> = blocks
        .flat_map(|(index, block)| {
            let rows = (index * depth, block.len() / row);
            block.chunks_mut(strips * each * rows.1).enumerate().map(move |(index, to)| {
                let first = index * strips * width;
                (rows, (first, (len - first).min(strips * width)), to)
            })
        })
        .collect();
    tasks.into_par_iter().evenly(1).for_each(|(rows, columns, to)| put(rows, columns, to));
    ordered
}

/// A left factor.
#[derive(Clone, Copy)]
enum Left<'a> {
    /// Row by row, with this pitch.
    Rows(&'a [f32], usize),
    /// In blocks of the depth, each tile by tile, the six numbers of each depth together.
    Tiles(&'a [f32]),
}

/// A product whose right factor is in order: blocks of the depth, each panel by panel.
struct Product<'a> {
    size: Size,
    depth: usize,
    left: Left<'a>,
    panels: &'a [Vector],
    bias: Option<&'a [f32]>,
}

impl Product<'_> {
    /// Writes the rows of the result from `first` on, in blocks of columns and of depth.
    ///
    /// # Safety
    /// As [`multiply`].
    unsafe fn rows<W: Register>(&self, top: usize, to: &mut [MaybeUninit<f32>]) {
        let (_, n, k) = self.size;
        let most = (VECTORS / (PANEL * W::VECTORS * self.depth)).max(1) * W::COLUMNS;
        let width = n.div_ceil(n.div_ceil(most)).next_multiple_of(W::COLUMNS);
        for first in (0..n).step_by(width) {
            for at in (0..k).step_by(self.depth) {
                let block =
                    Block { product: self, at, depth: self.depth.min(k - at), first, columns: width.min(n - first) };
                for (index, to) in to.chunks_mut(ROWS * n).enumerate() {
                    // SAFETY: as the caller promises.
                    unsafe { block.row_of_tiles::<W>(top + index * ROWS, to) };
                }
            }
        }
    }
}

/// Some of the depth and some of the columns of a product.
struct Block<'a> {
    product: &'a Product<'a>,
    at: usize,
    depth: usize,
    first: usize,
    columns: usize,
}

impl Block<'_> {
    /// Six rows from `row` on, or as many as there are: a tile of fewer has its last row more than once, and does not write
    /// that.
    fn left(&self, row: usize, rows: usize) -> Rows<'_> {
        let (m, ..) = self.product.size;
        let (numbers, pitch, step) = match self.product.left {
            Left::Rows(numbers, pitch) => (&numbers[row * pitch + self.at..], pitch, 1),
            Left::Tiles(tiles) => (&tiles[self.at * m.next_multiple_of(ROWS) + row * self.depth..], 1, ROWS),
        };
        let row = |r: usize| &numbers[r.min(rows - 1) * pitch..][..(self.depth - 1) * step + 1];
        Rows { rows: [row(0), row(1), row(2), row(3), row(4), row(5)], step }
    }

    /// The tiles of six rows from `row` on, or of those that are left.
    ///
    /// # Safety
    /// As [`multiply`]; the blocks of the depth before have written the tiles.
    unsafe fn row_of_tiles<W: Register>(&self, row: usize, to: &mut [MaybeUninit<f32>]) {
        let &Product { size: (_, n, _), panels, bias, .. } = self.product;
        let rows = to.len() / n;
        let left = self.left(row, rows);
        let panels =
            &W::packed(panels)[(self.at * n.div_ceil(W::COLUMNS) + self.first / W::COLUMNS * self.depth) * PANEL..];
        let panels = panels.chunks(PANEL * self.depth).take(self.columns.div_ceil(W::COLUMNS));
        for (index, panel) in panels.enumerate() {
            let first = self.first + index * W::COLUMNS;
            let columns = (self.first + self.columns - first).min(W::COLUMNS);
            let before = match bias {
                _ if self.at > 0 => Before::Written,
                Some(bias) => Before::Columns(&bias[first..]),
                None => Before::Nothing,
            };
            let place = Place { to: &mut to[first..], pitch: n, rows, columns };
            // SAFETY: as the caller promises.
            unsafe { W::run(PlainTile::<W> { rows: left, panel: panel.as_chunks().0, place, before }) };
        }
    }
}
