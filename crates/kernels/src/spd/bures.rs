//! The Bures-Wasserstein distance of one pair, by the polar factor of `B^½ A^½`.
//!
//! With `F = B^½ A^½ = U H` (`U` orthogonal, `H = (A^½ B A^½)^½`), `tr A + tr B − 2 tr H = ‖A^½ − Uᵀ B^½‖²`: a sum of
//! squares, in which nothing cancels when the matrices are close (Bhatia, Jain and Lim 2019, theorem 1). The optimal
//! maps are `T_AB = A^{-½} Uᵀ B^½` and `T_BA = B^{-½} U A^½`, so that the gradients of the distance `δ`,
//! `(I − T_AB) / 2δ` and `(I − T_BA) / 2δ`, need no further factorisation:
//! `I − T_AB = A^{-½} (A^½ − Uᵀ B^½)`.

use super::eigen::{Eigen, NoConvergence, eigenvalues};
use super::linalg::{Form, square};
use super::simd::{dispatched, dot, squared_difference};

/// Singular values further apart than this get a second, one-sided orthogonalisation.
const SPREAD: f64 = 1e-3;
/// Cosine of two singular vectors above which they are rotated.
const COSINE: f64 = 1e-13;
/// Sweeps of the one-sided orthogonalisation; two or three are usual.
const SWEEPS: usize = 40;
/// Bar of the relative error that rounding may leave in a squared distance computed from eigenvalues alone.
const VALUE_ONLY: f64 = 1e-9;

/// Distance and polar factor; `rotation` is empty for coinciding matrices, which are at distance exactly 0.
pub(crate) struct Polar {
    pub(crate) distance: f64,
    pub(crate) rotation: Vec<f64>,
}

/// `A^½ − Uᵀ B^½`.
pub(crate) fn gap_a(root_a: &[f64], root_b: &[f64], rotation: &[f64], d: usize) -> Vec<f64> {
    let mut out = square((rotation, Form::Transposed), (root_b, Form::Plain), d);
    out.iter_mut().zip(root_a).for_each(|(z, a)| *z = a - *z);
    out
}

/// `B^½ − U A^½`.
pub(crate) fn gap_b(root_a: &[f64], root_b: &[f64], rotation: &[f64], d: usize) -> Vec<f64> {
    let mut out = square((rotation, Form::Plain), (root_a, Form::Plain), d);
    out.iter_mut().zip(root_b).for_each(|(z, b)| *z = b - *z);
    out
}

/// The distance of the matrices with these square roots, and `U`.
pub(crate) fn polar(root_a: &[f64], root_b: &[f64], d: usize) -> Result<Polar, NoConvergence> {
    if root_a == root_b {
        return Ok(Polar { distance: 0.0, rotation: Vec::new() });
    }
    let f = square((root_b, Form::Plain), (root_a, Form::Plain), d);
    let mut right = Eigen::new(&square((&f, Form::Transposed), (&f, Form::Plain), d), d)?;
    // Rows σ_k p_k of the singular value decomposition F = Σ σ_k p_k r_kᵀ; the rows of `right` are the r_k.
    let mut left = square((&right.vectors, Form::Plain), (&f, Form::Transposed), d);
    if right.values[0] < SPREAD * SPREAD * right.values[d - 1] && !orthogonalise(&mut left, &mut right.vectors, d) {
        return Err(NoConvergence(SWEEPS));
    }
    for row in left.chunks_exact_mut(d) {
        let norm = dot(row, row).sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    let rotation = square((&left, Form::Transposed), (&right.vectors, Form::Plain), d);
    let gap = gap_a(root_a, root_b, &rotation, d);
    Ok(Polar { distance: dot(&gap, &gap).sqrt(), rotation })
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

/// The distance alone, to a relative accuracy of `1e-9` in its square or better, from the eigenvalues of
/// `A^½ B A^½` where they carry that accuracy, and by [`polar`] where they do not.
pub(crate) fn value(
    (root_a, trace_a): (&[f64], f64),
    (root_b, trace_b): (&[f64], f64),
    d: usize,
) -> Result<f64, NoConvergence> {
    if root_a == root_b {
        return Ok(0.0);
    }
    let f = square((root_b, Form::Plain), (root_a, Form::Plain), d);
    let values = eigenvalues(&square((&f, Form::Transposed), (&f, Form::Plain), d), d)?;
    if values[0] > 0.0 {
        let roots: Vec<f64> = values.iter().map(|v| v.sqrt()).collect();
        let squared = trace_a + trace_b - 2.0 * roots.iter().sum::<f64>();
        // An error of a few ε λ_max in an eigenvalue λ moves its root by that over 2 √λ.
        let from_roots: f64 = roots.iter().map(|r| values[d - 1] / r).sum();
        let error = 4.0 * f64::EPSILON * (from_roots + trace_a + trace_b);
        if error <= VALUE_ONLY * squared {
            return Ok(squared.sqrt());
        }
    }
    Ok(polar(root_a, root_b, d)?.distance)
}

/// `‖A^½ − B^½‖_F`, which is at most `√2` times the distance and at least the distance.
pub(crate) fn root_distance(root_a: &[f64], root_b: &[f64]) -> f64 {
    squared_difference(root_a, root_b).sqrt()
}
