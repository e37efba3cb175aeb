//! What a matrix kernel asks of its input.

use std::sync::OnceLock;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::cholesky::{Cholesky, cholesky, cholesky_from_below};
use super::eigen::{Eigen, NoConvergence, TOGETHER, eigenvalues_of};
use super::function::Function;
use super::linalg::each_pair;
use super::refine::refine;
use super::simd::dispatched;
use super::triangular::Triangle;
use crate::{Error, Result, host};

/// A batch of exactly symmetric matrices on the host.
pub(crate) struct Batch {
    pub(crate) values: Vec<f64>,
    pub(crate) n: usize,
    pub(crate) d: usize,
}

impl Batch {
    /// Reads `[.., d, d]`, finite and symmetric up to the rounding of its dtype.
    pub(crate) fn read(op: &'static str, name: &'static str, a: &Tensor) -> Result<Self> {
        let dims = a.dims();
        let shape = |expected: &str| Error::Shape { op, name, got: dims.to_vec(), expected: expected.into() };
        let &[.., rows, d] = dims else { return Err(shape("[.., d, d]")) };
        if rows != d || d == 0 {
            return Err(shape("square matrices [.., d, d] with d >= 1"));
        }
        let bar = if a.dtype() == DType::F32 { 1e-5 } else { 1e-12 };
        host::with_numbers(op, a, |numbers| {
            let n = numbers.len() / (d * d);
            let refused: Vec<OnceLock<Error>> = (0..n).map(|_| OnceLock::new()).collect();
            let read = |batch: usize, matrix: &mut [f64]| {
                numbers.copy(batch * d * d, matrix);
                if let Err(error) = check(op, name, batch, matrix, d, bar) {
                    refused[batch].get_or_init(|| error);
                }
            };
            let values = host::filled((n, d * d), 1, read, |v| v);
            match refused.into_iter().find_map(OnceLock::into_inner) {
                Some(error) => Err(error),
                None => Ok(Self { n, values, d }),
            }
        })
    }

    /// As [`Batch::read`], of rank 3.
    pub(crate) fn read_list(op: &'static str, name: &'static str, a: &Tensor) -> Result<Self> {
        if a.rank() != 3 {
            return Err(Error::Shape { op, name, got: a.dims().to_vec(), expected: "[N, d, d]".into() });
        }
        Self::read(op, name, a)
    }

    /// Matrix `i`.
    pub(crate) fn matrix(&self, i: usize) -> &[f64] {
        &self.values[i * self.d * self.d..(i + 1) * self.d * self.d]
    }

    /// Eigendecompositions of all matrices.
    pub(crate) fn eigen(&self, op: &'static str) -> Result<Vec<Eigen>> {
        self.decompose(op, |group| Eigen::several(group, self.d))
    }

    /// Eigendecompositions of all matrices, to high relative accuracy; refuses what is not positive definite.
    ///
    /// Positive definite means `λ_min > d ε λ_max` with the float64 ε: below that, the inverse has no digit left.
    ///
    /// Spectra whose ends are no further apart than `plain` are taken as the decomposition leaves them: an error of `ε`
    /// times the largest eigenvalue in each.
    pub(crate) fn positive_eigen(&self, op: &'static str, plain: f64) -> Result<Vec<Eigen>> {
        let all = self.decompose(op, |group| {
            let refined = |(eigen, a): (std::result::Result<Eigen, NoConvergence>, &&[f64])| {
                let mut eigen = eigen?;
                if eigen.values[0] < plain * eigen.values[self.d - 1] {
                    refine(a, self.d, &mut eigen)?;
                }
                Ok(eigen)
            };
            Eigen::centred(group, self.d).into_iter().zip(group).map(refined).collect()
        })?;
        self.check_positive(op, all.iter().map(|eigen| &eigen.values[..]))?;
        Ok(all)
    }

    /// That of matrix `i` alone, as [`Batch::positive_eigen`] has it with refined eigenvalues.
    pub(crate) fn positive_eigen_of(&self, op: &'static str, i: usize) -> Result<Eigen> {
        let matrix = self.matrix(i);
        let decomposed = || {
            let mut eigen = Eigen::centred(&[matrix], self.d).remove(0)?;
            refine(matrix, self.d, &mut eigen)?;
            Ok(eigen)
        };
        let eigen = decomposed().map_err(|e: NoConvergence| e.at(op, i))?;
        check_positive(op, i, &eigen.values)?;
        Ok(eigen)
    }

