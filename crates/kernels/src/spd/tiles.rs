//! Products of small dense matrices in AVX2 and FMA registers.
//!
//! Panels of 8 columns of the right factor are packed; tiles of 6 rows stay in registers over the whole inner dimension,
//! the numbers of the left factor being broadcast from where they lie. One thread; the order of the operations depends
//! on the shapes alone.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;

use super::triangular::{Need, Triangle};

/// Rows of a tile.
const ROWS: usize = 6;
/// Rows of the last tile, where that many are left.
const FEW: usize = 4;
/// Columns of a tile: two vectors.
const COLUMNS: usize = 8;
/// Bytes of a number.
const SIZE: usize = size_of::<f64>();

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

/// `out = keep · out + factor · a · b`, `out` row-major `m`×`n`, inner dimension `k`.
///
/// # Panics
/// If a slice is too short, or the processor lacks AVX2 or FMA.
pub(crate) fn product(
    out: &mut [f64],
    scales: (f64, f64),
    (a, b): (View, View),
    (m, n, k): (usize, usize, usize),
    need: Need,
) {
    product_of_triangles(out, scales, (a, b), (m, n, k), need, [Triangle::Full; 2]);
}

/// As [`product`], without the terms that the triangles of the left and the right factor leave out.
///
/// # Panics
/// As [`product`]; triangles that are not square.
pub(crate) fn product_of_triangles(
    out: &mut [f64],
    scales: (f64, f64),
    (a, b): (View, View),
    (m, n, k): (usize, usize, usize),
    need: Need,
    triangles: [Triangle; 2],
) {
    let [left, right] = triangles;
    assert!((left == Triangle::Full || m == k) && (right == Triangle::Full || n == k), "square triangles");
    let square = matches!(need, Need::Whole | Need::Nonzero) || m == n;
    assert!(available() && out.len() == m * n && square, "a product that fits");
    if m * n * k == 0 {
        let keep = scales.0;
        out.iter_mut().for_each(|v| *v = if keep == 0.0 { 0.0 } else { *v * keep });
        return;
    }
    assert!(a.data.len() > (m - 1) * a.row + (k - 1) * a.column, "left factor");
    assert!(b.data.len() > (k - 1) * b.row + (n - 1) * b.column, "right factor");
    PACKED.with_borrow_mut(|packed| {
        packed.resize(k * (COLUMNS + ROWS), 0.0);
        let (panel, rest) = packed.split_at_mut(k * COLUMNS);
        // SAFETY: AVX2 and FMA were asserted, and that the elements of both factors lie inside their slices; the panel
        // has `8 k` numbers, the room for the last rows `6 k`.
        unsafe { panels(out, scales, (a, b), (m, n), (need, triangles), (panel, rest)) };
    });
}

