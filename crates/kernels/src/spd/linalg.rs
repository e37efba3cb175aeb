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
    assert!(out.len() == m * n && a.0.len() == m * k && b.0.len() == k * n, "sizes of a product");
    if k == 0 {
        out.fill(0.0);
        return;
    }
    let strides = |form, rows: usize, columns: usize| match form {
        Form::Plain => (1, columns as isize),
        Form::Transposed => (rows as isize, 1),
    };
    let (a_cs, a_rs) = strides(a.1, m, k);
    let (b_cs, b_rs) = strides(b.1, k, n);
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
            false,
            a.0.as_ptr(),
            a_cs,
            a_rs,
            b.0.as_ptr(),
            b_cs,
            b_rs,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// `a · b` of two `d`×`d` matrices.
pub(crate) fn square(a: (&[f64], Form), b: (&[f64], Form), d: usize) -> Vec<f64> {
    let mut out = vec![0.0; d * d];
    product(&mut out, a, b, d, d, d);
    out
}

/// Replaces `a` by `(a + aᵀ) / 2`.
pub(crate) fn symmetrise(a: &mut [f64], d: usize) {
    for i in 0..d {
        for j in 0..i {
            let mean = 0.5 * (a[i * d + j] + a[j * d + i]);
            a[i * d + j] = mean;
            a[j * d + i] = mean;
        }
    }
}

/// `Vᵀ diag(values) V` for eigenvectors in the rows of `V`, exactly symmetric.
pub(crate) fn from_spectrum(vectors: &[f64], values: &[f64]) -> Vec<f64> {
    let d = values.len();
    let scaled: Vec<f64> =
        vectors.chunks_exact(d).zip(values).flat_map(|(row, value)| row.iter().map(move |v| v * value)).collect();
    let mut out = square((vectors, Form::Transposed), (&scaled, Form::Plain), d);
    symmetrise(&mut out, d);
    out
}
