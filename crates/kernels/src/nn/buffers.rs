//! Contiguous host slices of tensors, and scratch memory that a worker keeps between calls.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use candle_core::{CpuStorage, DType, Layout, Storage, StorageRef, Tensor, WithDType};
use rayon::prelude::*;

use super::math::Smooth;
use super::product::Products;
use crate::even::Even;
use crate::{Error, Result};

/// A float type that the training ops compute in.
pub(crate) trait Real: WithDType + Smooth + Products {
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// −∞.
    const LOWEST: Self;

    /// Widens to float64.
    fn up(self) -> f64;

    /// Rounds from float64.
    fn down(value: f64) -> Self;

    /// The numbers of a storage of this type.
    fn numbers_of(storage: &mut CpuStorage) -> Option<&mut Vec<Self>>;

    /// Runs `f` on at least `len` numbers of this thread's scratch memory; what they hold is arbitrary.
    /// `f` must not call rayon: another task of this thread would find the scratch memory in use.
    fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [Self]) -> R) -> R;
}

macro_rules! real {
    ($t:ty, $variant:ident) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = <$t>::NEG_INFINITY;

            #[inline(always)]
            fn up(self) -> f64 {
                self as f64
            }

            #[inline(always)]
            fn down(value: f64) -> Self {
                value as $t
            }

            fn numbers_of(storage: &mut CpuStorage) -> Option<&mut Vec<Self>> {
                match storage {
                    CpuStorage::$variant(numbers) => Some(numbers),
                    _ => None,
                }
            }

            fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [Self]) -> R) -> R {
                thread_local! {
                    static SCRATCH: RefCell<Vec<$t>> = const { RefCell::new(Vec::new()) };
                }
                SCRATCH.with_borrow_mut(|scratch| {
                    if scratch.len() < len {
                        scratch.resize(len, 0.0);
                    }
                    f(&mut scratch[..len])
                })
            }
        }
    };
}
real!(f32, F32);
real!(f64, F64);

/// Zeros that one task writes.
const CHUNK: usize = 64 * 1024;

/// `len` numbers that `fill(index of the chunk, chunk)` writes, on all threads: clearing them first would take as long as
/// reading them. A task has at least `chunks` chunks.
///
/// # Safety
/// `fill` must write every number of the chunk that it is given.
pub(crate) unsafe fn fresh<T: Real>(
    len: usize,
    (chunk, chunks): (usize, usize),
    fill: impl Fn(usize, &mut [MaybeUninit<T>]) + Sync,
) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    let rest: &mut [MaybeUninit<T>] = &mut values.spare_capacity_mut()[..len];
    rest.par_chunks_mut(chunk).enumerate().evenly(chunks).for_each(|(index, chunk)| fill(index, chunk));
    // SAFETY: the capacity is at least `len`, the chunks cover the first `len` numbers, and `fill` writes all of a chunk.
    unsafe { values.set_len(len) };
    values
}

/// `len` zeros, written by all threads.
pub(crate) fn zeros<T: Real>(len: usize) -> Vec<T> {
    // SAFETY: the whole chunk is filled.
    unsafe { fresh(len, (CHUNK, 1), |_, chunk| chunk.fill(MaybeUninit::new(T::ZERO))) }
}

/// A copy, made by all threads.
pub(crate) fn copied<T: Real>(values: &[T]) -> Vec<T> {
    // SAFETY: the whole chunk is written; a source of another length would panic.
    unsafe {
        fresh(values.len(), (CHUNK, 1), |index, chunk| {
            chunk.write_copy_of_slice(&values[index * CHUNK..][..chunk.len()]);
        })
    }
}

/// Float32 or float64, or an error.
pub(crate) fn check_dtype(op: &'static str, tensor: &Tensor) -> Result<()> {
    match tensor.dtype() {
        DType::F32 | DType::F64 => Ok(()),
        got => Err(Error::Dtype { op, got }),
    }
}

/// Float32 or float64, on a card bfloat16 too, or an error.
pub(crate) fn check_activations(op: &'static str, tensor: &Tensor) -> Result<()> {
    if tensor.dtype() == DType::BF16 && tensor.device().is_cuda() {
        return Ok(());
    }
    check_dtype(op, tensor)
}

/// What parameters, statistics and masks beside activations of this dtype have: float32 beside bfloat16.
pub(crate) fn beside(activations: DType) -> DType {
    if activations == DType::BF16 { DType::F32 } else { activations }
}

/// The numbers of a contiguous layout.
pub(crate) fn slice_of<'a, T: Real>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a training op met a tensor that is not contiguous: {layout:?}")
    };
    Ok(&storage.as_slice::<T>()?[start..end])
}

/// A contiguous tensor on the CPU, held for reading.
pub(crate) struct Held<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Held<'a> {
    /// Takes the tensor's read lock.
    pub(crate) fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    /// Its numbers, row-major.
    pub(crate) fn slice<T: Real>(&self) -> candle_core::Result<&[T]> {
        match &*self.storage {
            Storage::Cpu(storage) => slice_of(storage, self.layout),
            _ => candle_core::bail!("the training ops run on the CPU; this tensor lies on another device"),
        }
    }
}

/// Runs a generic function for the float type of a CPU storage.
macro_rules! by_storage {
    ($storage:expr, $t:ident => $body:expr) => {
        match $storage {
            candle_core::CpuStorage::F32(_) => {
                type $t = f32;
                $body
            }
            candle_core::CpuStorage::F64(_) => {
                type $t = f64;
                $body
            }
            other => Err(candle_core::Error::UnsupportedDTypeForOp(
                candle_core::backend::BackendStorage::dtype(other),
                "training op",
            )
            .bt()),
        }
    };
}
pub(crate) use by_storage;

/// Runs a generic function for the float type of a tensor.
macro_rules! by_dtype {
    ($tensor:expr, $t:ident => $body:expr) => {
        match $tensor.dtype() {
            candle_core::DType::F32 => {
                type $t = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $t = f64;
                $body
            }
            other => Err(candle_core::Error::UnsupportedDTypeForOp(other, "training op").bt()),
        }
    };
}
pub(crate) use by_dtype;
