//! The Bures-Wasserstein distance of one pair, by the polar factor of `B^½ A^½`.
//!
//! With `F = B^½ A^½ = U H` (`U` orthogonal, `H = (A^½ B A^½)^½`), `tr A + tr B − 2 tr H = ‖A^½ − Uᵀ B^½‖²`: a sum of
//! squares, in which nothing cancels when the matrices are close (Bhatia, Jain and Lim 2019, theorem 1). The optimal
//! maps are `T_AB = A^{-½} Uᵀ B^½` and `T_BA = B^{-½} U A^½`, so that the gradients of the distance `δ`,
//! `(I − T_AB) / 2δ` and `(I − T_BA) / 2δ`, need no further factorisation:
//! `I − T_AB = A^{-½} (A^½ − Uᵀ B^½)`.

use super::eigen::{Eigen, NoConvergence};
use super::inverse_root::{Scaled, Traces, covers, traces};
use super::linalg::{Form, accumulate, square};
use super::polar::{Bounded, careful_factor, gram, refined_factors};
use super::simd::{dispatched, dot, squared_difference};

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

/// The square root of a matrix, with the matrix's trace and its extreme eigenvalues.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Root<'a> {
    pub(crate) root: &'a [f64],
    pub(crate) trace: f64,
    pub(crate) least: f64,
    pub(crate) largest: f64,
}

/// Distance and polar factor; `rotation` is empty for coinciding matrices, which are at distance exactly 0.
pub(crate) struct Polar {
    pub(crate) distance: f64,
    pub(crate) rotation: Vec<f64>,
}

/// `sum −= factor · Uᵀ B^½`.
pub(crate) fn subtract_image_b(sum: &mut [f64], factor: f64, rotation: &[f64], root_b: &[f64], d: usize) {
    accumulate(sum, (1.0, -factor), (rotation, Form::Transposed), (root_b, Form::Plain), (d, d, d), false);
}

/// `sum −= factor · U A^½`.
pub(crate) fn subtract_image_a(sum: &mut [f64], factor: f64, rotation: &[f64], root_a: &[f64], d: usize) {
    accumulate(sum, (1.0, -factor), (rotation, Form::Plain), (root_a, Form::Plain), (d, d, d), false);
}

/// A pair of roots and its product `F = B^½ A^½`.
struct Pair<'a> {
    a: Root<'a>,
    b: Root<'a>,
    f: Vec<f64>,
    /// Bounds of the singular values of `F`: those of a product lie between the products of the extreme ones.
    least: f64,
    largest: f64,
}

impl<'a> Pair<'a> {
    fn new(&(a, b): &(Root<'a>, Root<'a>), d: usize) -> Self {
        let (least, largest) = ((a.least * b.least).sqrt() * 0.999, (a.largest * b.largest).sqrt() * 1.001);
        Self { a, b, f: square((b.root, Form::Plain), (a.root, Form::Plain), d), least, largest }
    }

    fn same(&self) -> bool {
        self.a.root == self.b.root
    }

    fn bounded(&self) -> Bounded<'_> {
        Bounded { matrix: &self.f, least: self.least, largest: self.largest }
    }

    /// Distance and rotation, if the matrices are not close: `δ² = tr A + tr B − 2 tr Uᵀ F`, in which an error of `U` counts
    /// by its square.
    fn far(&self, rotation: Vec<f64>) -> Option<Polar> {
        let traces = self.a.trace + self.b.trace;
        let squared = traces - 2.0 * inner(&rotation, &self.f);
        (squared >= FAR * traces).then(|| Polar { distance: squared.sqrt(), rotation })
    }

    /// Distance and rotation by `‖A^½ − Uᵀ B^½‖`.
    fn by_gap(&self, rotation: Vec<f64>, d: usize) -> Polar {
        let mut gap = self.a.root.to_vec();
        subtract_image_b(&mut gap, 1.0, &rotation, self.b.root, d);
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

/// As [`value`], of several pairs.
pub(crate) fn values(pairs: &[(Root, Root)], d: usize) -> Vec<Result<f64, NoConvergence>> {
    let both: Vec<Pair> = pairs.iter().map(|pair| Pair::new(pair, d)).collect();
    let serve = |pair: &&Pair| !pair.same() && covers(pair.least / pair.largest) && traces_serve(pair.a, pair.b);
    let grams: Vec<Vec<f64>> = both.iter().filter(serve).map(|pair| gram(&pair.f, d)).collect();
    let scaled: Vec<Scaled> = both
        .iter()
        .filter(serve)
        .zip(&grams)
        .map(|(pair, matrix)| Scaled {
            matrix,
            scale: 1.0 / (pair.largest * pair.largest),
            ratio: pair.least / pair.largest,
        })
        .collect();
    let mut sums = traces(&scaled, d).into_iter();
    let one = |(pair, roots): (&Pair, &(Root, Root))| {
        if pair.same() {
            return Ok(0.0);
        }
        let sums = if serve(&pair) { sums.next() } else { None };
        match sums.and_then(|sums| by_traces(pair, sums)) {
            Some(distance) => Ok(distance),
            None => Ok(polars(&[*roots], d).remove(0)?.distance),
        }
    };
    both.iter().zip(pairs).map(one).collect()
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
fn by_traces(pair: &Pair, sums: Traces) -> Option<f64> {
    let squared = pair.a.trace + pair.b.trace - 2.0 * pair.largest * sums.root;
    let error = spectral_error(pair.a, pair.b, pair.largest * sums.inverse_root);
    // Not a number compares false.
    (error <= VALUE_ONLY * squared).then(|| squared.sqrt())
}

/// `‖A^½ − B^½‖_F`, which is at most `√2` times the distance and at least the distance.
pub(crate) fn root_distance(root_a: &[f64], root_b: &[f64]) -> f64 {
    squared_difference(root_a, root_b).sqrt()
}
