//! Backbones against timm: names, features, logits and gradients, every parameter filled by a formula.
#![expect(clippy::print_stdout, reason = "with --nocapture it shows the errors themselves")]

use std::fs;
use std::path::{Path, PathBuf};

use backbones::parity::{ParityBars, ParityCase, ParityError, parity_files};
use backbones::{BackboneConfig, BatchStatistics, Pass};
use candle_core::DType;
use testkit::tolerance::{BACKBONE_F32, BACKBONE_F64};

fn shared() -> PathBuf {
    testkit::oracle::shared_dir().join("backbones/data")
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/backbones/data")
}

fn check(path: &Path, dtype: DType) {
    let case = ParityCase::read(path).unwrap();
    let (errors, bars) = (case.run(dtype).unwrap(), ParityBars::of(dtype));
    let (median, worst) = (errors.median_gradient(), errors.worst_gradient());
    println!(
        "{} {dtype:?}: features {:.1e}, logits {:.1e}, train {:.1e}, gradients: median {median:.1e}, worst {worst:.1e}",
        case.arch(),
        errors.features_eval,
        errors.logits_eval,
        errors.features_train
    );
    let what = format!("{} {dtype:?}", path.display());
    assert!(errors.features_eval.max(errors.logits_eval) <= bars.eval, "{what}: {errors:?}");
    assert!(errors.features_train <= bars.train, "{what}: features in train mode {:.2e}", errors.features_train);
    assert!(median <= bars.median_gradient, "{what}: gradients, median {median:.2e}");
    assert!(worst <= bars.worst_gradient, "{what}: gradients, worst {worst:.2e}");
    // Features of the right size.
    let (store, backbone) = case.network(dtype).unwrap();
    let config = case.config();
    let features = backbone.features(&case.images(dtype).unwrap(), &mut Pass::new(BatchStatistics::Eval)).unwrap();
    let size = config.map_size(case.size()).unwrap();
    assert_eq!(features.map().unwrap().dims(), [case.batch(), config.channels().unwrap(), size, size]);
    assert!(errors.gradients.len() == store.parameters().len(), "every parameter has a gradient");
}

fn check_both(path: &Path) {
    check(path, DType::F64);
    check(path, DType::F32);
}

/// Architectures of `shared` with a test of their own, so that they run side by side.
const TESTED: [&str; 6] =
    ["resnet18", "resnet50", "regnety_008", "convnext_tiny", "efficientnet_b0", "vit_small_patch16_224"];

#[test]
fn resnet18_is_timms() {
    check_both(&shared().join("resnet18.json"));
}

#[test]
fn resnet50_is_timms() {
    check_both(&shared().join("resnet50.json"));
}

#[test]
fn regnety_008_is_timms() {
    check_both(&shared().join("regnety_008.json"));
}

#[test]
fn convnext_tiny_is_timms() {
    check_both(&shared().join("convnext_tiny.json"));
}

#[test]
fn efficientnet_b0_is_timms() {
    check_both(&shared().join("efficientnet_b0.json"));
}

#[test]
fn vit_small_is_timms() {
    check_both(&shared().join("vit_small_patch16_224.json"));
}

#[test]
fn every_further_file_is_timms_too() {
    let all = parity_files(&shared()).unwrap();
    let tested = |path: &&PathBuf| !TESTED.iter().any(|arch| path.file_stem().unwrap() == *arch);
    all.iter().filter(tested).for_each(|path| check_both(path));
}

#[test]
fn the_shipped_set_is_timms() {
    let all = parity_files(&shipped()).unwrap();
    assert!(all.len() >= 6);
    all.iter().for_each(|path| check_both(path));
}

#[test]
fn the_bars_are_those_of_the_tests() {
    for (dtype, want) in [(DType::F32, BACKBONE_F32), (DType::F64, BACKBONE_F64)] {
        let got = ParityBars::of(dtype);
        assert_eq!(
            [got.eval, got.train, got.median_gradient, got.worst_gradient],
            [want.eval, want.train, want.median_gradient, want.worst_gradient]
        );
    }
}

