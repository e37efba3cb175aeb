//! Batches that are factorised once, and the search for the hardest negatives among them.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::Metric;
use super::bures;
use super::eigen::Eigen;
use super::function::Function;
use super::input::Batch;
use super::simd::squared_difference;
use super::triangular::{Factor, Triangle};
use crate::{Error, Result};

/// Margin for rounding in the comparison of bounds with distances.
pub(crate) const SLACK: f64 = 1e-8;

/// Ratio of extreme eigenvalues down to which roots need no refined eigenvalues: the smallest are then right to `1e-11`,
/// and count in a Bures-Wasserstein distance and its gradients by their roots.
const PLAIN: f64 = 1e-5;

/// The factorisations (float64, on the host) of a batch of SPD matrices for one metric; cheap to clone.
///
/// Holds no gradient: distances from here choose (align, mine), [`super::pair_distance`] differentiates the chosen.
#[derive(Debug, Clone)]
pub struct Prepared(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metric: Metric,
    d: usize,
    /// Ascending eigenvalues of each matrix.
    spectra: Vec<Vec<f64>>,
    /// The logarithm or a square root of each matrix.
    images: Vec<Vec<f64>>,
    /// What a gradient takes from each matrix.
    factors: Factors,
    traces: Vec<f64>,
    /// The matrices themselves, one after the other.
    matrices: Vec<f64>,
    /// For matrices on a card, everything but the spectra.
    #[cfg(feature = "cuda")]
    card: Option<crate::cuda::tensors::Prepared>,
}

#[derive(Debug)]
enum Factors {
    /// For the log-Euclidean distance.
    Eigen(Vec<Eigen>),
    /// Inverses of the square roots, for the Bures-Wasserstein distance, and the triangle of both.
    InverseRoots(Vec<(Vec<f64>, Triangle)>),
}

impl Prepared {
    /// Factorises `a` `[N, d, d]` for `metric`.
    ///
    /// # Errors
    /// Not `[N, d, d]`, not finite, not symmetric, not positive definite, or the eigensolver did not converge.
    pub fn new(metric: Metric, a: &Tensor) -> Result<Self> {
        Self::named("spd_prepare", "a", metric, a, false)
    }

    /// Factorises `a` `[N, d, d]` and `b` `[M, d, d]` for distances between the two, which cost less than those of matrices
    /// that were factorised on their own: the product of Cholesky factors from below and from above is triangular.
    ///
    /// # Errors
    /// As [`Prepared::new`]; matrices of different sizes.
    pub fn pair(metric: Metric, a: &Tensor, b: &Tensor) -> Result<(Self, Self)> {
        const OP: &str = "spd_prepare";
        let (left, right) = (Self::named(OP, "a", metric, a, true)?, Self::named(OP, "b", metric, b, false)?);
        left.check(OP, &right)?;
        Ok((left, right))
    }

    /// As [`Prepared::new`]; `left` of a pair.
    pub(crate) fn named(op: &'static str, name: &'static str, metric: Metric, a: &Tensor, left: bool) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if a.device().is_cuda() {
            let (card, batch, spectra) = crate::cuda::tensors::Prepared::new(op, name, metric, a)?;
            let (images, factors, traces, matrices) = (vec![], Factors::InverseRoots(vec![]), vec![], vec![]);
            let card = Some(card);
            return Ok(Self(Arc::new(Inner { metric, d: batch.d, spectra, images, factors, traces, matrices, card })));
        }
        let batch = Batch::read_list(op, name, a)?;
        let (spectra, images, factors) = match metric {
            Metric::LogEuclidean => {
                let eigen = batch.positive_eigen(op, 1.0)?;
                let spectra = eigen.iter().map(|e| e.values.clone()).collect();
                let images = eigen.par_iter().map(|e| Function::Log.matrix(e)).collect();
                (spectra, images, Factors::Eigen(eigen))
            }
            Metric::BuresWasserstein => {
                let mut spectra = Vec::with_capacity(batch.n);
                let (mut images, mut inverses) = (Vec::with_capacity(batch.n), Vec::with_capacity(batch.n));
                for roots in batch.roots(op, PLAIN, left)? {
                    spectra.push(roots.spectrum);
                    images.push(roots.root);
                    inverses.push((roots.inverse, roots.triangle));
                }
                (spectra, images, Factors::InverseRoots(inverses))
            }
        };
        let d = batch.d;
        let traces = (0..batch.n).map(|i| batch.matrix(i).iter().step_by(d + 1).sum()).collect();
        let inner = Inner {
            metric,
            d,
            spectra,
            images,
            factors,
            traces,
            matrices: batch.values,
            #[cfg(feature = "cuda")]
            card: None,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// This and a partner on a card; none where both are on the host.
    #[cfg(feature = "cuda")]
    pub(crate) fn cards<'a>(
        &'a self,
        op: &'static str,
        other: &'a Prepared,
    ) -> Result<Option<[&'a crate::cuda::tensors::Prepared; 2]>> {
        match (&self.0.card, &other.0.card) {
            (Some(a), Some(b)) => Ok(Some([a, b])),
            (None, None) => Ok(None),
            _ => Err(Error::Device { op, reason: "its arguments lie on different devices".into() }),
        }
    }

    /// How many matrices.
    pub fn len(&self) -> usize {
        self.0.spectra.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.spectra.is_empty()
    }

    /// Their size `d`.
    pub fn dim(&self) -> usize {
        self.0.d
    }

    /// The metric they were prepared for.
    pub fn metric(&self) -> Metric {
        self.0.metric
    }

