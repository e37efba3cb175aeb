//! A float32 product whose error hardly grows with its depth, in blocks that stay in the caches.
//!
//! A plain float32 sum of n products of random signs has an error of about √(n/2) roundings. Here products are summed in
//! chains of sixteen, chains in groups of four, and groups with their rounding errors, so the error is about three roundings
//! for any depth.
//!
//! Cuts depend on the depth alone, never on the machine's caches or on where a number lies: a number of the result is a
//! function of its row and its column.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use super::panels::{pack, rows_of_tile, unwritten_vectors};
use super::tile::{Target, Tile};
use super::vector::{Line, PANEL, ROWS, Register, Vector};
use super::{Size, rows};

/// Depth of a block, at most: deeper products are cut into equal parts.
const DEPTH: usize = 768;
/// Vectors of a packed block of the right factor: a quarter of a megabyte, half of a usual second cache.
const VECTORS: usize = 8 * 1024;
/// Registers of a tile.
const TILE: usize = ROWS * PANEL;

/// A row-major matrix and its pitch.
pub(super) type Matrix<'a> = (&'a [f32], usize);

/// Memory that a thread keeps.
#[derive(Default)]
struct Kept {
    /// The right factor's block in the order in which tiles read it.
    packed: Vec<Line>,
    /// What rounding left over of every tile of a block, where more blocks follow.
    rests: Vec<Line>,
}

/// `dst = lhs · rhs`.
///
/// # Safety
/// The processor has the register's instructions, and AVX2 and FMA.
pub(super) unsafe fn multiply<W: Register>(
    (m, n, k): Size,
    (dst, pitch): (&mut [MaybeUninit<f32>], usize),
    lhs: Matrix,
    rhs: Matrix,
) {
    thread_local! {
        static KEPT: RefCell<Kept> = RefCell::default();
    }
    let depth = k.div_ceil(k.div_ceil(DEPTH));
    let width = (VECTORS / (PANEL * W::VECTORS * depth)).max(1) * W::COLUMNS;
    // Taken for the while: nothing else on this thread runs in between.
    let mut kept = KEPT.take();
    for first in (0..n).step_by(width) {
        for at in (0..k).step_by(depth) {
            let depth = depth.min(k - at);
            let part = Part { rows: m, at, depth, first, columns: width.min(n - first), goes_on: at + depth < k };
            // SAFETY: as the caller promises.
            unsafe {
                part.pack::<W>(rhs, &mut kept.packed);
                part.run::<W>((&mut *dst, pitch), lhs, &mut kept);
            }
        }
    }
    KEPT.set(kept);
}

/// At least so many vectors, kept.
fn vectors(lines: &mut Vec<Line>, count: usize) -> &mut [Vector] {
    if lines.len() * Line::VECTORS < count {
        lines.resize(count.div_ceil(Line::VECTORS), Line::ZERO);
    }
    &mut Line::vectors_mut(lines)[..count]
}

/// A part of a product: some of its depth and some of its columns.
struct Part {
    rows: usize,
    at: usize,
    depth: usize,
    first: usize,
    columns: usize,
    goes_on: bool,
}

impl Part {
    /// Vectors of all panels; the last panel may have one register instead of two.
    fn vectors<W: Register>(&self) -> usize {
        self.columns.div_ceil(W::LANES) * W::VECTORS * self.depth
    }

    /// Puts the right factor in the order in which tiles read it.
    ///
    /// # Safety
    /// As [`multiply`].
    unsafe fn pack<W: Register>(&self, rhs: Matrix, packed: &mut Vec<Line>) {
        let packed = unwritten_vectors(vectors(packed, self.vectors::<W>()));
        let rhs = (rhs.0, rows(rhs.1));
        // SAFETY: as the caller promises.
        unsafe { pack((self.at, self.depth), (self.first, self.columns), rhs, PANEL * W::VECTORS, packed) };
    }

    /// # Safety
    /// As [`multiply`].
    unsafe fn run<W: Register>(
        &self,
        (dst, pitch): (&mut [MaybeUninit<f32>], usize),
        lhs: Matrix,
        Kept { packed, rests }: &mut Kept,
    ) {
        let tiles = self.rows.div_ceil(ROWS);
        let each = if self.at > 0 || self.goes_on { self.columns.div_ceil(W::COLUMNS) * TILE } else { 0 };
        let packed = &Line::vectors(packed)[..self.vectors::<W>()];
        let rests = W::packed_mut(vectors(rests, tiles * each * W::VECTORS));
        for index in 0..tiles {
            let (row, rows) = rows_of_tile(self.rows, index);
            let dst = (&mut dst[row * pitch + self.first..], pitch);
            let rests = &mut rests[index * each..][..each];
            // SAFETY: as the caller promises.
            unsafe {
                match rows {
                    1 => self.row_of_tiles::<W, 1>(dst, lhs, row, packed, rests),
                    2 => self.row_of_tiles::<W, 2>(dst, lhs, row, packed, rests),
                    3 => self.row_of_tiles::<W, 3>(dst, lhs, row, packed, rests),
                    4 => self.row_of_tiles::<W, 4>(dst, lhs, row, packed, rests),
                    5 => self.row_of_tiles::<W, 5>(dst, lhs, row, packed, rests),
                    _ => self.row_of_tiles::<W, ROWS>(dst, lhs, row, packed, rests),
                }
            }
        }
    }

    /// The tiles of `M` rows from `row`.
    ///
    /// # Safety
    /// As [`multiply`].
    unsafe fn row_of_tiles<W: Register, const M: usize>(
        &self,
        (dst, pitch): (&mut [MaybeUninit<f32>], usize),
        (lhs, lhs_pitch): Matrix,
        row: usize,
        packed: &[Vector],
        rests: &mut [W::Packed],
    ) {
        let rows: [&[f32]; M] = std::array::from_fn(|r| &lhs[(row + r) * lhs_pitch + self.at..][..self.depth]);
        for (index, panel) in W::packed(packed).chunks(PANEL * self.depth).enumerate() {
            let first = index * W::COLUMNS;
            let columns = (self.columns - first).min(W::COLUMNS);
            let rests = rests.get_mut(index * TILE..).unwrap_or_default();
            let (follows, goes_on) = (self.at > 0, self.goes_on);
            let target = Target { to: &mut dst[first..], pitch, columns, rests, follows, goes_on };
            // SAFETY: as the caller promises.
            unsafe {
                if columns > W::LANES {
                    W::run(Tile::<W, M, PANEL> { rows, panel: panel.as_chunks().0, target });
                } else {
                    W::run(Tile::<W, M, 1> { rows, panel: panel.as_chunks().0, target });
                }
            }
        }
    }
}