    /// Refuses what is not positive definite, by its ascending eigenvalues.
    fn check_positive<'a>(&self, op: &'static str, spectra: impl Iterator<Item = &'a [f64]>) -> Result<()> {
        spectra.enumerate().try_for_each(|(batch, values)| check_positive(op, batch, values))
    }

    /// Square roots of positive definite matrices: Cholesky factors where the ends of the spectrum are no further apart than
    /// `plain`, else principal roots from refined eigenvalues. Cholesky factors are `upper` or lower triangles.
    pub(crate) fn roots(&self, op: &'static str, plain: f64, upper: bool) -> Result<Vec<Roots>> {
        let d = self.d;
        let all = self.decompose(op, |group| {
            let spectra = eigenvalues_of(group, d);
            let simple = |values: &[f64]| values[0] > 0.0 && values[0] >= plain * values[d - 1];
            let close = |spectrum: &std::result::Result<Vec<f64>, _>| spectrum.as_ref().is_ok_and(|v| simple(v));
            let chosen: Vec<&[f64]> =
                group.iter().zip(&spectra).filter(|(_, spectrum)| close(spectrum)).map(|(&matrix, _)| matrix).collect();
            let (factors, triangle) = match upper {
                true => (cholesky_from_below(&chosen, d), Triangle::Upper),
                false => (cholesky(&chosen, d), Triangle::Lower),
            };
            let mut factors = factors.into_iter();
            let one = |(matrix, spectrum): (&&[f64], std::result::Result<Vec<f64>, NoConvergence>)| {
                let factor = if close(&spectrum) { factors.next().flatten() } else { None };
                match factor {
                    Some(Cholesky { factor, inverse }) => {
                        Ok(Roots { spectrum: spectrum?, root: factor, inverse, triangle })
                    }
                    None => Roots::of_eigen(matrix, d, plain),
                }
            };
            group.iter().zip(spectra).map(one).collect()
        })?;
        self.check_positive(op, all.iter().map(|roots| &roots.spectrum[..]))?;
        Ok(all)
    }

    /// Decomposes group after group of matrices.
    fn decompose<T: Send>(
        &self,
        op: &'static str,
        group: impl Fn(&[&[f64]]) -> Vec<std::result::Result<T, NoConvergence>> + Sync + Send,
    ) -> Result<Vec<T>> {
        let matrices: Vec<&[f64]> = self.values.chunks_exact(self.d * self.d).collect();
        let all: Vec<_> = matrices.par_chunks(TOGETHER).flat_map_iter(group).collect();
        all.into_iter().enumerate().map(|(batch, eigen)| eigen.map_err(|e| e.at(op, batch))).collect()
    }
}

/// The spectrum (ascending), a square root `C` with `A = C Cᵀ`, and `C⁻¹`.
#[derive(Debug)]
pub(crate) struct Roots {
    pub(crate) spectrum: Vec<f64>,
    pub(crate) root: Vec<f64>,
    pub(crate) inverse: Vec<f64>,
    /// That of a Cholesky factor; the principal root has none.
    pub(crate) triangle: Triangle,
}

impl Roots {
    /// By the eigenvectors, with the small eigenvalues refined where the ends of the spectrum are further apart than
    /// `plain`.
    fn of_eigen(matrix: &[f64], d: usize, plain: f64) -> std::result::Result<Self, NoConvergence> {
        let mut eigen = Eigen::new(matrix, d)?;
        if eigen.values[0] < plain * eigen.values[d - 1] {
            refine(matrix, d, &mut eigen)?;
        }
        let (root, inverse) = (Function::Sqrt.matrix(&eigen), Function::InvSqrt.matrix(&eigen));
        Ok(Self { spectrum: eigen.values, root, inverse, triangle: Triangle::Full })
    }
}

/// Refuses a matrix that is not positive definite, by its ascending eigenvalues.
fn check_positive(op: &'static str, batch: usize, values: &[f64]) -> Result<()> {
    let (least, largest) = (values[0], values[values.len() - 1]);
    if least > values.len() as f64 * f64::EPSILON * largest && least > 0.0 {
        return Ok(());
    }
    Err(Error::NotPositiveDefinite { op, batch, eigenvalue: least })
}

/// Refuses a matrix that is not finite or not symmetric, and makes it exactly symmetric.
fn check(op: &'static str, name: &'static str, batch: usize, matrix: &mut [f64], d: usize, bar: f64) -> Result<()> {
    let (largest, sum) = largest(matrix);
    if !sum.is_finite() && matrix.iter().any(|v| !v.is_finite()) {
        return Err(Error::NonFinite { op, name, batch });
    }
    let mut asymmetry = 0.0f64;
    each_pair(matrix, d, |lower, upper| {
        if lower != upper {
            asymmetry = asymmetry.max((*lower - *upper).abs());
            let mean = 0.5 * (*lower + *upper);
            (*lower, *upper) = (mean, mean);
        }
    });
    if asymmetry > bar * largest {
        return Err(Error::NotSymmetric { op, batch, asymmetry: asymmetry / largest });
    }
    Ok(())
}

dispatched! {
    /// The largest magnitude, and the sum of magnitudes, which is finite only if all numbers are.
    fn largest(matrix: &[f64]) -> (f64, f64) {
        let (mut most, mut sums) = ([0.0f64; 8], [0.0f64; 8]);
        let (eights, rest) = matrix.as_chunks::<8>();
        for eight in eights {
            for k in 0..8 {
                let v = eight[k].abs();
                most[k] = if v > most[k] { v } else { most[k] };
                sums[k] += v;
            }
        }
        let fold = |m: (f64, f64), v: f64| (m.0.max(v), m.1 + v);
        let rest = rest.iter().fold((0.0, 0.0), |m, v| fold(m, v.abs()));
        (most.into_iter().fold(rest.0, f64::max), sums.into_iter().sum::<f64>() + rest.1)
    }
}

impl NoConvergence {
    /// The public error.
    pub(crate) fn at(self, op: &'static str, batch: usize) -> Error {
        Error::NoConvergence { op, batch, iterations: self.0 }
    }
}