/// # Safety
/// AVX2 and FMA; slices as [`product`] asserts; room for `8 k` and `6 k` numbers.
#[target_feature(enable = "avx2,fma")]
unsafe fn panels(
    out: &mut [f64],
    scales: (f64, f64),
    (a, b): (View, View),
    (m, n): (usize, usize),
    (need, [left_triangle, right_triangle]): (Need, [Triangle; 2]),
    (panel, rest): (&mut [f64], &mut [f64]),
) {
    let (whole, k) = (m / ROWS * ROWS, panel.len() / COLUMNS);
    // A tile of few rows needs none beyond the last.
    let few = m - whole == FEW && n.is_multiple_of(COLUMNS);
    if !few {
        pack_rows(rest.as_chunks_mut::<ROWS>().0, a, whole, m - whole);
    }
    for j in (0..n).step_by(COLUMNS) {
        let width = COLUMNS.min(n - j);
        let (from, to) = match right_triangle {
            Triangle::Full => (0, k),
            Triangle::Lower => (j, k),
            Triangle::Upper => (0, j + width),
        };
        pack_columns(&mut panel.as_chunks_mut::<COLUMNS>().0[from..to], b, (from, j), width);
        let end = if matches!(need, Need::Symmetric | Need::Upper) { j + width } else { m };
        for i in (0..end).step_by(ROWS) {
            let rows = ROWS.min(m - i);
            let (from, to) = match left_triangle {
                Triangle::Full => (from, to),
                Triangle::Lower => (from, to.min(i + rows)),
                Triangle::Upper => (from.max(i), to),
            };
            let target = &mut out[i * n + j..];
            if from >= to {
                // Both triangles leave nothing of this tile.
                if need != Need::Nonzero {
                    scale(target, n, (rows, width), scales.0);
                }
                continue;
            }
            let direct = rows == ROWS || few;
            let (left, strides) = if direct {
                (&a.data[i * a.row + from * a.column..], (a.row, a.column))
            } else {
                (&rest[from * ROWS..], (1, ROWS))
            };
            let panel = &panel[from * COLUMNS..to * COLUMNS];
            if direct && width == COLUMNS {
                // SAFETY: rows `i..i + 6` of `a` exist, or `i..i + 4` in the last few, and `out` has eight columns from
                // `(i, j)` on in as many rows.
                unsafe {
                    if rows == ROWS {
                        tile(target, n, scales, left, strides, panel);
                    } else {
                        tile_of_few(target, n, scales, left, strides, panel);
                    }
                }
            } else {
                let mut block = [0.0; ROWS * COLUMNS];
                let lines = || (0..rows).map(|r| (r * n..r * n + width, r * COLUMNS..r * COLUMNS + width));
                lines().for_each(|(from, to)| block[to].copy_from_slice(&target[from]));
                // SAFETY: as above, but for the rows of `a`, which may be those packed in `rest`, and the target, which is a
                // whole block.
                unsafe { tile(&mut block, COLUMNS, scales, left, strides, panel) };
                lines().for_each(|(to, from)| target[to].copy_from_slice(&block[from]));
            }
        }
    }
    if need == Need::Symmetric {
        mirror(out, n);
    }
}

/// Multiplies the first `rows`×`width` numbers of a matrix with rows `n` apart by `keep`.
fn scale(target: &mut [f64], n: usize, (rows, width): (usize, usize), keep: f64) {
    for row in target.chunks_mut(n).take(rows) {
        row[..width].iter_mut().for_each(|v| *v = if keep == 0.0 { 0.0 } else { *v * keep });
    }
}

/// Rows `i..i + rows` of `a`, column by column, padded with zeros.
fn pack_rows(block: &mut [[f64; ROWS]], a: View, i: usize, rows: usize) {
    for (p, line) in block.iter_mut().enumerate().filter(|_| rows > 0) {
        for (r, v) in line.iter_mut().enumerate() {
            *v = if r < rows { a.data[(i + r) * a.row + p * a.column] } else { 0.0 };
        }
    }
}

/// Columns `j..j + width` of the rows of `b` from `first` on, row by row, padded with zeros.
#[target_feature(enable = "avx2,fma")]
fn pack_columns(panel: &mut [[f64; COLUMNS]], b: View, (first, j): (usize, usize), width: usize) {
    if b.column == 1 && width == COLUMNS {
        for (line, source) in panel.iter_mut().zip(b.data[first * b.row + j..].chunks(b.row)) {
            if let Some(eight) = source.first_chunk() {
                *line = *eight;
            }
        }
        return;
    }
    if b.row == 1 && width == COLUMNS {
        for c in 0..COLUMNS {
            let source = &b.data[(j + c) * b.column + first..];
            panel.iter_mut().zip(source).for_each(|(line, v)| line[c] = *v);
        }
        return;
    }
    for (p, line) in panel.iter_mut().enumerate() {
        for (c, v) in line.iter_mut().enumerate() {
            *v = if c < width { b.data[(first + p) * b.row + (j + c) * b.column] } else { 0.0 };
        }
    }
}

