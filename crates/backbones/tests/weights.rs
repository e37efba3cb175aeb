//! Checkpoints of the Hub: what is loaded, converted, dropped and refused; and their `config.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use backbones::{
    Backbone, BackboneConfig, BatchStatistics, CropMode, Error, HubConfig, HubConfigError, Interpolation,
    ParameterStore, TimmConfig, Weights, resample_grid,
};
use candle_core::{DType, Device, Tensor};
use random::{Axis, Seeds};

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn all(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<String, Vec<f64>> {
    tensors.iter().map(|(name, t)| (name.clone(), values(t))).collect()
}

fn vit(size: usize) -> BackboneConfig {
    BackboneConfig::Timm(TimmConfig { image_size: Some(size), ..TimmConfig::named("vit_tiny_patch16_224") })
}

/// A store with the backbone and a head of a method, whose name is also one of timm's classifier.
fn store(config: &BackboneConfig, seed: u64) -> ParameterStore {
    let store = ParameterStore::new(Seeds::new(seed), DType::F32, &Device::Cpu);
    Backbone::new(config, store.var_builder()).unwrap();
    store.var_builder().get((4, 7), "head.fc.weight").unwrap();
    store
}

/// What timm would store for the backbone: its tensors in `dtype`, a classifier and counters of batches.
fn checkpoint(config: &BackboneConfig, dtype: DType, classifier: &[&str]) -> BTreeMap<String, Tensor> {
    let store = ParameterStore::new(Seeds::new(9), DType::F32, &Device::Cpu);
    Backbone::new(config, store.var_builder()).unwrap();
    let mut tensors: BTreeMap<String, Tensor> =
        store.tensors().into_iter().map(|(name, t)| (name, t.to_dtype(dtype).unwrap())).collect();
    for name in classifier {
        let t = Tensor::zeros((1000, 8), dtype, &Device::Cpu).unwrap();
        tensors.insert((*name).to_owned(), t);
    }
    let norms: Vec<String> =
        tensors.keys().filter_map(|n| n.strip_suffix(".running_mean")).map(str::to_owned).collect();
    for norm in norms {
        let counter = Tensor::new(7i64, &Device::Cpu).unwrap();
        tensors.insert(format!("{norm}.num_batches_tracked"), counter);
    }
    tensors
}

fn weights(tensors: &BTreeMap<String, Tensor>) -> Weights {
    let bytes = safetensors::serialize(tensors.iter(), None).unwrap();
    Weights::from_bytes(Path::new("some/model.safetensors"), bytes).unwrap()
}

#[test]
fn every_family_is_loaded_in_every_float_dtype_and_its_classifier_dropped() {
    let cases: [(&str, &[&str]); 5] = [
        ("resnet18", &["fc.bias", "fc.weight"]),
        ("regnety_002", &["head.fc.bias", "head.fc.weight"]),
        ("convnext_atto", &["head.fc.bias", "head.fc.weight", "head.norm.bias", "head.norm.weight"]),
        ("efficientnet_b0", &["classifier.bias", "classifier.weight"]),
        ("vit_tiny_patch16_224", &["head.bias", "head.weight", "head_dist.weight", "pre_logits.fc.weight"]),
    ];
    for ((name, classifier), dtype) in
        cases.into_iter().zip([DType::F32, DType::F16, DType::BF16, DType::F64, DType::F16])
    {
        let config = BackboneConfig::timm(name);
        let file = checkpoint(&config, dtype, classifier);
        let store = store(&config, 1);
        let head = values(&store.tensors()["head.fc.weight"]);
        let report = weights(&file).load(&config, &store).unwrap();
        let after = store.tensors();
        let mut loaded = 0;
        for (name, got) in &after {
            if name == "head.fc.weight" {
                assert_eq!(values(got), head, "a method's head keeps its values");
                continue;
            }
            assert_eq!((got.dtype(), values(got)), (DType::F32, values(&file[name])), "{name}");
            loaded += 1;
        }
        assert_eq!(report.tensors, loaded, "{name}");
        assert_eq!(report.dtypes, BTreeMap::from([(format!("{dtype:?}"), loaded)]), "{name}");
        let dropped: Vec<&str> = report.classifier.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(dropped, classifier);
        assert_eq!(report.counters, file.keys().filter(|n| n.ends_with("num_batches_tracked")).count());
        assert_eq!(report.resampled, None);
        let numbers: usize = after.values().map(Tensor::elem_count).sum();
        assert_eq!(report.numbers, numbers - 28);
        let text = report.to_string();
        assert!(text.contains("some/model.safetensors") && text.contains("classifier dropped: "), "{text}");
    }
}

#[test]
fn everything_that_does_not_fit_is_told_at_once_and_nothing_is_loaded() {
    let config = BackboneConfig::timm("resnet18");
    let mut file = checkpoint(&config, DType::F32, &["fc.weight"]);
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    file.remove("bn1.bias");
    file.insert("conv1.weight".into(), zeros(&[64, 1, 7, 7], DType::F32));
    file.insert("layer1.0.conv1.weight".into(), zeros(&[64, 64, 3, 3], DType::I64));
    file.insert("layer5.0.conv1.weight".into(), zeros(&[2], DType::F32));
    file.insert("bn1.weight".into(), Tensor::new(vec![f32::NAN; 64], &Device::Cpu).unwrap());
    let store = store(&config, 1);
    let before = all(&store.tensors());
    let Err(error @ Error::Weights { .. }) = weights(&file).load(&config, &store) else { panic!("it does not fit") };
    assert_eq!(all(&store.tensors()), before, "nothing was loaded");
    let text = error.to_string();
    let Error::Weights { path, misfits } = error else { panic!("checked above") };
    assert_eq!(path, PathBuf::from("some/model.safetensors"));
    assert_eq!(misfits.missing, [("bn1.bias".to_owned(), vec![64])]);
    assert_eq!(misfits.unexpected, [("layer5.0.conv1.weight".to_owned(), vec![2])]);
    assert_eq!(misfits.misshaped, [("conv1.weight".to_owned(), vec![64, 1, 7, 7], vec![64, 3, 7, 7])]);
    assert_eq!(misfits.not_floats, [("layer1.0.conv1.weight".to_owned(), "I64".to_owned())]);
    assert_eq!(misfits.not_finite, ["bn1.weight"]);
    for part in [
        "missing 1: bn1.bias [64]",
        "unexpected 1: layer5.0.conv1.weight [2]",
        "mis-shaped 1: conv1.weight [64, 1, 7, 7] (expected [64, 3, 7, 7])",
    ] {
        assert!(text.contains(part), "{text}");
    }

    // A larger network's file has all names of a smaller one: what is left over is refused, with a count.
    let larger = weights(&checkpoint(&BackboneConfig::timm("resnet34"), DType::F32, &["fc.weight"]));
    let error = larger.load(&config, &store).unwrap_err().to_string();
    assert!(error.contains("unexpected 80: ") && error.contains(", and 60 more"), "{error}");
    assert_eq!(all(&store.tensors()), before);

    // Half precision that overflows the other way: a float64 that no float32 holds.
    let mut file = checkpoint(&config, DType::F64, &[]);
    file.insert("bn1.weight".into(), Tensor::new(vec![1e300f64; 64], &Device::Cpu).unwrap());
    let error = weights(&file).load(&config, &store).unwrap_err().to_string();
    assert!(error.contains("not finite 1: bn1.weight"), "{error}");
}

#[test]
fn a_distilled_transformer_is_refused_with_an_explanation() {
    let config = vit(64);
    let mut file = checkpoint(&config, DType::F32, &["head.weight", "head_dist.weight"]);
    file.insert("dist_token".into(), Tensor::zeros((1, 1, 192), DType::F32, &Device::Cpu).unwrap());
    file.insert("pos_embed".into(), Tensor::zeros((1, 18, 192), DType::F32, &Device::Cpu).unwrap());
    let error = weights(&file).load(&config, &store(&config, 1)).unwrap_err().to_string();
    for part in ["unexpected 1: dist_token [1, 1, 192]", "pos_embed [1, 18, 192] (expected [1, 17, 192])", "distilled"]
    {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_position_embedding_of_another_size_is_resampled() {
    let (large, small) = (vit(64), vit(32));
    let file = checkpoint(&large, DType::F32, &["head.weight"]);
    let store = store(&small, 1);
    let report = weights(&file).load(&small, &store).unwrap();
    assert_eq!(report.resampled, Some([4, 2]));
    let embedding = &file["pos_embed"];
    let patches = resample_grid(&embedding.narrow(1, 1, 16).unwrap(), [4, 4], [2, 2]).unwrap();
    let want = Tensor::cat(&[embedding.narrow(1, 0, 1).unwrap(), patches], 1).unwrap();
    assert_eq!(values(&store.tensors()["pos_embed"]), values(&want));
    // A network over these parameters computes with them.
    let backbone = Backbone::new(&small, store.var_builder()).unwrap();
    let mut stream = Seeds::new(1).stream(Axis::Test, &[]);
    let images: Vec<f32> = (0..3 * 32 * 32).map(|_| stream.normal() as f32).collect();
    let x = Tensor::from_vec(images, (1, 3, 32, 32), &Device::Cpu).unwrap();
    let y = values(&backbone.forward_t(&x, BatchStatistics::Eval).unwrap());
    assert!(y.len() == 192 * 4 && y.iter().all(|v| v.is_finite()));
}

#[test]
fn files_that_are_no_checkpoint_are_refused_by_name() {
    let bytes = safetensors::serialize(checkpoint(&vit(32), DType::F16, &[]).iter(), None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    for cut in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let error = Weights::read(&path).unwrap_err();
        assert!(matches!(&error, Error::WeightsFile { path: named, .. } if *named == path), "{error}");
    }
    std::fs::write(&path, &bytes).unwrap();
    Weights::read(&path).unwrap().load(&vit(32), &store(&vit(32), 1)).unwrap();
    let missing = Weights::read(&dir.path().join("none")).unwrap_err().to_string();
    assert!(missing.contains("none cannot be used as weights"), "{missing}");
}

const RESNET: &str = r#"{"architecture": "resnet50", "num_classes": 1000, "num_features": 2048, "global_pool": "avg",
 "model_args": {"in_chans": 3, "num_classes": 1000, "global_pool": "avg"},
 "pretrained_cfg": {"tag": "a1_in1k", "custom_load": false, "input_size": [3, 224, 224],
  "test_input_size": [3, 288, 288], "fixed_input_size": false, "interpolation": "bicubic", "crop_pct": 0.95,
  "test_crop_pct": 1.0, "crop_mode": "center", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
  "num_classes": 1000, "pool_size": [7, 7], "first_conv": "conv1", "classifier": "fc", "license": "apache-2.0"}}"#;

fn parse(text: &str) -> Result<HubConfig, HubConfigError> {
    HubConfig::parse(Path::new("repo/config.json"), text)
}

#[test]
fn a_config_as_timm_writes_it_is_read() {
    let config = parse(RESNET).unwrap();
    let want = HubConfig {
        architecture: "resnet50".into(),
        tag: Some("a1_in1k".into()),
        num_classes: 1000,
        num_features: 2048,
        input_size: [3, 224, 224],
        test_input_size: Some([3, 288, 288]),
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        interpolation: Interpolation::Bicubic,
        crop_pct: 0.95,
        test_crop_pct: Some(1.0),
        crop_mode: CropMode::Center,
        first_conv: vec!["conv1".into()],
        classifier: vec!["fc".into()],
    };
    assert_eq!(config, want);
    assert_eq!(config.backbone().unwrap(), BackboneConfig::timm("resnet50"));
    assert_eq!([config.resize_for(224), config.resize_for(448)], [235, 471]);
    let vit = RESNET
        .replace("resnet50", "vit_small_patch16_384")
        .replace("2048", "384")
        .replace("\"fc\"", "[\"head\", \"head_dist\"]")
        .replace("[3, 224, 224]", "[3, 384, 384]");
    let config = parse(&vit).unwrap();
    let want = TimmConfig { image_size: Some(384), ..TimmConfig::named("vit_small_patch16_384") };
    assert_eq!(config.backbone().unwrap(), BackboneConfig::Timm(want));
}

#[test]
fn a_config_that_cannot_be_used_names_file_and_key() {
    for (from, to, wanted) in [
        ("\"resnet50\"", "\"resnet50d\"", "`architecture`: no architecture `resnet50d`; near it there are resnet50, "),
        ("\"resnet50\"", "\"resnet51.a1_in1k\"", "near it there are resnet50, "),
        ("\"resnet50\"", "17", "`architecture` is 17, expected a text"),
        ("\"architecture\"", "\"arch\"", "`architecture` is missing"),
        ("\"pretrained_cfg\"", "\"default_cfg\"", "`pretrained_cfg` is missing"),
        ("2048", "512", "`num_features` is 512, but `resnet50` has 2048 channels"),
        ("\"in_chans\": 3", "\"in_chans\": 1", "`model_args.in_chans` is 1"),
        ("\"in_chans\": 3", "\"output_stride\": 8", "`model_args.output_stride` is 8"),
        ("[0.485, 0.456, 0.406]", "[0.485, 0.456]", "`pretrained_cfg.mean` is [0.485,0.456], expected three numbers"),
        ("[0.229, 0.224, 0.225]", "[0.229, 0, 0.225]", "`pretrained_cfg.std` is"),
        ("\"bicubic\"", "\"random\"", "`pretrained_cfg.interpolation` is \"random\", expected \"bilinear\" or"),
        ("0.95", "1.5", "`pretrained_cfg.crop_pct` is 1.5"),
        ("\"center\"", "\"middle\"", "`pretrained_cfg.crop_mode` is \"middle\""),
        ("[3, 224, 224]", "[1, 224, 224]", "`pretrained_cfg.input_size` has 1 channels"),
        ("[3, 224, 224]", "[3, 224, 320]", "`pretrained_cfg.input_size` is no square"),
        ("\"fc\"", "\"head\"", "`pretrained_cfg.classifier` is `head`, but the classifier of `resnet50` is `fc.…`"),
        ("}}", "}", "no JSON: EOF"),
    ] {
        assert!(RESNET.contains(from), "{from}");
        let error = parse(&RESNET.replace(from, to)).unwrap_err().to_string();
        assert!(error.starts_with("repo/config.json: ") && error.contains(wanted), "{error}\nexpected {wanted}");
    }
    assert!(parse("[]").unwrap_err().to_string().ends_with("not an object"));
    let missing = HubConfig::read(Path::new("no/config.json")).unwrap_err();
    assert!(missing.to_string().starts_with("cannot read no/config.json"), "{missing}");
}
