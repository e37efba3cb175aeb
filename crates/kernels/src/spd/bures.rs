//! The Bures-Wasserstein distance of one pair, by the polar factor of `B^½ A^½`.
//!
//! With `F = B^½ A^½ = U H` (`U` orthogonal, `H = (A^½ B A^½)^½`), `tr A + tr B − 2 tr H = ‖A^½ − Uᵀ B^½‖²`: a sum of
//! squares, in which nothing cancels when the matrices are close (Bhatia, Jain and Lim 2019, theorem 1). The optimal
//! maps are `T_AB = A^{-½} Uᵀ B^½` and `T_BA = B^{-½} U A^½`, so that the gradients of the distance `δ`,
//! `(I − T_AB) / 2δ` and `(I − T_BA) / 2δ`, need no further factorisation:
//! `I − T_AB = A^{-½} (A^½ − Uᵀ B^½)`.

use super::eigen::{Eigen, NoConvergence, eigenvalues_of};
use super::iterate::{SMALLEST, Scratch, polar_factor};
use super::linalg::{Form, accumulate, square};
use super::simd::{dispatched, dot, squared_difference};

/// Ratio of singular values down to which the polar factor by products is as good as that by singular vectors.
const MODERATE: f64 = 1e-5;
/// Singular values further apart than this get a second, one-sided orthogonalisation.
const SPREAD: f64 = 1e-3;
/// Cosine of two singular vectors above which they are rotated.
const COSINE: f64 = 1e-13;
/// Sweeps of the one-sided orthogonalisation; two or three are usual.
const SWEEPS: usize = 40;
/// Bar of the relative error that rounding may leave in a squared distance computed from eigenvalues alone.
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

/// The distance of the matrices with these square roots, and `U`.
pub(crate) fn polar(a: Root, b: Root, d: usize, scratch: &mut Scratch) -> Result<Polar, NoConvergence> {
    if a.root == b.root {
        return Ok(Polar { distance: 0.0, rotation: Vec::new() });
    }
    let f = square((b.root, Form::Plain), (a.root, Form::Plain), d);
    match by_products(&f, (a, b), d, MODERATE, scratch) {
        Some(polar) => Ok(polar),
        None => by_singular_values(&f, (a.root, b.root), d),
    }
}

/// By [`polar_factor`], where the singular values of `F` lie within `limit` of each other and the matrices are not close:
/// `δ² = tr A + tr B − 2 tr Uᵀ F`, in which an error of `U` counts by its square.
fn by_products(f: &[f64], (a, b): (Root, Root), d: usize, limit: f64, scratch: &mut Scratch) -> Option<Polar> {
    // The singular values of a product lie between the products of the extreme ones.
    let (least, largest) = ((a.least * b.least).sqrt() * 0.999, (a.largest * b.largest).sqrt() * 1.001);
    if least < limit * largest {
        return None;
    }
    let mut rotation = f.to_vec();
    polar_factor(&mut rotation, d, (least, largest), scratch);
    let squared = a.trace + b.trace - 2.0 * inner(&rotation, f);
    (squared >= FAR * (a.trace + b.trace)).then(|| Polar { distance: squared.sqrt(), rotation })
}

dispatched! {
    fn inner(a: &[f64], b: &[f64]) -> f64 {
        dot(a, b)
    }
}

/// By the singular value decomposition of `F`, to a high relative accuracy of its small singular values.
fn by_singular_values(f: &[f64], (root_a, root_b): (&[f64], &[f64]), d: usize) -> Result<Polar, NoConvergence> {
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
    let rotation = square((&left, Form::Transposed), (&right.vectors, Form::Plain), d);
    let mut gap = root_a.to_vec();
    subtract_image_b(&mut gap, 1.0, &rotation, root_b, d);
    Ok(Polar { distance: inner(&gap, &gap).sqrt(), rotation })
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

/// The distance alone, to a relative accuracy of `1e-9` in its square or better: from the eigenvalues of `A^½ B A^½`
/// where they carry that accuracy, else as [`polar`], for which here the singular values may be further apart.
pub(crate) fn value(a: Root, b: Root, d: usize, scratch: &mut Scratch) -> Result<f64, NoConvergence> {
    values(&[(a, b)], d, scratch).remove(0)
}

/// As [`value`], of several pairs.
pub(crate) fn values(pairs: &[(Root, Root)], d: usize, scratch: &mut Scratch) -> Vec<Result<f64, NoConvergence>> {
    let products: Vec<Vec<f64>> =
        pairs.iter().map(|(a, b)| square((b.root, Form::Plain), (a.root, Form::Plain), d)).collect();
    // Eigenvalues of the pairs that they serve, in the order of the pairs.
    let serves: Vec<bool> = pairs.iter().map(|&(a, b)| a.root != b.root && eigenvalues_serve(a, b)).collect();
    let grams: Vec<Vec<f64>> =
        products.iter().zip(&serves).filter(|(_, serve)| **serve).map(|(f, _)| gram(f, d)).collect();
    let views: Vec<&[f64]> = grams.iter().map(Vec::as_slice).collect();
    let mut spectra = eigenvalues_of(&views, d).into_iter();
    let one = |((&(a, b), f), serve): ((&(Root, Root), &Vec<f64>), bool)| {
        if a.root == b.root {
            return Ok(0.0);
        }
        let spectrum = if serve { spectra.next().transpose()? } else { None };
        match spectrum.and_then(|values| by_eigenvalues(a, b, &values)) {
            Some(distance) => Ok(distance),
            None => match by_products(f, (a, b), d, SMALLEST, scratch) {
                Some(polar) => Ok(polar.distance),
                None => Ok(by_singular_values(f, (a.root, b.root), d)?.distance),
            },
        }
    };
    pairs.iter().zip(&products).zip(serves.iter().copied()).map(one).collect()
}

/// What an error of a few `ε λ_max` in each eigenvalue `λ` of `A^½ B A^½` does to a sum of roots: that over `2 √λ`, here
/// for the sum of `λ_max / √λ`.
fn spectral_error(a: Root, b: Root, from_roots: f64) -> f64 {
    4.0 * f64::EPSILON * (from_roots + a.trace + b.trace)
}

/// Whether the eigenvalues of `A^½ B A^½` can carry the accuracy of [`value`].
fn eigenvalues_serve(a: Root, b: Root) -> bool {
    let least = (a.least * b.least).sqrt();
    spectral_error(a, b, a.largest * b.largest / least) <= VALUE_ONLY * (a.trace + b.trace)
}

/// The distance by the ascending eigenvalues of `A^½ B A^½`, if they carry its accuracy.
fn by_eigenvalues(a: Root, b: Root, values: &[f64]) -> Option<f64> {
    let largest = *values.last()?;
    if values[0] <= 0.0 {
        return None;
    }
    let roots: Vec<f64> = values.iter().map(|v| v.sqrt()).collect();
    let squared = a.trace + b.trace - 2.0 * roots.iter().sum::<f64>();
    let error = spectral_error(a, b, roots.iter().map(|r| largest / r).sum());
    (error <= VALUE_ONLY * squared).then(|| squared.sqrt())
}

/// `FᵀF`.
fn gram(f: &[f64], d: usize) -> Vec<f64> {
    let mut out = vec![0.0; d * d];
    accumulate(&mut out, (0.0, 1.0), (f, Form::Transposed), (f, Form::Plain), (d, d, d), true);
    out
}

/// `‖A^½ − B^½‖_F`, which is at most `√2` times the distance and at least the distance.
pub(crate) fn root_distance(root_a: &[f64], root_b: &[f64]) -> f64 {
    squared_difference(root_a, root_b).sqrt()
}
