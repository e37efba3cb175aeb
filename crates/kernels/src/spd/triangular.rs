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

/// What is needed of a product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Need {
    /// All of it.
    Whole,
    /// All of a product that is known to be symmetric: the lower triangle is copied from the upper.
    Symmetric,
    /// The upper triangle; what is below the diagonal is left undefined.
    Upper,
    /// What the triangles of the factors do not leave 0; the rest is left undefined.
    Nonzero,
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

/// The upper triangle of `FᵀF` of `F = C_Bᵀ C_A`, in the memory of `out`, of which the rest is left undefined.
pub(crate) fn gram_between(out: &mut Vec<f64>, b: Factor, a: Factor, d: usize) {
    out.resize(d * d, 0.0);
    HALF.with_borrow_mut(|half| {
        half.resize(d * d, 0.0);
        // What is 0 is never read.
        let triangle = between_to(half, b, a, d, Need::Nonzero);
        let f = Factor { values: half, triangle };
        multiply(out, (0.0, 1.0), f.transposed(), f.plain(), d, Need::Upper);
    });
}

/// `C V Cᵀ`, exactly symmetric, of a symmetric `V`.
pub(crate) fn expansion(c: Factor, v: &[f64], d: usize) -> Vec<f64> {
    let mut out = vec![0.0; d * d];
    HALF.with_borrow_mut(|half| {
        half.resize(d * d, 0.0);
        multiply(half, (0.0, 1.0), (v, Form::Plain, Triangle::Full), c.transposed(), d, Need::Whole);
        multiply(&mut out, (0.0, 1.0), c.plain(), (half, Form::Plain, Triangle::Full), d, Need::Symmetric);
    });
    out
}

/// `C_Bᵀ C_A` with its triangle.
pub(crate) fn between(b: Factor, a: Factor, d: usize) -> (Vec<f64>, Triangle) {
    let mut out = vec![0.0; d * d];
    let triangle = between_to(&mut out, b, a, d, Need::Nonzero);
    (out, triangle)
}

/// As [`between`]; the triangle of the product. Factors of opposite triangles have a triangle for a product, which costs a
/// third of that of two others.
fn between_to(out: &mut [f64], b: Factor, a: Factor, d: usize, need: Need) -> Triangle {
    let (left, right) = (b.transposed(), a.plain());
    multiply(out, (0.0, 1.0), left, right, d, need);
    if left.2 == right.2 { left.2 } else { Triangle::Full }
}

/// `sum −= factor · C op(U)`.
pub(crate) fn subtract_image(sum: &mut [f64], factor: f64, c: Factor, rotation: (&[f64], Form), d: usize) {
    multiply(sum, (1.0, -factor), c.plain(), (rotation.0, rotation.1, Triangle::Full), d, Need::Whole);
}

/// `out = sum · inverse` for the inverse of a factor.
pub(crate) fn times(out: &mut [f64], sum: &[f64], inverse: Factor, d: usize) {
    multiply(out, (0.0, 1.0), (sum, Form::Plain, Triangle::Full), inverse.plain(), d, Need::Whole);
}

/// `scale · F · R` of a factor `F` and a whole matrix `R`.
pub(crate) fn scaled_product(scale: f64, f: Factor, r: &[f64], d: usize) -> Vec<f64> {
    let mut out = vec![0.0; d * d];
    multiply(&mut out, (0.0, scale), f.plain(), (r, Form::Plain, Triangle::Full), d, Need::Whole);
    out
}

/// `Cᵀ C`, exactly symmetric.
pub(crate) fn gram(c: Factor, d: usize) -> Vec<f64> {
    let mut out = vec![0.0; d * d];
    multiply(&mut out, (0.0, 1.0), c.transposed(), c.plain(), d, Need::Symmetric);
    out
}

/// As [`accumulate`], of `d`×`d` matrices, of which a part is needed.
fn multiply(out: &mut [f64], scales: (f64, f64), a: Side, b: Side, d: usize, need: Need) {
    #[cfg(target_arch = "x86_64")]
    if super::tiles::available() && d > 0 {
        let view = |(data, form, _): Side<'_>| -> (usize, usize) {
            assert!(data.len() == d * d, "a square matrix");
            if form == Form::Plain { (d, 1) } else { (1, d) }
        };
        let (left, right) = (view(a), view(b));
        let left = super::tiles::View { data: a.0, row: left.0, column: left.1 };
        let right = super::tiles::View { data: b.0, row: right.0, column: right.1 };
        return super::tiles::product_of_triangles(out, scales, (left, right), (d, d, d), need, [a.2, b.2]);
    }
    let symmetric = matches!(need, Need::Symmetric | Need::Upper);
    accumulate(out, scales, (a.0, a.1), (b.0, b.1), (d, d, d), symmetric);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spd::linalg::square;
    use random::{Axis, Seeds};
    use testkit::tolerance::{IDENTITY_F64, assert_close};

    #[test]
    fn products_of_factors_are_those_of_the_definition() {
        let mut stream = Seeds::new(14).stream(Axis::Test, &[]);
        for d in [1, 4, 7, 16, 30, 64] {
            let mut draw = |triangle: Triangle| -> Vec<f64> {
                let zero = |at: usize| match triangle {
                    Triangle::Full => false,
                    Triangle::Lower => at % d > at / d,
                    Triangle::Upper => at % d < at / d,
                };
                (0..d * d).map(|at| if zero(at) { 0.0 } else { stream.normal() }).collect()
            };
            for (left, right, want) in [
                (Triangle::Lower, Triangle::Upper, Triangle::Upper),
                (Triangle::Lower, Triangle::Lower, Triangle::Full),
                (Triangle::Full, Triangle::Upper, Triangle::Full),
            ] {
                let (b, a, r) = (draw(left), draw(right), draw(Triangle::Full));
                let [of_b, of_a] = [(&b, left), (&a, right)].map(|(values, triangle)| Factor { values, triangle });
                let product = square((&b, Form::Transposed), (&a, Form::Plain), d);
                let (f, triangle) = between(of_b, of_a, d);
                assert_eq!(triangle, want);
                assert_close("C_Bᵀ C_A", &f, &product, d * d, IDENTITY_F64);
                let mut gram = vec![f64::NAN; d * d];
                gram_between(&mut gram, of_b, of_a, d);
                let mut whole = square((&product, Form::Transposed), (&product, Form::Plain), d);
                (0..d * d).filter(|at| at / d > at % d).for_each(|at| (gram[at], whole[at]) = (0.0, 0.0));
                assert_close("FᵀF, upper triangle", &gram, &whole, d * d, IDENTITY_F64);
                let scaled = scaled_product(-2.0, Factor { values: &f, triangle }, &r, d);
                let twice: Vec<f64> =
                    square((&product, Form::Plain), (&r, Form::Plain), d).iter().map(|v| -2.0 * v).collect();
                assert_close("scaled", &scaled, &twice, d * d, IDENTITY_F64);
            }
        }
    }
}
