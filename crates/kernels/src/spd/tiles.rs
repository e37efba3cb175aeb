//! Products of small dense matrices in AVX2 and FMA registers.
//!
//! Panels of 8 columns of the right factor are packed, tiles of 6 rows stay in registers over the whole inner dimension. One thread; the order of the operations depends on the shapes alone.

use std::arch::x86_64::*;
use std::cell::RefCell;

/// Rows of a tile.
const ROWS: usize = 6;
/// Columns of a tile: two vectors.
const COLUMNS: usize = 8;

thread_local! {
    static PACKED: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
}

/// A factor in memory: element `(i, j)` lies at `i · row + j · column`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) data: &'a [f64],
    pub(crate) row: usize,
    pub(crate) column: usize,
}

/// Whether the processor has what [`product`] needs.
pub(crate) fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// `out = keep · out + factor · a · b`, `out` row-major `m`×`n`, inner dimension `k`; with `symmetric`, for a product
/// known to be symmetric, the lower triangle is copied from the upper.
///
/// # Panics
/// If a slice is too short, or the processor lacks AVX2 or FMA.
pub(crate) fn product(
    out: &mut [f64],
    (keep, factor): (f64, f64),
    (a, b): (View, View),
    (m, n, k): (usize, usize, usize),
    symmetric: bool,
) {
    assert!(available() && out.len() == m * n && (!symmetric || m == n), "a product that fits");
    if m * n * k == 0 {
        out.iter_mut().for_each(|v| *v = if keep == 0.0 { 0.0 } else { *v * keep });
        return;
    }
    assert!(a.data.len() > (m - 1) * a.row + (k - 1) * a.column, "left factor");
    assert!(b.data.len() > (k - 1) * b.row + (n - 1) * b.column, "right factor");
    PACKED.with_borrow_mut(|packed| {
        packed.resize(k * (m.next_multiple_of(ROWS) + COLUMNS), 0.0);
        // SAFETY: AVX2 and FMA were asserted, and that the strides stay inside the slices; `packed` has room for the
        // left factor in blocks of six rows and one panel of the right factor.
        unsafe { panels(out, (keep, factor), (a, b), (m, n, k), symmetric, packed) };
    });
}

/// # Safety
/// AVX2 and FMA; slices as [`product`] asserts; `packed` of `k · (m rounded up to 6 + 8)` numbers.
#[target_feature(enable = "avx2,fma")]
unsafe fn panels(
    out: &mut [f64],
    scales: (f64, f64),
    (a, b): (View, View),
    (m, n, k): (usize, usize, usize),
    symmetric: bool,
    packed: &mut [f64],
) {
    let (panel, left) = packed.split_at_mut(k * COLUMNS);
    let panel = panel.as_chunks_mut::<COLUMNS>().0;
    for (block, i) in left.chunks_exact_mut(k * ROWS).zip((0..m).step_by(ROWS)) {
        pack_rows(block.as_chunks_mut::<ROWS>().0, a, i, ROWS.min(m - i));
    }
    for j in (0..n).step_by(COLUMNS) {
        let width = COLUMNS.min(n - j);
        pack_columns(panel, b, j, width);
        let end = if symmetric { j + width } else { m };
        for (block, i) in left.chunks_exact(k * ROWS).zip((0..end).step_by(ROWS)) {
            let sums = tile(block.as_chunks::<ROWS>().0, panel);
            store(out, n, scales, &sums, (i, j, ROWS.min(m - i), width));
        }
    }
    if symmetric {
        mirror(out, n);
    }
}

/// Rows `i..i + rows` of `a`, column by column, padded with zeros.
#[target_feature(enable = "avx2,fma")]
fn pack_rows(block: &mut [[f64; ROWS]], a: View, i: usize, rows: usize) {
    if a.row == 1 && rows == ROWS {
        for (line, source) in block.iter_mut().zip(a.data[i..].chunks(a.column)) {
            if let Some(six) = source.first_chunk() {
                *line = *six;
            }
        }
    } else if a.column == 1 && rows == ROWS {
        let k = block.len();
        let row = |r: usize| a.data[(i + r) * a.row..][..k].as_chunks::<4>();
        let [r0, r1, r2, r3, r4, r5] = [row(0), row(1), row(2), row(3), row(4), row(5)];
        let (fours, rest) = block.as_chunks_mut::<4>();
        let sources = r0.0.iter().zip(r1.0).zip(r2.0).zip(r3.0).zip(r4.0).zip(r5.0);
        for (lines, (((((v0, v1), v2), v3), v4), v5)) in fours.iter_mut().zip(sources) {
            for (c, line) in lines.iter_mut().enumerate() {
                *line = [v0[c], v1[c], v2[c], v3[c], v4[c], v5[c]];
            }
        }
        for (c, line) in rest.iter_mut().enumerate() {
            *line = [r0.1[c], r1.1[c], r2.1[c], r3.1[c], r4.1[c], r5.1[c]];
        }
    } else {
        for (p, line) in block.iter_mut().enumerate() {
            for (r, v) in line.iter_mut().enumerate() {
                *v = if r < rows { a.data[(i + r) * a.row + p * a.column] } else { 0.0 };
            }
        }
    }
}

