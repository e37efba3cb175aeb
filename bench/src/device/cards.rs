//! What the machine and the driver say about cards.

use std::path::Path;

use super::Place;

/// What this build and this machine have.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Machine {
    /// Whether the system shows a GPU, whatever this build can do with it.
    pub(super) visible: bool,
    /// How many cards the driver has, or why it cannot be asked; nothing in a build without CUDA.
    pub(super) cards: Option<Result<usize, String>>,
}

impl Machine {
    pub(super) fn this() -> Self {
        let entries = std::fs::read_dir("/proc/driver/nvidia/gpus").ok();
        let listed = entries.is_some_and(|mut entries| entries.next().is_some());
        Self { visible: listed || Path::new("/dev/nvidia0").exists(), cards: cards() }
    }
}

#[cfg(feature = "cuda")]
fn cards() -> Option<Result<usize, String>> {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;
    use candle_core::cuda_backend::cudarc::driver::sys::CUresult;
    Some(match CudaContext::device_count() {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(error) => match error.0 {
            CUresult::CUDA_ERROR_NO_DEVICE => Ok(0),
            CUresult::CUDA_ERROR_STUB_LIBRARY => Err("there is no CUDA driver (libcuda.so.1) on this machine".into()),
            code => Err(format!("the CUDA driver cannot be used: {code:?}")),
        },
    })
}

#[cfg(not(feature = "cuda"))]
fn cards() -> Option<Result<usize, String>> {
    None
}

/// What a record tells of a card.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Its name, as the driver gives it.
    pub(crate) card: Option<String>,
    /// Version of the driver, and the newest CUDA that it knows.
    pub(crate) driver: Option<String>,
}

/// The facts of a place: none of the CPU. Asks the driver without taking any memory of the card.
pub(crate) fn facts(place: Place) -> Facts {
    match place {
        Place::Cpu => Facts::default(),
        Place::Cuda(number) => {
            let module = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
            Facts { card: card_name(number), driver: driver_text(module_version(&module), cuda_version()) }
        }
    }
}

/// The version in what the driver's kernel module says of itself, such as `580.65.06`.
fn module_version(text: &str) -> Option<&str> {
    let is_version = |word: &&str| {
        let parts: Vec<&str> = word.split('.').collect();
        parts.len() > 1 && parts.iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    };
    text.lines().next()?.split_whitespace().find(is_version)
}

/// Both versions in words; the CUDA version is 1000 · major + 10 · minor.
fn driver_text(module: Option<&str>, cuda: Option<i32>) -> Option<String> {
    let cuda = cuda.map(|version| format!("CUDA {}.{}", version / 1000, version % 1000 / 10));
    match (module, cuda) {
        (Some(module), Some(cuda)) => Some(format!("{module}, {cuda}")),
        (module, cuda) => module.map(str::to_owned).or(cuda),
    }
}

#[cfg(feature = "cuda")]
fn card_name(number: usize) -> Option<String> {
    use candle_core::cuda_backend::cudarc::driver::result;
    result::init().ok()?;
    result::device::get_name(result::device::get(i32::try_from(number).ok()?).ok()?).ok()
}

#[cfg(not(feature = "cuda"))]
fn card_name(_: usize) -> Option<String> {
    None
}

#[cfg(feature = "cuda")]
fn cuda_version() -> Option<i32> {
    use candle_core::cuda_backend::cudarc::driver::sys;
    let mut version = 0;
    // SAFETY: the driver writes one number to a place that holds one.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().ok()?;
    Some(version)
}

#[cfg(not(feature = "cuda"))]
fn cuda_version() -> Option<i32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_the_kernel_module_is_found_in_both_wordings() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:12:42 UTC 2025\nGCC version:  gcc version 12.2.0\n";
        let open =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (dvs-builder)\n";
        assert_eq!(module_version(closed), Some("580.65.06"));
        assert_eq!(module_version(open), Some("570.124.06"));
        assert_eq!(module_version("GCC version:  gcc (Debian)\n"), None);
        assert_eq!(module_version(""), None);
    }

    #[test]
    fn the_driver_is_told_by_what_is_known_of_it() {
        let text = |module, cuda| driver_text(module, cuda);
        assert_eq!(text(Some("580.65.06"), Some(13_000)).unwrap(), "580.65.06, CUDA 13.0");
        assert_eq!(text(None, Some(12_080)).unwrap(), "CUDA 12.8");
        assert_eq!(text(Some("580.65.06"), None).unwrap(), "580.65.06");
        assert_eq!(text(None, None), None);
        assert_eq!(facts(Place::Cpu), Facts::default());
    }
}
