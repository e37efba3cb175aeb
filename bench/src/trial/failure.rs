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
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// A value was not finite at this step.
    Diverged(u64),
    /// The time was up, seconds.
    TimedOut(f64),
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

    /// The time was up in `stage`, after a limit of so many seconds.
    pub(super) fn timed_out(stage: Stage, seconds: f64) -> Self {
        Self { stage, message: String::new(), kind: Kind::TimedOut(seconds) }
    }

    /// Whether it ended because its time was up.
    pub(super) fn is_timed_out(&self) -> bool {
        matches!(self.kind, Kind::TimedOut(_))
    }

    pub(super) fn into_status(self) -> Status {
        match self.kind {
            Kind::Diverged(step) => Status::Diverged { step, what: self.message },
            Kind::TimedOut(seconds) => Status::TimedOut { seconds },
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

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str);

    fn driver(text: &'static str) -> candle_core::Error {
        candle_core::Error::Cuda(Box::new(Said(text)))
    }

    fn is_out_of_memory(cause: impl Cause) -> bool {
        matches!(Failure::at(Stage::Train, cause).into_status(), Status::OutOfMemory { .. })
    }

    /// Every way by which an error of the driver reaches a trial.
    fn ways(text: &'static str) -> Vec<Box<dyn Cause>> {
        let in_kernel = || kernels::Error::Tensor(driver(text));
        let refused = || kernels::Error::Device { op: "spd_log", reason: text.to_owned() };
        vec![
            Box::new(driver(text)),
            Box::new(in_kernel()),
            Box::new(refused()),
            Box::new(candle_core::Error::from(refused())),
            Box::new(losses::LossError::Kernel(in_kernel())),
            Box::new(losses::LossError::Kernel(refused())),
            Box::new(losses::LossError::Tensor(driver(text))),
            Box::new(backbones::Error::Kernel(in_kernel())),
            Box::new(backbones::Error::Tensor(driver(text))),
            Box::new(format!("the checkpoint c cannot be used: {text}")),
        ]
    }

    #[test]
    fn a_lack_of_memory_is_told_apart_whatever_wraps_it() {
        for cause in ways(CODE) {
            assert!(is_out_of_memory(&*cause), "{cause}");
        }
        for cause in ways("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")") {
            assert!(!is_out_of_memory(&*cause), "{cause}");
        }
        assert!(is_out_of_memory(std::io::Error::from(std::io::ErrorKind::OutOfMemory)));
        assert!(!is_out_of_memory(std::io::Error::from(std::io::ErrorKind::NotFound)));
    }

    #[test]
    fn the_status_says_where_and_why() {
        let Status::OutOfMemory { message } = Failure::at(Stage::Evaluate, driver(CODE)).into_status() else {
            panic!("another status")
        };
        assert_eq!(message, format!("evaluate: {CODE}"));
        let diverged = Failure::diverged(3, "the loss").into_status();
        assert_eq!(diverged, Status::Diverged { step: 3, what: "the loss".into() });
        let late = Failure::timed_out(Stage::Train, 90.0);
        assert!(late.is_timed_out() && !Failure::at(Stage::Train, "x").is_timed_out());
        assert_eq!(late.into_status(), Status::TimedOut { seconds: 90.0 });
        let failed = Failure::at(Stage::Data, "no file").into_status();
        assert_eq!(failed, Status::Failed { stage: Stage::Data, message: "no file".into() });
    }
}
