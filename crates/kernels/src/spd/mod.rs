//! Numerics of symmetric positive definite (SPD) matrices: functions, distances, covariances, hardest-negative search.
//!
//! Tensors are float32 or float64; everything is computed in float64 inside. Gradients with respect to a symmetric
//! matrix are symmetric. Repeated eigenvalues and distance 0 are ordinary inputs: divided differences are evaluated
//! in forms that do not cancel, and a pair at distance 0 contributes the gradient 0.
//!
//! Every function refuses (as [`crate::Error`]) a matrix that is not finite, not symmetric up to the rounding of its
//! dtype, or, where it needs to be, not positive definite. Nothing is clamped or repaired.
//!
//! Tensors on a card are computed there, in a build with the feature `cuda`.

mod bidiagonal;
mod bures;
mod cholesky;
mod congruence;
mod covariance;
mod distance;
mod duality;
pub(crate) mod eigen;
pub(crate) mod function;
mod input;
mod inverse_root;
pub(crate) mod linalg;
mod logarithm;
mod mining;
mod polar;
mod prepared;
mod ql;
mod rational;
mod refine;
mod resolvents;
mod sandwich;
pub(crate) mod saved;
pub(crate) mod simd;
mod sweeps;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod triangular;
mod tridiagonal;
mod wide;

use candle_core::Tensor;

pub use covariance::{covariance, part_covariances};
pub use distance::{distance, pair_distance};
pub use prepared::Prepared;

use crate::Result;
use function::Function;

/// A Riemannian distance between SPD matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// `‖log A − log B‖_F` (Arsigny et al., *Geometric means in a novel vector space structure on symmetric
    /// positive-definite matrices*, SIAM J. Matrix Anal. Appl. 29, 2007, section 3.4).
    LogEuclidean,
    /// `√(tr A + tr B − 2 tr (A^½ B A^½)^½)` (Bhatia, Jain and Lim, *On the Bures–Wasserstein distance between
    /// positive definite matrices*, Expo. Math. 37, 2019, equation 1).
    BuresWasserstein,
}

/// Matrix logarithm of SPD matrices `[.., d, d]`.
///
/// Where the extreme eigenvalues lie within a factor of 1000, by partial fractions of a tridiagonal form: the nodes of Hale,
/// Higham and Trefethen (SIAM J. Numer. Anal. 46, 2008, section 4), the derivative term by term. Elsewhere by
/// eigenvectors, the backward pass by Daleckii and Krein's formula, `V (K ∘ (Vᵀ G V)) Vᵀ` with the divided differences of
/// the logarithm (Higham, *Functions of Matrices*, 2008, theorem 3.11).
///
/// # Errors
/// Not square, not finite, not symmetric, not positive definite, or the eigensolver did not converge.
pub fn log(a: &Tensor) -> Result<Tensor> {
    Function::Log.apply(a)
}

/// Principal square root of SPD matrices `[.., d, d]`, by eigenvectors; backward by Daleckii and Krein's formula.
///
/// # Errors
/// As [`log`].
pub fn sqrt(a: &Tensor) -> Result<Tensor> {
    Function::Sqrt.apply(a)
}

/// Inverse of the principal square root of SPD matrices `[.., d, d]`; backward as for [`sqrt`].
///
/// # Errors
/// As [`log`].
pub fn inv_sqrt(a: &Tensor) -> Result<Tensor> {
    Function::InvSqrt.apply(a)
}

/// Exponential of symmetric matrices `[.., d, d]`, definite or not; backward as for [`sqrt`].
///
/// # Errors
/// Not square, not finite, not symmetric, or the eigensolver did not converge.
pub fn exp(a: &Tensor) -> Result<Tensor> {
    Function::Exp.apply(a)
}
