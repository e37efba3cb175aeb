//! Tensors of the right shapes without their memory, to ask a network about its sizes.

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

struct Skeleton;

impl SimpleBackend for Skeleton {
    fn get(&self, shape: Shape, _: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("`{name}` has no shape in a skeleton")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// A builder of one zero, seen in every shape.
pub(crate) fn builder() -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Skeleton), DType::F32, Device::Cpu)
}
