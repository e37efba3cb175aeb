//! The libraries of a card that kernels may use.
//!
//! Which of them is there changes which kernels run, and so the last bits of results; it is a fact of the machine, the same
//! in every run.

use std::fmt;

use candle_core::Device;

/// A library of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Library {
    /// The program was built without it.
    NotBuilt,
    /// It cannot be used here, and why; own kernels take its place.
    Missing(String),
    /// Its version.
    Version(String),
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBuilt => write!(f, "not built in"),
            Self::Missing(why) => write!(f, "not used: {why}"),
            Self::Version(version) => write!(f, "{version}"),
        }
    }
}

/// What kernels use on a card besides their own code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Libraries {
    /// Convolutions, with the feature `cudnn`; see [`crate::nn::ConvLibrary`].
    pub cudnn: Library,
    /// The begin of eigendecompositions of matrices with more than 64 rows, with the feature `cusolver`. Own iterations end
    /// them, to the same bars with and without it.
    pub cusolver: Library,
}

impl fmt::Display for Libraries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuDNN {}, cuSOLVER {}", self.cudnn, self.cusolver)
    }
}

/// Whether a card's driver takes the kernels of this program; so does the CPU.
///
/// # Errors
/// [`crate::Error::Device`] where the driver is older than the toolkit that compiled them.
pub fn takes_kernels(device: &Device) -> crate::Result<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::cuda::card::Card(device.clone()).takes_kernels(),
        _ => Ok(()),
    }
}

/// The libraries of a card; `None` for a device that is none. Opens them.
pub fn of(device: &Device) -> Option<Libraries> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => Some(on(&crate::cuda::card::Card(device.clone()))),
        _ => None,
    }
}

#[cfg(feature = "cuda")]
fn on(card: &crate::cuda::card::Card) -> Libraries {
    #[cfg(any(feature = "cudnn", feature = "cusolver"))]
    let told = |found| match found {
        Ok(version) => Library::Version(version),
        Err(why) => Library::Missing(why),
    };
    #[cfg(feature = "cudnn")]
    let cudnn = told(crate::cuda::cudnn::found(card));
    #[cfg(feature = "cusolver")]
    let cusolver = told(crate::cuda::cusolver::found(card));
    #[cfg(not(feature = "cudnn"))]
    let cudnn = Library::NotBuilt;
    #[cfg(not(feature = "cusolver"))]
    let cusolver = Library::NotBuilt;
    #[cfg(not(any(feature = "cudnn", feature = "cusolver")))]
    let _ = card;
    Libraries { cudnn, cusolver }
}

/// How many convolutions of this process were left to an algorithm of cuDNN with less workspace because the card's memory had
/// run out. Where it is not 0, the last bits of results may differ from those of a run with more memory.
pub fn smaller_algorithms() -> usize {
    #[cfg(feature = "cudnn")]
    return crate::cuda::cudnn::smaller();
    #[cfg(not(feature = "cudnn"))]
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_has_none() {
        assert_eq!(of(&Device::Cpu), None);
    }

    #[test]
    fn as_the_record_says_it() {
        let missing = Library::Missing("libcusolver.so.12 is not on this machine".into());
        let both = Libraries { cudnn: Library::Version("9.21.0".into()), cusolver: missing };
        let said = "cuDNN 9.21.0, cuSOLVER not used: libcusolver.so.12 is not on this machine";
        assert_eq!(both.to_string(), said);
        let none = Libraries { cudnn: Library::NotBuilt, cusolver: Library::NotBuilt };
        assert_eq!(none.to_string(), "cuDNN not built in, cuSOLVER not built in");
    }
}
