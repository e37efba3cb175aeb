//! Inverse square roots of several SPD matrices in lockstep, without an eigendecomposition.
//!
//! `A^{-½} = Σ w_j (A + c_j)^{-1}` by [`super::rational`], summed by [`super::resolvents`].

use super::bidiagonal::bidiagonalise;
use super::rational::{self, Fractions};
use super::resolvents::{Of, Room};
use super::wide::{Job, Wide, dispatch};

/// How many matrices a call should be given at a time.
pub(crate) const TOGETHER: usize = 4;

/// A matrix that `scale` brings to known bounds: for an SPD matrix, by its upper triangle, the eigenvalues to
/// `[ratio², 1]`, for any other the singular values to `[ratio, 1]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scaled<'a> {
    pub(crate) matrix: &'a [f64],
    pub(crate) scale: f64,
    pub(crate) ratio: f64,
}

/// `tr A^½` and `tr A^{-½}`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traces {
    pub(crate) root: f64,
    pub(crate) inverse_root: f64,
}

/// Whether a matrix with this ratio can be given to [`inverse_roots`] and [`traces`].
pub(crate) fn covers(ratio: f64) -> bool {
    rational::inverse_root(ratio).is_some()
}

/// `A^{-½}` of scaled SPD `d`×`d` matrices, exactly symmetric. An error of a few `ε / ratio²` is left, that of `A` itself.
///
/// What a matrix gets does not depend on its neighbours.
///
/// # Panics
/// If a ratio is not covered.
pub(crate) fn inverse_roots(all: &[Scaled], d: usize) -> Vec<Vec<f64>> {
    dispatch(Roots { all, d, of: Of::Matrix })
}

/// As [`inverse_roots`], right to three digits, and as positive definite.
///
/// # Panics
/// If a ratio is not covered.
pub(crate) fn rough_inverse_roots(all: &[Scaled], d: usize) -> Vec<Vec<f64>> {
    dispatch(Roots { all, d, of: Of::MatrixRoughly })
}

/// `(FᵀF)^{-½}` of scaled `d`×`d` matrices, with an error of a few `ε / ratio`: from a bidiagonal matrix `B`, in pivots of
/// `BᵀB + c I` that are sums and quotients of positive numbers.
///
/// # Panics
/// If a ratio is not covered.
pub(crate) fn gram_inverse_roots(all: &[Scaled], d: usize) -> Vec<Vec<f64>> {
    dispatch(Roots { all, d, of: Of::Gram })
}

/// The traces alone of the square roots and of the inverse square roots of scaled SPD matrices, at less than half the
/// cost.
///
/// # Panics
/// If a ratio is not covered.
pub(crate) fn traces(all: &[Scaled], d: usize) -> Vec<Traces> {
    dispatch(Sums { all, d })
}

struct Roots<'a> {
    all: &'a [Scaled<'a>],
    d: usize,
    of: Of,
}

struct Sums<'a> {
    all: &'a [Scaled<'a>],
    d: usize,
}

impl Job for Roots<'_> {
    type Out = Vec<Vec<f64>>;

    #[inline(always)]
    fn run<W: Wide>(self) -> Self::Out {
        let mut room = Room::<W>::take(self.d);
        let mut out: Vec<Vec<f64>> = Vec::with_capacity(self.all.len());
        for group in self.all.chunks(W::LANES) {
            reduce(&mut room, group, self.of);
            room.sum_inverses(self.of);
            room.expand();
            let first = out.len();
            out.extend(group.iter().map(|_| vec![0.0; self.d * self.d]));
            room.store(out[first..].iter_mut().map(Vec::as_mut_slice));
        }
        room.keep();
        out
    }
}

impl Job for Sums<'_> {
    type Out = Vec<Traces>;

    #[inline(always)]
    fn run<W: Wide>(self) -> Self::Out {
        let mut room = Room::<W>::take(self.d);
        let mut out = Vec::with_capacity(self.all.len());
        for group in self.all.chunks(W::LANES) {
            reduce(&mut room, group, Of::Matrix);
            let [root, inverse_root] = room.sum_traces();
            let (root, inverse_root) = ([root], [inverse_root]);
            let lanes = W::lanes(&root).iter().zip(W::lanes(&inverse_root));
            out.extend(lanes.take(group.len()).map(|(&root, &inverse_root)| Traces { root, inverse_root }));
        }
        room.keep();
        out
    }
}

