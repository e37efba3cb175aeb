//! Why no report can be made from some records.

/// Records from which no honest table can be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A trial is `done` and has no scores.
    #[error("trial {trial} is done but its record has no scores: the journal is not what this harness writes")]
    DoneWithoutScores {
        /// The trial.
        trial: String,
    },
    /// A trial is not `done` and has scores.
    #[error("trial {trial} is {status} but its record has scores: the journal is not what this harness writes")]
    ScoresWithoutDone {
        /// The trial.
        trial: String,
        /// Its status.
        status: &'static str,
    },
    /// A value of a record is NaN or infinite.
    #[error("trial {trial}: `{field}` is {value}, which is no number to report")]
    NotFinite {
        /// The trial.
        trial: String,
        /// The field.
        field: String,
        /// The value.
        value: f64,
    },
    /// A share lies outside 0..=1.
    #[error("trial {trial}: `{field}` is {value}, expected a fraction from 0 to 1")]
    NotAFraction {
        /// The trial.
        trial: String,
        /// The field.
        field: String,
        /// The value.
        value: f64,
    },
    /// The accuracy is not the number of correct images over all images.
    #[error("trial {trial}: top1 is {top1}, but {correct} of {total} images are correct")]
    Accuracy {
        /// The trial.
        trial: String,
        /// The accuracy.
        top1: f64,
        /// Images classified correctly.
        correct: u64,
        /// Images.
        total: u64,
    },
    /// Two records of the same attempt.
    #[error("attempt {attempt} at trial {trial} is recorded twice: merge journals by trial first")]
    DuplicateAttempt {
        /// The trial.
        trial: String,
        /// The attempt.
        attempt: u32,
    },
    /// Two trials of the same cell and seed.
    #[error("trials {first} and {second} are of the same cell and seed: a seed counts once")]
    DuplicateSeed {
        /// The one trial.
        first: String,
        /// The other.
        second: String,
    },
    /// Two cells with the same names, such as those of a suite before and after it was edited.
    #[error(
        "cells {first} and {second} are both {method} on {dataset} with {backbone}: \
         give only the records of the suite as it is now"
    )]
    TwoCells {
        /// Method of both.
        method: String,
        /// Dataset of both.
        dataset: String,
        /// Backbone of both.
        backbone: String,
        /// The one cell.
        first: String,
        /// The other.
        second: String,
    },
    /// The CSV writer refused a row.
    #[error("cannot write CSV: {0}")]
    Csv(#[from] csv::Error),
}
