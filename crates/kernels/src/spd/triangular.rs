//! Products with square roots of matrices, which may be triangular: half of the multiplications and less.

use std::cell::RefCell;

use super::linalg::{Form, accumulate};

/// Where a square matrix is known to be 0, so that nothing needs to be multiplied there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Triangle {
    /// Nowhere.
    Full,
    /// Above its diagonal.
    Lower,
    /// Below its diagonal.
    Upper,
}

/// `C` with `A = C Cᵀ`, `d`×`d`: a Cholesky factor, from above or from below, or the principal square root.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor<'a> {
    pub(crate) values: &'a [f64],
    pub(crate) triangle: Triangle,
}

/// A factor of a product, how it is read, and the triangle that is then read.
type Side<'a> = (&'a [f64], Form, Triangle);

impl<'a> Factor<'a> {
    fn plain(self) -> Side<'a> {
        (self.values, Form::Plain, self.triangle)
    }

    fn transposed(self) -> Side<'a> {
        let triangle = match self.triangle {
            Triangle::Full => Triangle::Full,
            Triangle::Lower => Triangle::Upper,
            Triangle::Upper => Triangle::Lower,
        };
        (self.values, Form::Transposed, triangle)
    }
}

thread_local! {
    /// Memory for the first of two products.
    static HALF: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
}

/// `FᵀF` of `F = C_Bᵀ C_A`, exactly symmetric, in the memory of `out`.
pub(crate) fn gram_between(out: &mut Vec<f64>, b: Factor, a: Factor, d: usize) {
    out.resize(d * d, 0.0);
    HALF.with_borrow_mut(|half| {
        half.resize(d * d, 0.0);
        let triangle = between_to(half, b, a, d);
        let f = Factor { values: half, triangle };
        multiply(out, (0.0, 1.0), f.transposed(), f.plain(), d, true);
    });
}

/// `C V Cᵀ`, exactly symmetric, of a symmetric `V`.
pub(crate) fn expansion(c: Factor, v: &[f64], d: usize) -> Vec<f64> {
    let mut out = vec![0.0; d * d];
    HALF.with_borrow_mut(|half| {
        half.resize(d * d, 0.0);
        multiply(half, (0.0, 1.0), (v, Form::Plain, Triangle::Full), c.transposed(), d, false);
        multiply(&mut out, (0.0, 1.0), c.plain(), (half, Form::Plain, Triangle::Full), d, true);
    });
    out
}

/// `C_Bᵀ C_A`.
pub(crate) fn between(b: Factor, a: Factor, d: usize) -> Vec<f64> {
    let mut out = vec![0.0; d * d];
    between_to(&mut out, b, a, d);
    out
}

/// As [`between`]; the triangle of the product. Factors of opposite triangles have a triangle for a product, which costs a
/// third of that of two others.
fn between_to(out: &mut [f64], b: Factor, a: Factor, d: usize) -> Triangle {
    let (left, right) = (b.transposed(), a.plain());
    multiply(out, (0.0, 1.0), left, right, d, false);
    if left.2 == right.2 { left.2 } else { Triangle::Full }
}

/// `sum −= factor · C op(U)`.
pub(crate) fn subtract_image(sum: &mut [f64], factor: f64, c: Factor, rotation: (&[f64], Form), d: usize) {
    multiply(sum, (1.0, -factor), c.plain(), (rotation.0, rotation.1, Triangle::Full), d, false);
}

/// `out = sum · inverse` for the inverse of a factor.
pub(crate) fn times(out: &mut [f64], sum: &[f64], inverse: Factor, d: usize) {
    multiply(out, (0.0, 1.0), (sum, Form::Plain, Triangle::Full), inverse.plain(), d, false);
}

/// `Cᵀ C`, exactly symmetric.
pub(crate) fn gram(c: Factor, d: usize) -> Vec<f64> {
    let mut out = vec![0.0; d * d];
    multiply(&mut out, (0.0, 1.0), c.transposed(), c.plain(), d, true);
    out
}

/// As [`accumulate`], of `d`×`d` matrices.
fn multiply(out: &mut [f64], scales: (f64, f64), a: Side, b: Side, d: usize, symmetric: bool) {
    #[cfg(target_arch = "x86_64")]
    if super::tiles::available() && d > 0 {
        let view = |(data, form, _): Side<'_>| -> (usize, usize) {
            assert!(data.len() == d * d, "a square matrix");
            if form == Form::Plain { (d, 1) } else { (1, d) }
        };
        let (left, right) = (view(a), view(b));
        let left = super::tiles::View { data: a.0, row: left.0, column: left.1 };
        let right = super::tiles::View { data: b.0, row: right.0, column: right.1 };
        return super::tiles::product_of_triangles(out, scales, (left, right), (d, d, d), symmetric, [a.2, b.2]);
    }
    accumulate(out, scales, (a.0, a.1), (b.0, b.1), (d, d, d), symmetric);
}
