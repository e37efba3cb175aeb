//! What a matrix kernel asks of its input.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::eigen::{Eigen, NoConvergence};
use super::refine::refine;
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
        let mut values = host::to_f64(op, a)?;
        for (batch, matrix) in values.chunks_exact_mut(d * d).enumerate() {
            let largest = matrix.iter().fold(0.0f64, |m, v| if v.is_finite() { m.max(v.abs()) } else { f64::NAN });
            if !largest.is_finite() || matrix.iter().any(|v| !v.is_finite()) {
                return Err(Error::NonFinite { op, name, batch });
            }
            let mut asymmetry = 0.0f64;
            for i in 0..d {
                for j in 0..i {
                    asymmetry = asymmetry.max((matrix[i * d + j] - matrix[j * d + i]).abs());
                }
            }
            if asymmetry > bar * largest {
                return Err(Error::NotSymmetric { op, batch, asymmetry: asymmetry / largest });
            }
            super::linalg::symmetrise(matrix, d);
        }
        Ok(Self { n: values.len() / (d * d), values, d })
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
        let all: Vec<_> = (0..self.n).into_par_iter().map(|i| Eigen::new(self.matrix(i), self.d)).collect();
        all.into_iter().enumerate().map(|(batch, r)| r.map_err(|e| e.at(op, batch))).collect()
    }

    /// Eigendecompositions of all matrices, to high relative accuracy; refuses what is not positive definite.
    ///
    /// Positive definite means `λ_min > d ε λ_max` with the float64 ε: below that, the inverse has no digit left.
    pub(crate) fn positive_eigen(&self, op: &'static str) -> Result<Vec<Eigen>> {
        let all: Vec<_> = (0..self.n)
            .into_par_iter()
            .map(|i| {
                let mut eigen = Eigen::centred(self.matrix(i), self.d)?;
                refine(self.matrix(i), self.d, &mut eigen)?;
                Ok(eigen)
            })
            .collect();
        let check = |(batch, result): (usize, std::result::Result<Eigen, NoConvergence>)| {
            let eigen = result.map_err(|e| e.at(op, batch))?;
            let (least, largest) = (eigen.values[0], eigen.values[self.d - 1]);
            if least > self.d as f64 * f64::EPSILON * largest && least > 0.0 {
                Ok(eigen)
            } else {
                Err(Error::NotPositiveDefinite { op, batch, eigenvalue: least })
            }
        };
        all.into_iter().enumerate().map(check).collect()
    }
}

impl NoConvergence {
    /// The public error.
    pub(crate) fn at(self, op: &'static str, batch: usize) -> Error {
        Error::NoConvergence { op, batch, iterations: self.0 }
    }
}
