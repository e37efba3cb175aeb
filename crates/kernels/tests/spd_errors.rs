//! What the SPD kernels refuse, and how.

use candle_core::{DType, Device, Tensor};
use kernels::Error;
use kernels::spd::{self, Metric, Prepared};

fn one(values: [f64; 4]) -> Tensor {
    Tensor::from_slice(&values, (1, 2, 2), &Device::Cpu).unwrap()
}

fn with_second(values: [f64; 4]) -> Tensor {
    Tensor::cat(&[one([2.0, 0.5, 0.5, 1.0]), one(values)], 0).unwrap()
}

#[test]
fn matrices_that_are_none_of_ours() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    assert!(matches!(spd::log(&zeros(&[2, 3, 4], DType::F64)), Err(Error::Shape { op: "spd_log", .. })));
    assert!(matches!(spd::exp(&zeros(&[3], DType::F64)), Err(Error::Shape { op: "spd_exp", .. })));
    assert!(matches!(spd::exp(&zeros(&[1, 0, 0], DType::F64)), Err(Error::Shape { .. })));
    assert!(matches!(spd::sqrt(&zeros(&[1, 2, 2], DType::U32)), Err(Error::Dtype { got: DType::U32, .. })));
    let skew = with_second([1.0, 0.5, 0.4, 1.0]);
    match spd::log(&skew) {
        Err(Error::NotSymmetric { batch: 1, asymmetry, .. }) => assert!((asymmetry - 0.1).abs() < 1e-12),
        other => panic!("{other:?}"),
    }
    for bad in [f64::NAN, f64::INFINITY] {
        assert!(matches!(spd::log(&with_second([bad, 0.0, 0.0, 1.0])), Err(Error::NonFinite { batch: 1, .. })));
    }
}

#[test]
fn matrices_that_are_not_definite() {
    let indefinite = with_second([1.0, 2.0, 2.0, 1.0]);
    for f in [spd::log, spd::sqrt, spd::inv_sqrt] {
        match f(&indefinite) {
            Err(Error::NotPositiveDefinite { batch: 1, eigenvalue, .. }) => assert!((eigenvalue + 1.0).abs() < 1e-12),
            other => panic!("{other:?}"),
        }
        assert!(matches!(f(&one([1.0, 1.0, 1.0, 1.0])), Err(Error::NotPositiveDefinite { batch: 0, .. })));
        assert!(matches!(f(&one([0.0; 4])), Err(Error::NotPositiveDefinite { batch: 0, .. })));
    }
    assert!(spd::exp(&indefinite).is_ok(), "the exponential takes any symmetric matrix");
    for metric in [Metric::LogEuclidean, Metric::BuresWasserstein] {
        assert!(matches!(Prepared::new(metric, &indefinite), Err(Error::NotPositiveDefinite { batch: 1, .. })));
        let good = one([1.0, 0.0, 0.0, 1.0]);
        assert!(matches!(spd::distance(metric, &good, &indefinite), Err(Error::NotPositiveDefinite { .. })));
    }
}

#[test]
fn rounding_of_float32_is_no_asymmetry() {
    let nearly = Tensor::new(&[[[2.0f32, 0.5], [0.500_001, 1.0]]], &Device::Cpu).unwrap();
    assert!(spd::log(&nearly).is_ok());
    assert!(matches!(spd::log(&nearly.to_dtype(DType::F64).unwrap()), Err(Error::NotSymmetric { .. })));
}

#[test]
fn pairs_that_do_not_fit() {
    let a = with_second([1.0, 0.0, 0.0, 3.0]);
    let three = Tensor::eye(3, DType::F64, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let le = Prepared::new(Metric::LogEuclidean, &a).unwrap();
    let bw = Prepared::new(Metric::BuresWasserstein, &a).unwrap();
    let large = Prepared::new(Metric::LogEuclidean, &three).unwrap();
    assert!(matches!(le.distance(0, &bw, 0), Err(Error::MetricMismatch { .. })));
    assert!(matches!(le.distance(0, &large, 0), Err(Error::Shape { .. })));
    assert!(matches!(le.distance(0, &le, 2), Err(Error::Index { index: 2, len: 2, .. })));
    assert!(matches!(le.distances(&le, &[(0, 0), (0, 7)]), Err(Error::Index { index: 7, .. })));
    assert!(matches!(spd::pair_distance(&a, &a, &[(0, 5)], &le, &le), Err(Error::Index { index: 5, .. })));
    assert!(matches!(spd::pair_distance(&three, &a, &[], &le, &le), Err(Error::Shape { name: "a", .. })));
    assert!(matches!(spd::distance(Metric::LogEuclidean, &a, &three), Err(Error::Shape { .. })));
    let single = a.to_dtype(DType::F32).unwrap();
    assert!(matches!(spd::distance(Metric::LogEuclidean, &a, &single), Err(Error::DtypeMismatch { .. })));
    assert!(matches!(spd::distance(Metric::LogEuclidean, &a.get(0).unwrap(), &a), Err(Error::Shape { .. })));
}

#[test]
fn covariances_that_do_not_fit() {
    let x = Tensor::ones((2, 3, 4), DType::F64, &Device::Cpu).unwrap();
    let logits = Tensor::ones((2, 3), DType::F64, &Device::Cpu).unwrap();
    assert!(spd::covariance(&x, &logits, 1e-4).is_ok());
    assert!(matches!(spd::covariance(&logits, &logits, 1e-4), Err(Error::Shape { name: "x", .. })));
    assert!(matches!(spd::covariance(&x, &x, 1e-4), Err(Error::Shape { name: "logits", .. })));
    assert!(matches!(spd::covariance(&x, &logits, -1.0), Err(Error::Attribute { name: "eps", .. })));
    assert!(matches!(spd::covariance(&x, &logits, f64::NAN), Err(Error::Attribute { name: "eps", .. })));
    let infinite = (&logits / 0.0).unwrap();
    assert!(matches!(spd::covariance(&x, &infinite, 0.0), Err(Error::NonFinite { name: "logits", batch: 0, .. })));
    let scores = Tensor::ones((2, 5, 3), DType::F64, &Device::Cpu).unwrap();
    assert!(spd::part_covariances(&x, &scores, 1e-4).is_ok());
    assert!(matches!(spd::part_covariances(&x, &logits, 1e-4), Err(Error::Shape { name: "logits", .. })));
    assert!(matches!(spd::part_covariances(&x, &x, 1e-4), Err(Error::Shape { name: "logits", .. })));
    assert!(matches!(spd::part_covariances(&scores, &scores, -1.0), Err(Error::Shape { name: "logits", .. })));
    assert!(matches!(spd::part_covariances(&x, &scores, -1.0), Err(Error::Attribute { name: "eps", .. })));
    let single = scores.to_dtype(DType::F32).unwrap();
    assert!(matches!(spd::part_covariances(&x, &single, 1e-4), Err(Error::DtypeMismatch { .. })));
    let rows = Tensor::from_slice(&[1.0, 1.0, f64::INFINITY, 0.0], (2, 2, 1), &Device::Cpu).unwrap();
    let scores = Tensor::zeros((2, 5, 2), DType::F64, &Device::Cpu).unwrap();
    assert!(matches!(spd::part_covariances(&rows, &scores, 0.0), Err(Error::NonFinite { name: "x", batch: 1, .. })));
}
