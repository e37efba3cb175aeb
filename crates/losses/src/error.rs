//! What a method can refuse.

/// Result of a loss or head.
pub type Result<T> = std::result::Result<T, LossError>;

/// Why a method refused its settings or its batch, or could not compute.
#[derive(Debug, thiserror::Error)]
pub enum LossError {
    /// A setting outside its range.
    #[error("method `{method}`: `{setting}` = {value}, expected {expected}")]
    Setting {
        /// The method.
        method: &'static str,
        /// The key in the suite file.
        setting: &'static str,
        /// Its value.
        value: String,
        /// The range, in words.
        expected: &'static str,
    },
    /// A tensor of the wrong shape.
    #[error("{op}: `{name}` has shape {got:?}, expected {expected}")]
    Shape {
        /// The loss or head.
        op: &'static str,
        /// The argument.
        name: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// What is taken, in words.
        expected: String,
    },
    /// A label that is not a class.
    #[error("label {label} of batch entry {entry} is no class: the head has {classes} classes")]
    Label {
        /// The batch entry.
        entry: usize,
        /// Its label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// The batch lacks something that [`crate::MethodConfig::views`] asks for.
    #[error("method `{method}` needs `{missing}` in the batch; give the views that `MethodConfig::views` names")]
    Missing {
        /// The method.
        method: &'static str,
        /// The field of the batch.
        missing: &'static str,
    },
    /// The parameters are of a dtype that the losses do not compute in.
    #[error("parameters of dtype {got:?}; the heads and objectives take float32 or float64")]
    Dtype {
        /// The dtype.
        got: candle_core::DType,
    },
    /// A kernel refused.
    #[error(transparent)]
    Kernel(#[from] kernels::Error),
    /// The tensor library refused.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl LossError {
    /// Whether a kernel refused NaN or infinity: the training has diverged, the settings are not to blame.
    pub fn is_non_finite(&self) -> bool {
        matches!(self, Self::Kernel(kernels::Error::NonFinite { .. }))
    }
}
