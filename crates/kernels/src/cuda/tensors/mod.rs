//! Ops on tensors that lie on a card.

mod casts;
mod images;
mod norms;
mod op;
pub(crate) mod optim;
mod ready;
mod spd;
mod tokens;
mod transport;

pub(crate) use self::spd::{Prepared, covariance, distance, function, nearest_rows, pair_distance};
pub(crate) use casts::{masked, to_dtype};
pub(crate) use images::{conv2d, gated, global_mean, max_pool2d, scaled_residual};
pub(crate) use norms::{OnCard, batch_norm_eval, batch_norm_train, layer_norm};
pub(crate) use tokens::{activation, attention, linear, sum};
pub(crate) use transport::{aggregate, cotap, graph_cost, heaviest, sinkhorn};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::{CudaStorage, CudaStorageSlice};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, DType, Shape, Storage, Tensor, WithDType};
use cudarc::driver::{CudaSlice, DevicePtr};

use super::card::Card;
use super::device::{Bf16, Float, Number, Stored, View};
use super::train::cast;
use crate::{Error, Result};

/// A number of candle's tensors.
trait Held: Number {
    /// candle's name of it.
    const DTYPE: DType;

    /// Where the numbers of a storage begin.
    fn address(storage: &CudaStorage) -> candle_core::Result<u64>;

    /// These numbers as a storage.
    fn storage(slice: CudaSlice<Self>, device: &CudaDevice) -> CudaStorage;
}

macro_rules! held {
    ($($number:ty),*) => {$(
        impl Held for $number {
            const DTYPE: DType = <$number as WithDType>::DTYPE;

            fn address(storage: &CudaStorage) -> candle_core::Result<u64> {
                let stream = storage.device().cuda_stream();
                let (address, _guard) = storage.as_cuda_slice::<$number>()?.device_ptr(&stream);
                Ok(address)
            }

            fn storage(slice: CudaSlice<Self>, device: &CudaDevice) -> CudaStorage {
                CudaStorage::wrap_cuda_slice(slice, device.clone())
            }
        }
    )*};
}
held!(f32, f64, u32);

impl Held for Bf16 {
    const DTYPE: DType = DType::BF16;

    fn address(storage: &CudaStorage) -> candle_core::Result<u64> {
        let CudaStorageSlice::BF16(slice) = &storage.slice else {
            candle_core::bail!("expected a bfloat16 tensor, got {:?}", storage.dtype())
        };
        let stream = storage.device().cuda_stream();
        let (address, _guard) = slice.device_ptr(&stream);
        Ok(address)
    }

    fn storage(slice: CudaSlice<Self>, device: &CudaDevice) -> CudaStorage {
        let (stream, len) = (slice.stream().clone(), slice.len());
        // SAFETY: candle's bfloat16 is the same sixteen bits, and the memory is the slice's, which no longer frees it.
        let slice = CudaStorageSlice::BF16(unsafe { stream.upgrade_device_ptr(slice.leak(), len) });
        CudaStorage { slice, device: device.clone() }
    }
}

/// A number that matrix kernels take.
trait Element: Float + Held + Stored<Sum = Self> {
    /// In float64.
    fn up(self) -> f64;
}

impl Element for f32 {
    fn up(self) -> f64 {
        f64::from(self)
    }
}

impl Element for f64 {
    fn up(self) -> f64 {
        self
    }
}

/// A number of activations. Parameters beside them are [`Stored::Sum`].
trait Active: Held + Stored<Sum: Element> {
    /// Weights as activations are multiplied by them.
    fn weights(op: &'static str, weights: &Tensor) -> Result<Source<Self>>;
}

impl Active for f32 {
    fn weights(op: &'static str, weights: &Tensor) -> Result<Source<Self>> {
        Source::of(op, weights)
    }
}

impl Active for f64 {
    fn weights(op: &'static str, weights: &Tensor) -> Result<Source<Self>> {
        Source::of(op, weights)
    }
}

impl Active for Bf16 {
    fn weights(op: &'static str, weights: &Tensor) -> Result<Source<Self>> {
        let card = card(op, weights)?;
        let rounded = cast::narrow(&card, op, Source::<f32>::of(op, weights)?.view)?;
        Source::of(op, &tensor(rounded, &card.0, weights.shape()))
    }
}

/// Calls a generic function with the dtype of a tensor.
macro_rules! by_dtype {
    ($op:expr, $tensor:expr, $function:ident($($argument:expr),*)) => {
        match $tensor.dtype() {
            candle_core::DType::F32 => $function::<f32>($($argument),*),
            candle_core::DType::F64 => $function::<f64>($($argument),*),
            got => Err($crate::Error::Dtype { op: $op, got }),
        }
    };
}
use by_dtype;

/// Calls a generic function with the dtype of activations.
macro_rules! by_activations {
    ($op:expr, $tensor:expr, $function:ident($($argument:expr),*)) => {
        match $tensor.dtype() {
            candle_core::DType::F32 => $function::<f32>($($argument),*),
            candle_core::DType::F64 => $function::<f64>($($argument),*),
            candle_core::DType::BF16 => $function::<$crate::cuda::device::Bf16>($($argument),*),
            got => Err($crate::Error::Dtype { op: $op, got }),
        }
    };
}
use by_activations;

/// The card of a tensor.
fn card(op: &'static str, tensor: &Tensor) -> Result<Card> {
    match tensor.device() {
        candle_core::Device::Cuda(device) => Ok(Card(device.clone())),
        _ => Err(Error::Device { op, reason: "its arguments lie on different devices".into() }),
    }
}

/// The row-major numbers of a tensor on the card. They live as long as the tensor, which is kept here.
struct Source<T> {
    _tensor: Tensor,
    numbers: Numbers<T>,
}

impl<T: Held> Source<T> {
    fn of(op: &'static str, tensor: &Tensor) -> Result<Self> {
        let tensor = tensor.contiguous()?;
        let len = tensor.elem_count();
        let address = {
            let (storage, layout) = tensor.storage_and_layout();
            let Storage::Cuda(storage) = &*storage else {
                return Err(Error::Device { op, reason: "its arguments lie on different devices".into() });
            };
            T::address(storage)? + (layout.start_offset() * size_of::<T>()) as u64
        };
        Ok(Self { _tensor: tensor, numbers: Numbers { view: View::new(address, len) } })
    }
}

/// Where the numbers of a [`Source`] lie. Behind a dereference, so that a closure that uses the view keeps the tensor too: of a
/// plain field it would capture the address alone.
struct Numbers<T> {
    view: View<T>,
}

impl<T> std::ops::Deref for Source<T> {
    type Target = Numbers<T>;

    fn deref(&self) -> &Numbers<T> {
        &self.numbers
    }
}

/// A tensor of these numbers.
fn tensor<T: Held>(slice: CudaSlice<T>, device: &CudaDevice, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(Storage::Cuda(T::storage(slice, device)), shape, BackpropOp::none(), false)
}
