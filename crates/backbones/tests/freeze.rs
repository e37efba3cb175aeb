//! Freezing by stage: what is frozen stays bit for bit, has no gradient, and the rest trains as before.

use std::collections::{BTreeMap, BTreeSet};

use backbones::{
    Backbone, BackboneConfig, BatchStatistics, BlockKind, Error, Freeze, ParameterStore, Pass, ResnetConfig, TimmConfig,
};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use kernels::optim::{AdamW, AdamWConfig};
use random::{Axis, Seeds};

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn all(store: &ParameterStore) -> BTreeMap<String, Vec<u64>> {
    let bits = |t: &Tensor| values(t).into_iter().map(f64::to_bits).collect();
    store.tensors().iter().map(|(name, t)| (name.clone(), bits(t))).collect()
}

fn images() -> Tensor {
    let mut stream = Seeds::new(1).stream(Axis::Test, &[]);
    let values: Vec<f32> = (0..3 * 3 * 64 * 64).map(|_| stream.normal() as f32).collect();
    Tensor::from_vec(values, (3, 3, 64, 64), &Device::Cpu).unwrap()
}

fn narrow() -> BackboneConfig {
    BackboneConfig::Resnet(ResnetConfig {
        blocks: [1, 2, 1, 1],
        widths: [4, 6, 8, 8],
        stem_width: 4,
        strides: [1, 2, 1, 1],
        block: BlockKind::Basic,
        groups: 1,
        base_width: 64,
    })
}

fn timm(name: &str, drop_path: f64) -> BackboneConfig {
    let vit = name.starts_with("vit_");
    let dropout = if vit { drop_path } else { 0.0 };
    BackboneConfig::Timm(TimmConfig { name: name.into(), image_size: vit.then_some(64), drop_path, dropout })
}

/// A store whose every parameter matters: no scale is 0.
fn store_of(config: &BackboneConfig, freeze: Freeze) -> (ParameterStore, Backbone) {
    let store = ParameterStore::new(Seeds::new(3), DType::F32, &Device::Cpu);
    let backbone = Backbone::with_freeze(config, freeze, store.var_builder()).unwrap();
    let moved = store.tensors().into_iter().map(|(name, t)| {
        let moves = t.rank() == 1 && (name.ends_with("weight") || name.ends_with("gamma"));
        (name, if moves { t.affine(1.0, 0.3).unwrap() } else { t })
    });
    store.load(&moved.collect()).unwrap();
    (store, backbone)
}

