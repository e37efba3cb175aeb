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
