//! The numbers of a tensor, read where they lie.

use candle_core::{CpuStorage, DType, Storage, Tensor};

use crate::{Error, Result, host};

/// Row-major numbers in either dtype.
#[derive(Clone, Copy)]
pub(super) enum Values<'a> {
    /// float32.
    Single(&'a [f32]),
    /// float64.
    Double(&'a [f64]),
}

/// What `read` makes of the numbers of a tensor. Copies them only where the tensor is strided.
pub(super) fn with_values<R>(
    op: &'static str,
    tensor: &Tensor,
    read: impl FnOnce(Values<'_>) -> Result<R>,
) -> Result<R> {
    if !matches!(tensor.dtype(), DType::F32 | DType::F64) {
        return Err(Error::Dtype { op, got: tensor.dtype() });
    }
    host::refuse_device(op, tensor)?;
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let own = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => read(Values::Single(&values[own])),
        Storage::Cpu(CpuStorage::F64(values)) => read(Values::Double(&values[own])),
        _ => Err(Error::Dtype { op, got: tensor.dtype() }),
    }
}
