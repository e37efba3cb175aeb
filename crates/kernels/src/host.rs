//! Tensors to and from plain numbers on the host.

use std::mem::MaybeUninit;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Device, Shape, Storage, Tensor};
use rayon::prelude::*;

use crate::{Error, Result};

/// Refuses a tensor that does not lie on the CPU: nothing is computed elsewhere than where it was asked for.
pub(crate) fn refuse_device(op: &'static str, tensor: &Tensor) -> Result<()> {
    if tensor.device().is_cpu() {
        return Ok(());
    }
    Err(Error::NoDeviceCode { op, device: format!("{:?}", tensor.device().location()) })
}

/// The row-major float64 values of a float32 or float64 tensor on the CPU.
pub fn to_f64(op: &'static str, tensor: &Tensor) -> Result<Vec<f64>> {
    refuse_device(op, tensor)?;
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

/// Calls `f` with the row-major numbers of a float32 or float64 tensor, which lies on the CPU; they are
/// copied only where they lie in another order.
pub(crate) fn with_numbers<T>(op: &'static str, tensor: &Tensor, f: impl FnOnce(Numbers) -> Result<T>) -> Result<T> {
    refuse_device(op, tensor)?;
    let tensor = tensor.contiguous()?;
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
    items: (usize, usize),
    fill: impl Fn(usize, &mut [f64]) + Sync,
) -> Result<CpuStorage> {
    fill_groups(op, dtype, items, 1, fill)
}

/// As [`fill_items`], where `fill` writes `together` items from the one it is told; at the end, those that are left.
pub(crate) fn fill_groups(
    op: &'static str,
    dtype: DType,
    items: (usize, usize),
    together: usize,
    fill: impl Fn(usize, &mut [f64]) + Sync,
) -> Result<CpuStorage> {
    match dtype {
        DType::F64 => Ok(CpuStorage::F64(filled(items, together, fill, |v| v))),
        DType::F32 => Ok(CpuStorage::F32(filled(items, together, fill, |v| v as f32))),
        got => Err(Error::Dtype { op, got }),
    }
}

/// `count` items of `size` numbers, each converted from what `fill` writes, as in [`fill_groups`]. Memory is written once: a
/// first pass of zeros, on one thread, would cost as much as some kernels.
pub(crate) fn filled<T: Copy + Send>(
    (count, size): (usize, usize),
    together: usize,
    fill: impl Fn(usize, &mut [f64]) + Sync,
    convert: impl Fn(f64) -> T + Sync,
) -> Vec<T> {
    let total = count * size;
    let mut out: Vec<T> = Vec::with_capacity(total);
    let one = |room: &mut Vec<f64>, (group, out): (usize, &mut [MaybeUninit<T>])| {
        let room = &mut room[..out.len()];
        fill(group * together, room);
        out.iter_mut().zip(room.iter()).for_each(|(out, v)| {
            out.write(convert(*v));
        });
    };
    let length = (together * size).max(1);
    let groups = out.spare_capacity_mut()[..total].par_chunks_mut(length);
    groups.enumerate().for_each_init(|| vec![0.0; length], one);
    // SAFETY: the capacity is at least `total`, and every number was written: the chunks cover all of it, and `room` is as
    // long as the longest.
    unsafe { out.set_len(total) };
    out
}
