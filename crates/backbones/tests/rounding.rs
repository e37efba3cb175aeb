//! Gradients of a deep network in float32 against those in float64, where single gates of rectifiers count: the last maps
//! have four pixels an image.

use std::collections::BTreeMap;

use backbones::parity::{fill, unit};
use backbones::{Backbone, BackboneConfig, BatchStatistics, ParameterStore};
use candle_core::{DType, Device, Tensor};
use kernels::optim::Parameter;
use random::Seeds;
use testkit::tolerance::{BACKBONE_F32, relative_error};

/// Gradient of each parameter of ResNeXt-50, filled by the formula of the parity files, in train mode at 64 pixels.
fn gradients(dtype: DType) -> BTreeMap<String, Vec<f64>> {
    let store = ParameterStore::new(Seeds::new(0), dtype, &Device::Cpu);
    let network = Backbone::new(&BackboneConfig::timm("resnext50_32x4d"), store.var_builder()).unwrap();
    let filled = |(name, like): (String, Tensor)| {
        let values = Tensor::from_vec(fill(&name, like.dims()), like.shape(), &Device::Cpu).unwrap();
        (name, values)
    };
    store.load(&store.tensors().into_iter().map(filled).collect()).unwrap();
    let images = Tensor::from_vec(unit("input", 4 * 3 * 64 * 64), (4, 3, 64, 64), &Device::Cpu).unwrap();
    let y = network.forward_t(&images.to_dtype(dtype).unwrap(), BatchStatistics::TrainFrozen).unwrap();
    let cotangent = Tensor::from_vec(unit("cotangent", y.elem_count()), y.shape(), &Device::Cpu).unwrap();
    let grads = (y * cotangent.to_dtype(dtype).unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
    let of = |parameter: Parameter| {
        let gradient = grads.get(parameter.var.as_tensor()).expect("a gradient").to_dtype(DType::F64).unwrap();
        (parameter.name, gradient.flatten_all().unwrap().to_vec1().unwrap())
    };
    store.parameters().into_iter().map(of).collect()
}

#[test]
fn float32_turns_over_no_gate_that_counts() {
    let (got, want) = (gradients(DType::F32), gradients(DType::F64));
    assert_eq!(want.len(), 159);
    let mut errors: Vec<f64> = want.iter().map(|(name, want)| relative_error(&got[name], want, want.len())).collect();
    errors.sort_by(f64::total_cmp);
    let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
    assert!(median <= BACKBONE_F32.median_gradient, "whole gradients are off by {median:.2e} in the median");
    assert!(worst <= BACKBONE_F32.worst_gradient, "a whole gradient is off by {worst:.2e}");
}
