//! Parameters by name: initial values, loading, running statistics, teachers, configuration.

use std::collections::{BTreeMap, HashMap};

use backbones::{Backbone, BackboneConfig, BatchStatistics, BlockKind, Error, ParameterStore, ResnetConfig};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_nn::init::{DEFAULT_KAIMING_UNIFORM, Init};
use kernels::optim::{AdamW, AdamWConfig, Ema};
use random::{Axis, Seeds};

/// The numbers of a tensor.
fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn narrow() -> BackboneConfig {
    BackboneConfig::Resnet(ResnetConfig {
        blocks: [1, 1, 1, 1],
        widths: [4, 6, 8, 8],
        stem_width: 4,
        strides: [1, 2, 1, 1],
        block: BlockKind::Basic,
        groups: 1,
        base_width: 64,
    })
}

fn built(seed: u64) -> (ParameterStore, Backbone) {
    let store = ParameterStore::new(Seeds::new(seed), DType::F32, &Device::Cpu);
    let backbone = Backbone::new(&narrow(), store.var_builder()).unwrap();
    (store, backbone)
}

fn images(batch: usize, size: usize) -> Tensor {
    let mut stream = Seeds::new(1).stream(Axis::Test, &[]);
    let values: Vec<f32> = (0..batch * 3 * size * size).map(|_| stream.normal() as f32).collect();
    Tensor::from_vec(values, (batch, 3, size, size), &Device::Cpu).unwrap()
}

