//! Memory of cards: how much a process has used, and errors that say that there is none left.

use candle_core::Device;

/// Makes a card keep the memory that tensors have given back, for the tensors to come. By default the driver takes it
/// back whenever the host waits for the card, and makes it anew in the next step. Does nothing on the CPU.
///
/// # Errors
/// The driver's reason.
#[cfg(feature = "cuda")]
pub(crate) fn keep(device: &Device) -> candle_core::Result<()> {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::{result, sys};
    let Some(pool) = pool(device)? else { return Ok(()) };
    let mut most = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool belongs to a device that is open, and this attribute is an unsigned number of 64 bits.
    unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut most).cast()) }.w()
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn keep(_: &Device) -> candle_core::Result<()> {
    Ok(())
}

/// The most memory of a card that this process's tensors have held at a time, MiB; none on the CPU, and on a card whose
/// driver has no memory pools.
///
/// This is the high-water mark of what is in use in the pool that all tensors come from (`CU_MEMPOOL_ATTR_USED_MEM_HIGH`):
/// exact, and the same in every run. What the pool holds in reserve (`CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH`) depends on the
/// driver's habits; that, the driver's context and the workspaces of NVIDIA's libraries come on top.
///
/// # Errors
/// The driver's reason.
#[cfg(feature = "cuda")]
pub(crate) fn peak_mb(device: &Device) -> candle_core::Result<Option<f64>> {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::{result, sys};
    let Some(pool) = pool(device)? else { return Ok(None) };
    let mut bytes = 0u64;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the pool belongs to a device that is open, and this attribute is an unsigned number of 64 bits.
    unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()) }.w()?;
    Ok(Some(bytes as f64 / (1u64 << 20) as f64))
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn peak_mb(_: &Device) -> candle_core::Result<Option<f64>> {
    Ok(None)
}

/// The pool that a card's tensors come from.
#[cfg(feature = "cuda")]
fn pool(device: &Device) -> candle_core::Result<Option<candle_core::cuda_backend::cudarc::driver::sys::CUmemoryPool>> {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::result;
    let Device::Cuda(card) = device else { return Ok(None) };
    let stream = card.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(None);
    }
    context.bind_to_thread().w()?;
    // SAFETY: the device's context is open as long as `card` is.
    unsafe { result::device::get_mem_pool(context.cu_device()) }.w().map(Some)
}

/// Whether an error of the tensor library means that memory ran out, on a card or on the host.
pub(crate) fn ran_out(error: &candle_core::Error) -> bool {
    use candle_core::Error;
    match error {
        #[cfg(feature = "cuda")]
        Error::Cuda(inner) => typed(inner.as_ref()).unwrap_or_else(|| says_so(&inner.to_string())),
        Error::Context { inner, .. } | Error::WithPath { inner, .. } | Error::WithBacktrace { inner, .. } => {
            ran_out(inner)
        }
        Error::Io(inner) => inner.kind() == std::io::ErrorKind::OutOfMemory,
        other => says_so(&other.to_string()),
    }
}

/// The same by the codes of the driver and of NVIDIA's libraries; nothing for an error without one.
#[cfg(feature = "cuda")]
fn typed(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<bool> {
    use candle_core::cuda_backend::CudaError;
    use candle_core::cuda_backend::cudarc::cublas::sys::cublasStatus_t;
    use candle_core::cuda_backend::cudarc::curand::sys::curandStatus;
    use candle_core::cuda_backend::cudarc::driver::{DriverError, sys::CUresult};
    let driver = |error: &DriverError| error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    if let Some(error) = error.downcast_ref::<DriverError>() {
        return Some(driver(error));
    }
    match error.downcast_ref::<CudaError>()? {
        CudaError::Cuda(error) | CudaError::Load { cuda: error, .. } => Some(driver(error)),
        CudaError::Cublas(error) => Some(error.0 == cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED),
        CudaError::Curand(error) => Some(error.0 == curandStatus::CURAND_STATUS_ALLOCATION_FAILED),
        _ => None,
    }
}

/// Whether a text names the lack of memory: by a code of CUDA's driver or of one of NVIDIA's libraries (`CUDA_ERROR_OUT_OF_MEMORY`,
/// `CUBLAS_STATUS_ALLOC_FAILED`, `CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED`, …), or by what Rust says before it
/// gives up.
pub(crate) fn says_so(text: &str) -> bool {
    let is_code = |word: &str| {
        let ends = ["_OUT_OF_MEMORY", "_ALLOC_FAILED", "_ALLOCATION_FAILED"];
        word.starts_with("CU") && ends.iter().any(|end| word.ends_with(end))
    };
    let mut words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.any(is_code) || text.contains("memory allocation of ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Error;

    /// Codes as their libraries name them, and whether they mean memory.
    const CODES: [(&str, bool); 12] = [
        ("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")", true),
        ("CublasError(CUBLAS_STATUS_ALLOC_FAILED)", true),
        ("CudnnError(CUDNN_STATUS_ALLOC_FAILED)", true),
        ("CudnnError(CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)", true),
        ("CurandError(CURAND_STATUS_ALLOCATION_FAILED)", true),
        ("cusolver: CUSOLVER_STATUS_ALLOC_FAILED in syevj", true),
        ("memory allocation of 123456 bytes failed", true),
        ("DriverError(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, \"too many resources requested for launch\")", false),
        ("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")", false),
        ("CublasError(CUBLAS_STATUS_EXECUTION_FAILED)", false),
        ("cannot read OUT_OF_MEMORY/notes.txt", false),
        ("", false),
    ];

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str);

    #[test]
    fn codes_of_memory_are_known_wherever_they_stand() {
        for (text, expected) in CODES {
            assert_eq!(says_so(text), expected, "{text}");
            let plain = || Error::Cuda(Box::new(Said(text)));
            assert_eq!(ran_out(&plain()), expected, "{text}");
            assert_eq!(ran_out(&Error::Msg(text.into())), expected, "{text}");
            assert_eq!(ran_out(&Error::wrap(Said(text))), expected, "{text}");
            let deep = plain().context("while multiplying").with_path("weights.safetensors");
            let deep = Error::WithBacktrace {
                inner: Box::new(deep),
                backtrace: Box::new(std::backtrace::Backtrace::disabled()),
            };
            assert_eq!(ran_out(&deep), expected, "{text}");
        }
        assert!(ran_out(&Error::Io(std::io::ErrorKind::OutOfMemory.into())));
        assert!(!ran_out(&Error::Io(std::io::ErrorKind::NotFound.into())));
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn codes_of_memory_are_known_by_their_types() {
        use candle_core::cuda_backend::CudaError;
        use candle_core::cuda_backend::cudarc::cublas::{result::CublasError, sys::cublasStatus_t};
        use candle_core::cuda_backend::cudarc::driver::{DriverError, sys::CUresult};
        let of = |error: CudaError| ran_out(&Error::Cuda(Box::new(error)).context("somewhere"));
        assert!(of(CudaError::Cuda(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY))));
        assert!(of(CudaError::Cublas(CublasError(cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED))));
        assert!(!of(CudaError::Cuda(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE))));
        assert!(!of(CudaError::Cublas(CublasError(cublasStatus_t::CUBLAS_STATUS_INTERNAL_ERROR))));
        assert!(ran_out(&Error::Cuda(Box::new(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)))));
    }

    #[test]
    fn the_cpu_has_no_pool() {
        keep(&Device::Cpu).unwrap();
        assert_eq!(peak_mb(&Device::Cpu).unwrap(), None);
    }
}
