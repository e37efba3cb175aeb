//! Names, settings, taps, stochastic depth and position embeddings of timm's families.

use backbones::{
    Backbone, BackboneConfig, BatchStatistics, Error, ParameterStore, Pass, TimmConfig, architectures, resample_grid,
};
use candle_core::{DType, Device, Tensor};
use random::{Axis, Seeds};

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn images(batch: usize, height: usize, width: usize) -> Tensor {
    let mut stream = Seeds::new(1).stream(Axis::Test, &[]);
    let values: Vec<f32> = (0..batch * 3 * height * width).map(|_| stream.normal() as f32).collect();
    Tensor::from_vec(values, (batch, 3, height, width), &Device::Cpu).unwrap()
}

fn built(settings: &TimmConfig) -> (ParameterStore, Backbone) {
    let store = ParameterStore::new(Seeds::new(3), DType::F32, &Device::Cpu);
    let backbone = Backbone::new(&BackboneConfig::Timm(settings.clone()), store.var_builder()).unwrap();
    (store, backbone)
}

#[test]
fn every_name_is_listed_and_described() {
    let rows: Vec<&str> = BackboneConfig::KINDS.iter().map(|(_, about)| *about).collect();
    for name in architectures() {
        let parts: Vec<&str> = name.splitn(2, '_').collect();
        let listed = |row: &&str| match name.split_once("_patch") {
            // "vit_tiny_*, … of patch16_224 …"
            Some((family, size)) => row.contains(&format!("{family}_*")) && row.contains(&format!("patch{size}")),
            None => {
                let words: Vec<&str> = row.split(' ').collect();
                words.contains(&name)
                    || (words.contains(&parts[parts.len() - 1]) && row.contains(&format!("{}_*", parts[0])))
            }
        };
        assert!(rows.iter().any(listed), "{name} is not in KINDS");
        let config = BackboneConfig::timm(name);
        config.validate().unwrap();
        assert!(config.channels().unwrap() > 0 && config.flops(224).unwrap() > 100_000_000, "{name}");
        let size = config.map_size(224).unwrap();
        assert_eq!(size, if name.starts_with("vit") { 14 } else { 7 }, "{name}");
    }
}

#[test]
fn settings_that_do_not_fit_are_refused() {
    let refused = |settings: TimmConfig| BackboneConfig::Timm(settings).validate().unwrap_err();
    let with = |name: &str, change: &dyn Fn(&mut TimmConfig)| {
        let mut settings = TimmConfig::named(name);
        change(&mut settings);
        refused(settings)
    };
    let unknown = refused(TimmConfig::named("convnext_large"));
    assert!(unknown.to_string().contains("convnext_base"), "{unknown}");
    assert!(refused(TimmConfig::named("alexnet")).to_string().contains("bench list backbones"));
    for rate in [1.0, -0.1, f64::NAN] {
        let error = with("resnet18", &|s| s.drop_path = rate);
        assert!(matches!(error, Error::Config { field: "drop_path", .. }), "{error}");
    }
    assert!(matches!(with("resnet18", &|s| s.dropout = 0.1), Error::Config { field: "dropout", .. }));
    assert!(matches!(with("resnet18", &|s| s.image_size = Some(64)), Error::Config { field: "image_size", .. }));
    let error = with("vit_tiny_patch16_224", &|s| s.image_size = Some(65));
    assert!(matches!(error, Error::Config { field: "image_size", .. }), "{error}");
    #[derive(serde::Deserialize)]
    struct Suite {
        backbone: BackboneConfig,
    }
    let read = |text: &str| toml::from_str::<Suite>(text).map(|suite| suite.backbone);
    let config = read("backbone.timm = { name = \"convnext_tiny\" }").unwrap();
    assert_eq!(config, BackboneConfig::timm("convnext_tiny"));
    assert!(read("backbone.timm = { name = \"convnext_tiny\", depth = 3 }").unwrap_err().to_string().contains("depth"));
}

