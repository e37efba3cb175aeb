//! What a kernel can refuse. Never a silent repair: what cannot be computed is one of these.

/// Result of a kernel.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a kernel refused its input, or could not finish.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor of the wrong rank or with dimensions that do not fit.
    #[error("{op}: `{name}` has shape {got:?}, expected {expected}")]
    Shape {
        /// The op.
        op: &'static str,
        /// The argument.
        name: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// What the op takes, in words.
        expected: String,
    },
    /// A dtype that the op does not take.
    #[error("{op}: dtype {got:?}, expected float32 or float64")]
    Dtype {
        /// The op.
        op: &'static str,
        /// The dtype.
        got: candle_core::DType,
    },
    /// An attribute outside its range.
    #[error("{op}: `{name}` = {value}, expected {expected}")]
    Attribute {
        /// The op.
        op: &'static str,
        /// The attribute.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The range, in words.
        expected: &'static str,
    },
    /// NaN or infinity in the input.
    #[error("{op}: `{name}` has a value that is not finite, in batch entry {batch}")]
    NonFinite {
        /// The op.
        op: &'static str,
        /// The argument.
        name: &'static str,
        /// The batch entry.
        batch: usize,
    },
    /// A matrix that should be symmetric is not.
    #[error(
        "{op}: batch entry {batch} is not symmetric (largest asymmetry {asymmetry:.3e}, relative to its largest entry)"
    )]
    NotSymmetric {
        /// The op.
        op: &'static str,
        /// The batch entry.
        batch: usize,
        /// Largest `|a_ij − a_ji|` relative to the largest entry.
        asymmetry: f64,
    },
    /// A matrix that should be positive definite is not.
    #[error("{op}: batch entry {batch} is not positive definite (smallest eigenvalue {eigenvalue:.3e})")]
    NotPositiveDefinite {
        /// The op.
        op: &'static str,
        /// The batch entry.
        batch: usize,
        /// The smallest eigenvalue.
        eigenvalue: f64,
    },
    /// An iteration did not converge.
    #[error("{op}: batch entry {batch} did not converge in {iterations} iterations")]
    NoConvergence {
        /// The op.
        op: &'static str,
        /// The batch entry.
        batch: usize,
        /// Iterations made.
        iterations: usize,
    },
    /// Two arguments that should share a dtype do not.
    #[error("{op}: dtypes {left:?} and {right:?} differ; convert one of them")]
    DtypeMismatch {
        /// The op.
        op: &'static str,
        /// Dtype of the first argument.
        left: candle_core::DType,
        /// Dtype of the second argument.
        right: candle_core::DType,
    },
    /// An index that points outside what it indexes.
    #[error("{op}: `{name}` holds the index {index}, expected less than {len}")]
    Index {
        /// The op.
        op: &'static str,
        /// The argument.
        name: &'static str,
        /// The index.
        index: usize,
        /// How many entries there are.
        len: usize,
    },
    /// Factorisations that were prepared for different metrics.
    #[error("{op}: prepared for the metrics {left:?} and {right:?}; prepare both for the same one")]
    MetricMismatch {
        /// The op.
        op: &'static str,
        /// Metric of the first.
        left: crate::spd::Metric,
        /// Metric of the second.
        right: crate::spd::Metric,
    },
    /// A transport problem without a plan: a row or column of the cost is infinite everywhere.
    #[error("{op}: no plan in batch entry {batch}: {line} {index} of the cost is infinite everywhere")]
    Infeasible {
        /// The op.
        op: &'static str,
        /// The batch entry.
        batch: usize,
        /// `row` or `column`.
        line: &'static str,
        /// Which one.
        index: usize,
    },
    /// A gradient whose terms cancel until float64 has too few digits for it.
    #[error(
        "{op}: the gradient's terms in batch entry {batch} cancel to {left:.1e} of themselves, which leaves too few digits of \
         float64; a larger `eps` helps, and the CPU computes with more digits"
    )]
    Digits {
        /// The op.
        op: &'static str,
        /// The batch entry.
        batch: usize,
        /// The part of the terms that is left.
        left: f64,
    },
    /// An op that has no code for the device of its arguments.
    #[error("{op}: has no code for {device}; move its arguments to the CPU")]
    NoDeviceCode {
        /// The op.
        op: &'static str,
        /// The device.
        device: String,
    },
    /// A library was asked for that cannot be used.
    #[error("{op}: {library} was asked for and cannot be used: {reason}. {remedy}")]
    Library {
        /// The op.
        op: &'static str,
        /// The library.
        library: &'static str,
        /// Why it cannot be used.
        reason: String,
        /// What to install, or to do without.
        remedy: &'static str,
    },
    /// The device refused.
    #[error("{op}: {reason}")]
    Device {
        /// The op or the kernel.
        op: &'static str,
        /// Why.
        reason: String,
    },
    /// The tensor library refused.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Tensor(inner) => inner,
            other => candle_core::Error::wrap(other),
        }
    }
}
