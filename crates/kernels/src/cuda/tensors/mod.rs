//! Ops on tensors that lie on a card.

mod images;
mod norms;
mod op;
pub(crate) mod optim;
mod ready;
mod spd;
mod tokens;
mod transport;

pub(crate) use self::spd::{Prepared, covariance, distance, function, nearest_rows, pair_distance};
pub(crate) use images::{conv2d, gated, global_mean, max_pool2d, scaled_residual};
pub(crate) use norms::{batch_norm_eval, batch_norm_train, layer_norm};
pub(crate) use tokens::{activation, add_relu, attention, linear};
pub(crate) use transport::{aggregate, cotap, graph_cost, heaviest, sinkhorn};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::{CudaDType, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, Shape, Storage, Tensor, WithDType};
use cudarc::driver::{CudaSlice, DevicePtr};

use super::card::Card;
use super::device::{Float, Number, Stored, View};
use crate::{Error, Result};

/// A number of candle's tensors that kernels take.
trait Element: Float + Stored<Sum = Self> + CudaDType + WithDType {
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

impl<T: Number + CudaDType> Source<T> {
    fn of(op: &'static str, tensor: &Tensor) -> Result<Self> {
        let tensor = tensor.contiguous()?;
        let len = tensor.elem_count();
        let address = {
            let (storage, layout) = tensor.storage_and_layout();
            let Storage::Cuda(storage) = &*storage else {
                return Err(Error::Device { op, reason: "its arguments lie on different devices".into() });
            };
            let stream = storage.device().cuda_stream();
            let (address, _guard) = storage.as_cuda_slice::<T>()?.device_ptr(&stream);
            address + (layout.start_offset() * size_of::<T>()) as u64
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
fn tensor<T: CudaDType>(slice: CudaSlice<T>, device: &CudaDevice, shape: impl Into<Shape>) -> Tensor {
    let storage = CudaStorage::wrap_cuda_slice(slice, device.clone());
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}