/// Columns `j..j + width` of `b`, row by row, padded with zeros.
#[target_feature(enable = "avx2,fma")]
fn pack_columns(panel: &mut [[f64; COLUMNS]], b: View, j: usize, width: usize) {
    if b.column == 1 && width == COLUMNS {
        for (line, source) in panel.iter_mut().zip(b.data[j..].chunks(b.row)) {
            if let Some(eight) = source.first_chunk() {
                *line = *eight;
            }
        }
        return;
    }
    for (p, line) in panel.iter_mut().enumerate() {
        for (c, v) in line.iter_mut().enumerate() {
            *v = if c < width { b.data[p * b.row + (j + c) * b.column] } else { 0.0 };
        }
    }
}

/// Six rows by eight columns of the product: two vectors of each row.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tile(left: &[[f64; ROWS]], panel: &[[f64; COLUMNS]]) -> [__m256d; 2 * ROWS] {
    let mut sums = [_mm256_setzero_pd(); 2 * ROWS];
    for (x, y) in left.iter().zip(panel) {
        let (low, high) = (_mm256_setr_pd(y[0], y[1], y[2], y[3]), _mm256_setr_pd(y[4], y[5], y[6], y[7]));
        macro_rules! row {
            ($($r:literal)*) => {$(
                let factor = _mm256_set1_pd(x[$r]);
                sums[2 * $r] = _mm256_fmadd_pd(factor, low, sums[2 * $r]);
                sums[2 * $r + 1] = _mm256_fmadd_pd(factor, high, sums[2 * $r + 1]);
            )*};
        }
        row!(0 1 2 3 4 5);
    }
    sums
}

/// The numbers of a vector.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn lanes(v: __m256d) -> [f64; 4] {
    // SAFETY: a vector is its four numbers, in order.
    unsafe { std::mem::transmute::<__m256d, [f64; 4]>(v) }
}

/// Writes the `rows`×`width` upper left part of a tile to `(i, j)`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn store(
    out: &mut [f64],
    n: usize,
    (keep, factor): (f64, f64),
    sums: &[__m256d; 2 * ROWS],
    (i, j, rows, width): (usize, usize, usize, usize),
) {
    let fresh = keep == 0.0; // What was there may be anything, even NaN.
    for (target, pair) in out[i * n..].chunks_mut(n).zip(sums.as_chunks::<2>().0).take(rows) {
        let target = &mut target[j..j + width];
        let mut line = [0.0; COLUMNS];
        if !fresh {
            match target.first_chunk::<COLUMNS>() {
                Some(whole) => line = *whole,
                None => line[..width].copy_from_slice(target),
            }
        }
        let [low, high]: [[f64; 4]; 2] = [lanes(pair[0]), lanes(pair[1])];
        for c in 0..4 {
            line[c] = factor.mul_add(low[c], keep * line[c]);
            line[4 + c] = factor.mul_add(high[c], keep * line[4 + c]);
        }
        match target.first_chunk_mut::<COLUMNS>() {
            Some(whole) => *whole = line,
            None => target.copy_from_slice(&line[..width]),
        }
    }
}

/// Copies the upper triangle to the lower, four by four.
#[target_feature(enable = "avx2,fma")]
fn mirror(out: &mut [f64], n: usize) {
    let whole = n / 4 * 4;
    for i in (0..whole).step_by(4) {
        for j in (i..whole).step_by(4) {
            let row = |r: usize| -> [f64; 4] { out[(i + r) * n + j..].first_chunk().copied().unwrap_or_default() };
            let block = [row(0), row(1), row(2), row(3)];
            for c in 0..4 {
                let column = [block[0][c], block[1][c], block[2][c], block[3][c]];
                let target = &mut out[(j + c) * n + i..];
                if i == j {
                    target[..c].copy_from_slice(&column[..c]);
                } else if let Some(four) = target.first_chunk_mut() {
                    *four = column;
                }
            }
        }
    }
    for c in whole..n {
        for r in 0..c {
            out[c * n + r] = out[r * n + c];
        }
    }
}
