//! Orthogonal polar factors of several matrices, `U = F (FᵀF)^{-½}`.

use super::inverse_root::{Scaled, covers, gram_inverse_roots, inverse_roots};
use super::linalg::{Form, accumulate};
use super::triangular::{Factor, Triangle, scaled_product};

/// Ratio of singular values down to which `FᵀF` itself is reduced, which costs the square of the ratio in accuracy.
const GOOD: f64 = 1e-2;

/// Ratio of singular values down to which the small ones keep enough digits for gradients.
pub(super) const MODERATE: f64 = 1e-5;

/// A `d`×`d` matrix `F` (or, where it says so, `FᵀF`), with bounds of the singular values of `F`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounded<'a> {
    pub(super) matrix: &'a [f64],
    /// Where `F` is known to be 0.
    pub(super) triangle: Triangle,
    pub(super) least: f64,
    pub(super) largest: f64,
}

impl<'a> Bounded<'a> {
    pub(super) fn ratio(&self) -> f64 {
        self.least / self.largest
    }

    /// The matrix, which is `F`, with what scales it.
    fn of_factor(&self) -> Scaled<'a> {
        Scaled { matrix: self.matrix, scale: 1.0 / self.largest, ratio: self.ratio() }
    }

    /// The matrix, which is `FᵀF`, with what scales it.
    pub(super) fn of_gram(&self) -> Scaled<'a> {
        Scaled { matrix: self.matrix, scale: 1.0 / (self.largest * self.largest), ratio: self.ratio() }
    }

    fn times(&self, inverse_root: &[f64], d: usize) -> Vec<f64> {
        let f = Factor { values: self.matrix, triangle: self.triangle };
        scaled_product(1.0 / self.largest, f, inverse_root, d)
    }
}

/// Bounds of the singular values of `C_Bᵀ C_A`, from the least and the largest eigenvalue of `A` and of `B`: those of a
/// product lie between the products of the extreme ones.
pub(super) fn ends(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    ((a.0 * b.0).sqrt() * 0.999, (a.1 * b.1).sqrt() * 1.001)
}

/// `FᵀF`.
pub(super) fn gram(f: &[f64], d: usize) -> Vec<f64> {
    let mut out = vec![0.0; d * d];
    accumulate(&mut out, (0.0, 1.0), (f, Form::Transposed), (f, Form::Plain), (d, d, d), true);
    out
}

/// The factors, exactly orthogonal up to rounding, of matrices whose singular values lie within [`MODERATE`] of each other;
/// else `None`. Otherwise as [`orthogonal_factors`].
pub(super) fn refined_factors(all: &[Bounded], d: usize) -> Vec<Option<Vec<f64>>> {
    let moderate: Vec<Bounded> = all.iter().filter(|of| of.ratio() >= MODERATE).copied().collect();
    let mut factors = orthogonal_factors(&moderate, d).into_iter();
    let one = |of: &Bounded| {
        if of.ratio() < MODERATE {
            return None;
        }
        let factor = factors.next().flatten()?;
        Some(if of.ratio() >= GOOD { factor } else { polished(&factor, d) })
    };
    all.iter().map(one).collect()
}

/// `U (3 I − UᵀU) / 2`, which leaves the square of what `U` lacks to be orthogonal.
fn polished(u: &[f64], d: usize) -> Vec<f64> {
    let gram = gram(u, d);
    let mut out = u.to_vec();
    accumulate(&mut out, (1.5, -0.5), (u, Form::Plain), (&gram, Form::Plain), (d, d, d), false);
    out
}

/// The factors, with errors of about `ε / ratio²` where the ratio of the singular values is [`GOOD`], else `ε / ratio`;
/// `None` where the singular values lie too far apart.
///
/// What a matrix gets does not depend on its neighbours. Best called with
/// [`TOGETHER`](super::inverse_root::TOGETHER) matrices.
pub(super) fn orthogonal_factors(all: &[Bounded], d: usize) -> Vec<Option<Vec<f64>>> {
    let mut out = vec![None; all.len()];
    let (good, rest): (Vec<usize>, Vec<usize>) =
        (0..all.len()).filter(|&k| covers(all[k].ratio())).partition(|&k| all[k].ratio() >= GOOD);
    let grams: Vec<Vec<f64>> = good.iter().map(|&k| gram(all[k].matrix, d)).collect();
    let scaled: Vec<Scaled> =
        good.iter().zip(&grams).map(|(&k, matrix)| Bounded { matrix, ..all[k] }.of_gram()).collect();
    for (&k, inverse) in good.iter().zip(inverse_roots(&scaled, d)) {
        out[k] = Some(all[k].times(&inverse, d));
    }
    let scaled: Vec<Scaled> = rest.iter().map(|&k| all[k].of_factor()).collect();
    for (&k, inverse) in rest.iter().zip(gram_inverse_roots(&scaled, d)) {
        out[k] = Some(all[k].times(&inverse, d));
    }
    out
}

/// The factor of one matrix, by way of a bidiagonal matrix; else as [`refined_factors`].
pub(super) fn careful_factor(of: &Bounded, d: usize) -> Option<Vec<f64>> {
    if of.ratio() < MODERATE || !covers(of.ratio()) {
        return None;
    }
    Some(polished(&of.times(&gram_inverse_roots(&[of.of_factor()], d)[0], d), d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spd::linalg::square;
    use random::{Axis, Seeds};
    use testkit::tolerance::{IDENTITY_F64, assert_close};

    #[test]
    fn recovers_the_orthogonal_factor() {
        let mut stream = Seeds::new(8).stream(Axis::Test, &[]);
        for d in [1, 2, 5, 16, 33, 64] {
            for spread in [0.0, 0.5, 1.5, 3.0, 4.5, 5.9] {
                let q = testkit::spd::orthogonal(d, &mut stream);
                let spectrum: Vec<f64> = (0..d).map(|_| 10f64.powf(-stream.range(0.0, spread))).collect();
                let h = testkit::spd::with_spectrum(&spectrum, &mut stream);
                let x = square((&q, Form::Plain), (&h, Form::Plain), d);
                let of =
                    Bounded { matrix: &x, triangle: Triangle::Full, least: 10f64.powf(-spread) * 0.99, largest: 1.01 };
                // The factor of a matrix with rounding errors is known up to ε / σ_min.
                let bar = 1e-13 * 10f64.powf(spread.max(2.0)) * (d as f64).sqrt();
                let name = format!("d {d}, spread {spread}");
                let found = orthogonal_factors(&[of], d).remove(0).unwrap();
                assert_close(&name, &found, &q, d * d, bar);
                let identity: Vec<f64> = (0..d * d).map(|at| f64::from(u8::from(at % (d + 1) == 0))).collect();
                for refined in [refined_factors(&[of], d).remove(0), careful_factor(&of, d)] {
                    let Some(refined) = refined else {
                        assert!(spread > 4.9, "{name} is moderate");
                        continue;
                    };
                    assert_close(&name, &refined, &q, d * d, bar);
                    assert_close(&format!("{name}, orthogonal"), &gram(&refined, d), &identity, d * d, IDENTITY_F64);
                }
            }
        }
    }

    #[test]
    fn none_where_singular_values_lie_too_far_apart() {
        let triangle = Triangle::Full;
        let of = Bounded { matrix: &[1.0, 0.0, 0.0, 1e-9], triangle, least: 1e-9, largest: 1.0 };
        assert!(orthogonal_factors(&[of], 2)[0].is_none());
        assert!(refined_factors(&[of], 2)[0].is_none() && careful_factor(&of, 2).is_none());
    }
}