/// Six rows by eight columns of a product, scaled and added to the target, whose rows are `n` apart: twelve vectors of
/// sums, which all stay in registers. What was in the target is not read if `keep` is 0.
///
/// In assembly, since every pointer that Rust reads through is checked at run time where debug assertions are on, as
/// they are in the profile that the project runs in.
///
/// # Safety
/// AVX2 and FMA. With `k` the number of lines of the panel: `left` holds the elements `r · row + p · column` for
/// `r < 6`, `p < k`, and `target` holds `r · n + c` for `r < 6`, `c < 8`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile(
    target: &mut [f64],
    n: usize,
    (keep, factor): (f64, f64),
    left: &[f64],
    (row, column): (usize, usize),
    panel: &[f64],
) {
    let k = panel.len() / COLUMNS;
    debug_assert!(k > 0 && left.len() > 5 * row + (k - 1) * column && target.len() >= 5 * n + COLUMNS);
    let first = left.as_ptr();
    let scales = [factor, keep];
    // SAFETY: the loop reads `k` lines of the panel, and the elements of `left` and `target` named above; it writes those
    // of `target` alone, and the registers that are declared.
    unsafe {
        asm!(
            "vxorpd ymm0, ymm0, ymm0", "vmovapd ymm1, ymm0", "vmovapd ymm2, ymm0", "vmovapd ymm3, ymm0",
            "vmovapd ymm4, ymm0", "vmovapd ymm5, ymm0", "vmovapd ymm6, ymm0", "vmovapd ymm7, ymm0",
            "vmovapd ymm8, ymm0", "vmovapd ymm9, ymm0", "vmovapd ymm10, ymm0", "vmovapd ymm11, ymm0",
            "2:",
            "vmovupd ymm12, [{panel}]",
            "vmovupd ymm13, [{panel} + 32]",
            "vbroadcastsd ymm14, [{upper}]",
            "vbroadcastsd ymm15, [{upper} + {row}]",
            "vfmadd231pd ymm0, ymm14, ymm12",
            "vfmadd231pd ymm1, ymm14, ymm13",
            "vfmadd231pd ymm2, ymm15, ymm12",
            "vfmadd231pd ymm3, ymm15, ymm13",
            "vbroadcastsd ymm14, [{upper} + 2*{row}]",
            "vbroadcastsd ymm15, [{lower}]",
            "vfmadd231pd ymm4, ymm14, ymm12",
            "vfmadd231pd ymm5, ymm14, ymm13",
            "vfmadd231pd ymm6, ymm15, ymm12",
            "vfmadd231pd ymm7, ymm15, ymm13",
            "vbroadcastsd ymm14, [{lower} + {row}]",
            "vbroadcastsd ymm15, [{lower} + 2*{row}]",
            "vfmadd231pd ymm8, ymm14, ymm12",
            "vfmadd231pd ymm9, ymm14, ymm13",
            "vfmadd231pd ymm10, ymm15, ymm12",
            "vfmadd231pd ymm11, ymm15, ymm13",
            "add {panel}, 64",
            "add {upper}, {column}",
            "add {lower}, {column}",
            "dec {k}",
            "jnz 2b",
            "vbroadcastsd ymm12, [{scales}]",
            "vmulpd ymm0, ymm0, ymm12", "vmulpd ymm1, ymm1, ymm12", "vmulpd ymm2, ymm2, ymm12",
            "vmulpd ymm3, ymm3, ymm12", "vmulpd ymm4, ymm4, ymm12", "vmulpd ymm5, ymm5, ymm12",
            "vmulpd ymm6, ymm6, ymm12", "vmulpd ymm7, ymm7, ymm12", "vmulpd ymm8, ymm8, ymm12",
            "vmulpd ymm9, ymm9, ymm12", "vmulpd ymm10, ymm10, ymm12", "vmulpd ymm11, ymm11, ymm12",
            "test {keeps:e}, {keeps:e}",
            "jz 3f",
            "vbroadcastsd ymm13, [{scales} + 8]",
            "vfmadd231pd ymm0, ymm13, [{top}]", "vfmadd231pd ymm1, ymm13, [{top} + 32]",
            "vfmadd231pd ymm2, ymm13, [{top} + {n}]", "vfmadd231pd ymm3, ymm13, [{top} + {n} + 32]",
            "vfmadd231pd ymm4, ymm13, [{top} + 2*{n}]", "vfmadd231pd ymm5, ymm13, [{top} + 2*{n} + 32]",
            "vfmadd231pd ymm6, ymm13, [{bottom}]", "vfmadd231pd ymm7, ymm13, [{bottom} + 32]",
            "vfmadd231pd ymm8, ymm13, [{bottom} + {n}]", "vfmadd231pd ymm9, ymm13, [{bottom} + {n} + 32]",
            "vfmadd231pd ymm10, ymm13, [{bottom} + 2*{n}]", "vfmadd231pd ymm11, ymm13, [{bottom} + 2*{n} + 32]",
            "3:",
            "vmovupd [{top}], ymm0", "vmovupd [{top} + 32], ymm1",
            "vmovupd [{top} + {n}], ymm2", "vmovupd [{top} + {n} + 32], ymm3",
            "vmovupd [{top} + 2*{n}], ymm4", "vmovupd [{top} + 2*{n} + 32], ymm5",
            "vmovupd [{bottom}], ymm6", "vmovupd [{bottom} + 32], ymm7",
            "vmovupd [{bottom} + {n}], ymm8", "vmovupd [{bottom} + {n} + 32], ymm9",
            "vmovupd [{bottom} + 2*{n}], ymm10", "vmovupd [{bottom} + 2*{n} + 32], ymm11",
            panel = inout(reg) panel.as_ptr() => _,
            upper = inout(reg) first => _,
            lower = inout(reg) first.wrapping_add(3 * row) => _,
            row = in(reg) row * SIZE,
            column = in(reg) column * SIZE,
            k = inout(reg) k => _,
            scales = in(reg) scales.as_ptr(),
            keeps = in(reg) u32::from(keep != 0.0),
            top = in(reg) target.as_mut_ptr(),
            bottom = in(reg) target.as_mut_ptr().wrapping_add(3 * n),
            n = in(reg) n * SIZE,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _,
            out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _, out("ymm12") _,
            out("ymm13") _, out("ymm14") _, out("ymm15") _,
            options(nostack),
        );
    }
}