#[test]
fn wrong_numbers_show_and_nan_never_passes() {
    let path = shipped().join("convnext_atto.json");
    let json = fs::read_to_string(&path).unwrap();
    let tensors = fs::read(path.with_extension("safetensors")).unwrap();
    let run = |json: &str, tensors: &[u8]| {
        let case = ParityCase::parse(&path, json.as_bytes(), tensors).unwrap();
        case.run(DType::F64).unwrap()
    };
    let right = run(&json, &tensors);
    // The last number of the file, and the probe of one gradient.
    let mut changed = tensors.clone();
    let last = changed.len() - 8;
    changed[last..].copy_from_slice(&f64::NAN.to_le_bytes());
    let wrong = run(&json, &changed);
    let count = |errors: &backbones::parity::ParityErrors| {
        [errors.features_eval, errors.logits_eval, errors.features_train].iter().filter(|e| e.is_infinite()).count()
    };
    assert_eq!((count(&right), count(&wrong)), (0, 1));
    let at = json.find("\"stem.0.bias\": [").unwrap();
    let changed = format!("{}\"stem.0.bias\": [1{}", &json[..at], &json[at + 16..]);
    let wrong = run(&changed, &tensors);
    let (error, name) = wrong.gradients.last().unwrap();
    assert!(name == "stem.0.bias" && *error > 0.5, "{name} {error}");
}

#[test]
fn files_that_cannot_be_used_are_refused_by_name() {
    let path = shipped().join("resnet18.json");
    let json = fs::read_to_string(&path).unwrap();
    let tensors = fs::read(path.with_extension("safetensors")).unwrap();
    let parse = |json: &str, tensors: &[u8]| {
        let dir = Path::new("some").join(path.file_name().unwrap());
        ParityCase::parse(&dir, json.as_bytes(), tensors).unwrap_err().to_string()
    };
    for (from, to, wanted) in [
        ("\"resnet18\"", "\"resnet19\"", "some/resnet18.json: `arch` is `resnet19`"),
        ("{\"name\": \"bn1.bias\", \"shape\": [64]},\n", "", "missing 1: bn1.bias [64]"),
        ("{\"name\": \"bn1.bias\"", "{\"name\": \"bn1.offset\"", "unexpected 1: bn1.offset [64]"),
        ("[64, 3, 7, 7]", "[64, 3, 3, 3]", "mis-shaped 1: conv1.weight [64, 3, 3, 3] (expected [64, 3, 7, 7])"),
        ("\"num_features\": 512", "\"num_features\": 2048", "`num_features` is 2048"),
        ("[10, 512]", "[11, 512]", "`params` has no classifier `fc.…` of shape [10, 512]"),
        ("\"bn1.weight\": [", "\"bn1.gain\": [", "`grads` lacks `bn1.weight`"),
        ("\"input\": [4, 3,", "\"input\": [4, 1,", "expected [batch, 3, size, size]"),
        ("\"grads\"", "\"gradients\"", "missing field `grads`"),
    ] {
        assert!(json.contains(from), "{from}");
        let told = parse(&json.replacen(from, to, 1), &tensors);
        assert!(told.starts_with("some/resnet18.json: ") && told.contains(wanted), "{told}\nexpected {wanted}");
    }
    let told = parse(&json, &tensors[..tensors.len() - 8]);
    assert!(told.starts_with("some/resnet18.safetensors: no safetensors file"), "{told}");
    let unknown = json.replace("\"resnet18\"", "\"resnet18d\"");
    let error = ParityCase::parse(Path::new("some/resnet18d.json"), unknown.as_bytes(), &tensors).unwrap_err();
    assert!(matches!(&error, ParityError::Architecture { .. }) && error.to_string().contains("resnet18, "), "{error}");
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(parity_files(dir.path()), Err(ParityError::Empty { .. })));
    fs::write(dir.path().join("resnet18.safetensors"), &tensors).unwrap();
    assert!(parity_files(dir.path()).unwrap_err().to_string().contains("resnet18.json beside it"));
    fs::remove_file(dir.path().join("resnet18.safetensors")).unwrap();
    fs::write(dir.path().join("resnet18.json"), &json).unwrap();
    let lonely = &parity_files(dir.path()).unwrap()[0];
    assert!(ParityCase::read(lonely).unwrap_err().to_string().contains("resnet18.safetensors"));
    assert!(parity_files(Path::new("no/folder")).unwrap_err().to_string().starts_with("cannot read no/folder"));
}

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
