//! Residual networks against timm: names, features, logits and gradients, every parameter filled by a formula.

use backbones::{Backbone, BackboneConfig, BatchStatistics, BlockKind, ParameterStore, ResnetConfig};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use random::Seeds;
use testkit::tolerance::{BACKBONE_F32, BACKBONE_F64, BackboneTolerance, assert_close};

mod files;
use files::{Parity, fill, unit, values};

fn resnet18() -> BackboneConfig {
    BackboneConfig::Resnet(ResnetConfig {
        blocks: [2, 2, 2, 2],
        widths: [64, 128, 256, 512],
        stem_width: 64,
        strides: [1, 2, 2, 2],
        block: BlockKind::Basic,
    })
}

fn resnet50() -> BackboneConfig {
    BackboneConfig::Resnet(ResnetConfig {
        blocks: [3, 4, 6, 3],
        widths: [64, 128, 256, 512],
        stem_width: 64,
        strides: [1, 2, 2, 2],
        block: BlockKind::Bottleneck,
    })
}

/// Error of each parameter's gradient: of its norm and its probe, relative to the norm.
fn gradient_errors(parity: &Parity, store: &ParameterStore, grads: &GradStore) -> Vec<f64> {
    let largest = parity.grads.values().map(|[norm, _]| *norm).fold(0.0, f64::max);
    let of = |p: kernels::optim::Parameter| {
        let gradient = values(grads.get(p.var.as_tensor()).unwrap_or_else(|| panic!("no gradient for {}", p.name)));
        let [norm, probe] = parity.grads[&p.name];
        let got_norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let direction = unit(&format!("probe.{}", p.name), gradient.len());
        let got_probe: f64 = gradient.iter().zip(direction).map(|(g, u)| g * u).sum();
        let scale = norm.max(1e-6 * largest);
        let error = (got_norm - norm).abs().max((got_probe - probe).abs()) / scale;
        if error.is_finite() { error } else { f64::INFINITY }
    };
    store.parameters().into_iter().map(of).collect()
}

fn check_arch(arch: &str, config: &BackboneConfig, dtype: DType, bar: BackboneTolerance) {
    let parity = Parity::read(arch);
    let store = ParameterStore::new(Seeds::new(1), dtype, &Device::Cpu);
    let backbone = Backbone::new(config, store.var_builder()).unwrap();
    // `load` accepts exactly the names and shapes of the store: they are timm's.
    store.load(&parity.parameters()).unwrap();
    let x = parity.input(dtype);

    let eval = backbone.forward_t(&x, BatchStatistics::Eval).unwrap();
    let want = values(&parity.outputs["features_eval"]);
    assert_eq!(eval.dims(), parity.outputs["features_eval"].dims());
    assert_eq!(eval.dims()[1..], [config.channels(), config.map_size(parity.size), config.map_size(parity.size)]);
    assert_close(&format!("{arch} features, eval"), &values(&eval), &want, want.len(), bar.eval);

    let weight = fill("fc.weight", &parity.shapes["fc.weight"]).to_dtype(dtype).unwrap();
    let bias = fill("fc.bias", &parity.shapes["fc.bias"]).to_dtype(dtype).unwrap();
    let pooled = eval.mean((2, 3)).unwrap();
    let logits = pooled.matmul(&weight.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
    let want = values(&parity.outputs["logits_eval"]);
    assert_close(&format!("{arch} logits, eval"), &values(&logits), &want, want.len(), bar.eval);

    let train = backbone.forward_t(&x, BatchStatistics::TrainFrozen).unwrap();
    let want = values(&parity.outputs["features_train"]);
    assert_close(&format!("{arch} features, train"), &values(&train), &want, want.len(), bar.train);
    assert_eq!(values(&store.buffers()["bn1.running_mean"]), values(&fill("bn1.running_mean", &[64])));

    let n = train.elem_count();
    let cotangent = Tensor::from_vec(unit("cotangent", n), train.shape(), &Device::Cpu).unwrap();
    let loss = (&train * cotangent.to_dtype(dtype).unwrap()).unwrap().sum_all().unwrap();
    let grads = loss.affine(1.0 / n as f64, 0.0).unwrap().backward().unwrap();
    let mut errors = gradient_errors(&parity, &store, &grads);
    assert_eq!(errors.len(), parity.grads.len(), "every parameter of the backbone has a gradient");
    errors.sort_by(f64::total_cmp);
    let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
    assert!(median <= bar.median_gradient, "{arch} gradients, median {median:.2e}");
    assert!(worst <= bar.worst_gradient, "{arch} gradients, worst {worst:.2e}");
}

#[test]
fn resnet18_is_timms() {
    check_arch("resnet18", &resnet18(), DType::F64, BACKBONE_F64);
    check_arch("resnet18", &resnet18(), DType::F32, BACKBONE_F32);
}

#[test]
fn resnet50_is_timms() {
    check_arch("resnet50", &resnet50(), DType::F64, BACKBONE_F64);
}

#[test]
fn operations_are_those_of_the_papers_table() {
    // He et al. 2016, table 1: 1.8 and 3.8 billion products at 224 pixels; timm's resnet50 puts the stride on the 3×3
    // convolution, which makes it 4.1.
    assert_eq!((resnet18().flops(224) as f64 / 2e8).round(), 18.0);
    assert_eq!((resnet50().flops(224) as f64 / 2e8).round(), 41.0);
}