/// Reduces the matrices of a group and looks up the terms of their sums.
#[inline(always)]
fn reduce<W: Wide>(room: &mut Room<W>, group: &[Scaled], of: Of) {
    let one: [Scaled; 8] = std::array::from_fn(|k| group[k.min(group.len() - 1)]);
    let scales = one.map(|scaled| scaled.scale);
    match of {
        Of::Matrix | Of::MatrixRoughly => {
            room.work.load(&one.map(|scaled| (scaled.matrix, 0.0)), &scales);
            room.work.reduce();
        }
        Of::Gram => {
            room.work.load_whole(&one.map(|scaled| scaled.matrix), &scales);
            bidiagonalise(&mut room.work, &mut room.delayed);
        }
    }
    let fractions: [&Fractions; 8] = std::array::from_fn(|k| {
        let ratio = one[k].ratio;
        let found = match of {
            Of::MatrixRoughly => rational::rough_inverse_root(ratio),
            Of::Matrix | Of::Gram => rational::inverse_root(ratio),
        };
        found.unwrap_or_else(|| panic!("a ratio of {ratio} is not covered"))
    });
    room.sum_of(fractions, [[1.0; 8]; 2]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spd::linalg::{Form, square};
    use random::{Axis, Seeds};
    use testkit::tolerance::assert_close;

    #[test]
    fn inverse_roots_and_traces_of_known_spectra() {
        let mut stream = Seeds::new(21).stream(Axis::Test, &[]);
        for d in [1, 2, 3, 4, 5, 7, 8, 17, 33, 64] {
            for count in [1, 3, 4, 6] {
                // One matrix by ratio; the smallest have bars of their own.
                let ratios: Vec<f64> = (0..count).map(|k| [0.5, 1.0, 0.03, 1e-3, 0.2, 1e-5][k]).collect();
                let spectra: Vec<Vec<f64>> = ratios
                    .iter()
                    .map(|ratio| (0..d).map(|_| ratio.powf(2.0 * stream.range(0.0, 1.0))).collect())
                    .collect();
                let rotations: Vec<Vec<f64>> = (0..count).map(|_| testkit::spd::orthogonal(d, &mut stream)).collect();
                let of = |q: &[f64], values: &[f64]| {
                    let scaled: Vec<f64> = q.iter().enumerate().map(|(at, v)| v * values[at / d]).collect();
                    square((q, Form::Transposed), (&scaled, Form::Plain), d)
                };
                let all: Vec<Vec<f64>> = rotations.iter().zip(&spectra).map(|(q, s)| of(q, s)).collect();
                let views: Vec<Scaled> =
                    all.iter().zip(&ratios).map(|(matrix, &ratio)| Scaled { matrix, scale: 1.0, ratio }).collect();
                let (roots, sums) = (inverse_roots(&views, d), traces(&views, d));
                for k in 0..count {
                    let values: Vec<f64> = spectra[k].iter().map(|v| 1.0 / v.sqrt()).collect();
                    // Of a matrix with rounding errors, 1 / √λ is known up to ε / 2 λ^(3/2).
                    let bar = 4e-15 / ratios[k].powi(2) * d as f64;
                    let name = format!("d {d}, matrix {k} of {count}");
                    assert_close(&name, &roots[k], &of(&rotations[k], &values), d * d, bar);
                    let root: f64 = spectra[k].iter().map(|v| v.sqrt()).sum();
                    assert!((sums[k].root / root - 1.0).abs() < bar, "{name}: {} for {root}", sums[k].root);
                    let inverse: f64 = values.iter().sum();
                    assert!((sums[k].inverse_root / inverse - 1.0).abs() < bar, "{name}: inverse root");
                    let alone = inverse_roots(&views[k..=k], d);
                    assert_eq!(alone[0], roots[k], "{name} beside others");
                }
            }
        }
    }

    #[test]
    fn gram_inverse_roots_of_known_singular_values() {
        let mut stream = Seeds::new(22).stream(Axis::Test, &[]);
        for d in [1, 2, 3, 5, 6, 8, 17, 64] {
            let ratios = [0.5, 1.0, 0.03, 1e-3, 1e-5];
            let (mut all, mut want) = (Vec::new(), Vec::new());
            for ratio in ratios {
                let values: Vec<f64> = (0..d).map(|_| f64::powf(ratio, stream.range(0.0, 1.0))).collect();
                let (left, right) =
                    (testkit::spd::orthogonal(d, &mut stream), testkit::spd::orthogonal(d, &mut stream));
                let times = |f: &dyn Fn(f64) -> f64| -> Vec<f64> {
                    right.iter().enumerate().map(|(at, v)| v * f(values[at / d])).collect()
                };
                all.push(square((&left, Form::Transposed), (&times(&|v| 3.0 * v), Form::Plain), d));
                want.push(square((&right, Form::Transposed), (&times(&|v| 1.0 / v), Form::Plain), d));
            }
            let views: Vec<Scaled> =
                all.iter().zip(ratios).map(|(matrix, ratio)| Scaled { matrix, scale: 1.0 / 3.0, ratio }).collect();
            let got = gram_inverse_roots(&views, d);
            for (k, ratio) in ratios.into_iter().enumerate() {
                let bar = 4e-15 / ratio * d as f64;
                assert_close(&format!("d {d}, ratio {ratio}"), &got[k], &want[k], d * d, bar);
            }
        }
    }
}
