//! What can be wrong with the inputs of a metric.

/// Why a metric could not be computed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MetricError {
    /// There is nothing to score.
    #[error("no {what}: a metric over nothing is not defined")]
    Empty {
        /// What is missing (`labels`, `classes`, …).
        what: &'static str,
    },
    /// A slice does not have the length that the others imply.
    #[error("{what} has {found} values, expected {expected}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length that it should have.
        expected: usize,
    },
    /// A value is NaN or infinite.
    #[error("{what}[{index}] is {value}: scores are made from finite numbers only")]
    NotFinite {
        /// Which slice.
        what: &'static str,
        /// Position in the slice, from 0.
        index: usize,
        /// The value.
        value: f64,
    },
    /// A label names no class.
    #[error("label {label} of image {image} is not below the number of classes, {classes}")]
    Label {
        /// The image, from 0.
        image: usize,
        /// Its label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// Finite logits that are so far apart that their difference is not a float64.
    #[error("the logits of image {image} are too far apart: their negative log-likelihood overflows")]
    Overflow {
        /// The image, from 0.
        image: usize,
    },
    /// A quantile outside 0..=1.
    #[error("quantile {level} is outside 0..=1")]
    Level {
        /// What was asked for.
        level: f64,
    },
}

/// Refuses NaN and infinity, naming the first one.
pub(crate) fn check_finite(what: &'static str, values: &[f64]) -> Result<(), MetricError> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(MetricError::NotFinite { what, index, value: values[index] }),
        None => Ok(()),
    }
}

/// Refuses a slice that has not `expected` values.
pub(crate) fn check_length(what: &'static str, found: usize, expected: usize) -> Result<(), MetricError> {
    if found == expected { Ok(()) } else { Err(MetricError::Length { what, found, expected }) }
}
