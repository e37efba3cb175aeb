//! The Bures-Wasserstein distance of one pair, by a polar factor.
//!
//! With any `C` such that `A = C_A C_Aᵀ`, `B = C_B C_Bᵀ` (Cholesky factors, or principal square roots), and
//! `F = C_Bᵀ C_A = U H` (`U` orthogonal, `H = (C_Aᵀ B C_A)^½`, with the eigenvalues of `(A^½ B A^½)^½`),
//! `tr A + tr B − 2 tr H = ‖C_A − C_B U‖²`: a sum of squares, in which nothing cancels when the matrices are close
//! (Bhatia, Jain and Lim 2019, theorem 1). The optimal maps are `T_AB = C_A^{-T} Uᵀ C_Bᵀ` and `T_BA = C_B^{-T} U C_Aᵀ`, so that the
//! gradients of the distance `δ`, `(I − T_AB) / 2δ` and `(I − T_BA) / 2δ`, need no further factorisation: `I − T_AB` is the
//! transpose of `(C_A − C_B U) C_A⁻¹`.

use std::cell::RefCell;

use super::eigen::{Eigen, NoConvergence};
use super::inverse_root::{Scaled, Traces, covers, traces};
use super::linalg::{Form, square};
use super::polar::{self, Bounded, careful_factor, gram, refined_factors};
use super::simd::{dispatched, dot, squared_difference};
use super::triangular::{Factor, Triangle, between, gram_between, subtract_image};

/// Singular values further apart than this get a second, one-sided orthogonalisation.
const SPREAD: f64 = 1e-3;
/// Cosine of two singular vectors above which they are rotated.
const COSINE: f64 = 1e-13;
/// Sweeps of the one-sided orthogonalisation; two or three are usual.
const SWEEPS: usize = 40;
/// Bar of the relative error that rounding may leave in a squared distance computed from traces alone.
const VALUE_ONLY: f64 = 1e-9;

/// Share of `tr A + tr B` from which on the squared distance is taken as a difference of traces.
const FAR: f64 = 1e-3;

/// A matrix with a square root, its trace and its extreme eigenvalues.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Root<'a> {
    pub(crate) matrix: &'a [f64],
    pub(crate) factor: Factor<'a>,
    pub(crate) trace: f64,
    pub(crate) least: f64,
    pub(crate) largest: f64,
}

/// Distance and polar factor; `rotation` is empty for coinciding matrices, which are at distance exactly 0.
pub(crate) struct Polar {
    pub(crate) distance: f64,
    pub(crate) rotation: Vec<f64>,
}

/// `sum −= factor · C_B U`.
pub(crate) fn subtract_image_b(sum: &mut [f64], factor: f64, rotation: &[f64], b: Factor, d: usize) {
    subtract_image(sum, factor, b, (rotation, Form::Plain), d);
}

/// `sum −= factor · C_A Uᵀ`.
pub(crate) fn subtract_image_a(sum: &mut [f64], factor: f64, rotation: &[f64], a: Factor, d: usize) {
    subtract_image(sum, factor, a, (rotation, Form::Transposed), d);
}

/// Whether the two matrices of a pair are the same, number by number, and so are their roots.
fn same(a: Root, b: Root) -> bool {
    a.matrix == b.matrix
}

/// Bounds of the singular values of `F`.
fn ends(a: Root, b: Root) -> (f64, f64) {
    polar::ends((a.least, a.largest), (b.least, b.largest))
}

/// A pair of roots and its product `F = C_Bᵀ C_A`.
struct Pair<'a> {
    a: Root<'a>,
    b: Root<'a>,
    f: Vec<f64>,
    triangle: Triangle,
    least: f64,
    largest: f64,
}

impl<'a> Pair<'a> {
    fn new(&(a, b): &(Root<'a>, Root<'a>), d: usize) -> Self {
        let (least, largest) = ends(a, b);
        let (f, triangle) = between(b.factor, a.factor, d);
        Self { a, b, f, triangle, least, largest }
    }

    fn same(&self) -> bool {
        same(self.a, self.b)
    }