/// The first parts of the names of what is frozen.
fn starts(backbone: &Backbone, parts: usize) -> Vec<String> {
    let start = |name: &String| name.split('.').take(parts).collect::<Vec<_>>().join(".");
    backbone.frozen().iter().map(start).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Trains a step and checks what moved, what did not, and which gradients there are.
fn check(config: &BackboneConfig, freeze: Freeze) {
    let what = format!("{config:?} {freeze}");
    let (store, backbone) = store_of(config, freeze);
    let trained = store.trained(backbone.frozen());
    assert_eq!(
        trained.len() + store.parameters().iter().filter(|p| backbone.frozen().contains(&p.name)).count(),
        store.parameters().len()
    );
    let before = all(&store);
    let mut stream = Seeds::new(5).stream(Axis::Dropout, &[1]);
    let features = backbone.features(&images(), &mut Pass::training(&mut stream)).unwrap().into_tensor();
    assert_eq!(features.track_op(), !trained.is_empty(), "{what}");
    // A cotangent that no normalisation at the end cancels.
    let cotangent: Vec<f32> = (0..features.elem_count()).map(|i| (i * i % 17) as f32).collect();
    let cotangent = Tensor::from_vec(cotangent, features.shape(), &Device::Cpu).unwrap();
    let grads = (features * cotangent).unwrap().sum_all().unwrap().backward().unwrap();
    for parameter in store.parameters() {
        let has = grads.get(parameter.var.as_tensor()).is_some();
        assert_eq!(has, !backbone.frozen().contains(&parameter.name), "{what} {}", parameter.name);
    }
    AdamW::new(trained, AdamWConfig::default()).unwrap().step(&grads, 1e-2).unwrap();
    for (name, after) in all(&store) {
        let moved = before[&name] != after;
        assert_eq!(moved, !backbone.frozen().contains(&name), "{what} {name}");
    }
}

#[test]
fn what_is_frozen_stays_and_the_rest_trains_in_every_family() {
    for freeze in [Freeze::None, Freeze::Stem, Freeze::Stage(2), Freeze::Half, Freeze::All] {
        check(&narrow(), freeze);
    }
    check(&timm("regnety_002", 0.0), Freeze::Half);
    check(&timm("convnext_atto", 0.0), Freeze::Stage(2));
    check(&timm("efficientnet_b0", 0.0), Freeze::Stage(6));
    check(&timm("vit_tiny_patch16_224", 0.0), Freeze::Stage(3));
    check(&timm("vit_tiny_patch16_224", 0.0), Freeze::All);
}

#[test]
fn stages_are_those_of_the_documentation() {
    let frozen = |name: &str, freeze, parts| starts(&store_of(&timm(name, 0.0), freeze).1, parts);
    let shown = |list: Vec<String>| list.join(" ");
    assert_eq!(shown(frozen("resnet18", Freeze::Stem, 1)), "bn1 conv1");
    assert_eq!(shown(frozen("resnet18", Freeze::Stage(2), 1)), "bn1 conv1 layer1 layer2");
    // Half of eight blocks; half of the sixteen of resnet50 ends inside its third stage.
    assert_eq!(shown(frozen("resnet18", Freeze::Half, 2)), {
        "bn1.bias bn1.running_mean bn1.running_var bn1.weight conv1.weight layer1.0 layer1.1 layer2.0 layer2.1"
    });
    let half = frozen("resnet50", Freeze::Half, 2);
    let blocks: Vec<&str> = half.iter().filter_map(|name| name.strip_prefix("layer")).collect();
    assert_eq!(blocks, ["1.0", "1.1", "1.2", "2.0", "2.1", "2.2", "2.3", "3.0"]);
    assert_eq!(shown(frozen("regnety_002", Freeze::Stage(1), 1)), "s1 stem");
    assert_eq!(shown(frozen("convnext_atto", Freeze::Stage(2), 2)), "stages.0 stages.1 stem.0 stem.1");
    // Half of twelve blocks ends inside the third stage, whose downsampling is frozen with its first block.
    let half = frozen("convnext_atto", Freeze::Half, 4);
    assert!(half.contains(&"stages.2.downsample.1".into()) && half.contains(&"stages.2.blocks.1".into()), "{half:?}");
    assert!(!half.contains(&"stages.2.blocks.2".into()), "{half:?}");
    assert_eq!(
        shown(frozen("efficientnet_b0", Freeze::Stage(7), 2)),
        "blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 blocks.5 blocks.6 bn1.bias bn1.running_mean bn1.running_var \
         bn1.weight conv_stem.weight"
    );
    assert_eq!(
        shown(frozen("vit_tiny_patch16_224", Freeze::Stage(1), 2)),
        "blocks.0 blocks.1 blocks.2 cls_token patch_embed.proj pos_embed"
    );
    let (store, backbone) = store_of(&timm("vit_tiny_patch16_224", 0.0), Freeze::All);
    assert_eq!(backbone.frozen().len(), store.tensors().len());
    assert!(store.trained(backbone.frozen()).is_empty());
}

#[test]
fn a_frozen_part_computes_as_in_eval_mode_and_draws_nothing() {
    for (name, drop_path) in [("resnet18", 0.5), ("vit_tiny_patch16_224", 0.5)] {
        let config = timm(name, drop_path);
        let (store, frozen) = store_of(&config, Freeze::All);
        // Nobody tracks either of them: where somebody does, convolutions sum with more care.
        let tensors = store.tensors().into_iter().collect();
        let free = Backbone::new(&config, VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)).unwrap();
        let want = values(&free.forward_features(&images(), BatchStatistics::Eval).unwrap());
        let mut stream = Seeds::new(5).stream(Axis::Dropout, &[1]);
        let got = frozen.features(&images(), &mut Pass::training(&mut stream)).unwrap().into_tensor();
        assert_eq!(values(&got), want, "{name}");
        let mut fresh = Seeds::new(5).stream(Axis::Dropout, &[1]);
        assert_eq!(stream.normal(), fresh.normal(), "{name}: a frozen network draws nothing");
    }
    // The trained part of a half-frozen network does draw, and its normalisations follow the batch.
    let (store, half) = store_of(&timm("resnet18", 0.5), Freeze::Half);
    let run = |seed: u64| {
        let mut stream = Seeds::new(seed).stream(Axis::Dropout, &[1]);
        values(&half.features(&images(), &mut Pass::training(&mut stream)).unwrap().into_tensor())
    };
    let before = values(&store.tensors()["layer3.0.bn1.running_mean"]);
    assert_ne!(run(1), run(2));
    assert_ne!(values(&store.tensors()["layer3.0.bn1.running_mean"]), before);
}

#[test]
fn the_setting_is_read_strictly() {
    #[derive(serde::Deserialize, serde::Serialize)]
    struct Suite {
        freeze: Freeze,
    }
    for (text, want) in [
        ("none", Freeze::None),
        ("stem", Freeze::Stem),
        ("stage3", Freeze::Stage(3)),
        ("half", Freeze::Half),
        ("all", Freeze::All),
    ] {
        let suite: Suite = toml::from_str(&format!("freeze = \"{text}\"")).unwrap();
        assert_eq!((suite.freeze, suite.freeze.to_string()), (want, text.to_owned()));
        assert_eq!(serde_json::to_string(&suite).unwrap(), format!("{{\"freeze\":\"{text}\"}}"));
    }
    for text in ["stage0", "stage", "stage-1", "Half", ""] {
        let error = toml::from_str::<Suite>(&format!("freeze = \"{text}\"")).map(|s| s.freeze).unwrap_err().to_string();
        assert!(error.contains("expected none, stem, stage1"), "{error}");
    }
    let config = timm("efficientnet_b0", 0.0);
    config.check_freeze(Freeze::Stage(7)).unwrap();
    let refused = config.check_freeze(Freeze::Stage(8)).unwrap_err();
    assert!(matches!(refused, Error::Config { field: "freeze", .. }), "{refused}");
    assert!(refused.to_string().contains("stage1 to stage7"), "{refused}");
    assert!(timm("resnet18", 0.0).check_freeze(Freeze::Stage(5)).unwrap_err().to_string().contains("stage4"));
}
