//! Tensors to plain numbers.

use candle_core::{DType, Tensor};

/// Float64 values of a tensor.
pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}
