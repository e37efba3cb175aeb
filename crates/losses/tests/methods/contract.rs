//! What every entry of the registry keeps.

use candle_core::{DType, Device, Tensor};
use losses::{Draws, MethodConfig, TripletLoss, TripletNegative};
use testkit::gradient::directional_error;
use testkit::tolerance::{FINITE_DIFFERENCE, IDENTITY_F64, ORACLE_F32, assert_close};

use crate::support::{Fixture, LABELS, cases, select, stream, tensor, value, values};

const STEP: f64 = 1e-5;

#[test]
fn value_and_every_gradient_are_finite_and_present() {
    for config in cases() {
        for dtype in [DType::F64, DType::F32] {
            let fixture = Fixture::new(config.clone(), &LABELS, dtype);
            let out = fixture.loss();
            assert_eq!((out.total.dims(), out.total.dtype()), (&[][..], dtype), "{config:?}");
            assert!(value(&out.total).is_finite(), "{config:?}");
            let gradients = out.total.backward().unwrap();
            let mut inputs = fixture.parameters.vars();
            inputs.insert("anchor map".to_owned(), fixture.anchor.clone());
            if config.views().positive {
                inputs.insert("positive map".to_owned(), fixture.positive.clone());
            }
            for (name, var) in inputs {
                let gradient = values(gradients.get(&var).unwrap_or_else(|| panic!("{config:?}: none for {name}")));
                assert!(gradient.iter().all(|g| g.is_finite()), "{config:?}: {name}");
                assert!(gradient.iter().any(|g| *g != 0.0), "{config:?}: all of {name} is 0");
            }
        }
    }
}

#[test]
fn total_is_the_weighted_sum_of_its_terms() {
    for config in cases() {
        let out = Fixture::new(config.clone(), &LABELS, DType::F64).loss();
        let (lambda, gamma) = match &config {
            MethodConfig::Ce(_) => (0.0, 0.0),
            MethodConfig::CeTwoView(c) => (c.lambda, 0.0),
            MethodConfig::Supcon(c) => (c.lambda, c.gamma),
            MethodConfig::Triplet(c) => (c.lambda, c.gamma),
            MethodConfig::PacMclLe(c) | MethodConfig::PacMclBw(c) => (c.lambda, c.gamma),
            MethodConfig::Dsot(c) => (c.lambda, 0.0),
            MethodConfig::Cotap(c) => (c.lambda, c.gamma),
        };
        let more = Tensor::new(&[0.5f32, 7.0], &Device::Cpu).unwrap();
        let numbers = out.read(&[&more]).unwrap();
        assert_eq!((numbers.total, &numbers.also), (value(&out.total), &vec![vec![0.5, 7.0]]), "{config:?}");
        assert_eq!(numbers.terms.contains_key("ce_positive"), lambda > 0.0, "{config:?}");
        assert_eq!(numbers.terms.contains_key("method"), gamma > 0.0, "{config:?}");
        let term = |name: &str| numbers.terms.get(name).copied().unwrap_or(0.0);
        let want = term("ce_anchor") + lambda * term("ce_positive") + gamma * term("method");
        assert_close("total", &[value(&out.total)], &[want], 1, IDENTITY_F64);
    }
}

#[test]
fn gradients_of_the_maps_are_those_of_central_differences() {
    for config in cases() {
        let fixture = Fixture::new(config.clone(), &LABELS, DType::F64);
        let gradients = fixture.loss().total.backward().unwrap();
        let (anchor, positive) = (fixture.anchor.as_detached_tensor(), fixture.positive.as_detached_tensor());
        let mut of_anchor =
            |x: &[f64]| value(&fixture.loss_at(&fixture.method, &tensor(x, anchor.dims()), &positive).total);
        let gradient = values(gradients.get(&fixture.anchor).unwrap());
        let error = directional_error(&mut of_anchor, &values(&anchor), &gradient, STEP, 3, &mut stream(20));
        assert!(error < FINITE_DIFFERENCE, "{config:?}: anchor map, {error:.1e}");
        if config.views().positive {
            let mut of_positive =
                |x: &[f64]| value(&fixture.loss_at(&fixture.method, &anchor, &tensor(x, anchor.dims())).total);
            let gradient = values(gradients.get(&fixture.positive).unwrap());
            let error = directional_error(&mut of_positive, &values(&positive), &gradient, STEP, 3, &mut stream(21));
            assert!(error < FINITE_DIFFERENCE, "{config:?}: positive map, {error:.1e}");
        }
    }
}

#[test]
fn gradients_of_the_parameters_are_those_of_central_differences() {
    for config in cases() {
        let fixture = Fixture::new(config.clone(), &LABELS, DType::F64);
        let gradients = fixture.loss().total.backward().unwrap();
        let (anchor, positive) = (fixture.anchor.as_detached_tensor(), fixture.positive.as_detached_tensor());
        for (name, var) in fixture.parameters.vars() {
            let mut of_parameter = |x: &[f64]| {
                let mut tensors = fixture.parameters.tensors();
                tensors.insert(name.clone(), tensor(x, var.dims()));
                value(&fixture.loss_at(&fixture.with_parameters(tensors), &anchor, &positive).total)
            };
            let gradient = values(gradients.get(&var).unwrap());
            let error = directional_error(&mut of_parameter, &values(&var), &gradient, STEP, 2, &mut stream(22));
            assert!(error < FINITE_DIFFERENCE, "{config:?}: {name}, {error:.1e}");
        }
    }
}

