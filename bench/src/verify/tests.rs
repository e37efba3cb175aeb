//! The set in the binary, and files that must not go by.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize};

use super::ops::Op;
use super::oracle::{Case, OracleError};
use super::*;

/// A file of an op: attributes and float64 tensors.
fn file(attributes: &[(&str, &str)], tensors: &[(&str, &[usize], &[f64])]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|t| t.2.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .zip(&bytes)
        .map(|(t, bytes)| (t.0, TensorView::new(Dtype::F64, t.1.to_vec(), bytes).unwrap()))
        .collect();
    let metadata: HashMap<String, String> =
        attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    serialize(views, Some(metadata)).unwrap()
}

/// Verifies one file in float64.
fn one(bytes: &[u8]) -> Result<Row, OracleError> {
    let case = Case::parse(Path::new("some/file.safetensors"), bytes)?;
    let row = row(Op::of(&case)?, &case, Precision::F64, &Device::Cpu)?;
    case.all_used()?;
    Ok(row)
}

const COTAP: [(&str, &str); 4] = [("op", "cotap"), ("case", "hand"), ("tau1", "-0.2"), ("tau2", "0.5")];

/// Two pairs, q = (0, 0.5) and p = (0.1, 0.2): s₁ = 0, s₂ = (1 − 0.1/0.5)² = 0.64 with count 1.
fn cotap_by_hand(loss: f64, slope: f64) -> Vec<u8> {
    let tensors: [(&str, &[usize], &[f64]); 4] = [
        ("p", &[2], &[0.1, 0.2]),
        ("q", &[2], &[0.0, 0.5]),
        ("loss", &[1], &[loss]),
        ("grad_p", &[2], &[-slope, slope]),
    ];
    file(&COTAP, &tensors)
}

#[test]
fn a_case_by_hand_passes_and_a_wrong_one_does_not() {
    // loss = 0.7 · s/(1+s) / 2; its slope in p₂ is 0.35 / (1+s)² · ℓ'(0.1), ℓ'(x) = −4 (1 − 2x).
    let (loss, slope) = (0.35 * 0.64 / 1.64, 0.35 / (1.64 * 1.64) * -4.0 * 0.8);
    let row = one(&cotap_by_hand(loss, slope)).unwrap();
    assert!(row.passes(), "{row:?}");
    let wrong_value = one(&cotap_by_hand(loss * (1.0 + 1e-9), slope)).unwrap();
    assert!(!wrong_value.passes() && (wrong_value.value.error - 1e-9).abs() < 1e-11, "{wrong_value:?}");
    let wrong_gradient = one(&cotap_by_hand(loss, slope * (1.0 + 1e-7))).unwrap();
    assert!(!wrong_gradient.passes() && wrong_gradient.value.passes(), "{wrong_gradient:?}");
    assert!(text(&[wrong_gradient]).contains("BREACH"));
    let nan = one(&cotap_by_hand(f64::NAN, slope)).unwrap();
    assert!(!nan.passes());
}

#[test]
fn what_the_op_refuses_is_a_row_that_does_not_pass() {
    let zero = [0.0; 4];
    let tensors: [(&str, &[usize], &[f64]); 4] =
        [("a", &[1, 2, 2], &zero), ("y", &[1, 2, 2], &zero), ("g", &[1, 2, 2], &zero), ("grad_a", &[1, 2, 2], &zero)];
    let row = one(&file(&[("op", "spd_log"), ("case", "zero")], &tensors)).unwrap();
    assert!(!row.passes() && row.notes[0].contains("positive definite"), "{row:?}");
}