    /// Eigenvalues of matrix `i`, ascending.
    ///
    /// # Panics
    /// If there is no matrix `i`.
    pub fn eigenvalues(&self, i: usize) -> &[f64] {
        &self.0.spectra[i]
    }

    /// Gradient of `⟨G, log A⟩` at matrix `i`.
    pub(crate) fn through_log(&self, i: usize, g: &[f64]) -> Vec<f64> {
        match &self.0.factors {
            Factors::Eigen(eigen) => Function::Log.gradient(&eigen[i], g),
            Factors::InverseRoots(_) => unreachable!("logarithms are of the log-Euclidean distance"),
        }
    }

    /// `C` with `A = C Cᵀ` of matrix `i`.
    pub(crate) fn factor(&self, i: usize) -> Factor<'_> {
        Factor { values: self.image(i), triangle: self.inverse_factor(i).triangle }
    }

    /// `C⁻¹` of matrix `i`.
    pub(crate) fn inverse_factor(&self, i: usize) -> Factor<'_> {
        match &self.0.factors {
            Factors::InverseRoots(all) => Factor { values: &all[i].0, triangle: all[i].1 },
            Factors::Eigen(_) => unreachable!("inverse roots are of the Bures-Wasserstein distance"),
        }
    }

    /// Logarithm or a square root of matrix `i`.
    pub(crate) fn image(&self, i: usize) -> &[f64] {
        &self.0.images[i]
    }

    /// Matrix `i`.
    pub(crate) fn matrix(&self, i: usize) -> &[f64] {
        let size = self.0.d * self.0.d;
        &self.0.matrices[i * size..(i + 1) * size]
    }

    /// `count` matrices from matrix `start` on, one after the other.
    pub(crate) fn matrices(&self, start: usize, count: usize) -> &[f64] {
        let size = self.0.d * self.0.d;
        &self.0.matrices[start * size..(start + count) * size]
    }

    /// Trace of matrix `i`.
    pub(crate) fn trace(&self, i: usize) -> f64 {
        self.0.traces[i]
    }

    /// Square root of matrix `i` with what bounds its products.
    pub(crate) fn root(&self, i: usize) -> bures::Root<'_> {
        let values = self.eigenvalues(i);
        let (least, largest) = (values[0], values[self.dim() - 1]);
        bures::Root { matrix: self.matrix(i), factor: self.factor(i), trace: self.0.traces[i], least, largest }
    }

    /// Refuses a partner of another metric or size.
    pub(crate) fn check(&self, op: &'static str, other: &Prepared) -> Result<()> {
        if self.metric() != other.metric() {
            return Err(Error::MetricMismatch { op, left: self.metric(), right: other.metric() });
        }
        if self.dim() != other.dim() {
            let expected = format!("matrices of {0}x{0}, as the first argument", self.dim());
            return Err(Error::Shape { op, name: "other", got: vec![other.len(), other.dim(), other.dim()], expected });
        }
        Ok(())
    }

    /// Refuses an index that there is not.
    pub(crate) fn check_index(&self, op: &'static str, name: &'static str, index: usize) -> Result<()> {
        if index < self.len() { Ok(()) } else { Err(Error::Index { op, name, index, len: self.len() }) }
    }

    /// The distance of matrix `i` to matrix `j` of `other`. Its square is accurate to a relative 1e-9 or better.
    ///
    /// # Errors
    /// An index out of range, different metrics or sizes, or no convergence.
    pub fn distance(&self, i: usize, other: &Prepared, j: usize) -> Result<f64> {
        const OP: &str = "spd_prepared_distance";
        self.check(OP, other)?;
        self.check_index(OP, "i", i)?;
        other.check_index(OP, "j", j)?;
        self.value(i, other, j)
    }

    fn value(&self, i: usize, other: &Prepared, j: usize) -> Result<f64> {
        #[cfg(feature = "cuda")]
        if let Some([a, b]) = self.cards("spd_prepared_distance", other)? {
            return Ok(a.distances(("spd_prepared_distance", self.metric()), b, &[(i, j)])?[0]);
        }
        let (a, b) = (self.image(i), other.image(j));
        match self.metric() {
            Metric::LogEuclidean => Ok(squared_difference(a, b).sqrt()),
            Metric::BuresWasserstein => {
                bures::value(self.root(i), other.root(j), self.dim()).map_err(|e| e.at("spd_prepared_distance", i))
            }
        }
    }

    /// A lower bound of the distance of matrix `i` to matrix `j` of `other`, for the price of a difference: the larger of
    /// `√Σ (√λ_k(A) − √λ_k(B))²` over the ordered eigenvalues (the trace norm of `A^½ B^½` is at most `Σ √(λ_k(A) λ_k(B))`),
    /// and, of principal roots, `H/√2`, with `H/√2 ≤ δ ≤ H` for `H = ‖A^½ − B^½‖_F`.
    pub(crate) fn lower_bound(&self, i: usize, other: &Prepared, j: usize) -> f64 {
        let spectra = self.eigenvalues(i).iter().zip(other.eigenvalues(j));
        let from_spectra = spectra.map(|(x, y)| (x.sqrt() - y.sqrt()).powi(2)).sum::<f64>().sqrt();
        if [self.factor(i), other.factor(j)].iter().any(|root| root.triangle != Triangle::Full) {
            return from_spectra;
        }
        let from_roots = bures::root_distance(self.image(i), other.image(j)) * std::f64::consts::FRAC_1_SQRT_2;
        from_roots.max(from_spectra)
    }
}
