//! Backbones against timm: names, features, logits and gradients, every parameter filled by a formula.
#![expect(clippy::print_stdout, reason = "with --nocapture it shows the errors themselves")]

use backbones::{Backbone, BackboneConfig, BatchStatistics, ParameterStore, Pass, TimmConfig};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use random::Seeds;
use testkit::tolerance::{BACKBONE_F32, BACKBONE_F64, BackboneTolerance, relative_error};

mod files;
use files::{Parity, fill, unit, values};

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
    let mut errors: Vec<f64> = store.parameters().into_iter().map(of).collect();
    assert_eq!(errors.len(), parity.grads.len(), "every parameter of the backbone has a gradient");
    errors.sort_by(f64::total_cmp);
    errors
}

/// timm's `forward_head` of pooled features.
fn logits(arch: &str, parity: &Parity, pooled: &Tensor) -> Tensor {
    let dtype = pooled.dtype();
    let parameter = |name: &str| parity.classifier(name, dtype);
    let named = |name: &str| (parameter(&format!("{name}.weight")), parameter(&format!("{name}.bias")));
    let mut pooled = pooled.clone();
    let (weight, bias) = match arch.split('_').next().unwrap() {
        "efficientnet" => named("classifier"),
        "vit" => named("head"),
        "regnetx" | "regnety" => named("head.fc"),
        "convnext" => {
            let (gamma, beta) = named("head.norm");
            pooled = kernels::nn::layer_norm(&pooled, &gamma, &beta, 1e-6).unwrap();
            named("head.fc")
        }
        _ => named("fc"),
    };
    pooled.matmul(&weight.t().unwrap()).unwrap().broadcast_add(&bias).unwrap()
}

/// Panics unless two tensors have one shape and are close.
fn check(what: &str, got: &Tensor, want: &Tensor, bar: f64) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let (got, want) = (values(got), values(want));
    let error = relative_error(&got, &want, want.len());
    println!("{what}: {error:.2e}");
    assert!(error <= bar, "{what}: relative error {error:.2e} is above {bar:.0e}");
}

fn check_arch(arch: &str, dtype: DType, bar: BackboneTolerance) {
    let parity = Parity::read(arch);
    let mut settings = TimmConfig::named(arch);
    // A file of another size than the name's has a position embedding of that size.
    settings.image_size = arch.starts_with("vit_").then_some(parity.size);
    let config = BackboneConfig::Timm(settings);
    let store = ParameterStore::new(Seeds::new(1), dtype, &Device::Cpu);
    let backbone = Backbone::new(&config, store.var_builder()).unwrap();
    // `load` accepts exactly the names and shapes of the store: they are timm's.
    store.load(&parity.parameters(config.classifier_prefix().unwrap())).unwrap();
    let x = parity.input(dtype);
    let what = |part: &str| format!("{arch} {dtype:?} {part}");

    let features = backbone.features(&x, &mut Pass::new(BatchStatistics::Eval)).unwrap();
    let size = config.map_size(parity.size).unwrap();
    assert_eq!(features.map().unwrap().dims(), [parity.batch, config.channels().unwrap(), size, size]);
    let logits = logits(arch, &parity, &features.pooled().unwrap());
    check(&what("features, eval"), &features.into_tensor(), &parity.outputs["features_eval"], bar.eval);
    check(&what("logits, eval"), &logits, &parity.outputs["logits_eval"], bar.eval);

    let buffers = |store: &ParameterStore| -> Vec<Vec<f64>> { store.buffers().values().map(|v| values(v)).collect() };
    let before = buffers(&store);
    let train = backbone.forward_features(&x, BatchStatistics::TrainFrozen).unwrap();
    check(&what("features, train"), &train, &parity.outputs["features_train"], bar.train);
    assert_eq!(buffers(&store), before);

    let n = train.elem_count();
    let cotangent = Tensor::from_vec(unit("cotangent", n), train.shape(), &Device::Cpu).unwrap();
    let loss = (&train * cotangent.to_dtype(dtype).unwrap()).unwrap().sum_all().unwrap();
    let grads = loss.affine(1.0 / n as f64, 0.0).unwrap().backward().unwrap();
    let errors = gradient_errors(&parity, &store, &grads);
    let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
    println!("{}: median {median:.2e}, worst {worst:.2e}", what("gradients"));
    assert!(median <= bar.median_gradient, "{arch} gradients, median {median:.2e}");
    assert!(worst <= bar.worst_gradient, "{arch} gradients, worst {worst:.2e}");
}

fn check_both(arch: &str) {
    check_arch(arch, DType::F64, BACKBONE_F64);
    check_arch(arch, DType::F32, BACKBONE_F32);
}

/// Architectures with a test of their own, so that they run side by side.
const TESTED: [&str; 6] =
    ["resnet18", "resnet50", "regnety_008", "convnext_tiny", "efficientnet_b0", "vit_small_patch16_224"];

#[test]
fn resnet18_is_timms() {
    check_both("resnet18");
}

#[test]
fn resnet50_is_timms() {
    check_both("resnet50");
}

#[test]
fn regnety_008_is_timms() {
    check_both("regnety_008");
}

#[test]
fn convnext_tiny_is_timms() {
    check_both("convnext_tiny");
}

#[test]
fn efficientnet_b0_is_timms() {
    check_both("efficientnet_b0");
}

#[test]
fn vit_small_is_timms() {
    check_both("vit_small_patch16_224");
}

#[test]
fn every_further_file_is_timms_too() {
    let all = Parity::all();
    assert!(!all.is_empty(), "no parity files");
    all.iter().filter(|arch| !TESTED.contains(&arch.as_str())).for_each(|arch| check_both(arch));
}

#[test]
fn the_fill_formula_is_that_of_the_files() {
    // The first two numbers of the image batch of every file, as `generate.py` makes them.
    assert_eq!(unit("input", 2), [FIRST[0], FIRST[1]]);
    assert_eq!(
        values(&fill("running_var", &[1])),
        [1.0 + 0.5 * unit("running_var", 1)[0]].map(|v| f64::from(v as f32))
    );
}
const FIRST: [f64; 2] = [-6_747_489.0 / 8_388_608.0, 2_556_183.0 / 8_388_608.0];

#[test]
fn operations_are_those_of_the_papers_tables() {
    // Billions of products at 224 pixels. He et al. 2016, table 1: 1.8 and 3.8; timm's resnet50 puts the stride on the
    // 3×3 convolution, which makes it 4.1. Liu et al. 2022, table 1: 4.5. Tan and Le 2019, table 2: 0.39. Radosavovic et
    // al. 2020, table 4: 0.8. Dosovitskiy's small model, by Touvron et al. 2021, table 5: 4.6.
    let products = |arch| BackboneConfig::timm(arch).flops(224).unwrap() as f64 / 2e9;
    let want = [
        ("resnet18", 1.8),
        ("resnet50", 4.1),
        ("resnext50_32x4d", 4.2),
        ("convnext_tiny", 4.5),
        ("efficientnet_b0", 0.4),
        ("regnety_008", 0.8),
        ("vit_small_patch16_224", 4.6),
    ];
    for (arch, want) in want {
        let got = products(arch);
        assert!((got - want).abs() < 0.06, "{arch}: {got} billion products, expected {want}");
    }
}
