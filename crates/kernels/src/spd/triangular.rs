//! Products with square roots of matrices, which may be triangular: half of the multiplications and less.

use std::cell::RefCell;

use super::linalg::{Form, accumulate};

/// `C` with `A = C Cᵀ`, `d`×`d`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor<'a> {
    pub(crate) values: &'a [f64],
    /// Whether it is 0 above the diagonal: a Cholesky factor. Otherwise the principal square root.
    pub(crate) lower: bool,
}

/// A factor of a product, and whether the matrix itself (not as it is read) is 0 above its diagonal.
type Side<'a> = (&'a [f64], Form, bool);

impl<'a> Factor<'a> {
    fn plain(self) -> Side<'a> {
        (self.values, Form::Plain, self.lower)
    }

    fn transposed(self) -> Side<'a> {
        (self.values, Form::Transposed, self.lower)
    }
}

thread_local! {
    /// Memory for the first of two products.
    static HALF: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
}

/// `Cᵀ B C`, exactly symmetric, of a symmetric `B`, in the memory of `out`.
pub(crate) fn congruence(out: &mut Vec<f64>, c: Factor, b: &[f64], d: usize) {
    out.resize(d * d, 0.0);
    HALF.with_borrow_mut(|half| {
        half.resize(d * d, 0.0);
        multiply(half, (0.0, 1.0), (b, Form::Plain, false), c.plain(), d, false);
        multiply(out, (0.0, 1.0), c.transposed(), (half, Form::Plain, false), d, true);
    });
}

/// `C V Cᵀ`, exactly symmetric, of a symmetric `V`.
pub(crate) fn expansion(c: Factor, v: &[f64], d: usize) -> Vec<f64> {
    let mut out = vec![0.0; d * d];
    HALF.with_borrow_mut(|half| {
        half.resize(d * d, 0.0);
        multiply(half, (0.0, 1.0), (v, Form::Plain, false), c.transposed(), d, false);
        multiply(&mut out, (0.0, 1.0), c.plain(), (half, Form::Plain, false), d, true);
    });
    out
}

/// `C_Bᵀ C_A`.
pub(crate) fn between(b: Factor, a: Factor, d: usize) -> Vec<f64> {
    let mut out = vec![0.0; d * d];
    multiply(&mut out, (0.0, 1.0), b.transposed(), a.plain(), d, false);
    out
}

/// `sum −= factor · C op(U)`.
pub(crate) fn subtract_image(sum: &mut [f64], factor: f64, c: Factor, rotation: (&[f64], Form), d: usize) {
    multiply(sum, (1.0, -factor), c.plain(), (rotation.0, rotation.1, false), d, false);
}

/// `out = sum · inverse` for the inverse of a factor.
pub(crate) fn times(out: &mut [f64], sum: &[f64], inverse: Factor, d: usize) {
    multiply(out, (0.0, 1.0), (sum, Form::Plain, false), inverse.plain(), d, false);
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
        let ((left, left_triangle), (right, right_triangle)) = (view(a, d), view(b, d));
        let triangles = [left_triangle, right_triangle];
        return super::tiles::product_of_triangles(out, scales, (left, right), (d, d, d), symmetric, triangles);
    }
    accumulate(out, scales, (a.0, a.1), (b.0, b.1), (d, d, d), symmetric);
}

#[cfg(target_arch = "x86_64")]
fn view((data, form, lower): Side<'_>, d: usize) -> (super::tiles::View<'_>, super::tiles::Triangle) {
    use super::tiles::{Triangle, View};
    let (row, column) = if form == Form::Plain { (d, 1) } else { (1, d) };
    let triangle = match (lower, form) {
        (false, _) => Triangle::Full,
        (true, Form::Plain) => Triangle::Lower,
        (true, Form::Transposed) => Triangle::Upper,
    };
    (View { data, row, column }, triangle)
}
