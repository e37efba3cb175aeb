//! CoTAP against its definition, and the assignments against exhaustive search.

#[path = "oracle_common/host.rs"]
mod host;

use candle_core::{DType, Device, Tensor, Var};
use host::values;
use kernels::Error;
use kernels::assignment::{hungarian, mutual, nearest};
use kernels::cotap::cotap;
use proptest::prelude::*;
use random::{Axis, Seeds, Stream};
use testkit::gradient::directional_error;
use testkit::tolerance::{FINITE_DIFFERENCE, IDENTITY_F64, assert_close};

fn stream(seed: u64) -> Stream {
    Seeds::new(seed).stream(Axis::Test, &[])
}

/// Loss and gradient by the definition, O(n²).
fn definition(p: &[f64], q: &[f64], tau1: f64, tau2: f64) -> (f64, Vec<f64>) {
    let n = p.len();
    let penalty = |x: f64| if x < 0.0 { 1.0 - 2.0 * x / tau2 } else { (1.0 - x / tau2).max(0.0).powi(2) };
    let slope = |x: f64| if x < 0.0 { -2.0 / tau2 } else { -2.0 / tau2 * (1.0 - x / tau2).max(0.0) };
    let (mut loss, mut gradient) = (0.0, vec![0.0; n]);
    for i in 0..n {
        let count = (0..n).filter(|&j| q[j] >= q[i] && p[j] >= p[i]).count() as f64;
        let lower: Vec<usize> = (0..n).filter(|&j| q[j] < q[i]).collect();
        let s = lower.iter().map(|&j| penalty(p[i] - p[j])).sum::<f64>() / count;
        let height = (q[i] - tau1).max(0.0) / n as f64;
        loss += height * s / (1.0 + s);
        let weight = height / ((1.0 + s) * (1.0 + s) * count);
        for j in lower {
            gradient[i] += weight * slope(p[i] - p[j]);
            gradient[j] -= weight * slope(p[i] - p[j]);
        }
    }
    (loss, gradient)
}

fn rows(values: &[f64], n: usize) -> Tensor {
    Tensor::from_slice(values, (values.len() / n, n), &Device::Cpu).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cotap_is_its_definition(
        seed in any::<u64>(),
        n in 1usize..40,
        levels in prop_oneof![Just(0.0), Just(2.0), Just(8.0)],
        tau1 in -0.5f64..0.5,
        tau2 in prop_oneof![Just(0.25), Just(0.5), 0.05f64..3.0],
    ) {
        let mut stream = stream(seed);
        // Few levels make ties in p and q, and differences of exactly τ2.
        let mut draw = |_| { let x = stream.range(-1.0, 1.0); if levels > 0.0 { (x * levels).round() / levels } else { x } };
        let p: Vec<f64> = (0..2 * n).map(&mut draw).collect();
        let q: Vec<f64> = (0..2 * n).map(&mut draw).collect();
        let student = Var::from_tensor(&rows(&p, n)).unwrap();
        let loss = cotap(&student, &rows(&q, n), tau1, tau2).unwrap();
        let gradient = values(loss.sum_all().unwrap().backward().unwrap().get(&student).unwrap());
        let (first, second) = (definition(&p[..n], &q[..n], tau1, tau2), definition(&p[n..], &q[n..], tau1, tau2));
        assert_close("loss", &values(&loss), &[first.0, second.0], 1, IDENTITY_F64);
        assert_close("gradient", &gradient, &[first.1, second.1].concat(), n, IDENTITY_F64);
    }

    #[test]
    fn hungarian_is_optimal(seed in any::<u64>(), n in 0usize..7, whole in any::<bool>()) {
        let mut stream = stream(seed);
        let cost: Vec<f64> = (0..n * n).map(|_| { let x = stream.range(-3.0, 3.0); if whole { x.round() } else { x } }).collect();
        let got = hungarian(&cost, n);
        let mut seen = got.clone();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..n).collect::<Vec<_>>());
        let total = |columns: &[usize]| columns.iter().enumerate().map(|(i, j)| cost[i * n + j]).sum::<f64>();
        let best = permutations(n).iter().map(|p| total(p)).fold(f64::INFINITY, f64::min);
        prop_assert!((total(&got) - best).abs() <= IDENTITY_F64, "{} instead of {best}", total(&got));
    }

    #[test]
    fn mutual_is_its_definition(seed in any::<u64>(), n in 0usize..7, whole in any::<bool>()) {
        let mut stream = stream(seed);
        let cost: Vec<f64> = (0..n * n).map(|_| { let x = stream.range(0.0, 3.0); if whole { x.round() } else { x } }).collect();
        prop_assert_eq!(mutual(&cost, n), mutual_by_definition(&cost, n));
    }
}

