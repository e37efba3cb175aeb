//! Losses and heads against their definitions, written out on plain numbers.

use candle_core::{DType, Tensor, Var};
use losses::cotap::cotap_term;
use losses::supcon::supcon;
use losses::triplet::{hardest_negatives, label_cosine, mined_triplet};
use losses::{CotapConfig, DsotHeadConfig, Method, MethodConfig, PairCount, Teacher, TripletConfig, TripletNegative};
use testkit::tolerance::{IDENTITY_F64, ORACLE_F64, assert_close};

use crate::support::{CHANNELS, CLASSES, Fixture, LABELS, Parameters, SIDE, normal, stream, tensor, value, values};

#[test]
fn supervised_contrast_without_positives_is_exactly_zero() {
    let z = Var::from_tensor(&normal(&[4, 3], 60)).unwrap();
    let loss = supcon(&z, &[0, 1, 2, 3], 0.1).unwrap();
    assert_eq!(value(&loss), 0.0);
    assert_eq!(values(loss.backward().unwrap().get(&z).unwrap()), [0.0; 12]);
    assert!(supcon(&z, &[0, 1], 0.1).is_err());
}

#[test]
fn supervised_contrast_survives_float32_at_low_temperature() {
    // Opposite directions: exp of the self similarity would overflow if it were not left out first.
    let rows = [[1.0f32, 0.0], [-1.0, 0.0], [-1.0, 1e-3]];
    let z = Var::from_tensor(&Tensor::new(&rows, &candle_core::Device::Cpu).unwrap()).unwrap();
    let loss = supcon(&z, &[0, 0, 1], 0.005).unwrap();
    assert!(value(&loss).is_finite());
    assert!(values(loss.backward().unwrap().get(&z).unwrap()).iter().all(|g| g.is_finite()));
}

#[test]
fn the_hardest_negative_is_the_nearest_of_another_class() {
    let a = tensor(&[0.0, 0.0, 5.0, 5.0, 1.0, 0.0], &[3, 2]);
    let p = tensor(&[0.1, 0.0, 4.0, 5.0, 0.2, 0.0], &[3, 2]);
    assert_eq!(hardest_negatives(&a, &p, &[0, 1, 1]).unwrap(), [Some(2), Some(0), Some(0)]);
    assert_eq!(hardest_negatives(&a, &p, &[0, 1, 0]).unwrap(), [Some(1), Some(2), Some(1)]);
    assert_eq!(hardest_negatives(&a, &p, &[7, 7, 7]).unwrap(), [None, None, None]);
    let (loss, diagnostics) = mined_triplet(&a, &p, &[Some(1), None, Some(0)], 1.0).unwrap();
    // Hinges: 0.1 − √41 + 1 < 0 and 0.8 − 0.9 + 1; the second anchor has no negative and is left out.
    assert_close("loss", &[value(&loss)], &[0.9 / 2.0], 1, IDENTITY_F64);
    assert_close("intra", &[diagnostics["intra_distance"]], &[0.45], 1, IDENTITY_F64);
    assert_close("inter", &[diagnostics["inter_distance"]], &[(41f64.sqrt() + 0.9) / 2.0], 1, IDENTITY_F64);
    assert_eq!(diagnostics["active_share"], 0.5);
}

#[test]
fn label_cosine_is_its_definition() {
    let (labels, margin) = ([0u32, 1, 0, 1], 0.1);
    let x = normal(&[4, 3], 61);
    let rows: Vec<Vec<f64>> = x.to_vec2().unwrap();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let mut want = 0.0;
    for (i, a) in rows.iter().enumerate() {
        for (j, b) in rows.iter().enumerate() {
            let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
            want += if labels[i] == labels[j] { 1.0 - cosine } else { (cosine - margin).max(0.0) } / 16.0;
        }
    }
    let got = value(&label_cosine(&x, &labels, margin).unwrap());
    assert_close("label cosine", &[got], &[want], 1, IDENTITY_F64);
}

