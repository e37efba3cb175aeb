//! Tensors to and from plain numbers on the host.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Device, Shape, Storage, Tensor};
use rayon::prelude::*;

use crate::{Error, Result};

/// The row-major float64 values of a float32 or float64 tensor.
pub fn to_f64(op: &'static str, tensor: &Tensor) -> Result<Vec<f64>> {
    match tensor.dtype() {
        DType::F64 => Ok(tensor.flatten_all()?.to_vec1::<f64>()?),
        DType::F32 => Ok(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from).collect()),
        got => Err(Error::Dtype { op, got }),
    }
}

/// A tensor of `dtype` (float32 or float64) with these values.
pub fn from_f64(
    op: &'static str,
    values: Vec<f64>,
    shape: impl Into<Shape>,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    match dtype {
        DType::F64 => Ok(Tensor::from_vec(values, shape, device)?),
        DType::F32 => {
            let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
            Ok(Tensor::from_vec(values, shape, device)?)
        }
        got => Err(Error::Dtype { op, got }),
    }
}

/// Numbers of a tensor, as they lie in memory.
#[derive(Clone, Copy)]
pub(crate) enum Numbers<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

impl Numbers<'_> {
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
        }
    }

    pub(crate) fn len(self) -> usize {
        match self {
            Self::F32(all) => all.len(),
            Self::F64(all) => all.len(),
        }
    }

    /// Writes the numbers from `start` on to `out`.
    pub(crate) fn copy(self, start: usize, out: &mut [f64]) {
        match self {
            Self::F32(all) => {
                let from = &all[start..start + out.len()];
                out.iter_mut().zip(from).for_each(|(out, v)| *out = f64::from(*v));
            }
            Self::F64(all) => out.copy_from_slice(&all[start..start + out.len()]),
        }
    }
}

/// Calls `f` with the row-major numbers of a float32 or float64 tensor, which are copied only where they lie on another
/// device or in another order.
pub(crate) fn with_numbers<T>(op: &'static str, tensor: &Tensor, f: impl FnOnce(Numbers) -> Result<T>) -> Result<T> {
    let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { return Err(Error::Dtype { op, got: tensor.dtype() }) };
    let range = layout.start_offset()..layout.start_offset() + tensor.elem_count();
    match storage {
        CpuStorage::F32(all) => f(Numbers::F32(&all[range])),
        CpuStorage::F64(all) => f(Numbers::F64(&all[range])),
        _ => Err(Error::Dtype { op, got: tensor.dtype() }),
    }
}

/// A tensor on the host.
pub(crate) fn tensor(op: &'static str, storage: CpuStorage, shape: &Shape) -> Result<Tensor> {
    match storage {
        CpuStorage::F32(values) => Ok(Tensor::from_vec(values, shape, &Device::Cpu)?),
        CpuStorage::F64(values) => Ok(Tensor::from_vec(values, shape, &Device::Cpu)?),
        other => Err(Error::Dtype { op, got: other.dtype() }),
    }
}

/// Storage of `dtype` (float32 or float64) with `count` items of `size` numbers; `fill` writes item after item, on several
/// threads.
pub(crate) fn fill_items(
    op: &'static str,
    dtype: DType,
    (count, size): (usize, usize),
    fill: impl Fn(usize, &mut [f64]) + Sync,
) -> Result<CpuStorage> {
    match dtype {
        DType::F64 => {
            let mut out = vec![0.0f64; count * size];
            out.par_chunks_exact_mut(size.max(1)).enumerate().for_each(|(item, out)| fill(item, out));
            Ok(CpuStorage::F64(out))
        }
        DType::F32 => {
            let mut out = vec![0.0f32; count * size];
            let one = |room: &mut Vec<f64>, (item, out): (usize, &mut [f32])| {
                fill(item, room);
                out.iter_mut().zip(room.iter()).for_each(|(out, v)| *out = *v as f32);
            };
            out.par_chunks_exact_mut(size.max(1)).enumerate().for_each_init(|| vec![0.0; size], one);
            Ok(CpuStorage::F32(out))
        }
        got => Err(Error::Dtype { op, got }),
    }
}
