//! A float32 product whose error hardly grows with its depth, in blocks that stay in the caches, by AVX2 and FMA.
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
use super::tile::{COLUMNS, LANES, PANEL, ROWS, Target, Vector, tile};
use super::{Size, rows};

/// Depth of a block, at most: deeper products are cut into equal parts.
const DEPTH: usize = 768;
/// Vectors of a packed block of the right factor: a quarter of a megabyte, half of a usual second cache.
const VECTORS: usize = 8 * 1024;
/// Vectors of a tile.
const TILE: usize = ROWS * PANEL;

/// Whether the processor can.
pub(super) fn supported() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// A row-major matrix and its pitch.
pub(super) type Matrix<'a> = (&'a [f32], usize);

/// Memory that a thread keeps.
#[derive(Default)]
struct Kept {
    /// The right factor's block in the order in which tiles read it.
    packed: Vec<Vector>,
    /// What rounding left over of every tile of a block, where more blocks follow.
    rests: Vec<Vector>,
}

/// `dst = lhs · rhs`.
#[target_feature(enable = "avx2,fma")]
pub(super) fn multiply((m, n, k): Size, (dst, pitch): (&mut [MaybeUninit<f32>], usize), lhs: Matrix, rhs: Matrix) {
    thread_local! {
        static KEPT: RefCell<Kept> = RefCell::default();
    }
    let depth = k.div_ceil(k.div_ceil(DEPTH));
    let width = (VECTORS / PANEL / depth).max(1) * COLUMNS;
    // Taken for the while: nothing else on this thread runs in between.
    let mut kept = KEPT.take();
    for first in (0..n).step_by(width) {
        for at in (0..k).step_by(depth) {
            let depth = depth.min(k - at);
            let part = Part { rows: m, at, depth, first, columns: width.min(n - first), goes_on: at + depth < k };
            part.pack(rhs, &mut kept.packed);
            part.run((&mut *dst, pitch), lhs, &mut kept);
        }
    }
    KEPT.set(kept);
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
    /// Vectors of all panels; the last panel may have one instead of two.
    fn vectors(&self) -> usize {
        self.columns.div_ceil(LANES) * self.depth
    }

    /// The right factor in the order in which tiles read it.
    #[target_feature(enable = "avx2,fma")]
    fn pack(&self, rhs: Matrix, packed: &mut Vec<Vector>) {
        if packed.len() < self.vectors() {
            packed.resize(self.vectors(), Vector::ZERO);
        }
        let packed = unwritten_vectors(&mut packed[..self.vectors()]);
        pack((self.at, self.depth), (self.first, self.columns), (rhs.0, rows(rhs.1)), packed);
    }

    #[target_feature(enable = "avx2,fma")]
    fn run(&self, (dst, pitch): (&mut [MaybeUninit<f32>], usize), lhs: Matrix, Kept { packed, rests }: &mut Kept) {
        let tiles = self.rows.div_ceil(ROWS);
        let each = if self.at > 0 || self.goes_on { self.columns.div_ceil(COLUMNS) * TILE } else { 0 };
        if rests.len() < tiles * each {
            rests.resize(tiles * each, Vector::ZERO);
        }
        for index in 0..tiles {
            let (row, rows) = rows_of_tile(self.rows, index);
            let dst = (&mut dst[row * pitch + self.first..], pitch);
            let rests = &mut rests[index * each..][..each];
            match rows {
                1 => self.row_of_tiles::<1>(dst, lhs, row, packed, rests),
                2 => self.row_of_tiles::<2>(dst, lhs, row, packed, rests),
                3 => self.row_of_tiles::<3>(dst, lhs, row, packed, rests),
                4 => self.row_of_tiles::<4>(dst, lhs, row, packed, rests),
                5 => self.row_of_tiles::<5>(dst, lhs, row, packed, rests),
                _ => self.row_of_tiles::<ROWS>(dst, lhs, row, packed, rests),
            }
        }
    }

    /// The tiles of `M` rows from `row`.
    #[target_feature(enable = "avx2,fma")]
    fn row_of_tiles<const M: usize>(
        &self,
        (dst, pitch): (&mut [MaybeUninit<f32>], usize),
        (lhs, lhs_pitch): Matrix,
        row: usize,
        packed: &[Vector],
        rests: &mut [Vector],
    ) {
        let rows: [&[f32]; M] = std::array::from_fn(|r| &lhs[(row + r) * lhs_pitch + self.at..][..self.depth]);
        for (index, panel) in packed[..self.vectors()].chunks(PANEL * self.depth).enumerate() {
            let first = index * COLUMNS;
            let columns = (self.columns - first).min(COLUMNS);
            let rests = rests.get_mut(index * TILE..).unwrap_or_default();
            let (follows, goes_on) = (self.at > 0, self.goes_on);
            let target = Target { to: &mut dst[first..], pitch, columns, rests, follows, goes_on };
            if columns > LANES {
                tile::<M, PANEL>(rows, panel.as_chunks().0, target);
            } else {
                tile::<M, 1>(rows, panel.as_chunks().0, target);
            }
        }
    }
}