/// CoTAP of one pair of images by the O(n²) definition.
fn cotap(p: &[f64], q: &[f64], tau1: f64, tau2: f64) -> f64 {
    let penalty = |x: f64| if x < 0.0 { 1.0 - 2.0 * x / tau2 } else { (1.0 - x / tau2).max(0.0).powi(2) };
    let n = p.len();
    (0..n)
        .map(|i| {
            let count = (0..n).filter(|&j| q[j] >= q[i] && p[j] >= p[i]).count() as f64;
            let below = (0..n).filter(|&j| q[j] < q[i]).map(|j| penalty(p[i] - p[j])).sum::<f64>();
            let s = below / count;
            (q[i] - tau1).max(0.0) * s / (1.0 + s)
        })
        .sum::<f64>()
        / n as f64
}

#[test]
fn correspondence_ranking_is_its_definition() {
    let (b, n, d) = (3, 5, 4);
    let unit = |index| losses::ops::normalise(&normal(&[b, n, d], index)).unwrap();
    let (student, teacher) = (Var::from_tensor(&unit(62)).unwrap(), Var::from_tensor(&unit(63)).unwrap());
    let pairs = [(0, 2), (1, 0), (2, 2)];
    let similarity = |t: &Tensor, (u, v): (usize, usize)| -> Vec<f64> {
        let rows: Vec<Vec<Vec<f64>>> = t.to_vec3().unwrap();
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(a, b)| a * b).sum::<f64>();
        rows[u].iter().flat_map(|x| rows[v].iter().map(|y| dot(x, y) / 2.0 + 0.5).collect::<Vec<_>>()).collect()
    };
    let want = [(0, 2), (1, 0)].map(|pair| cotap(&similarity(&student, pair), &similarity(&teacher, pair), -0.2, 0.5));
    let loss = cotap_term(&student, &teacher, &pairs[..2], -0.2, 0.5).unwrap();
    assert_close("two pairs", &[value(&loss)], &[(want[0] + want[1]) / 2.0], 1, ORACLE_F64.value);
    let gradients = loss.backward().unwrap();
    assert!(gradients.get(&teacher).is_none(), "the teacher gets no gradient");
    assert!(gradients.get(&student).is_some());
    assert!(cotap_term(&student, &teacher, &[], -0.2, 0.5).is_err());
    assert!(cotap_term(&student, &teacher, &[(0, 3)], -0.2, 0.5).is_err());
    assert!(cotap_term(&student, &unit(63).narrow(1, 0, 4).unwrap(), &pairs, -0.2, 0.5).is_err());
}

#[test]
fn the_teacher_is_the_projection_with_other_parameters() {
    let config = MethodConfig::Cotap(CotapConfig { hidden: 8, output: 4, ..CotapConfig::default() });
    let parameters = Parameters::new(3);
    Method::new(&config, CHANNELS, CLASSES, parameters.builder(DType::F64)).unwrap();
    let map = Var::from_tensor(&normal(&[2, CHANNELS, SIDE, SIDE], 64)).unwrap();
    let averaged = |tensors| candle_nn::VarBuilder::from_tensors(tensors, DType::F64, &candle_core::Device::Cpu);
    let tokens = Method::teacher_tokens(&config, CHANNELS, averaged(parameters.tensors()), &map).unwrap();
    assert_eq!(tokens.dims(), [2, SIDE * SIDE, 4]);
    // A perceptron written out on one token.
    let layer = |i: usize, x: &[f64]| -> Vec<f64> {
        let tensors = parameters.tensors();
        let weight: Vec<Vec<f64>> = tensors[&format!("objective.projection.{i}.weight")].to_vec2().unwrap();
        let bias = values(&tensors[&format!("objective.projection.{i}.bias")]);
        weight.iter().zip(bias).map(|(row, b)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + b).collect()
    };
    let relu = |x: Vec<f64>| x.into_iter().map(|v| v.max(0.0)).collect::<Vec<f64>>();
    let token: Vec<f64> =
        (0..CHANNELS).map(|c| value(&map.get(1).unwrap().get(c).unwrap().get(2).unwrap().get(0).unwrap())).collect();
    let out = layer(2, &relu(layer(1, &relu(layer(0, &token)))));
    let length = out.iter().map(|v| v * v).sum::<f64>().sqrt();
    let want: Vec<f64> = out.iter().map(|v| v / length).collect();
    let got = values(&tokens.get(1).unwrap().get(2 * SIDE).unwrap());
    assert_close("token", &got, &want, 4, IDENTITY_F64);
    let plain = MethodConfig::Ce(losses::CeConfig::default());
    assert!(Teacher::new(&plain, CHANNELS, averaged(parameters.tensors())).is_err());
}