/// Long enough for the sort of long lists, with and without ties.
#[test]
fn cotap_of_long_lists_is_its_definition() {
    let mut stream = stream(31);
    let n = 1500;
    for levels in [0.0, 64.0] {
        let mut draw = || {
            let x = stream.range(-1.0, 1.0);
            if levels > 0.0 { (x * levels).round() / levels } else { x }
        };
        let p: Vec<f64> = (0..n).map(|_| draw()).collect();
        let q: Vec<f64> = (0..n).map(|_| draw()).collect();
        let student = Var::from_tensor(&rows(&p, n)).unwrap();
        let loss = cotap(&student, &rows(&q, n), -0.2, 0.5).unwrap();
        let gradient = values(loss.sum_all().unwrap().backward().unwrap().get(&student).unwrap());
        let (want, slopes) = definition(&p, &q, -0.2, 0.5);
        assert_close("loss", &values(&loss), &[want], 1, IDENTITY_F64);
        assert_close("gradient", &gradient, &slopes, n, IDENTITY_F64);
    }
}

fn permutations(n: usize) -> Vec<Vec<usize>> {
    (0..n).fold(vec![Vec::new()], |shorter, last| {
        let insert =
            |p: &Vec<usize>| (0..=p.len()).map(|at| [&p[..at], &[last], &p[at..]].concat()).collect::<Vec<_>>();
        shorter.iter().flat_map(insert).collect()
    })
}

fn mutual_by_definition(cost: &[f64], n: usize) -> Vec<usize> {
    let first = |of: &dyn Fn(usize) -> f64| (0..n).reduce(|best, k| if of(k) < of(best) { k } else { best });
    let mut out: Vec<Option<usize>> = vec![None; n];
    for i in 0..n {
        let j = first(&|j| cost[i * n + j]).unwrap();
        if first(&|r| cost[r * n + j]) == Some(i) {
            out[i] = Some(j);
        }
    }
    while let Some((i, j)) = (0..n * n)
        .map(|k| (k / n, k % n))
        .filter(|&(i, j)| out[i].is_none() && !out.contains(&Some(j)))
        .reduce(|best, k| if cost[k.0 * n + k.1] < cost[best.0 * n + best.1] { k } else { best })
    {
        out[i] = Some(j);
    }
    out.into_iter().map(Option::unwrap).collect()
}

#[test]
fn gradient_of_cotap_by_differences() {
    let mut stream = stream(3);
    let n = 30;
    let p: Vec<f64> = (0..n).map(|_| stream.range(-1.0, 1.0)).collect();
    let q: Vec<f64> = (0..n).map(|_| stream.range(-1.0, 1.0)).collect();
    let student = Var::from_tensor(&rows(&p, n)).unwrap();
    let loss = |x: &Tensor| cotap(x, &rows(&q, n), -0.2, 0.5).unwrap().sum_all().unwrap();
    let exact = values(loss(&student).backward().unwrap().get(&student).unwrap());
    let mut f = |x: &[f64]| loss(&rows(x, n)).to_scalar::<f64>().unwrap();
    let error = directional_error(&mut f, &p, &exact, 1e-6, 5, &mut stream);
    assert!(error <= FINITE_DIFFERENCE, "gradient is off by {error:.2e}");
}

#[test]
fn refusals_of_cotap() {
    let p = Tensor::ones((2, 5), DType::F64, &Device::Cpu).unwrap();
    assert_eq!(values(&cotap(&p, &p, 0.0, 0.5).unwrap()), [0.0, 0.0]);
    assert_eq!(cotap(&p.narrow(0, 0, 0).unwrap(), &p.narrow(0, 0, 0).unwrap(), 0.0, 0.5).unwrap().dims(), [0]);
    assert!(matches!(cotap(&p.get(0).unwrap(), &p, 0.0, 0.5), Err(Error::Shape { name: "p", .. })));
    assert!(matches!(cotap(&p, &p.narrow(1, 0, 3).unwrap(), 0.0, 0.5), Err(Error::Shape { name: "q", .. })));
    assert!(matches!(cotap(&p, &p, 0.0, 0.0), Err(Error::Attribute { name: "tau2", .. })));
    assert!(matches!(cotap(&p, &p, f64::NAN, 0.5), Err(Error::Attribute { name: "tau1", .. })));
    assert!(matches!(cotap(&(&p / 0.0).unwrap(), &p, 0.0, 0.5), Err(Error::NonFinite { name: "p", batch: 0, .. })));
    assert!(matches!(cotap(&p, &p.to_dtype(DType::F32).unwrap(), 0.0, 0.5), Err(Error::DtypeMismatch { .. })));
}

#[test]
fn assignments_by_hand() {
    // Row 0 and column 1 are each other's nearest; then (2, 0) at 2 comes before (1, 2) at 5.
    let cost = [4.0, 1.0, 3.0, 3.0, 2.0, 5.0, 2.0, 1.5, 6.0];
    assert_eq!(nearest(&cost, 3), [1, 1, 1]);
    assert_eq!(mutual(&cost, 3), [1, 2, 0]);
    assert_eq!(hungarian(&cost, 3), [2, 1, 0]);
    assert_eq!(nearest(&[1.0, 1.0, 0.0, 0.0], 2), [0, 0]);
}

#[test]
#[should_panic(expected = "finite")]
fn assignment_of_nan() {
    hungarian(&[f64::NAN], 1);
}
