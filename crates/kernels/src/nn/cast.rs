//! Activations in another dtype.

use candle_core::{DType, Tensor};

use crate::{Error, Result};

/// `x` as `dtype`: itself where it is that already, and on a card float32 as bfloat16 (to the nearest, ties to even; NaN stays
/// NaN) and bfloat16 as float32. The gradient is converted the other way.
///
/// # Errors
/// [`Error::Dtype`] for other conversions.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    const OP: &str = "cast";
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::tensors::to_dtype(OP, x, dtype);
    }
    Err(Error::Dtype { op: OP, got: dtype })
}
