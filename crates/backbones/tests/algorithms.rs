//! Algorithms of convolutions: what they are called, and where the fast ones are refused.

use backbones::{Algorithms, Backbone, BackboneConfig, Error, ParameterStore};
use candle_core::{DType, Device};
use random::Seeds;

#[test]
fn names_are_those_of_suite_files() {
    for (algorithms, name) in [(Algorithms::Deterministic, "deterministic"), (Algorithms::Fast, "fast")] {
        assert_eq!(algorithms.to_string(), name);
        assert_eq!(serde_json::to_string(&algorithms).unwrap(), format!("\"{name}\""));
        assert_eq!(serde_json::from_str::<Algorithms>(&format!("\"{name}\"")).unwrap(), algorithms);
    }
    assert_eq!(Algorithms::default(), Algorithms::Deterministic);
    assert!(serde_json::from_str::<Algorithms>("\"fastest\"").is_err());
}

#[test]
fn the_cpu_has_no_fast_ones() {
    let store = ParameterStore::new(Seeds::new(5), DType::F32, &Device::Cpu);
    let mut network = Backbone::new(&BackboneConfig::timm("resnet18"), store.var_builder()).unwrap();
    let error = network.set_algorithms(Algorithms::Fast).unwrap_err();
    assert!(matches!(error, Error::Algorithms { .. }), "{error}");
    assert!(error.to_string().contains("this is Cpu: set the algorithms to deterministic"), "{error}");
    assert_eq!(network.algorithms(), Algorithms::Deterministic);
    network.set_algorithms(Algorithms::Deterministic).unwrap();
}

/// Where there is a card without cuDNN, or a build without it, the reason says so.
#[cfg(feature = "cuda")]
#[test]
#[expect(clippy::print_stderr, reason = "a comparison that was not made must be seen")]
fn a_card_without_cudnn_says_what_is_missing() {
    use kernels::libraries::{self, Library};
    let card = match Device::new_cuda(0) {
        Ok(card) => card,
        Err(error) => {
            eprintln!("no card, nothing compared: {error}");
            return;
        }
    };
    let checked = Algorithms::Fast.check(&card);
    match libraries::of(&card).unwrap().cudnn {
        Library::Version(_) => checked.unwrap(),
        absent => {
            let said = checked.unwrap_err().to_string();
            assert!(said.contains(&format!("cuDNN is {absent}")), "{said}");
        }
    }
}