fn all(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<String, Vec<f64>> {
    tensors.iter().map(|(name, t)| (name.clone(), values(t))).collect()
}

/// One training step; gives the features.
fn train(backbone: &Backbone, optimiser: &mut AdamW, x: &Tensor) -> Tensor {
    let y = backbone.forward_t(x, BatchStatistics::Train).unwrap();
    let grads = y.sqr().unwrap().mean_all().unwrap().backward().unwrap();
    optimiser.step(&grads, 1e-2).unwrap();
    y
}

#[test]
fn initial_values_depend_on_seed_and_name_alone() {
    let store = |names: &[&str]| {
        let store = ParameterStore::new(Seeds::new(7), DType::F64, &Device::Cpu);
        let vb = store.var_builder();
        for name in names {
            vb.pp(name).get_with_hints((8, 4, 3, 3), "weight", DEFAULT_KAIMING_UNIFORM).unwrap();
        }
        all(&store.tensors())
    };
    let (forward, backward) = (store(&["a", "b", "c"]), store(&["c", "a", "b"]));
    assert_eq!(forward, backward);
    assert_ne!(forward["a.weight"], forward["b.weight"]);
    assert_ne!(all(&built(1).0.tensors())["conv1.weight"], all(&built(2).0.tensors())["conv1.weight"]);
    assert_eq!(all(&built(1).0.tensors()), all(&built(1).0.tensors()));
}

#[test]
fn hints_are_honoured() {
    let store = ParameterStore::new(Seeds::new(7), DType::F64, &Device::Cpu);
    let vb = store.var_builder();
    let constant = vb.get_with_hints(3, "c", Init::Const(2.5)).unwrap();
    assert_eq!(values(&constant), [2.5; 3]);
    let uniform = values(&vb.get_with_hints(1000, "u", Init::Uniform { lo: -2.0, up: 3.0 }).unwrap());
    assert!(uniform.iter().all(|v| (-2.0..3.0).contains(v)) && uniform.iter().any(|v| *v < -1.9));
    let normal = values(&vb.get_with_hints(1000, "n", Init::Randn { mean: 5.0, stdev: 2.0 }).unwrap());
    let mut stream = Seeds::new(7).named_stream(Axis::Init, "n");
    assert!(normal.iter().all(|v| *v == 5.0 + 2.0 * stream.normal()));
    // ReLU gain √2 over the square root of fan-in 9, times √3 for a uniform distribution.
    let bound = (2.0f64 / 9.0).sqrt() * 3f64.sqrt();
    let kaiming = values(&vb.get_with_hints((100, 9), "k", DEFAULT_KAIMING_UNIFORM).unwrap());
    assert!(kaiming.iter().all(|v| v.abs() < bound) && kaiming.iter().any(|v| v.abs() > 0.98 * bound));
    // The same name again is the same tensor, in its own shape only.
    assert!(vb.get(3, "c").unwrap().is_variable());
    assert!(vb.get(4, "c").unwrap_err().to_string().contains("`c` has shape"));
    assert!(vb.get_unchecked("missing").is_err());
}

#[test]
fn a_block_starts_as_the_identity_and_buffers_are_not_trained() {
    let (store, _) = built(3);
    let tensors = all(&store.tensors());
    assert!(tensors["layer1.0.bn2.weight"].iter().all(|v| *v == 0.0));
    assert!(tensors["layer1.0.bn1.weight"].iter().all(|v| *v == 1.0));
    assert!(tensors["layer2.0.downsample.1.weight"].iter().all(|v| *v == 1.0));
    // Kaiming over the outputs: variance 2 / (4·49).
    let conv = &tensors["conv1.weight"];
    let variance = conv.iter().map(|v| v * v).sum::<f64>() / conv.len() as f64;
    let want = 2.0 / 196.0;
    // Five standard errors of a variance, √(2/n).
    assert!((variance / want - 1.0).abs() < 5.0 * (2.0 / conv.len() as f64).sqrt(), "{variance} against {want}");
    let parameters = store.parameters();
    assert!(parameters.iter().all(|p| !p.name.contains("running") && p.decay == (p.var.rank() > 1)));
    assert_eq!(parameters.len() + store.buffers().len(), tensors.len());
    assert_eq!(store.count(), parameters.iter().map(|p| p.var.elem_count()).sum::<usize>());
    assert!(
        !tensors.contains_key("layer1.0.downsample.0.weight") && !tensors.contains_key("layer4.0.downsample.0.weight")
    );
}

#[test]
fn loading_reports_every_misfit_and_changes_nothing() {
    let (store, _) = built(4);
    let before = all(&store.tensors());
    let mut tensors: BTreeMap<String, Tensor> = built(5).0.tensors();
    let moved = tensors.remove("bn1.bias").unwrap();
    tensors.insert("fc.weight".into(), moved);
    tensors.insert("conv1.weight".into(), Tensor::zeros((4, 1, 7, 7), DType::F32, &Device::Cpu).unwrap());
    tensors.insert("bn1.weight".into(), Tensor::zeros(4, DType::U32, &Device::Cpu).unwrap());
    let Err(Error::Load(misfits)) = store.load(&tensors) else { panic!("the tensors do not fit") };
    assert_eq!(misfits.missing, ["bn1.bias"]);
    assert_eq!(misfits.unexpected, ["fc.weight"]);
    assert_eq!(misfits.misshaped, [("conv1.weight".to_owned(), vec![4, 1, 7, 7], vec![4, 3, 7, 7])]);
    assert_eq!(misfits.not_floats, [("bn1.weight".to_owned(), DType::U32)]);
    assert_eq!(all(&store.tensors()), before);
    let other = built(5).0.tensors();
    store.load(&other).unwrap();
    assert_eq!(all(&store.tensors()), all(&other));
    store.load(&store.tensors()).unwrap();
    assert_eq!(all(&store.tensors()), all(&other));
}

#[test]
fn running_statistics_follow_the_batch_in_train_mode_alone() {
    let (store, backbone) = built(6);
    let x = images(3, 16);
    let before = all(&store.tensors());
    backbone.forward_t(&x, BatchStatistics::TrainFrozen).unwrap();
    backbone.forward_t(&x, BatchStatistics::Eval).unwrap();
    assert_eq!(all(&store.tensors()), before);
    backbone.forward_t(&x, BatchStatistics::Train).unwrap();
    let after = all(&store.tensors());
    // Tracked as the network's weight is: where nobody asks for gradients, sums are plain.
    let weight = candle_core::Var::from_tensor(&store.tensors()["conv1.weight"]).unwrap();
    let conv = kernels::nn::conv2d(
        &x,
        &weight,
        None,
        kernels::nn::Conv2dConfig { stride: 2, padding: 3, ..Default::default() },
    );
    let conv = values(&conv.unwrap());
    let (map, n) = (8 * 8, 3 * 8 * 8);
    let running = after["bn1.running_mean"].iter().zip(&after["bn1.running_var"]);
    for (channel, (running_mean, running_var)) in running.enumerate() {
        let v: Vec<f64> = (0..conv.len()).filter(|at| at / map % 4 == channel).map(|at| conv[at]).collect();
        let mean = v.iter().sum::<f64>() / n as f64;
        let unbiased = v.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        let want = [0.1 * mean, 0.9 + 0.1 * unbiased].map(|v| f64::from(v as f32));
        assert_eq!([*running_mean, *running_var], want);
    }
}

#[test]
fn a_teacher_over_averages_is_built_once_and_follows() {
    let (store, student) = built(8);
    let mut ema = Ema::new(&store.tensors()).unwrap();
    let tensors: HashMap<String, Tensor> = ema.tensors().into_iter().collect();
    let teacher = Backbone::new(&narrow(), VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)).unwrap();
    let mut optimiser = AdamW::new(store.parameters(), AdamWConfig::default()).unwrap();
    let x = images(2, 16);
    train(&student, &mut optimiser, &x);
    let start = teacher.forward_t(&x, BatchStatistics::Eval).unwrap();
    ema.update(&store.tensors(), 0.5).unwrap();
    let moved = teacher.forward_t(&x, BatchStatistics::Eval).unwrap();
    assert_ne!(values(&start), values(&moved));
    assert!(!moved.track_op(), "a teacher has no graph");
    ema.update(&store.tensors(), 0.0).unwrap();
    let same = teacher.forward_t(&x, BatchStatistics::Eval).unwrap();
    // The student's weights in a network that nobody tracks either.
    let tensors: HashMap<String, Tensor> = store.tensors().into_iter().collect();
    let untracked = Backbone::new(&narrow(), VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)).unwrap();
    assert_eq!(values(&same), values(&untracked.forward_t(&x, BatchStatistics::Eval).unwrap()));
    teacher.forward_t(&x, BatchStatistics::TrainFrozen).unwrap();
    let refused = teacher.forward_t(&x, BatchStatistics::Train);
    assert!(matches!(&refused, Err(Error::FrozenStatistics { name }) if name == "bn1.running_mean"), "{refused:?}");
}

