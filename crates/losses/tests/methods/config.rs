//! Settings: defaults, wire form, ranges.

use losses::{
    Alignment, MethodConfig, Negatives, PacMclConfig, PairCount, SoftTopK, TripletConfig, TripletLoss, TripletNegative,
    Views,
};
use serde_json::{Value, json};

use crate::support::cases;

fn read(value: Value) -> Result<MethodConfig, String> {
    serde_json::from_value(value).map_err(|e| e.to_string())
}

#[test]
fn the_registry_holds_every_name_once_in_order() {
    let names: Vec<&str> = MethodConfig::registry().iter().map(|(name, _)| *name).collect();
    assert_eq!(names, MethodConfig::NAMES);
    for (name, config) in MethodConfig::registry() {
        assert_eq!(config.name(), name);
        assert_eq!(read(json!({ name: {} })).unwrap().resolved(), config, "an empty table means the defaults");
        assert!(config.validate().is_ok(), "{name}");
        assert!(!config.description().contains('\n') && config.description().len() > 20, "{name}");
    }
}

#[test]
fn settings_survive_the_wire_form() {
    for config in cases() {
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.starts_with(&format!("{{\"{}\":", config.name())), "{text}");
        assert_eq!(serde_json::from_str::<MethodConfig>(&text).unwrap(), config);
        assert_eq!(config.resolved(), config.resolved().resolved());
    }
}

#[test]
fn unknown_keys_and_names_are_refused() {
    for name in MethodConfig::NAMES {
        let error = read(json!({ *name: { "label_smothing": 0.1 } })).unwrap_err();
        assert!(error.contains("label_smothing") && error.contains("label_smoothing"), "{error}");
    }
    let error = read(json!({ "tripelt": {} })).unwrap_err();
    assert!(error.contains("tripelt") && error.contains("`triplet`"), "{error}");
    let error = read(json!({ "pac-mcl-le": { "negatives": { "soft-top-k": { "n": 3 } } } })).unwrap_err();
    assert!(error.contains("`n`"), "{error}");
}

#[test]
fn defaults_that_depend_on_other_settings_are_resolved() {
    let alignment = |name: &str| match read(json!({ name: {} })).unwrap().resolved() {
        MethodConfig::PacMclLe(c) | MethodConfig::PacMclBw(c) => c.alignment,
        other => panic!("{other:?}"),
    };
    assert_eq!(alignment("pac-mcl-le"), Some(Alignment::Mutual));
    assert_eq!(alignment("pac-mcl-bw"), Some(Alignment::Hungarian));
    let triplet = |settings: Value| match read(json!({ "triplet": settings })).unwrap().resolved() {
        MethodConfig::Triplet(c) => (c.negative, c.margin),
        other => panic!("{other:?}"),
    };
    assert_eq!(triplet(json!({})), (Some(TripletNegative::Hardest), Some(0.2)));
    assert_eq!(triplet(json!({ "negative": "random" })), (Some(TripletNegative::Random), Some(1.0)));
    assert_eq!(triplet(json!({ "loss": "label-cosine" })), (None, Some(0.4)));
    assert_eq!(triplet(json!({ "loss": "label-cosine", "margin": 0.1 })), (None, Some(0.1)));
}