#[test]
fn the_order_of_the_batch_does_not_matter() {
    let order = [3, 0, 4, 2, 1];
    let place = |image: usize| order.iter().position(|&o| o == image).unwrap();
    for config in cases() {
        let fixture = Fixture::new(config.clone(), &LABELS, DType::F64);
        let mut permuted = Fixture::new(config.clone(), &LABELS, DType::F64);
        permuted.anchor.set(&select(&fixture.anchor, &order)).unwrap();
        permuted.positive.set(&select(&fixture.positive, &order)).unwrap();
        permuted.teacher = fixture.teacher.as_ref().map(|t| select(t, &order));
        permuted.labels = order.iter().map(|&i| LABELS[i]).collect();
        let draws = &fixture.draws;
        permuted.draws = Draws {
            pairs: draws.pairs.iter().map(|&(u, v)| (place(u), place(v))).collect(),
            negatives: match draws.negatives.is_empty() {
                true => Vec::new(),
                false => order.iter().map(|&i| draws.negatives[i].map(place)).collect(),
            },
        };
        let (out, again) = (fixture.loss(), permuted.loss());
        assert_close("total", &[value(&again.total)], &[value(&out.total)], 1, IDENTITY_F64);
        let gradient = out.total.backward().unwrap().get(&fixture.anchor).unwrap().clone();
        let got = again.total.backward().unwrap().get(&permuted.anchor).unwrap().clone();
        let want = values(&select(&gradient, &order));
        assert_close(&format!("gradient of {config:?}"), &values(&got), &want, want.len(), IDENTITY_F64 * 10.0);
    }
}

#[test]
fn a_batch_of_one_works() {
    for config in cases() {
        let fixture = Fixture::new(config.clone(), &[1], DType::F64);
        let out = fixture.loss();
        assert!(value(&out.total).is_finite(), "{config:?}");
        let gradients = out.total.backward().unwrap();
        for (name, var) in fixture.parameters.vars() {
            let gradient = values(gradients.get(&var).unwrap_or_else(|| panic!("{config:?}: none for {name}")));
            assert!(gradient.iter().all(|g| g.is_finite()), "{config:?}: {name}");
        }
    }
}

/// Labels of a batch in which the method has no valid tuple; `None` where every batch has one.
fn without_tuple(config: &MethodConfig) -> Option<Vec<u32>> {
    match config {
        MethodConfig::Triplet(c) if c.loss == TripletLoss::LabelCosine => None,
        MethodConfig::Triplet(c) if c.negative == Some(TripletNegative::Random) => Some(vec![2]),
        MethodConfig::Triplet(_) | MethodConfig::PacMclLe(_) | MethodConfig::PacMclBw(_) => Some(vec![2; 3]),
        // A single image: its two views are each other's only candidate.
        MethodConfig::Supcon(_) => Some(vec![2]),
        MethodConfig::Ce(_) | MethodConfig::CeTwoView(_) | MethodConfig::Dsot(_) | MethodConfig::Cotap(_) => None,
    }
}

#[test]
fn without_a_valid_tuple_the_term_is_exactly_zero() {
    let mut seen = 0;
    for config in cases() {
        let Some(labels) = without_tuple(&config) else { continue };
        seen += 1;
        let fixture = Fixture::new(config.clone(), &labels, DType::F64);
        let out = fixture.loss();
        assert_eq!(out.read(&[]).unwrap().terms["method"], 0.0, "{config:?}");
        let gradients = out.total.backward().unwrap();
        for (name, var) in fixture.parameters.vars() {
            let gradient = values(gradients.get(&var).unwrap_or_else(|| panic!("{config:?}: none for {name}")));
            let of_objective = name.starts_with("objective.");
            assert!(gradient.iter().all(|g| g.is_finite() && (!of_objective || *g == 0.0)), "{config:?}: {name}");
        }
    }
    assert!(seen >= 6);
}

#[test]
fn float32_agrees_with_float64() {
    for config in cases() {
        let (wide, narrow) =
            (Fixture::new(config.clone(), &LABELS, DType::F64), Fixture::new(config.clone(), &LABELS, DType::F32));
        let (want, got) = (wide.loss().total, narrow.loss().total);
        assert_close(&format!("{config:?}"), &[value(&got)], &[value(&want)], 1, ORACLE_F32.value);
        let want = values(want.backward().unwrap().get(&wide.anchor).unwrap());
        let got = values(got.backward().unwrap().get(&narrow.anchor).unwrap());
        assert_close(&format!("gradient of {config:?}"), &got, &want, want.len(), ORACLE_F32.gradient);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let run = |threads: usize, config: &MethodConfig| -> (f64, Vec<f64>) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let fixture = Fixture::new(config.clone(), &LABELS, DType::F64);
            let total = fixture.loss().total;
            let gradient = values(total.backward().unwrap().get(&fixture.anchor).unwrap());
            (value(&total), gradient)
        })
    };
    for config in cases() {
        assert_eq!(run(1, &config), run(4, &config), "{config:?}");
    }
}

