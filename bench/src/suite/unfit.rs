//! What a suite asks for that not every device, build or machine can do.

use backbones::{Algorithms, Precision};
use kernels::libraries::{Libraries, Library};

use super::{Suite, SuiteError};
use crate::device::Place;

/// Keys of the protocol that not every device can do.
pub(super) const KEYS: [&str; 2] = [PRECISION, ALGORITHMS];
const PRECISION: &str = "precision";
const ALGORITHMS: &str = "algorithms";

/// A setting of the protocol that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}:{column}: `protocol.{key}` = \"{value}\" {reason}")]
pub(crate) struct Unfit {
    file: String,
    line: usize,
    column: usize,
    key: &'static str,
    value: String,
    reason: String,
    /// What to do.
    pub(super) hint: &'static str,
    /// Whether something is missing on the machine, rather than asked for by mistake.
    pub(super) missing: bool,
}

impl From<Unfit> for SuiteError {
    fn from(unfit: Unfit) -> Self {
        Self::Unfit(Box::new(unfit))
    }
}

impl Suite {
    /// Refuses a device, or a build, that cannot do what the protocol asks for.
    ///
    /// # Errors
    /// [`SuiteError::Unfit`].
    pub(crate) fn check_places(&self, places: &[Place]) -> Result<(), SuiteError> {
        let (precision, algorithms) = (self.protocol.precision, self.protocol.algorithms);
        let on_cpu = places.contains(&Place::Cpu);
        let for_cards = || "is for CUDA cards, and cpu was chosen".to_owned();
        if precision != Precision::Float32 && on_cpu {
            let hint = "`--device cuda:N` chooses a card; without one, leave the key out: the default is float32";
            return Err(self.unfit(PRECISION, &precision, for_cards(), hint).into());
        }
        if algorithms == Algorithms::Deterministic {
            return Ok(());
        }
        if on_cpu {
            let hint = "`--device cuda:N` chooses a card; without one, leave the key out: the default is deterministic";
            return Err(self.unfit(ALGORITHMS, &algorithms, for_cards(), hint).into());
        }
        if !cfg!(feature = "cudnn") {
            let reason = "is for cuDNN, which this build does not have".to_owned();
            let hint = "`cargo run -p bench --features cudnn -- …` builds it in; without it, leave the key out: the default \
                        is deterministic";
            return Err(self.unfit(ALGORITHMS, &algorithms, reason, hint).into());
        }
        Ok(())
    }

    /// Refuses a card without a library that the protocol needs.
    ///
    /// # Errors
    /// [`SuiteError::Unfit`].
    pub(crate) fn check_libraries(&self, place: Place, found: Option<&Libraries>) -> Result<(), SuiteError> {
        let algorithms = self.protocol.algorithms;
        match found.map(|libraries| &libraries.cudnn) {
            Some(absent @ (Library::NotBuilt | Library::Missing(_))) if algorithms == Algorithms::Fast => {
                let reason = format!("is for cuDNN, which on {place} is {absent}");
                let hint = "install cuDNN 9 (libcudnn.so.9 and the libraries beside it) where the loader finds it, or leave \
                            the key out: the default is deterministic";
                let unfit = self.unfit(ALGORITHMS, &algorithms, reason, hint);
                Err(Unfit { missing: true, ..unfit }.into())
            }
            _ => Ok(()),
        }
    }

    /// What a user should know before a run: that its trials will not come out the same again.
    pub(crate) fn notice(&self) -> Option<String> {
        let of = |algorithms| {
            format!(
                "`protocol.algorithms` = \"{algorithms}\": these trials are not repeatable; the same trial again, or one \
                 that goes on from its checkpoint, comes to other numbers"
            )
        };
        Some(self.protocol.algorithms).filter(|algorithms| *algorithms == Algorithms::Fast).map(of)
    }

    fn unfit(&self, key: &'static str, value: &dyn std::fmt::Display, reason: String, hint: &'static str) -> Unfit {
        let (line, column) = self.keys.get(key).copied().unwrap_or((1, 1));
        let (file, value) = (self.file.clone(), value.to_string());
        Unfit { file, line, column, key, value, reason, hint, missing: false }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::error::exit;

    #[test]
    fn what_a_device_cannot_do_is_refused_with_the_keys_place() {
        let with = |lines: &str| {
            let text =
                crate::suite::find("ufg-smoke").unwrap().text.replace("\nepochs =", &format!("\n{lines}\nepochs ="));
            let line = text.lines().position(|l| l == lines).unwrap() + 1;
            (Suite::parse("s", "s.toml", &text, Path::new(".")).unwrap(), line)
        };
        let card = [Place::Cuda(0)];
        let (half, line) = with("precision = \"bfloat16\"");
        half.check_places(&card).unwrap();
        let error = half.check_places(&[Place::Cpu]).unwrap_err();
        let expected = "`protocol.precision` = \"bfloat16\" is for CUDA cards, and cpu was chosen";
        assert_eq!((error.to_string(), error.exit_code()), (format!("s.toml:{line}:1: {expected}"), exit::USAGE));
        assert_eq!(half.notice(), None);

        let (fast, line) = with("algorithms = \"fast\"");
        let error = fast.check_places(&[Place::Cuda(1), Place::Cpu]).unwrap_err();
        let expected = "`protocol.algorithms` = \"fast\" is for CUDA cards, and cpu was chosen";
        assert_eq!((error.to_string(), error.exit_code()), (format!("s.toml:{line}:1: {expected}"), exit::USAGE));
        let checked = fast.check_places(&card);
        assert_eq!(checked.is_ok(), cfg!(feature = "cudnn"));
        if let Err(error) = checked {
            assert!(error.to_string().ends_with("is for cuDNN, which this build does not have"), "{error}");
            assert!(error.hint().contains("--features cudnn"), "{}", error.hint());
        }
        assert!(fast.notice().unwrap().contains("not repeatable"));

        let of = |cudnn| Libraries { cudnn, cusolver: Library::NotBuilt };
        let missing = of(Library::Missing("libcudnn.so.9 is not on this machine".into()));
        let error = fast.check_libraries(Place::Cuda(1), Some(&missing)).unwrap_err();
        assert!(error.to_string().ends_with("on cuda:1 is not used: libcudnn.so.9 is not on this machine"), "{error}");
        assert_eq!(error.exit_code(), exit::ENVIRONMENT);
        fast.check_libraries(Place::Cuda(1), Some(&of(Library::Version("9.21.0".into())))).unwrap();
        half.check_libraries(Place::Cuda(1), Some(&missing)).unwrap();
        let (plain, _) = with("algorithms = \"deterministic\"");
        plain.check_places(&[Place::Cpu]).unwrap();
        assert_eq!(plain.notice(), None);
    }
}