#[test]
fn the_graph_head_uses_edges_and_weights() {
    let config = DsotHeadConfig { k: 4, hidden: 5, ..DsotHeadConfig::default() };
    let fixture = Fixture::new(MethodConfig::Dsot(config.clone()), &LABELS, DType::F64);
    let tokens = losses::ops::tokens(&fixture.anchor).unwrap();
    let graph = kernels::transport::dsot_graph(
        &tokens,
        &kernels::transport::DsotConfig {
            height: SIDE,
            width: SIDE,
            k: 4,
            eps: config.eps,
            iterations: config.iterations,
            lambda_pos: config.lambda_pos,
            self_loop: config.self_loop,
        },
    )
    .unwrap();
    let n = SIDE * SIDE;
    let index = values(&graph.edge_index);
    let weight = values(&graph.edge_weight);
    let parameters = fixture.parameters.tensors();
    let linear = |name: &str, x: &[f64]| -> Vec<f64> {
        let rows: Vec<Vec<f64>> = parameters[&format!("head.{name}.weight")].to_vec2().unwrap();
        let bias = values(&parameters[&format!("head.{name}.bias")]);
        rows.iter().zip(bias).map(|(row, b)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + b).collect()
    };
    let logits: Vec<Vec<f64>> = fixture.method.logits(&fixture.anchor).unwrap().to_vec2().unwrap();
    for (image, got) in logits.iter().enumerate() {
        let mut h: Vec<Vec<f64>> = tokens.get(image).unwrap().to_vec2().unwrap();
        for name in ["conv1", "conv2"] {
            h = (0..n)
                .map(|i| {
                    let mut mixed = vec![0.0; h[0].len()];
                    for edge in (image * n + i) * 4..(image * n + i + 1) * 4 {
                        let neighbour = &h[index[edge] as usize];
                        mixed.iter_mut().zip(neighbour).for_each(|(m, x)| *m += weight[edge] * x);
                    }
                    linear(name, &mixed).into_iter().map(|v| v.max(0.0)).collect()
                })
                .collect();
        }
        let mean: Vec<f64> = (0..5).map(|c| h.iter().map(|row| row[c]).sum::<f64>() / n as f64).collect();
        assert_close("logits", got, &linear("fc", &mean), CLASSES, IDENTITY_F64);
    }
}

#[test]
fn random_choices_are_other_images_and_depend_on_the_stream_alone() {
    let pairs = |pairs, images| {
        let config = MethodConfig::Cotap(CotapConfig { hidden: 8, output: 4, pairs, ..CotapConfig::default() });
        let method = Method::new(&config, CHANNELS, CLASSES, Parameters::new(1).builder(DType::F32)).unwrap();
        assert_eq!(method.draw(images, &stream(70)), method.draw(images, &stream(70)));
        assert!(images < 3 || method.draw(images, &stream(70)) != method.draw(images, &stream(71)));
        method.draw(images, &stream(70)).pairs
    };
    let drawn = pairs(PairCount::PerImage, 40);
    assert!(drawn.iter().enumerate().all(|(i, &(u, v))| u == i && v != u && v < 40));
    assert_eq!(drawn.len(), 40);
    let drawn = pairs(PairCount::Fixed(6), 4);
    assert!(drawn.len() == 6 && drawn.iter().all(|&(u, v)| u != v && u < 4 && v < 4));
    assert_eq!(drawn[..4].iter().map(|p| p.0).collect::<std::collections::BTreeSet<_>>().len(), 4);
    assert_eq!(pairs(PairCount::PerImage, 1), [(0, 0)]);

    let config = TripletConfig { negative: Some(TripletNegative::Random), ..TripletConfig::default() };
    let config = MethodConfig::Triplet(config);
    let method = Method::new(&config, CHANNELS, CLASSES, Parameters::new(1).builder(DType::F32)).unwrap();
    // Each of the two other images about half the time: five standard errors of 1000 draws.
    let first = (0..1000).filter(|&i| method.draw(3, &stream(100 + i)).negatives[1] == Some(0)).count();
    assert!(first.abs_diff(500) < 80, "{first}");
    assert_eq!(method.draw(1, &stream(70)).negatives, [None]);
}
