//! Why a trial ended before its end.

use std::fmt::Display;

use records::{Stage, Status};

use crate::device::memory;

/// Why a trial could not be carried out; becomes its record's status.
#[derive(Debug)]
pub(crate) struct Failure {
    stage: Stage,
    pub(crate) message: String,
    kind: Kind,
}

/// What kind of end it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A value was not finite at this step.
    Diverged(u64),
    /// No memory was left, on the host or on the card.
    OutOfMemory,
    /// Anything else.
    Other,
}

impl Failure {
    /// Something went wrong in `stage`; what ran out of memory is told apart by its cause.
    pub(crate) fn at(stage: Stage, cause: impl Cause) -> Self {
        let kind = if cause.is_lack_of_memory() { Kind::OutOfMemory } else { Kind::Other };
        Self { stage, message: cause.to_string(), kind }
    }

    /// `what` was not finite at `step`.
    pub(crate) fn diverged(step: u64, what: impl Display) -> Self {
        Self { stage: Stage::Train, message: what.to_string(), kind: Kind::Diverged(step) }
    }

    pub(super) fn into_status(self) -> Status {
        match self.kind {
            Kind::Diverged(step) => Status::Diverged { step, what: self.message },
            Kind::OutOfMemory => Status::OutOfMemory { message: format!("{}: {}", self.stage.word(), self.message) },
            Kind::Other => Status::Failed { stage: self.stage, message: self.message },
        }
    }
}

/// What can be the cause of a failure.
pub(crate) trait Cause: Display {
    /// Whether memory ran out: by the error's code where it has one, else by its text.
    fn is_lack_of_memory(&self) -> bool {
        memory::says_so(&self.to_string())
    }
}

impl<T: Cause + ?Sized> Cause for &T {
    fn is_lack_of_memory(&self) -> bool {
        (**self).is_lack_of_memory()
    }
}

impl Cause for str {}
impl Cause for String {}
impl Cause for datasets::DatasetError {}
impl Cause for metrics::MetricError {}
impl Cause for safetensors::SafeTensorError {}
impl Cause for serde_json::Error {}

impl Cause for std::io::Error {
    fn is_lack_of_memory(&self) -> bool {
        self.kind() == std::io::ErrorKind::OutOfMemory
    }
}

impl Cause for candle_core::Error {
    fn is_lack_of_memory(&self) -> bool {
        memory::ran_out(self)
    }
}

impl Cause for kernels::Error {
    fn is_lack_of_memory(&self) -> bool {
        match self {
            Self::Tensor(inner) => memory::ran_out(inner),
            other => memory::says_so(&other.to_string()),
        }
    }
}

impl Cause for losses::LossError {
    fn is_lack_of_memory(&self) -> bool {
        match self {
            Self::Kernel(inner) => inner.is_lack_of_memory(),
            Self::Tensor(inner) => memory::ran_out(inner),
            other => memory::says_so(&other.to_string()),
        }
    }
}

impl Cause for backbones::Error {
    fn is_lack_of_memory(&self) -> bool {
        match self {
            Self::Kernel(inner) => inner.is_lack_of_memory(),
            Self::Tensor(inner) => memory::ran_out(inner),
            other => memory::says_so(&other.to_string()),
        }
    }
}
