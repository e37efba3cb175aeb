//! The precision of activations: what it is called, and where bfloat16 is refused. What a card computes is compared where one
//! is.

use backbones::{Backbone, BackboneConfig, BatchStatistics, Error, ParameterStore, Precision};
use candle_core::{DType, Device, Tensor};
use random::Seeds;

fn network(dtype: DType, device: &Device) -> (ParameterStore, Backbone) {
    let store = ParameterStore::new(Seeds::new(5), dtype, device);
    let network = Backbone::new(&BackboneConfig::timm("resnet18"), store.var_builder()).unwrap();
    (store, network)
}

#[test]
fn names_are_those_of_suite_files() {
    for (precision, name) in [(Precision::Float32, "float32"), (Precision::BFloat16, "bfloat16")] {
        assert_eq!(precision.to_string(), name);
        assert_eq!(serde_json::to_string(&precision).unwrap(), format!("\"{name}\""));
        assert_eq!(serde_json::from_str::<Precision>(&format!("\"{name}\"")).unwrap(), precision);
    }
    assert_eq!(Precision::default(), Precision::Float32);
    assert!(serde_json::from_str::<Precision>("\"float16\"").is_err());
}

#[test]
fn the_cpu_refuses_bfloat16_and_goes_on_as_before() {
    for dtype in [DType::F32, DType::F64] {
        let (_store, mut network) = network(dtype, &Device::Cpu);
        let x = Tensor::ones((2, 3, 32, 32), dtype, &Device::Cpu).unwrap();
        let features = |network: &Backbone| -> Vec<f64> {
            let y = network.forward_t(&x, BatchStatistics::Eval).unwrap();
            y.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let before = features(&network);
        let error = network.set_precision(Precision::BFloat16).unwrap_err();
        assert!(matches!(error, Error::Precision { dtype: got, .. } if got == dtype), "{error}");
        assert!(error.to_string().contains("set the precision to float32"), "{error}");
        assert_eq!(network.precision(), Precision::Float32);
        network.set_precision(Precision::Float32).unwrap();
        assert_eq!(features(&network), before);
    }
}

/// On a card; says where there is none.
#[cfg(feature = "cuda")]
mod on_a_card {
    use super::*;
    use backbones::Pass;
    use random::Axis;
    use testkit::tolerance::{BACKBONE_BF16, assert_close};

    #[expect(clippy::print_stderr, reason = "a comparison that was not made must be seen")]
    fn card() -> Option<Device> {
        match Device::new_cuda(0) {
            Ok(card) => Some(card),
            Err(error) => {
                eprintln!("no card, nothing compared: {error}");
                None
            }
        }
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn normal(shape: &[usize], path: u64) -> Tensor {
        let mut stream = Seeds::new(6).stream(Axis::Test, &[path]);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Features in eval mode and the gradients of all parameters, all of which must be float32.
    fn features(name: &str, size: usize, precision: Precision, device: &Device) -> [Vec<f64>; 2] {
        let store = ParameterStore::new(Seeds::new(5), DType::F32, device);
        let mut network = Backbone::new(&BackboneConfig::timm(name), store.var_builder()).unwrap();
        network.set_precision(precision).unwrap();
        let x = normal(&[2, 3, size, size], 0).to_device(device).unwrap();
        let y = network.forward_features(&x, BatchStatistics::Eval).unwrap();
        assert_eq!(y.dtype(), DType::F32);
        let g = normal(y.dims(), 1).to_device(device).unwrap();
        let grads = (&y * g).unwrap().sum_all().unwrap().backward().unwrap();
        let gradient = |p: kernels::optim::Parameter| {
            let gradient = grads.get(p.var.as_tensor()).unwrap();
            assert_eq!(gradient.dtype(), DType::F32, "{}", p.name);
            values(gradient)
        };
        [values(&y), store.parameters().into_iter().flat_map(gradient).collect()]
    }

    #[test]
    fn bfloat16_is_near_float32() {
        let Some(card) = card() else { return };
        let all = [("resnet18", 64), ("regnety_002", 64), ("convnext_atto", 64), ("efficientnet_b0", 64)];
        for (name, size) in all.into_iter().chain([("vit_tiny_patch16_224", 224)]) {
            let want = features(name, size, Precision::Float32, &Device::Cpu);
            let got = features(name, size, Precision::BFloat16, &card);
            let bars = [BACKBONE_BF16.value, BACKBONE_BF16.gradient];
            for ((what, bar), (got, want)) in ["features", "gradients"].into_iter().zip(bars).zip(got.iter().zip(&want))
            {
                assert_close(&format!("{name}, {what}"), got, want, want.len(), bar);
            }
            assert!(got == features(name, size, Precision::BFloat16, &card), "{name} gives other bits the second time");
            assert_ne!(got[0], features(name, size, Precision::Float32, &card)[0], "{name} computed in float32");
        }
    }

    /// A training pass moves the running averages near where the CPU's go, with stochastic depth that draws the same numbers.
    #[test]
    fn training_passes_follow_the_batch() {
        let Some(card) = card() else { return };
        let averages = |precision, device: &Device| -> Vec<f64> {
            let store = ParameterStore::new(Seeds::new(5), DType::F32, device);
            let mut config = BackboneConfig::timm("resnet18");
            if let BackboneConfig::Timm(settings) = &mut config {
                settings.drop_path = 0.3;
            }
            let mut network = Backbone::new(&config, store.var_builder()).unwrap();
            network.set_precision(precision).unwrap();
            let x = normal(&[4, 3, 64, 64], 2).to_device(device).unwrap();
            let mut stream = Seeds::new(7).stream(Axis::Dropout, &[1]);
            network.features(&x, &mut Pass::training(&mut stream)).unwrap();
            store.buffers().values().flat_map(|buffer| values(buffer)).collect()
        };
        let want = averages(Precision::Float32, &Device::Cpu);
        let got = averages(Precision::BFloat16, &card);
        assert_close("running averages", &got, &want, want.len(), BACKBONE_BF16.value);
    }
}
