//! Convolutions through cuDNN: which algorithm is taken is decided here, what calls the library lies in `engine`.
//!
//! An algorithm is chosen once for each problem, by its sizes and types alone: by cuDNN's own model of the card, which
//! measures nothing. A handle belongs to a thread, because candle gives every thread a stream of its own.

#[cfg(feature = "cudnn")]
mod descriptors;
#[cfg(feature = "cudnn")]
mod engine;
#[cfg(all(test, feature = "cudnn"))]
mod on_card;
mod plan;
mod plans;
#[cfg(test)]
mod tests;

#[cfg(feature = "cudnn")]
pub(crate) use engine::{convolve, found};
#[cfg(feature = "cudnn")]
pub(crate) use plans::smaller;

use crate::Error;
use plans::Refusal;

/// What to do about a cuDNN that is not there.
const REMEDY: &str = "Install cuDNN 9 (libcudnn.so.9 and the libraries beside it) where the loader finds it, or ask for \
                      ConvLibrary::Own, or build without the feature `cudnn`";

/// A refusal as an error of an op.
fn error(op: &'static str, refusal: Refusal) -> Error {
    let library = |reason: String| Error::Library { op, library: "cuDNN", reason, remedy: REMEDY };
    match refusal {
        Refusal::Missing(reason) => library(reason),
        Refusal::Unsupported => library("it has no algorithm of the kind that was asked for with these sizes".into()),
        Refusal::Memory(reason) => Error::Device { op, reason: format!("cuDNN's workspace: {reason}") },
        Refusal::Failed(reason) => Error::Device { op, reason: format!("cuDNN: {reason}") },
    }
}

/// Whether cuDNN computed it; `false` where it cannot and own kernels may.
///
/// # Errors
/// What went wrong, and what cuDNN cannot do where it was insisted on.
fn settled(op: &'static str, insists: bool, done: Result<(), Refusal>) -> crate::Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(Refusal::Missing(_) | Refusal::Unsupported) if !insists => Ok(false),
        Err(refusal) => Err(error(op, refusal)),
    }
}
