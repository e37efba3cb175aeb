//! Other types of activations are for cards: the CPU refuses them and names the dtype.

use candle_core::{DType, Device, Tensor};
use kernels::Error;
use kernels::nn::{self, Flow};

#[test]
fn a_cast_to_the_same_dtype_is_the_tensor() {
    for dtype in [DType::F32, DType::F64] {
        let x = Tensor::ones((2, 3), dtype, &Device::Cpu).unwrap();
        assert_eq!(nn::cast(&x, dtype).unwrap().id(), x.id());
        assert_eq!(Flow::of(&x).unwrap().parameter_dtype(), dtype);
    }
}

#[test]
fn the_cpu_has_no_bfloat16() {
    let x = Tensor::ones((2, 3, 4, 4), DType::F32, &Device::Cpu).unwrap();
    let refused = |error: Error| matches!(error, Error::Dtype { got: DType::BF16, .. });
    assert!(refused(nn::cast(&x, DType::BF16).unwrap_err()));
    let half = x.to_dtype(DType::BF16).unwrap();
    let weight = Tensor::ones((2, 3, 1, 1), DType::F32, &Device::Cpu).unwrap();
    assert!(refused(nn::conv2d(&half, &weight, None, nn::Conv2dConfig::default()).unwrap_err()));
    assert!(refused(nn::relu(&half).unwrap_err()));
    assert_eq!(Flow::of(&half).unwrap().parameter_dtype(), DType::F32);
}