/// As [`tile`], of four rows: what is left of 64 beyond ten tiles.
///
/// # Safety
/// As [`tile`], with `r < 4`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_of_few(
    target: &mut [f64],
    n: usize,
    (keep, factor): (f64, f64),
    left: &[f64],
    (row, column): (usize, usize),
    panel: &[f64],
) {
    let k = panel.len() / COLUMNS;
    debug_assert!(k > 0 && left.len() > 3 * row + (k - 1) * column && target.len() >= 3 * n + COLUMNS);
    let first = left.as_ptr();
    let scales = [factor, keep];
    // SAFETY: as in `tile`, of four rows.
    unsafe {
        asm!(
            "vxorpd ymm0, ymm0, ymm0", "vmovapd ymm1, ymm0", "vmovapd ymm2, ymm0", "vmovapd ymm3, ymm0",
            "vmovapd ymm4, ymm0", "vmovapd ymm5, ymm0", "vmovapd ymm6, ymm0", "vmovapd ymm7, ymm0",
            "2:",
            "vmovupd ymm12, [{panel}]",
            "vmovupd ymm13, [{panel} + 32]",
            "vbroadcastsd ymm14, [{upper}]",
            "vbroadcastsd ymm15, [{upper} + {row}]",
            "vfmadd231pd ymm0, ymm14, ymm12",
            "vfmadd231pd ymm1, ymm14, ymm13",
            "vfmadd231pd ymm2, ymm15, ymm12",
            "vfmadd231pd ymm3, ymm15, ymm13",
            "vbroadcastsd ymm14, [{upper} + 2*{row}]",
            "vbroadcastsd ymm15, [{lower}]",
            "vfmadd231pd ymm4, ymm14, ymm12",
            "vfmadd231pd ymm5, ymm14, ymm13",
            "vfmadd231pd ymm6, ymm15, ymm12",
            "vfmadd231pd ymm7, ymm15, ymm13",
            "add {panel}, 64",
            "add {upper}, {column}",
            "add {lower}, {column}",
            "dec {k}",
            "jnz 2b",
            "vbroadcastsd ymm12, [{scales}]",
            "vmulpd ymm0, ymm0, ymm12", "vmulpd ymm1, ymm1, ymm12", "vmulpd ymm2, ymm2, ymm12",
            "vmulpd ymm3, ymm3, ymm12", "vmulpd ymm4, ymm4, ymm12", "vmulpd ymm5, ymm5, ymm12",
            "vmulpd ymm6, ymm6, ymm12", "vmulpd ymm7, ymm7, ymm12",
            "test {keeps:e}, {keeps:e}",
            "jz 3f",
            "vbroadcastsd ymm13, [{scales} + 8]",
            "vfmadd231pd ymm0, ymm13, [{top}]", "vfmadd231pd ymm1, ymm13, [{top} + 32]",
            "vfmadd231pd ymm2, ymm13, [{top} + {n}]", "vfmadd231pd ymm3, ymm13, [{top} + {n} + 32]",
            "vfmadd231pd ymm4, ymm13, [{top} + 2*{n}]", "vfmadd231pd ymm5, ymm13, [{top} + 2*{n} + 32]",
            "vfmadd231pd ymm6, ymm13, [{bottom}]", "vfmadd231pd ymm7, ymm13, [{bottom} + 32]",
            "3:",
            "vmovupd [{top}], ymm0", "vmovupd [{top} + 32], ymm1",
            "vmovupd [{top} + {n}], ymm2", "vmovupd [{top} + {n} + 32], ymm3",
            "vmovupd [{top} + 2*{n}], ymm4", "vmovupd [{top} + 2*{n} + 32], ymm5",
            "vmovupd [{bottom}], ymm6", "vmovupd [{bottom} + 32], ymm7",
            panel = inout(reg) panel.as_ptr() => _,
            upper = inout(reg) first => _,
            lower = inout(reg) first.wrapping_add(3 * row) => _,
            row = in(reg) row * SIZE,
            column = in(reg) column * SIZE,
            k = inout(reg) k => _,
            scales = in(reg) scales.as_ptr(),
            keeps = in(reg) u32::from(keep != 0.0),
            top = in(reg) target.as_mut_ptr(),
            bottom = in(reg) target.as_mut_ptr().wrapping_add(3 * n),
            n = in(reg) n * SIZE,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _,
            out("ymm7") _, out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
            options(nostack),
        );
    }
}

