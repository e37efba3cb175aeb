//! Classification, retrieval, calibration and manifold metrics: slices in, f64 out.
//!
//! Everything here is computed in float64, in an order that depends neither on the number of threads nor on the
//! processor: equal inputs give equal bits. No function returns NaN: what is not defined is an [`MetricError`]
//! or `None`.

pub mod classification;
pub mod error;
pub mod manifold;
pub mod retrieval;

pub use classification::{ClassificationScores, ECE_BINS, ImageScore, classification};
pub use error::MetricError;
pub use manifold::{
    AlignedDistances, Eigenvalues, ManifoldDiagnostics, ManifoldSamples, Separation, active_share, aligned_distances,
    eigenvalues, quantile, separation,
};
pub use retrieval::{RetrievalScores, retrieval};