#[test]
fn files_that_do_not_fit_are_named_with_what_is_wrong() {
    let p: (&str, &[usize], &[f64]) = ("p", &[1], &[0.5]);
    let rest: [(&str, &[usize], &[f64]); 3] = [("q", &[1], &[0.5]), ("loss", &[1], &[0.0]), ("grad_p", &[1], &[0.0])];
    let all = [p, rest[0], rest[1], rest[2]];
    assert!(one(&file(&COTAP, &all)).unwrap().passes());
    let extra = [p, rest[0], rest[1], rest[2], ("grad_q", &[1][..], &[0.0][..])];
    let longer = [("p", &[2][..], &[0.5, 0.5][..]), rest[0], rest[1], rest[2]];
    let scalar = [("p", &[][..], &[0.5][..]), rest[0], rest[1], rest[2]];
    for (bytes, wanted) in [
        (file(&COTAP, &rest), "no tensor `p`"),
        (file(&COTAP, &[p, rest[0], rest[1]]), "no tensor `grad_p`"),
        (file(&COTAP, &extra), "tensor `grad_q` is none of op `cotap`"),
        (file(&COTAP, &longer), "tensor `q` has size 1 where 2 is due"),
        (file(&COTAP, &scalar), "tensor `p` is []"),
        (file(&COTAP[..3], &all), "no attribute `tau2`"),
        (file(&COTAP[1..], &all), "no attribute `op`"),
        (file(&[COTAP[0], COTAP[1], COTAP[2], ("tau2", "half")], &all), "attribute `tau2` = `half` is no number"),
        (file(&[("op", "cotapp"), COTAP[1]], &all), "unknown op `cotapp`"),
        (b"not safetensors at all".to_vec(), "no safetensors file"),
        (file(&COTAP, &all)[..200].to_vec(), "safetensors file"),
    ] {
        let error = one(&bytes).expect_err(wanted);
        assert!(error.to_string().starts_with("some/file.safetensors: "), "{error}");
        assert!(error.to_string().contains(wanted), "{error} lacks {wanted}");
        assert!(!error.hint().is_empty());
    }
}

#[test]
fn the_shipped_set_has_every_op() {
    let set = Set::shipped();
    let names: Vec<String> = set.files().iter().map(|f| f.path.display().to_string()).collect();
    for op in Op::ALL {
        let start = format!("ci/oracles/data/{}.", op.name());
        assert!(names.iter().any(|name| name.starts_with(&start)), "no case of {}", op.name());
    }
    let bytes: usize = set.files().iter().map(|f| f.bytes().unwrap().len()).sum();
    assert!(bytes < 1_500_000, "{bytes} bytes are too many for a binary");
}

#[test]
fn the_tolerance_of_plans_grows_only_by_the_floor_of_the_oracle_and_says_so() {
    // Almost a permutation: ε = 0.01 against a cost of 1 off the diagonal. Plan ½ I up to e⁻¹⁰⁰, gradient almost 0.
    let (cost, g, plan) = ([0.0, 1.0, 1.0, 0.0], [1.0, 2.0, 3.0, 5.0], [0.5, 1.86e-44, 1.86e-44, 0.5]);
    let with = |attributes: &[(&str, &str)], gradient: [f64; 4]| {
        let shape: &[usize] = &[1, 2, 2];
        let tensors: [(&str, &[usize], &[f64]); 4] =
            [("cost", shape, &cost), ("plan", shape, &plan), ("g", shape, &g), ("grad_cost", shape, &gradient)];
        let all = [&[("op", "sinkhorn"), ("case", "hand"), ("eps", "0.01"), ("iters", "3")], attributes].concat();
        one(&file(&all, &tensors)).unwrap()
    };
    // ‖4 P ∘ g‖ / ε = 2 √26 · 100: 2.3e-13 of rounding against an expected size of 2e-6.
    let floored = with(&[], [1e-6, -1e-6, -1e-6, 1e-6]);
    let bar = floored.gradient.unwrap().tolerance;
    assert!((bar / (1e-8 + f64::EPSILON * 2.0 * 26f64.sqrt() * 100.0 / 2e-6) - 1.0).abs() < 1e-9, "{bar:e}");
    assert!(floored.notes[0].contains("float64 floor") && text(&[floored]).contains("1.2e-7*"));
    let exact = with(&[("digits", "50")], [1e-6, -1e-6, -1e-6, 1e-6]);
    assert_eq!(exact.gradient.unwrap().tolerance, 1e-8);
    assert!(exact.notes.is_empty() && !exact.passes());
}
