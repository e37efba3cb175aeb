//! Tensors to and from plain numbers on the host.

use candle_core::{DType, Device, Shape, Tensor};

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