#[test]
fn every_setting_of_the_methods_can_be_named() {
    let pac = json!({ "pac-mcl-bw": { "gamma": 0.75, "lambda": 1.0, "label_smoothing": 0.0, "parts": 6, "dim": 64,
        "eps": 1e-4, "margin": 0.2, "alignment": "hungarian", "negatives": "hardest" } });
    assert_eq!(read(pac).unwrap(), read(json!({ "pac-mcl-bw": {} })).unwrap().resolved());
    let soft = read(json!({ "pac-mcl-le": { "negatives": { "soft-top-k": {} } } })).unwrap();
    let want = Negatives::SoftTopK(SoftTopK { k: 5, temperature: 0.05 });
    assert_eq!(soft, MethodConfig::PacMclLe(PacMclConfig { negatives: want, ..PacMclConfig::default() }));
    let dsot = json!({ "dsot": { "lambda": 1.0, "label_smoothing": 0.0, "k": 16, "eps": 0.1, "iterations": 20,
        "lambda_pos": 0.1, "self_loop": 0.2, "hidden": 256 } });
    assert_eq!(read(dsot).unwrap(), read(json!({ "dsot": {} })).unwrap());
    let cotap = json!({ "cotap": { "gamma": 1.0, "lambda": 1.0, "label_smoothing": 0.0, "tau1": -0.2, "tau2": 0.5,
        "hidden": 2048, "output": 256, "pairs": "per-image", "ema": 0.9997 } });
    assert_eq!(read(cotap).unwrap(), read(json!({ "cotap": {} })).unwrap());
    match read(json!({ "cotap": { "pairs": { "fixed": 32 } } })).unwrap() {
        MethodConfig::Cotap(c) => assert_eq!(c.pairs, PairCount::Fixed(32)),
        other => panic!("{other:?}"),
    }
    let supcon = json!({ "supcon": { "gamma": 1.0, "lambda": 1.0, "label_smoothing": 0.0, "temperature": 0.1,
        "output": 128 } });
    assert_eq!(read(supcon).unwrap(), read(json!({ "supcon": {} })).unwrap());
}

#[test]
fn settings_outside_their_range_are_refused_by_key() {
    let refused = [
        (json!({ "ce": { "label_smoothing": 1.0 } }), "label_smoothing"),
        (json!({ "ce-two-view": { "lambda": -1.0 } }), "lambda"),
        (json!({ "supcon": { "temperature": 0.0 } }), "temperature"),
        (json!({ "supcon": { "output": 0 } }), "output"),
        (json!({ "triplet": { "margin": -0.1 } }), "margin"),
        (json!({ "triplet": { "loss": "label-cosine", "negative": "random" } }), "negative"),
        (json!({ "pac-mcl-le": { "eps": 0.0 } }), "eps"),
        (json!({ "pac-mcl-le": { "parts": 0 } }), "parts"),
        (json!({ "pac-mcl-bw": { "dim": 0 } }), "dim"),
        (json!({ "pac-mcl-bw": { "negatives": { "soft-top-k": { "k": 0 } } } }), "k"),
        (json!({ "pac-mcl-bw": { "negatives": { "soft-top-k": { "temperature": 0.0 } } } }), "temperature"),
        (json!({ "dsot": { "k": 0 } }), "k"),
        (json!({ "dsot": { "eps": 0.0 } }), "eps"),
        (json!({ "dsot": { "iterations": 0 } }), "iterations"),
        (json!({ "cotap": { "tau2": 0.0 } }), "tau2"),
        (json!({ "cotap": { "pairs": { "fixed": 0 } } }), "pairs.fixed"),
        (json!({ "cotap": { "ema": 1.5 } }), "ema"),
    ];
    for (value, key) in refused {
        let config = read(value.clone()).unwrap();
        let error = config.validate().expect_err(&value.to_string()).to_string();
        assert!(error.contains(key) && error.contains(config.name()), "{error}");
    }
}

#[test]
fn views_name_what_a_batch_must_hold() {
    let views = |value: Value| read(value).unwrap().views();
    assert_eq!(views(json!({ "ce": {} })), Views { positive: false, teacher: false });
    assert_eq!(views(json!({ "ce-two-view": {} })), Views { positive: true, teacher: false });
    assert_eq!(views(json!({ "dsot": { "lambda": 0.0 } })), Views { positive: false, teacher: false });
    assert_eq!(views(json!({ "triplet": { "lambda": 0.0 } })), Views { positive: true, teacher: false });
    assert_eq!(views(json!({ "cotap": {} })), Views { positive: true, teacher: true });
    let defaults = TripletConfig::default();
    assert_eq!((defaults.loss, defaults.negative), (TripletLoss::Triplet, None));
}