#[test]
fn training_is_the_same_bits_on_any_number_of_threads_and_from_a_checkpoint() {
    let x = images(9, 32);
    let straight = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (store, backbone) = built(9);
            let mut optimiser = AdamW::new(store.parameters(), AdamWConfig::default()).unwrap();
            (0..4).for_each(|_| drop(train(&backbone, &mut optimiser, &x)));
            all(&store.tensors())
        })
    };
    let want = straight(1);
    assert_eq!(want, straight(2));
    assert_eq!(want, straight(3));

    let (store, backbone) = built(9);
    let mut optimiser = AdamW::new(store.parameters(), AdamWConfig::default()).unwrap();
    (0..2).for_each(|_| drop(train(&backbone, &mut optimiser, &x)));
    let (resumed, backbone) = built(10);
    resumed.load(&store.tensors()).unwrap();
    let mut second = AdamW::new(resumed.parameters(), AdamWConfig::default()).unwrap();
    second.load_state(&optimiser.state(), 2).unwrap();
    (0..2).for_each(|_| drop(train(&backbone, &mut second, &x)));
    assert_eq!(all(&resumed.tensors()), want);
}

#[test]
fn configuration_is_read_strictly() {
    #[derive(serde::Deserialize)]
    struct Suite {
        backbone: BackboneConfig,
    }
    let text = |extra: &str| {
        format!(
            "backbone.resnet = {{ blocks = [1, 1, 1, 1], widths = [4, 6, 8, 8], stem_width = 4, \
             strides = [1, 2, 1, 1], block = \"basic\"{extra} }}"
        )
    };
    let read = |text: &str| toml::from_str::<Suite>(text).map(|suite| suite.backbone);
    assert_eq!(read(&text("")).unwrap(), narrow());
    assert!(read(&text(", depth = 3")).unwrap_err().to_string().contains("depth"));
    let json = serde_json::to_string(&narrow()).unwrap();
    assert_eq!(serde_json::from_str::<BackboneConfig>(&json).unwrap(), narrow());
    assert!(!json.contains("groups") && !json.contains("base_width"), "ids of cells rest on this text: {json}");
    let BackboneConfig::Resnet(mut config) = narrow() else { panic!("a residual network") };
    config.widths[2] = 0;
    let refused = BackboneConfig::Resnet(config).validate();
    assert!(matches!(refused, Err(Error::Config { field: "widths", .. })), "{refused:?}");
    let (channels, sizes) = (narrow().channels().unwrap(), [64, 1].map(|size| narrow().map_size(size).unwrap()));
    assert_eq!((channels, sizes), (8, [8, 1]));
}
