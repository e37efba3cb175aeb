//! Small dense products on the host.

/// How a factor of a product is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Form {
    /// As it is.
    Plain,
    /// Transposed.
    Transposed,
}

/// `out = op(a) · op(b)`, row-major: `op(a)` is `m`×`k`, `op(b)` is `k`×`n`. One thread.
pub(crate) fn product(out: &mut [f64], a: (&[f64], Form), b: (&[f64], Form), m: usize, n: usize, k: usize) {
    accumulate(out, (0.0, 1.0), a, b, (m, n, k), false);
}

/// `out = keep · out + factor · op(a) · op(b)`; with `symmetric`, for a result known to be symmetric, the lower triangle
/// is a copy of the upper. What `out` held does not matter where `keep` is 0.
pub(crate) fn accumulate(
    out: &mut [f64],
    (keep, factor): (f64, f64),
    a: (&[f64], Form),
    b: (&[f64], Form),
    (m, n, k): (usize, usize, usize),
    symmetric: bool,
) {
    assert!(out.len() == m * n && a.0.len() == m * k && b.0.len() == k * n, "sizes of a product");
    if k == 0 {
        out.iter_mut().for_each(|v| *v = if keep == 0.0 { 0.0 } else { keep * *v });
        return;
    }
    let strides = |form, rows: usize, columns: usize| match form {
        Form::Plain => (columns, 1),
        Form::Transposed => (1, rows),
    };
    let ((a_row, a_column), (b_row, b_column)) = (strides(a.1, m, k), strides(b.1, k, n));
    #[cfg(target_arch = "x86_64")]
    if super::tiles::available() {
        use super::tiles::View;
        use super::triangular::Need;
        let need = if symmetric { Need::Symmetric } else { Need::Whole };
        let left = View { data: a.0, row: a_row, column: a_column };
        let right = View { data: b.0, row: b_row, column: b_column };
        return super::tiles::product(out, (keep, factor), (left, right), (m, n, k), need);
    }
    // SAFETY: the three slices have m·n, m·k and k·n values (asserted above) and the strides stay inside them;
    // `out` is borrowed mutably, so it overlaps neither factor.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            keep != 0.0,
            a.0.as_ptr(),
            a_column as isize,
            a_row as isize,
            b.0.as_ptr(),
            b_column as isize,
            b_row as isize,
            keep,
            factor,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    if symmetric {
        mirror(out, n);
    }
}

/// Copies the upper triangle of an `n`×`n` matrix to the lower.
pub(crate) fn mirror(out: &mut [f64], n: usize) {
    assert!(out.len() == n * n, "a square matrix");
    #[cfg(target_arch = "x86_64")]
    if super::tiles::available() {
        // SAFETY: the processor has AVX2 and FMA, and the matrix its size, as just looked up.
        return unsafe { super::tiles::mirror(out, n) };
    }
    for i in 0..n {
        for j in 0..i {
            out[i * n + j] = out[j * n + i];
        }
    }
}

/// `a · b` of two `d`×`d` matrices.
pub(crate) fn square(a: (&[f64], Form), b: (&[f64], Form), d: usize) -> Vec<f64> {
    let mut out = vec![0.0; d * d];
    product(&mut out, a, b, d, d, d);
    out
}

/// Rows and columns of the blocks in which a matrix is read beside its transpose.
const BLOCK: usize = 8;

/// Calls `f` with each entry below the diagonal and its mirror image, block by block, so that neither side jumps through
/// memory.
#[inline(always)]
pub(crate) fn each_pair(a: &mut [f64], d: usize, mut f: impl FnMut(&mut f64, &mut f64)) {
    for top in (0..d).step_by(BLOCK) {
        for left in (0..=top).step_by(BLOCK) {
            for i in top..(top + BLOCK).min(d) {
                let (head, row) = a.split_at_mut(i * d);
                for j in left..(left + BLOCK).min(i) {
                    f(&mut row[j], &mut head[j * d + i]);
                }
            }
        }
    }
}

/// Replaces `a` by `(a + aᵀ) / 2`.
pub(crate) fn symmetrise(a: &mut [f64], d: usize) {
    each_pair(a, d, |lower, upper| {
        let mean = 0.5 * (*lower + *upper);
        (*lower, *upper) = (mean, mean);
    });
}

/// `Vᵀ diag(values) V` for eigenvectors in the rows of `V`, exactly symmetric.
pub(crate) fn from_spectrum(vectors: &[f64], values: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; vectors.len()];
    from_spectrum_to(&mut out, vectors, values, &mut Vec::new());
    out
}

/// As [`from_spectrum`], with the memory of `scaled`.
pub(crate) fn from_spectrum_to(out: &mut [f64], vectors: &[f64], values: &[f64], scaled: &mut Vec<f64>) {
    let d = values.len();
    scaled.clear();
    scaled.extend_from_slice(vectors);
    for (row, value) in scaled.chunks_exact_mut(d).zip(values) {
        row.iter_mut().for_each(|v| *v *= value);
    }
    accumulate(out, (0.0, 1.0), (vectors, Form::Transposed), (scaled, Form::Plain), (d, d, d), true);
}
