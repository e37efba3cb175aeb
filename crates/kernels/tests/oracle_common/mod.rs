//! What the oracle tests share.

pub(crate) mod host;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use testkit::oracle::Case;
use testkit::tolerance::{ORACLE_F32, ORACLE_F64, Tolerance, relative_error};

/// The dtypes that every case runs in.
pub(crate) const DTYPES: [DType; 2] = [DType::F64, DType::F32];

/// The bar of a dtype.
pub(crate) fn tolerance(dtype: DType) -> Tolerance {
    if dtype == DType::F32 { ORACLE_F32 } else { ORACLE_F64 }
}

/// An input of the case.
pub(crate) fn input(case: &Case, name: &str, dtype: DType) -> Tensor {
    let array = case.tensor(name);
    let tensor = Tensor::from_vec(array.values.clone(), array.shape.as_slice(), &Device::Cpu).unwrap();
    tensor.to_dtype(dtype).unwrap()
}

/// The gradients of `scale · Σ y ∘ g`.
pub(crate) fn gradient(y: &Tensor, g: &Tensor, scale: f64) -> GradStore {
    let loss = (y.mul(&g.reshape(y.shape()).unwrap()).unwrap().sum_all().unwrap() * scale).unwrap();
    loss.backward().unwrap()
}

/// Compares `got` with the tensor `name` of the case, symmetrised first if it is a gradient of symmetric matrices.
pub(crate) fn check(case: &Case, name: &str, dtype: DType, got: &Tensor, item: usize, bar: f64, symmetric: bool) {
    let want = &case.tensor(name).values;
    let mut got = host::values(got);
    if symmetric {
        let d = item.isqrt();
        got.chunks_mut(item).for_each(|matrix| testkit::spd::symmetrise(matrix, d));
    }
    let error = relative_error(&got, want, item);
    let (op, case) = (&case.op, &case.case);
    assert!(error <= bar, "{op}.{case} {dtype:?} {name}: relative error {error:.2e} is above {bar:.0e}");
}