    fn bounded(&self) -> Bounded<'_> {
        Bounded { matrix: &self.f, triangle: self.triangle, least: self.least, largest: self.largest }
    }

    /// Distance and rotation, if the matrices are not close: `δ² = tr A + tr B − 2 tr Uᵀ F`, in which an error of `U` counts
    /// by its square.
    fn far(&self, rotation: Vec<f64>) -> Option<Polar> {
        let traces = self.a.trace + self.b.trace;
        let squared = traces - 2.0 * inner(&rotation, &self.f);
        (squared >= FAR * traces).then(|| Polar { distance: squared.sqrt(), rotation })
    }

    /// Distance and rotation by `‖C_A − C_B U‖`.
    fn by_gap(&self, rotation: Vec<f64>, d: usize) -> Polar {
        let mut gap = self.a.factor.values.to_vec();
        subtract_image_b(&mut gap, 1.0, &rotation, self.b.factor, d);
        Polar { distance: inner(&gap, &gap).sqrt(), rotation }
    }

    /// Of matrices that are close, or whose product has singular values very far apart.
    fn carefully(&self, d: usize) -> Result<Polar, NoConvergence> {
        match careful_factor(&self.bounded(), d) {
            Some(rotation) => Ok(self.by_gap(rotation, d)),
            None => Ok(self.by_gap(singular_rotation(&self.f, d)?, d)),
        }
    }
}

/// Distance and `U` of the pairs of matrices with these square roots.
///
/// Best called with [`TOGETHER`](super::inverse_root::TOGETHER) pairs.
pub(crate) fn polars(pairs: &[(Root, Root)], d: usize) -> Vec<Result<Polar, NoConvergence>> {
    let pairs: Vec<Pair> = pairs.iter().map(|pair| Pair::new(pair, d)).collect();
    let differing: Vec<Bounded> = pairs.iter().filter(|pair| !pair.same()).map(Pair::bounded).collect();
    let mut rotations = refined_factors(&differing, d).into_iter();
    let one = |pair: &Pair| {
        if pair.same() {
            return Ok(Polar { distance: 0.0, rotation: Vec::new() });
        }
        let far = rotations.next().flatten().and_then(|rotation| pair.far(rotation));
        far.map_or_else(|| pair.carefully(d), Ok)
    };
    pairs.iter().map(one).collect()
}

dispatched! {
    fn inner(a: &[f64], b: &[f64]) -> f64 {
        dot(a, b)
    }
}

