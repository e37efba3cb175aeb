//! What the kernels refuse: the first entry of the batch, with the CPU's error.

use super::super::device::Device;
use super::super::{cotap, graph, sinkhorn, spd};
use super::{Emulator, Memory, Order};
use crate::spd::Metric;
use crate::spd::function::Function;
use crate::transport::SinkhornConfig;
use crate::{Error, Result};

const EMULATOR: Emulator = Emulator(Order::Backward);

fn upload(values: &[f64]) -> Memory<f64> {
    EMULATOR.upload(values).unwrap()
}

#[track_caller]
fn refused<T>(result: Result<T>) -> Error {
    match result {
        Ok(_) => panic!("not refused"),
        Err(error) => error,
    }
}

fn function(function: Function, values: &[f64]) -> Result<()> {
    let batch = spd::Batch { n: values.len() / 4, d: 2 };
    spd::function(&EMULATOR, "op", function, EMULATOR.view(&upload(values)), batch).map(drop)
}

const GOOD: [f64; 4] = [2.0, 0.5, 0.5, 1.0];

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn matrices() {
    let after = |bad: [f64; 4]| [GOOD, bad, bad].concat();
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let error = refused(function(Function::Log, &after([1.0, bad, bad, 1.0])));
        assert!(matches!(error, Error::NonFinite { op: "op", name: "a", batch: 1 }), "{error}");
    }
    let error = refused(function(Function::Exp, &after([1.0, 0.25, 0.5, 1.0])));
    assert!(matches!(error, Error::NotSymmetric { batch: 1, asymmetry: 0.25, .. }), "{error}");
    for function_of in [Function::Log, Function::Sqrt, Function::InvSqrt] {
        let error = refused(function(function_of, &after([1.0, 2.0, 2.0, 1.0])));
        assert!(
            matches!(error, Error::NotPositiveDefinite { batch: 1, eigenvalue, .. } if (eigenvalue + 1.0).abs() < 1e-12)
        );
        let error = refused(function(function_of, &after([0.0; 4])));
        assert!(matches!(error, Error::NotPositiveDefinite { batch: 1, .. }), "{error}");
    }
    function(Function::Exp, &after([1.0, 2.0, 2.0, 1.0])).unwrap();
    let memory = upload(&[1.0, 2.0, 2.0, 1.0]);
    let batch = spd::Batch { n: 1, d: 2 };
    let prepared = spd::prepare(&EMULATOR, "op", "b", Metric::LogEuclidean, EMULATOR.view(&memory), batch);
    assert!(matches!(refused(prepared), Error::NotPositiveDefinite { .. }));
}

#[test]
fn sizes() {
    for dims in [&[2, 3][..], &[0, 0], &[4], &[5, 1025, 1025]] {
        assert!(matches!(spd::Batch::of("op", "a", dims), Err(Error::Shape { .. })), "{dims:?}");
    }
    assert_eq!(spd::Batch::of("op", "a", &[2, 3, 65, 65]).unwrap(), spd::Batch { n: 6, d: 65 });
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn moments_and_lists() {
    let covariance = |x: &[f64], logits: &[f64]| {
        let (x, logits) = (upload(x), upload(logits));
        spd::covariance(&EMULATOR, "op", (EMULATOR.view(&x), EMULATOR.view(&logits)), (2, 2, 1), 0.1).map(drop)
    };
    covariance(&[1.0, 2.0, 3.0, 4.0], &[0.0; 4]).unwrap();
    let error = refused(covariance(&[1.0, 2.0, 3.0, f64::NAN], &[0.0; 4]));
    assert!(matches!(error, Error::NonFinite { name: "x", batch: 1, .. }), "{error}");
    let error = refused(covariance(&[1.0; 4], &[0.0, f64::INFINITY, 0.0, 0.0]));
    assert!(matches!(error, Error::NonFinite { name: "logits", batch: 0, .. }), "{error}");
    let lists = |p: &[f64], q: &[f64]| {
        let (p, q) = (upload(p), upload(q));
        cotap::cotap(&EMULATOR, "op", (EMULATOR.view(&p), EMULATOR.view(&q)), (2, 2), (0.0, 1.0)).map(drop)
    };
    let error = refused(lists(&[0.0, 0.0, f64::NAN, 0.0], &[0.0; 4]));
    assert!(matches!(error, Error::NonFinite { name: "p", batch: 1, .. }), "{error}");
    let error = refused(lists(&[0.0; 4], &[0.0, f64::NEG_INFINITY, 0.0, 0.0]));
    assert!(matches!(error, Error::NonFinite { name: "q", batch: 0, .. }), "{error}");
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn costs() {
    let solve = |cost: &[f64], eps: f64| {
        let config = SinkhornConfig { eps, iterations: 2 };
        let cost = upload(cost);
        sinkhorn::sinkhorn(&EMULATOR, "op", EMULATOR.view(&cost), (1, 2), config).map(drop)
    };
    let infinite = f64::INFINITY;
    for bad in [f64::NAN, f64::NEG_INFINITY] {
        assert!(matches!(refused(solve(&[0.0, bad, 1.0, 0.0], 1.0)), Error::NonFinite { name: "cost", batch: 0, .. }));
    }
    let error = refused(solve(&[0.0, 1.0, infinite, infinite], 1.0));
    assert!(matches!(error, Error::Infeasible { line: "row", index: 1, .. }), "{error}");
    let error = refused(solve(&[infinite, 1.0, infinite, 1.0], 1.0));
    assert!(matches!(error, Error::Infeasible { line: "column", index: 0, .. }), "{error}");
    let error = refused(solve(&[0.0, 1.0, 1.0, 0.0], 1e-16));
    assert!(matches!(error, Error::Attribute { name: "eps", .. }), "{error}");
    solve(&[0.0, infinite, infinite, 0.0], 1.0).unwrap();
}

/// The gradient of a row's sum, which a plan of given marginals cannot change: rounding errors are all there is.
#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn gradients_without_digits() {
    let config = SinkhornConfig { eps: 1.0, iterations: 200 };
    let (cost, grad) = (upload(&[0.0, 1.3, 2.1, 0.4]), upload(&[1.0, 1.0, 3.0, 3.0]));
    let views = (EMULATOR.view(&cost), EMULATOR.view(&grad));
    let (_, path) = sinkhorn::sinkhorn(&EMULATOR, "op", views.0, (1, 2), config).unwrap();
    let error = refused(sinkhorn::gradient(&EMULATOR, "op", views, &path));
    assert!(matches!(error, Error::Digits { op: "op", batch: 0, left } if left < 2.3e-5), "{error}");
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn tokens() {
    let grid = graph::Grid { images: 2, height: 1, width: 2, d: 1, lambda: 0.0 };
    let x = upload(&[1.0, 2.0, 3.0, f64::NAN]);
    let error = refused(graph::cost(&EMULATOR, "op", EMULATOR.view(&x), grid));
    assert!(matches!(error, Error::NonFinite { name: "x", batch: 1, .. }), "{error}");
    let (h, w, index) = (upload(&[1.0, 2.0]), upload(&[1.0, 1.0]), EMULATOR.upload(&[0u32, 2]).unwrap());
    let views = (EMULATOR.view(&h), EMULATOR.view(&index), EMULATOR.view(&w));
    let error = refused(graph::aggregate(&EMULATOR, "op", views, (1, 2, 1, 1)));
    assert!(matches!(error, Error::Index { name: "edge_index", index: 2, len: 2, .. }), "{error}");
}