#[test]
fn a_batch_that_lacks_a_view_is_refused_by_name() {
    for config in cases() {
        let mut fixture = Fixture::new(config.clone(), &LABELS, DType::F64);
        let stream = stream(9);
        let views = config.views();
        let attempt = |positive: Option<&Tensor>, teacher: Option<&Tensor>| {
            let batch = losses::Batch {
                anchor_map: &fixture.anchor,
                positive_map: positive,
                teacher_tokens: teacher,
                labels: &fixture.labels,
                stream: &stream,
            };
            fixture.method.loss(&batch).map(|out| value(&out.total)).map_err(|e| e.to_string())
        };
        let both = attempt(Some(&fixture.positive), fixture.teacher.as_ref()).unwrap();
        assert_eq!(both, value(&fixture.loss().total), "loss draws what draw draws: {config:?}");
        if views.positive {
            assert!(attempt(None, fixture.teacher.as_ref()).unwrap_err().contains("positive_map"), "{config:?}");
        } else {
            assert_eq!(attempt(None, fixture.teacher.as_ref()).unwrap(), both);
        }
        if views.teacher {
            assert!(attempt(Some(&fixture.positive), None).unwrap_err().contains("teacher_tokens"), "{config:?}");
        }
        fixture.labels[1] = 3;
        let stray = fixture.method.loss_with(
            &losses::Batch {
                anchor_map: &fixture.anchor,
                positive_map: Some(&fixture.positive),
                teacher_tokens: fixture.teacher.as_ref(),
                labels: &fixture.labels,
                stream: &stream,
            },
            &fixture.draws,
        );
        assert!(stray.unwrap_err().to_string().contains("label 3 of batch entry 1"), "{config:?}");
    }
}

#[test]
fn parameters_have_the_names_that_checkpoints_hold() {
    for config in cases() {
        let fixture = Fixture::new(config.clone(), &LABELS, DType::F64);
        let names: Vec<String> = fixture.parameters.vars().into_keys().collect();
        assert!(names.iter().all(|n| n.starts_with("head.") || n.starts_with("objective.")), "{names:?}");
        assert!(names.iter().any(|n| n == "head.fc.weight"), "{names:?}");
        let logits = fixture.method.logits(&fixture.anchor).unwrap();
        assert_eq!(logits.dims(), [LABELS.len(), crate::support::CLASSES], "{config:?}");
        let missing = losses::Method::new(
            &config,
            crate::support::CHANNELS,
            crate::support::CLASSES,
            candle_nn::VarBuilder::from_tensors(Default::default(), DType::F64, &candle_core::Device::Cpu),
        );
        assert!(missing.is_err(), "a checkpoint without parameters is refused");
    }
}

#[test]
fn initial_values_are_those_of_a_linear_layer() {
    for config in cases() {
        let parameters = Fixture::new(config.clone(), &LABELS, DType::F64).parameters;
        let vars = parameters.vars();
        for (name, bounds) in parameters.bounds() {
            let layer = name.strip_suffix(".weight").or(name.strip_suffix(".bias")).unwrap();
            let bound = 1.0 / (vars[&format!("{layer}.weight")].dims()[1] as f64).sqrt();
            assert_eq!(bounds, (-bound, bound), "{config:?}: {name}");
        }
    }
}

#[test]
fn maps_of_half_precision_are_computed_in_that_of_the_parameters() {
    for config in cases() {
        let fixture = Fixture::new(config.clone(), &LABELS, DType::F32);
        let half = |x: &Tensor| candle_core::Var::from_tensor(&x.to_dtype(DType::BF16).unwrap()).unwrap();
        let (anchor, positive) = (half(&fixture.anchor), half(&fixture.positive));
        let total = fixture.loss_at(&fixture.method, &anchor, &positive).total;
        let rounded = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
        let want = fixture.loss_at(&fixture.method, &rounded(&anchor), &rounded(&positive)).total;
        assert_eq!((total.dtype(), value(&total)), (DType::F32, value(&want)), "{config:?}");
        assert_eq!(total.backward().unwrap().get(&anchor).unwrap().dtype(), DType::BF16);
    }
}

#[test]
fn a_map_that_is_not_finite_is_told_from_other_errors() {
    for config in cases() {
        let fixture = Fixture::new(config.clone(), &LABELS, DType::F32);
        let spoilt = (fixture.anchor.as_detached_tensor() * f64::NAN).unwrap();
        let stream = stream(9);
        let batch = losses::Batch {
            anchor_map: &spoilt,
            positive_map: Some(&fixture.positive),
            teacher_tokens: fixture.teacher.as_ref(),
            labels: &fixture.labels,
            stream: &stream,
        };
        match fixture.method.loss(&batch) {
            Ok(out) => assert!(!value(&out.total).is_finite(), "{config:?}"),
            Err(error) => assert!(error.is_non_finite(), "{config:?}: {error}"),
        }
    }
}