/// Copies the upper triangle to the lower, four by four.
#[target_feature(enable = "avx2,fma")]
pub(super) fn mirror(out: &mut [f64], n: usize) {
    let whole = n / 4 * 4;
    let data = out.as_mut_ptr();
    for i in (0..whole).step_by(4) {
        for j in (i..whole).step_by(4) {
            // SAFETY: rows and columns `i..i + 4` and `j..j + 4` lie inside the `n`×`n` matrix. A block on the diagonal is
            // read as a whole before its lower triangle is taken from its transpose.
            unsafe {
                let row = |r: usize| _mm256_loadu_pd(data.add((i + r) * n + j));
                let rows = [row(0), row(1), row(2), row(3)];
                let (ab, cd) = (_mm256_unpacklo_pd(rows[0], rows[1]), _mm256_unpacklo_pd(rows[2], rows[3]));
                let (ef, gh) = (_mm256_unpackhi_pd(rows[0], rows[1]), _mm256_unpackhi_pd(rows[2], rows[3]));
                let mut columns = [
                    _mm256_permute2f128_pd::<0x20>(ab, cd),
                    _mm256_permute2f128_pd::<0x20>(ef, gh),
                    _mm256_permute2f128_pd::<0x31>(ab, cd),
                    _mm256_permute2f128_pd::<0x31>(ef, gh),
                ];
                if i == j {
                    columns[0] = rows[0];
                    columns[1] = _mm256_blend_pd::<0b1110>(columns[1], rows[1]);
                    columns[2] = _mm256_blend_pd::<0b1100>(columns[2], rows[2]);
                    columns[3] = _mm256_blend_pd::<0b1000>(columns[3], rows[3]);
                }
                for (c, column) in columns.into_iter().enumerate() {
                    _mm256_storeu_pd(data.add((j + c) * n + i), column);
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

#[cfg(test)]
mod tests {
    use super::*;
    use random::{Axis, Seeds};
    use testkit::tolerance::{IDENTITY_F64, assert_close};

    /// Every size around a tile, both orders in memory, with and without what was there before.
    #[test]
    fn products_are_those_of_the_definition() {
        let mut stream = Seeds::new(11).stream(Axis::Test, &[]);
        for (m, n, k) in
            [(1, 1, 1), (2, 3, 4), (5, 8, 1), (6, 8, 7), (7, 9, 3), (13, 17, 11), (16, 4, 40), (64, 64, 64)]
        {
            let mut draw = |count: usize| -> Vec<f64> { (0..count).map(|_| stream.normal()).collect() };
            let (a, b, before) = (draw(m * k), draw(k * n), draw(m * n));
            for (keep, factor) in [(0.0, 1.0), (1.0, -2.0), (0.5, 1.0)] {
                for (left, right) in [((k, 1), (n, 1)), ((1, m), (n, 1)), ((k, 1), (1, k)), ((1, m), (1, k))] {
                    let mut want = vec![0.0; m * n];
                    for (at, w) in want.iter_mut().enumerate() {
                        let (i, j) = (at / n, at % n);
                        let sum: f64 = (0..k).map(|p| a[i * left.0 + p * left.1] * b[p * right.0 + j * right.1]).sum();
                        *w = keep * before[at] + factor * sum;
                    }
                    let mut out = if keep == 0.0 { vec![f64::NAN; m * n] } else { before.clone() };
                    let view = |data, (row, column)| View { data, row, column };
                    product(&mut out, (keep, factor), (view(&a, left), view(&b, right)), (m, n, k), Need::Whole);
                    assert_close(&format!("{m}x{n}x{k}"), &out, &want, m * n, IDENTITY_F64);
                }
            }
        }
    }

    #[test]
    fn triangles_leave_out_what_is_0() {
        let mut stream = Seeds::new(13).stream(Axis::Test, &[]);
        let all = [Triangle::Full, Triangle::Lower, Triangle::Upper];
        for n in [1, 2, 6, 7, 8, 13, 30, 64] {
            let mut draw = |triangle: Triangle| -> Vec<f64> {
                let zero = |at: usize| match triangle {
                    Triangle::Full => false,
                    Triangle::Lower => at % n > at / n,
                    Triangle::Upper => at % n < at / n,
                };
                (0..n * n).map(|at| if zero(at) { 0.0 } else { stream.normal() }).collect()
            };
            for triangles in all.iter().flat_map(|&left| all.iter().map(move |&right| [left, right])) {
                let (a, b, before) = (draw(triangles[0]), draw(triangles[1]), draw(Triangle::Full));
                // The same left factor, column by column.
                let flipped: Vec<f64> = (0..n * n).map(|at| a[at % n * n + at / n]).collect();
                for (data, row, column) in [(&a, n, 1), (&flipped, 1, n)] {
                    let views = (View { data, row, column }, View { data: &b, row: n, column: 1 });
                    for scales in [(0.0, 1.0), (0.5, -2.0)] {
                        let start = if scales.0 == 0.0 { vec![f64::NAN; n * n] } else { before.clone() };
                        let (mut got, mut want) = (start.clone(), start);
                        product_of_triangles(&mut got, scales, views, (n, n, n), Need::Whole, triangles);
                        product(&mut want, scales, views, (n, n, n), Need::Whole);
                        assert_close(&format!("{n}, {triangles:?}"), &got, &want, n * n, IDENTITY_F64);
                    }
                }
            }
        }
    }

    #[test]
    fn a_symmetric_product_is_exactly_symmetric() {
        let mut stream = Seeds::new(12).stream(Axis::Test, &[]);
        for n in [1, 2, 4, 5, 8, 11, 30, 64] {
            let a: Vec<f64> = (0..n * n).map(|_| stream.normal()).collect();
            let (left, right) = (View { data: &a, row: 1, column: n }, View { data: &a, row: n, column: 1 });
            let (mut half, mut whole) = (vec![f64::NAN; n * n], vec![f64::NAN; n * n]);
            product(&mut half, (0.0, 1.0), (left, right), (n, n, n), Need::Symmetric);
            product(&mut whole, (0.0, 1.0), (left, right), (n, n, n), Need::Whole);
            let mut upper = vec![f64::NAN; n * n];
            product(&mut upper, (0.0, 1.0), (left, right), (n, n, n), Need::Upper);
            assert!((0..n * n).filter(|at| at / n <= at % n).all(|at| upper[at] == half[at]), "{n}, upper triangle");
            assert_close("both", &half, &whole, n * n, IDENTITY_F64);
            assert!((0..n * n).all(|at| half[at] == half[at % n * n + at / n]), "{n}");
        }
    }
}
