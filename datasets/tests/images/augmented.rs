use std::collections::BTreeMap;

use datasets::Normalise;
use datasets::augment::{
    EraseParams, JitterParams, JitterPart, RotateParams, ShuffleParams, erase, flip, jitter, rotate, shuffle,
};
use serde::Deserialize;
use testkit::tolerance::{AUGMENT_F32, ROTATE_F32};

use super::data;

/// Input, result and whatever parameters a function has.
#[derive(Deserialize)]
struct Case {
    input: Vec<f32>,
    output: Vec<f32>,
    #[serde(default)]
    size: usize,
    #[serde(default)]
    parts: Vec<String>,
    #[serde(default)]
    factors: Vec<f32>,
    #[serde(default)]
    degrees: f64,
    #[serde(default)]
    top: usize,
    #[serde(default)]
    left: usize,
    #[serde(default)]
    height: usize,
    #[serde(default)]
    width: usize,
    #[serde(default)]
    grid: usize,
    #[serde(default)]
    order: Vec<usize>,
}

/// Runs `apply` on all cases of a function and compares.
#[track_caller]
fn compare(function: &str, count: usize, tolerance: f32, apply: impl Fn(&Case, &mut Vec<f32>)) {
    let text = std::fs::read_to_string(data("augmented.toml")).unwrap();
    let cases = toml::from_str::<BTreeMap<String, Vec<Case>>>(&text).unwrap().remove(function).unwrap();
    assert_eq!(cases.len(), count);
    for (index, case) in cases.iter().enumerate() {
        let mut got = case.input.clone();
        apply(case, &mut got);
        let worst = got.iter().zip(&case.output).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(got.len() == case.output.len() && worst <= tolerance, "{function} {index}: {worst:e}");
        assert!(got.iter().all(|v| v.is_finite()));
    }
}

#[test]
fn jitter_is_that_of_torchvision() {
    compare("jitter", 16, AUGMENT_F32, |case, planes| {
        let part = |name: &String| match name.as_str() {
            "brightness" => JitterPart::Brightness,
            "contrast" => JitterPart::Contrast,
            "saturation" => JitterPart::Saturation,
            "hue" => JitterPart::Hue,
            other => panic!("{other}"),
        };
        assert_eq!(case.parts.len(), case.factors.len());
        let steps = case.parts.iter().map(part).zip(case.factors.iter().copied()).collect();
        jitter::apply(planes, &JitterParams { steps });
    });
}

#[test]
fn rotation_is_that_of_torchvision() {
    compare("rotate", 14, ROTATE_F32, |case, planes| {
        rotate::apply(planes, case.size, RotateParams { degrees: case.degrees });
    });
}

#[test]
fn flip_erase_and_shuffle_are_exact() {
    compare("flip", 2, 0.0, |case, planes| flip::apply(planes, case.size));
    compare("erase", 2, 0.0, |case, planes| {
        let &Case { left, top, width, height, .. } = case;
        erase::apply(planes, case.size, EraseParams { left, top, width, height });
    });
    compare("shuffle", 2, 0.0, |case, planes| {
        shuffle::apply(planes, case.size, &ShuffleParams { grid: case.grid, order: case.order.clone() });
    });
}

#[test]
fn normalisation_is_that_of_torchvision() {
    compare("normalise", 1, AUGMENT_F32, |_, planes| Normalise::default().apply(planes));
}