/// `U` by the singular value decomposition of `F`, to a high relative accuracy of its small singular values.
fn singular_rotation(f: &[f64], d: usize) -> Result<Vec<f64>, NoConvergence> {
    let mut right = Eigen::new(&gram(f, d), d)?;
    // Rows σ_k p_k of the singular value decomposition F = Σ σ_k p_k r_kᵀ; the rows of `right` are the r_k.
    let mut left = square((&right.vectors, Form::Plain), (f, Form::Transposed), d);
    if right.values[0] < SPREAD * SPREAD * right.values[d - 1] && !orthogonalise(&mut left, &mut right.vectors, d) {
        return Err(NoConvergence(SWEEPS));
    }
    for row in left.chunks_exact_mut(d) {
        let norm = dot(row, row).sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    Ok(square((&left, Form::Transposed), (&right.vectors, Form::Plain), d))
}

dispatched! {
    /// One-sided Jacobi: rotates pairs of rows of `left` until they are orthogonal, and those of `right` with them,
    /// which gives the small singular values a relative accuracy that the eigenvalues of `FᵀF` have lost
    /// (Golub and Van Loan, section 8.6.4). False if the sweeps were not enough.
    fn orthogonalise(left: &mut [f64], right: &mut [f64], d: usize) -> bool {
        let mut norms: Vec<f64> = left.chunks_exact(d).map(|row| dot(row, row)).collect();
        for _ in 0..SWEEPS {
            let mut rotated = false;
            for i in (1..d).rev() {
                for j in (0..i).rev() {
                    let product = dot(&left[i * d..(i + 1) * d], &left[j * d..(j + 1) * d]);
                    if product.abs() <= COSINE * (norms[i] * norms[j]).sqrt() {
                        continue;
                    }
                    rotated = true;
                    let zeta = (norms[j] - norms[i]) / (2.0 * product);
                    let t = 1.0f64.copysign(zeta) / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                    let c = 1.0 / (1.0 + t * t).sqrt();
                    turn(left, d, j, i, c, c * t);
                    turn(right, d, j, i, c, c * t);
                    norms[i] = dot(&left[i * d..(i + 1) * d], &left[i * d..(i + 1) * d]);
                    norms[j] = dot(&left[j * d..(j + 1) * d], &left[j * d..(j + 1) * d]);
                }
            }
            if !rotated {
                return true;
            }
        }
        false
    }
}

/// Rows `i < j`: `j ← c·j − s·i`, `i ← s·j + c·i`.
#[inline(always)]
fn turn(rows: &mut [f64], d: usize, i: usize, j: usize, c: f64, s: f64) {
    let (head, tail) = rows.split_at_mut(j * d);
    for (low, high) in head[i * d..(i + 1) * d].iter_mut().zip(&mut tail[..d]) {
        let (x, y) = (*high, *low);
        *high = c * x - s * y;
        *low = s * x + c * y;
    }
}

/// The distance alone, to a relative accuracy of `1e-9` in its square or better: from `tr (A^½ B A^½)^½` where that
/// carries the accuracy, else as [`polars`].
pub(crate) fn value(a: Root, b: Root, d: usize) -> Result<f64, NoConvergence> {
    values(&[(a, b)], d).remove(0)
}

thread_local! {
    /// Memory for the matrices of [`values`], of which a search computes thousands.
    static GRAMS: RefCell<Vec<Vec<f64>>> = const { RefCell::new(Vec::new()) };
}

/// As [`value`], of several pairs.
pub(crate) fn values(pairs: &[(Root, Root)], d: usize) -> Vec<Result<f64, NoConvergence>> {
    let serve = |&&(a, b): &&(Root, Root)| {
        let (least, largest) = ends(a, b);
        !same(a, b) && covers(least / largest) && traces_serve(a, b)
    };
    let served: Vec<&(Root, Root)> = pairs.iter().filter(serve).collect();
    let mut grams = GRAMS.take();
    grams.resize_with(served.len().max(grams.len()), Vec::new);
    for ((a, b), gram) in served.iter().zip(&mut grams) {
        gram_between(gram, b.factor, a.factor, d);
    }
    let bounded = served.iter().zip(&grams).map(|(&&(a, b), matrix)| {
        let (least, largest) = ends(a, b);
        Bounded { matrix, triangle: Triangle::Full, least, largest }
    });
    let scaled: Vec<Scaled> = bounded.map(|gram| gram.of_gram()).collect();
    let mut sums = traces(&scaled, d).into_iter();
    GRAMS.set(grams);
    let one = |pair: &(Root, Root)| {
        let &(a, b) = pair;
        if same(a, b) {
            return Some(0.0);
        }
        let sums = if serve(&pair) { sums.next() } else { None };
        by_traces(a, b, sums?)
    };
    let found: Vec<Option<f64>> = pairs.iter().map(one).collect();
    let rest: Vec<(Root, Root)> =
        pairs.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(pair, _)| *pair).collect();
    let rest = polars(&rest, d).into_iter().map(|polar| polar.map(|polar| polar.distance));
    merge(found, rest)
}

/// `found` with its gaps filled from `rest`.
fn merge<T, E>(found: Vec<Option<T>>, mut rest: impl Iterator<Item = Result<T, E>>) -> Vec<Result<T, E>> {
    found.into_iter().filter_map(|found| found.map(Ok).or_else(|| rest.next())).collect()
}

/// What an error of a few `ε λ_max` in each eigenvalue `λ` of `A^½ B A^½` does to a sum of roots: that over `2 √λ`, here
/// for the sum of `λ_max / √λ`.
fn spectral_error(a: Root, b: Root, from_roots: f64) -> f64 {
    4.0 * f64::EPSILON * (from_roots + a.trace + b.trace)
}

/// Whether traces of functions of `A^½ B A^½` can carry the accuracy of [`value`].
fn traces_serve(a: Root, b: Root) -> bool {
    let least = (a.least * b.least).sqrt();
    spectral_error(a, b, a.largest * b.largest / least) <= VALUE_ONLY * (a.trace + b.trace)
}

/// The distance by the traces of the root and the inverse root of the scaled `A^½ B A^½`, if they carry its accuracy.
fn by_traces(a: Root, b: Root, sums: Traces) -> Option<f64> {
    let (_, largest) = ends(a, b);
    let squared = a.trace + b.trace - 2.0 * largest * sums.root;
    let error = spectral_error(a, b, largest * sums.inverse_root);
    // Not a number compares false.
    (error <= VALUE_ONLY * squared).then(|| squared.sqrt())
}

/// `‖A^½ − B^½‖_F`, which is at most `√2` times the distance and at least the distance.
pub(crate) fn root_distance(root_a: &[f64], root_b: &[f64]) -> f64 {
    squared_difference(root_a, root_b).sqrt()
}