#[test]
fn taps_are_views_of_one_tensor() {
    let x = images(2, 64, 64);
    let eval = || Pass::new(BatchStatistics::Eval);
    let features = built(&TimmConfig::named("convnext_atto")).1.features(&x, &mut eval()).unwrap();
    let map = features.map().unwrap();
    assert_eq!(map.dims(), [2, 320, 2, 2]);
    let tokens = features.tokens().unwrap();
    assert_eq!(values(&tokens.mean(1).unwrap()).len(), 640);
    assert_eq!(
        values(&tokens.narrow(1, 3, 1).unwrap()),
        values(&map.narrow(2, 1, 1).unwrap().narrow(3, 1, 1).unwrap())
    );
    let (pooled, mean) = (values(&features.pooled().unwrap()), values(&map.mean((2, 3)).unwrap()));
    assert!(pooled.iter().zip(&mean).all(|(a, b)| (a - b).abs() < 1e-5));

    let (_, vit) = built(&TimmConfig { image_size: Some(64), ..TimmConfig::named("vit_tiny_patch16_224") });
    // Wider than high: the map keeps the two apart.
    let features = vit.features(&images(2, 32, 64), &mut eval()).unwrap();
    let (map, tokens) = (features.map().unwrap(), features.tokens().unwrap());
    assert_eq!((map.dims(), tokens.dims()), ([2, 192, 2, 4].as_slice(), [2, 9, 192].as_slice()));
    let pixel = map.narrow(2, 1, 1).unwrap().narrow(3, 2, 1).unwrap();
    assert_eq!(values(&pixel), values(&tokens.narrow(1, 1 + 4 + 2, 1).unwrap()));
    assert_eq!(values(&features.pooled().unwrap()), values(&tokens.narrow(1, 0, 1).unwrap()));
    let refused = vit.forward_t(&images(1, 64, 65), BatchStatistics::Eval);
    assert!(matches!(refused, Err(Error::ImageSize { height: 64, width: 65, multiple: 16 })), "{refused:?}");
}

#[test]
fn stochastic_depth_draws_from_the_stream_alone() {
    let x = images(4, 32, 32);
    for (name, dropout) in [("resnet18", 0.0), ("convnext_atto", 0.0), ("vit_tiny_patch16_224", 0.2)] {
        let image_size = name.starts_with("vit").then_some(32);
        let (store, backbone) = built(&TimmConfig { image_size, drop_path: 0.5, dropout, ..TimmConfig::named(name) });
        // Parameters that make every residual count.
        let moved = store.tensors().into_iter().map(|(name, t)| {
            let shift = if name.ends_with("weight") || name.ends_with("gamma") { 0.3 } else { 0.0 };
            (name, if t.rank() == 1 { t.affine(1.0, shift).unwrap() } else { t })
        });
        store.load(&moved.collect()).unwrap();
        let run = |seed: u64| {
            let mut stream = Seeds::new(seed).stream(Axis::Dropout, &[7]);
            values(&backbone.features(&x, &mut Pass::training(&mut stream)).unwrap().into_tensor())
        };
        assert_eq!(run(1), run(1), "{name}");
        assert_ne!(run(1), run(2), "{name}");
        let without = backbone.forward_t(&x, BatchStatistics::Train);
        assert!(matches!(without, Err(Error::NoStream { .. })), "{name}: {without:?}");
        let frozen = || values(&backbone.forward_t(&x, BatchStatistics::TrainFrozen).unwrap());
        assert_eq!(frozen(), frozen(), "{name}");
    }
}

#[test]
fn a_vit_resamples_its_position_embedding() {
    let (large, _) = built(&TimmConfig { image_size: Some(64), ..TimmConfig::named("vit_tiny_patch16_224") });
    let (small, backbone) = built(&TimmConfig { image_size: Some(32), ..TimmConfig::named("vit_tiny_patch16_224") });
    // The large embedding, resampled by hand, in a network of the small size, and by the large network itself.
    let mut tensors = large.tensors();
    let embedding = tensors["pos_embed"].clone();
    let patches = resample_grid(&embedding.narrow(1, 1, 16).unwrap(), [4, 4], [2, 2]).unwrap();
    tensors.insert("pos_embed".into(), Tensor::cat(&[embedding.narrow(1, 0, 1).unwrap(), patches], 1).unwrap());
    small.load(&tensors).unwrap();
    let x = images(1, 32, 32);
    let want = values(&backbone.forward_features(&x, BatchStatistics::Eval).unwrap());
    let vb = large.var_builder();
    let config = TimmConfig { image_size: Some(64), ..TimmConfig::named("vit_tiny_patch16_224") };
    let resampling = Backbone::new(&BackboneConfig::Timm(config), vb).unwrap();
    let got = resampling.forward_features(&x, BatchStatistics::Eval).unwrap();
    assert_eq!(values(&got), want);
    // The gradient reaches the embedding through the resampling.
    let grads = got.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let parameter = large.parameters().into_iter().find(|p| p.name == "pos_embed").unwrap();
    assert!(!parameter.decay, "position embeddings do not decay");
    let gradient = values(grads.get(parameter.var.as_tensor()).unwrap());
    assert!(gradient.iter().all(|g| g.is_finite()) && gradient.iter().filter(|g| **g != 0.0).count() > 192 * 16);
    // A constant stays constant, whatever the grids.
    let flat = Tensor::ones((1, 35, 3), DType::F64, &Device::Cpu).unwrap();
    let resampled = values(&resample_grid(&flat, [5, 7], [3, 11]).unwrap());
    assert!(resampled.len() == 99 && resampled.iter().all(|v| (v - 1.0).abs() < 1e-12));
}
