//! Factors of float32 products in the order in which tiles read them.

use std::arch::x86_64::{_mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps};
use std::mem::MaybeUninit;

use super::Strides;
use super::vector::{LANES, ROWS, Vector};

/// Rows that are turned at a time.
const BAND: usize = 16;

/// First row and rows of a tile, of `rows` in all: every tile has as many, or one more.
pub(super) fn rows_of_tile(rows: usize, index: usize) -> (usize, usize) {
    let tiles = rows.div_ceil(ROWS);
    let start = |index: usize| index * rows / tiles;
    (start(index), start(index + 1) - start(index))
}

/// Vectors as memory that need not have been written.
pub(super) fn unwritten_vectors(vectors: &mut [Vector]) -> &mut [MaybeUninit<Vector>] {
    // SAFETY: a slice of vectors is one of vectors that may be unwritten; packing writes nothing but vectors.
    unsafe { std::slice::from_raw_parts_mut(vectors.as_mut_ptr().cast(), vectors.len()) }
}

/// Some rows and columns (each by the first and how many) of a right factor, in panels of so many vectors, zeros behind the
/// last column; if there is room for a part of the last panel alone, it has fewer vectors a row. Writes all of `packed`. One
/// of the strides is 1.
#[target_feature(enable = "avx2,fma")]
pub(super) fn pack(
    (at, depth): (usize, usize),
    (first, columns): (usize, usize),
    (rhs, strides): (&[f32], Strides),
    panel: usize,
    packed: &mut [MaybeUninit<Vector>],
) {
    if strides.col == 1 {
        return pack_rows((&rhs[at * strides.row + first..], strides.row), (depth, columns), panel, packed);
    }
    let pitch = strides.col;
    for (index, to) in packed.chunks_mut(panel * depth).enumerate() {
        let step = to.len() / depth;
        for vector in 0..step {
            let column = (index * panel + vector) * LANES;
            let few = columns.saturating_sub(column).min(LANES);
            let from = if few > 0 { &rhs[(first + column) * pitch + at..] } else { &[] };
            pack_columns((from, pitch), (depth, few), &mut to[vector..], step);
        }
    }
}

/// [`pack`] of the first rows and columns of a row-major matrix.
#[target_feature(enable = "avx2,fma")]
fn pack_rows(
    (from, pitch): (&[f32], usize),
    (depth, columns): (usize, usize),
    panel: usize,
    packed: &mut [MaybeUninit<Vector>],
) {
    let whole = columns / (panel * LANES);
    let (panels, last) = packed.split_at_mut(whole * panel * depth);
    for row in 0..depth {
        let (from, rest) = from[row * pitch..][..columns].split_at(whole * panel * LANES);
        for (to, from) in panels.chunks_exact_mut(panel * depth).zip(from.chunks_exact(panel * LANES)) {
            let (from, _) = from.as_chunks::<LANES>();
            for (to, from) in to[row * panel..][..panel].iter_mut().zip(from) {
                to.write(Vector(*from));
            }
        }
        let vectors = last.len() / depth;
        let rest = rest.chunks(LANES).chain(std::iter::repeat(&[][..]));
        for (to, from) in last[row * vectors..][..vectors].iter_mut().zip(rest) {
            to.write(Vector::of_few(from));
        }
    }
}

/// Up to eight columns, each a row of `from`, to every `step`-th vector from the first on.
#[target_feature(enable = "avx2,fma")]
fn pack_columns(
    (from, pitch): (&[f32], usize),
    (depth, columns): (usize, usize),
    to: &mut [MaybeUninit<Vector>],
    step: usize,
) {
    let squares = if columns == LANES { depth / LANES } else { 0 };
    let mut to = to.iter_mut().step_by(step);
    for square in 0..squares {
        let mut rows = [Vector::ZERO; LANES];
        for row in 0..LANES {
            rows[row] = Vector::of_few(&from[row * pitch + square * LANES..][..LANES]);
        }
        for (row, to) in transpose(rows).into_iter().zip(&mut to) {
            to.write(row);
        }
    }
    for (row, to) in (squares * LANES..depth).zip(to) {
        let mut vector = Vector::ZERO;
        for (column, number) in vector.0.iter_mut().enumerate().take(columns) {
            *number = from[column * pitch + row];
        }
        to.write(vector);
    }
}

/// Some columns of some rows of a row-major matrix as tiles of six columns, the six of each row together; zeros beside the
/// last column. Writes all of `tiles`, which is as deep as there are rows.
pub(super) fn turn(
    (at, depth): (usize, usize),
    (first, columns): (usize, usize),
    (from, pitch): (&[f32], usize),
    tiles: &mut [MaybeUninit<f32>],
) {
    // A few rows at a time, which stay in the first cache.
    for top in (0..depth).step_by(BAND) {
        for (index, tile) in tiles.chunks_mut(ROWS * depth).enumerate() {
            let few = (columns - index * ROWS).min(ROWS);
            let band = tile[top * ROWS..].chunks_mut(ROWS).take(BAND).enumerate();
            for (row, to) in band {
                let from = &from[(at + top + row) * pitch + first + index * ROWS..][..few];
                match (to.first_chunk_mut::<ROWS>(), from.first_chunk::<ROWS>()) {
                    (Some(to), Some(from)) => *to = from.map(MaybeUninit::new),
                    _ => {
                        to.fill(MaybeUninit::new(0.0));
                        to[..few].write_copy_of_slice(from);
                    }
                }
            }
        }
    }
}

/// The transpose of eight rows of eight.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn transpose(rows: [Vector; LANES]) -> [Vector; LANES] {
    let r = rows.map(Vector::load);
    let pairs = |a, b| [_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)];
    let ([a, b], [c, d]) = (pairs(r[0], r[1]), pairs(r[2], r[3]));
    let ([e, f], [g, h]) = (pairs(r[4], r[5]), pairs(r[6], r[7]));
    let fours = |a, b| [_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xEE>(a, b)];
    let ([a, b], [c, d]) = (fours(a, c), fours(b, d));
    let ([e, f], [g, h]) = (fours(e, g), fours(f, h));
    let low = |a, b| _mm256_permute2f128_ps::<0x20>(a, b);
    let high = |a, b| _mm256_permute2f128_ps::<0x31>(a, b);
    [low(a, e), low(b, f), low(c, g), low(d, h), high(a, e), high(b, f), high(c, g), high(d, h)].map(Vector::of)
}
