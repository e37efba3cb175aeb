//! SPD kernels against the oracle files, in both dtypes, every case.

mod oracle_common;

use candle_core::{DType, Tensor, Var};
use kernels::spd::{self, Metric, Prepared};
use oracle_common::{DTYPES, check, gradient, input, tolerance};
use testkit::oracle::cases;

fn function(op: &str, f: fn(&Tensor) -> kernels::Result<Tensor>) {
    for case in cases(op, "") {
        for dtype in DTYPES {
            let a = Var::from_tensor(&input(&case, "a", dtype)).unwrap();
            let y = f(&a).unwrap();
            let bar = tolerance(dtype);
            let item = case.tensor("a").shape[1].pow(2);
            check(&case, "y", dtype, &y, item, bar.value, false);
            let grads = gradient(&y, &input(&case, "g", dtype), 1.0);
            check(&case, "grad_a", dtype, grads.get(&a).unwrap(), item, bar.gradient, true);
        }
    }
}

#[test]
fn logarithm() {
    function("spd_log", spd::log);
}

#[test]
fn square_root() {
    function("spd_sqrt", spd::sqrt);
}

#[test]
fn inverse_square_root() {
    function("spd_inv_sqrt", spd::inv_sqrt);
}

#[test]
fn exponential() {
    function("spd_exp", spd::exp);
}

type Distance = fn(Metric, &Tensor, &Tensor) -> kernels::Result<Tensor>;

/// All pairs through `pair_distance`, back in the shape `[N, M]`.
fn through_pairs(metric: Metric, a: &Tensor, b: &Tensor) -> kernels::Result<Tensor> {
    let (n, m) = (a.dim(0)?, b.dim(0)?);
    let pairs: Vec<(usize, usize)> = (0..n).flat_map(|i| (0..m).map(move |j| (i, j))).collect();
    let (left, right) = (Prepared::new(metric, a)?, Prepared::new(metric, b)?);
    Ok(spd::pair_distance(a, b, &pairs, &left, &right)?.reshape((n, m))?)
}

fn distances(op: &str, metric: Metric, f: Distance) {
    for case in cases(op, "") {
        for dtype in DTYPES {
            let a = Var::from_tensor(&input(&case, "a", dtype)).unwrap();
            let b = Var::from_tensor(&input(&case, "b", dtype)).unwrap();
            let y = f(metric, &a, &b).unwrap();
            let bar = tolerance(dtype);
            check(&case, "dist", dtype, &y, case.tensor("dist").values.len(), bar.value, false);
            let grads = gradient(&y, &input(&case, "g", dtype), 1.0);
            let item = case.tensor("a").shape[1].pow(2);
            check(&case, "grad_a", dtype, grads.get(&a).unwrap(), item, bar.gradient, true);
            check(&case, "grad_b", dtype, grads.get(&b).unwrap(), item, bar.gradient, true);
        }
    }
}

#[test]
fn log_euclidean_distance() {
    distances("le_distance", Metric::LogEuclidean, spd::distance);
    distances("le_distance", Metric::LogEuclidean, through_pairs);
}

#[test]
fn bures_wasserstein_distance() {
    distances("bw_distance", Metric::BuresWasserstein, spd::distance);
    distances("bw_distance", Metric::BuresWasserstein, through_pairs);
}

#[test]
fn prepared_values() {
    for (op, metric) in [("le_distance", Metric::LogEuclidean), ("bw_distance", Metric::BuresWasserstein)] {
        for case in cases(op, "") {
            let prepared = |name| Prepared::new(metric, &input(&case, name, DType::F64)).unwrap();
            let (a, b) = (prepared("a"), prepared("b"));
            let got: Vec<f64> = (0..a.len())
                .flat_map(|i| (0..b.len()).map(move |j| (i, j)))
                .map(|(i, j)| a.distance(i, &b, j).unwrap())
                .collect();
            let want = &case.tensor("dist").values;
            // The square is promised to 1e-9.
            let got: Vec<f64> = got.iter().map(|d| d * d).collect();
            let want: Vec<f64> = want.iter().map(|d| d * d).collect();
            testkit::tolerance::assert_close(&format!("{op}.{}", case.case), &got, &want, 1, 1e-9);
        }
    }
}

#[test]
fn covariance() {
    for case in cases("covariance", "") {
        for dtype in DTYPES {
            let x = Var::from_tensor(&input(&case, "x", dtype)).unwrap();
            let logits = Var::from_tensor(&input(&case, "logits", dtype)).unwrap();
            let y = spd::covariance(&x, &logits, case.number("eps")).unwrap();
            let bar = tolerance(dtype);
            let shape = &case.tensor("x").shape;
            check(&case, "y", dtype, &y, shape[2].pow(2), bar.value, false);
            let grads = gradient(&y, &input(&case, "g", dtype), 1.0);
            check(&case, "grad_x", dtype, grads.get(&x).unwrap(), shape[1] * shape[2], bar.gradient, false);
            check(&case, "grad_logits", dtype, grads.get(&logits).unwrap(), shape[1], bar.gradient, false);
        }
    }
}
