//! Geometry of the two metrics, bounds, and the inputs at the edge: repeated eigenvalues, rank one, condition 1e10,
//! one dimension, batches of none and one, distance 0.

#[path = "oracle_common/host.rs"]
mod host;

use candle_core::{Device, Tensor, Var};
use host::values;
use kernels::spd::{self, Metric};
use proptest::prelude::*;
use random::{Axis, Seeds, Stream};
use testkit::gradient::directional_error;
use testkit::spd::{batch, symmetrise, with_spectrum};
use testkit::tolerance::{FINITE_DIFFERENCE, IDENTITY_F64, assert_close};

const METRICS: [Metric; 2] = [Metric::LogEuclidean, Metric::BuresWasserstein];
const FUNCTIONS: [fn(&Tensor) -> kernels::Result<Tensor>; 4] = [spd::log, spd::sqrt, spd::inv_sqrt, spd::exp];
/// A function of one number.
type Scalar = fn(f64) -> f64;
/// Rounding of a few operations on numbers of size 1.
const ROUNDING: f64 = 1e-12;
/// Room for rounding in an inequality between numbers of size 1.
const SLACK: f64 = IDENTITY_F64;
/// Relative error of a distance whose arguments went through a chain of functions or products.
const CHAIN: f64 = 1e-9;

fn stream(seed: u64) -> Stream {
    Seeds::new(seed).stream(Axis::Test, &[])
}

fn tensor(values: &[f64], d: usize) -> Tensor {
    Tensor::from_slice(values, (values.len() / (d * d), d, d), &Device::Cpu).unwrap()
}

fn diagonal(w: &[f64]) -> Tensor {
    let d = w.len();
    tensor(&(0..d * d).map(|k| if k % (d + 1) == 0 { w[k / d] } else { 0.0 }).collect::<Vec<_>>(), d)
}

/// A matrix with eigenvalues spread over decades.
fn spread(d: usize, low: f64, high: f64, stream: &mut Stream) -> Vec<f64> {
    let w: Vec<f64> = (0..d).map(|_| 10f64.powf(stream.range(low, high))).collect();
    with_spectrum(&w, stream)
}

fn between(metric: Metric, a: &Tensor, b: &Tensor) -> f64 {
    values(&spd::distance(metric, a, b).unwrap())[0]
}

fn frobenius(x: &Tensor) -> f64 {
    values(x).iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// `G A Gᵀ`, symmetrised.
fn congruent(g: &[f64], a: &Tensor) -> Tensor {
    let d = a.dims()[2];
    let g = tensor(g, d);
    let mut out = values(&g.matmul(a).unwrap().matmul(&g.t().unwrap()).unwrap());
    symmetrise(&mut out, d);
    tensor(&out, d)
}

/// The affine-invariant distance ‖log(A^-½ B A^-½)‖.
fn affine(a: &Tensor, b: &Tensor) -> f64 {
    frobenius(&spd::log(&congruent(&values(&spd::inv_sqrt(a).unwrap()), b)).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn triangle_inequality_and_definiteness(seed in any::<u64>(), d in 1usize..8, low in -4.0f64..0.0) {
        let mut stream = stream(seed);
        let [a, b, c] = [0; 3].map(|_| tensor(&spread(d, low, 1.0, &mut stream), d));
        for metric in METRICS {
            let (ab, bc, ac) = (between(metric, &a, &b), between(metric, &b, &c), between(metric, &a, &c));
            prop_assert!(ac <= (ab + bc) * (1.0 + SLACK), "{metric:?}: {ac} > {ab} + {bc}");
            prop_assert!(ab > 0.0 && bc > 0.0 && ac > 0.0);
            prop_assert_eq!(between(metric, &a, &a), 0.0);
        }
    }

    #[test]
    fn the_triangle_is_flat_on_a_geodesic(seed in any::<u64>(), d in 1usize..7, t in 0.0f64..1.0) {
        // Log-Euclidean: C = exp((1 − t) log A + t log B). The metric is flat, so that the distance to any D is convex
        // along the geodesic, with the parallelogram law for its square.
        let mut stream = stream(seed);
        let [a, b, other] = [0; 3].map(|_| tensor(&batch(1, d, 0.2, 3.0, &mut stream), d));
        let line = ((spd::log(&a).unwrap() * (1.0 - t)).unwrap() + (spd::log(&b).unwrap() * t).unwrap()).unwrap();
        let on = spd::exp(&line).unwrap();
        let le = |x: &Tensor, y: &Tensor| between(Metric::LogEuclidean, x, y);
        assert_close("parts", &[le(&a, &on), le(&on, &b)], &[t * le(&a, &b), (1.0 - t) * le(&a, &b)], 2, CHAIN);
        let (to_a, to_b, to_on) = (le(&other, &a), le(&other, &b), le(&other, &on));
        prop_assert!(to_on <= (1.0 - t) * to_a + t * to_b + SLACK, "not convex: {to_on}");
        let law = (1.0 - t) * to_a * to_a + t * to_b * to_b - t * (1.0 - t) * le(&a, &b).powi(2);
        prop_assert!((to_on * to_on - law).abs() <= CHAIN * (1.0 + law), "{} is not {law}", to_on * to_on);
    }

    #[test]
    fn scaling_and_powers(seed in any::<u64>(), d in 1usize..8, c in 0.05f64..20.0) {
        // δ_LE(cA, cB) = δ_LE(A, B), δ_LE(A², B²) = 2 δ_LE(A, B); δ_BW(cA, cB) = √c δ_BW(A, B).
        let mut stream = stream(seed);
        let [a, b] = [0; 2].map(|_| tensor(&batch(1, d, 0.2, 3.0, &mut stream), d));
        let scaled = |metric| between(metric, &(&a * c).unwrap(), &(&b * c).unwrap());
        let [le, bw] = METRICS.map(|metric| between(metric, &a, &b));
        assert_close("LE scaled", &[scaled(Metric::LogEuclidean)], &[le], 1, IDENTITY_F64);
        assert_close("BW scaled", &[scaled(Metric::BuresWasserstein)], &[c.sqrt() * bw], 1, IDENTITY_F64);
        let square = |x: &Tensor| congruent(&values(x), &diagonal(&vec![1.0; d]));
        assert_close("LE squares", &[between(Metric::LogEuclidean, &square(&a), &square(&b))], &[2.0 * le], 1, CHAIN);
    }

    #[test]
    fn affine_maps_keep_neither_metric(seed in any::<u64>(), d in 2usize..6) {
        // A diagonal map keeps δ_LE between diagonal matrices but stretches δ_BW; between others it keeps neither, while
        // the affine-invariant distance stays: the map is applied rightly.
        let mut stream = stream(seed);
        let w: [Vec<f64>; 3] = [0; 3].map(|_| (0..d).map(|_| stream.range(0.5, 2.0)).collect());
        let (x, y) = (diagonal(&w[0]), diagonal(&w[1]));
        let g: Vec<f64> = values(&diagonal(&w[2].iter().map(|v| v + 2.0).collect::<Vec<_>>()));
        let ratio = |metric, x: &Tensor, y: &Tensor| between(metric, &congruent(&g, x), &congruent(&g, y)) / between(metric, x, y);
        prop_assert!((ratio(Metric::LogEuclidean, &x, &y) - 1.0).abs() <= CHAIN);
        prop_assert!(ratio(Metric::BuresWasserstein, &x, &y) >= 2.5, "every axis is stretched by at least 2.5");
        let [a, b] = [0; 2].map(|_| tensor(&batch(1, d, 0.2, 3.0, &mut stream), d));
        prop_assert!((affine(&congruent(&g, &a), &congruent(&g, &b)) / affine(&a, &b) - 1.0).abs() <= CHAIN);
        prop_assert!((ratio(Metric::BuresWasserstein, &a, &b) - 1.0).abs() > 1e-2);
    }

    #[test]
    fn lipschitz_in_the_smallest_eigenvalue(seed in any::<u64>(), d in 1usize..8, low in -3.0f64..0.0, near in any::<bool>()) {
        // ‖log A − log B‖ ≤ ‖A − B‖ / λ and δ_BW ≤ ‖A^½ − B^½‖ ≤ ‖A − B‖ / (2 √λ), λ the smallest eigenvalue of both.
        let mut stream = stream(seed);
        let bottom = 10f64.powf(low);
        let draw = |stream: &mut Stream| {
            let mut w: Vec<f64> = (0..d).map(|_| bottom * (1.0 + stream.range(0.0, 50.0))).collect();
            w[0] = bottom;
            with_spectrum(&w, stream)
        };
        let a = draw(&mut stream);
        let mut b = draw(&mut stream);
        if near {
            // Between matrices with eigenvalues ≥ λ lie matrices with eigenvalues ≥ λ.
            b.iter_mut().zip(&a).for_each(|(b, a)| *b = a + 1e-3 * (*b - a));
        }
        let (a, b) = (tensor(&a, d), tensor(&b, d));
        let apart = frobenius(&(&a - &b).unwrap());
        let [le, bw] = METRICS.map(|metric| between(metric, &a, &b));
        prop_assert!(le <= apart / bottom * (1.0 + CHAIN), "{le} > {apart} / {bottom}");
        prop_assert!(bw <= apart / (2.0 * bottom.sqrt()) * (1.0 + CHAIN), "{bw} > {apart} / 2 √{bottom}");
    }

    #[test]
    fn repeated_eigenvalues_have_gradients(seed in any::<u64>(), d in 2usize..7, kinds in 1usize..3) {
        let mut stream = stream(seed);
        let levels: Vec<f64> = (0..kinds).map(|_| stream.range(0.4, 2.5)).collect();
        let a = with_spectrum(&(0..d).map(|i| levels[i % kinds]).collect::<Vec<_>>(), &mut stream);
        let g = tensor(&(0..d * d).map(|_| stream.normal()).collect::<Vec<_>>(), d);
        for f in FUNCTIONS {
            let loss = |x: &Tensor| (f(&((x + x.t().unwrap()).unwrap() * 0.5).unwrap()).unwrap() * &g).unwrap().sum_all().unwrap();
            let variable = Var::from_tensor(&tensor(&a, d)).unwrap();
            let exact = values(loss(&variable).backward().unwrap().get(&variable).unwrap());
            let mut at = |x: &[f64]| loss(&tensor(x, d)).to_scalar::<f64>().unwrap();
            let error = directional_error(&mut at, &a, &exact, 1e-5, 3, &mut stream);
            prop_assert!(error <= FINITE_DIFFERENCE, "gradient is off by {error:.2e}");
        }
    }

    #[test]
    fn rank_one_plus_a_little(seed in any::<u64>(), d in 2usize..9, exponent in -6.0f64..-1.0) {
        // f(ε I + v vᵀ) = f(ε) I + (f(ε + ‖v‖²) − f(ε)) v vᵀ / ‖v‖².
        let mut stream = stream(seed);
        let eps = 10f64.powf(exponent);
        let v: Vec<f64> = (0..d).map(|_| stream.normal() + 0.1).collect();
        let size: f64 = v.iter().map(|x| x * x).sum();
        let outer = |i: usize, j: usize| v[i] * v[j];
        let build = |on: f64, along: f64| -> Vec<f64> {
            (0..d * d).map(|k| along * outer(k / d, k % d) + if k % (d + 1) == 0 { on } else { 0.0 }).collect()
        };
        let a = tensor(&build(eps, 1.0), d);
        let scalar: [Scalar; 4] = [f64::ln, f64::sqrt, |x| 1.0 / x.sqrt(), f64::exp];
        for (f, s) in FUNCTIONS.iter().zip(scalar) {
            let want = build(s(eps), (s(eps + size) - s(eps)) / size);
            // ε itself is only known to 1e-16 ‖A‖: a relative 1e-16 ‖A‖ / ε.
            let bar = IDENTITY_F64.max(64.0 * f64::EPSILON * (size + eps) / eps);
            assert_close("rank one", &values(&f(&a).unwrap()), &want, d * d, bar);
        }
    }

    #[test]
    fn one_dimension_is_the_scalar(a in 1e-6f64..1e3, b in 1e-6f64..1e3, g in -3.0f64..3.0) {
        let number = |x: f64| Var::from_tensor(&tensor(&[x], 1)).unwrap();
        let (x, y) = (number(a), number(b));
        let scalar: [(Scalar, Scalar); 3] =
            [(f64::ln, |x| 1.0 / x), (f64::sqrt, |x| 0.5 / x.sqrt()), (|x| 1.0 / x.sqrt(), |x| -0.5 * x.powf(-1.5))];
        for (f, (value, slope)) in FUNCTIONS.iter().zip(scalar) {
            let out = f(&x).unwrap();
            prop_assert!((values(&out)[0] - value(a)).abs() <= 1e-14 * value(a).abs().max(1e-2));
            let grads = (out * g).unwrap().sum_all().unwrap().backward().unwrap();
            assert_close("slope", &values(grads.get(&x).unwrap()), &[g * slope(a)], 1, IDENTITY_F64);
        }
        prop_assume!((a / b).ln().abs() > 1e-3);
        let sign = (a - b).signum();
        for (metric, want, slope) in [
            (Metric::LogEuclidean, (a / b).ln().abs(), sign / a),
            (Metric::BuresWasserstein, (a.sqrt() - b.sqrt()).abs(), 0.5 * sign / a.sqrt()),
        ] {
            let distance = spd::distance(metric, &x, &y).unwrap();
            assert_close("distance", &values(&distance), &[want], 1, CHAIN);
            let grads = distance.sum_all().unwrap().backward().unwrap();
            assert_close("slope", &values(grads.get(&x).unwrap()), &[slope], 1, CHAIN);
        }
    }

    #[test]
    fn a_batch_of_one_is_a_row_of_a_larger_one(seed in any::<u64>(), d in 1usize..10, at in 0usize..5) {
        let a = tensor(&batch(5, d, 0.1, 3.0, &mut stream(seed)), d);
        let own = a.narrow(0, at, 1).unwrap();
        for f in FUNCTIONS {
            let (all, one) = (f(&a).unwrap().narrow(0, at, 1).unwrap(), f(&own).unwrap());
            assert_close("function", &values(&one), &values(&all), d * d, IDENTITY_F64);
        }
        for metric in METRICS {
            let all = spd::distance(metric, &a, &a).unwrap().narrow(0, at, 1).unwrap();
            assert_close("distance", &values(&spd::distance(metric, &own, &a).unwrap()), &values(&all), 5, CHAIN);
        }
    }
}

#[test]
fn an_empty_batch_has_empty_gradients() {
    let empty = Var::from_tensor(&tensor(&[], 3)).unwrap();
    assert_eq!(empty.dims(), [0, 3, 3]);
    for f in FUNCTIONS {
        let grads = f(&empty).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&empty).unwrap().dims(), [0, 3, 3]);
    }
    let some = Var::from_tensor(&tensor(&batch(2, 3, 0.5, 2.0, &mut stream(1)), 3)).unwrap();
    for metric in METRICS {
        let grads = spd::distance(metric, &empty, &some).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&empty).unwrap().dims(), [0, 3, 3]);
        assert_eq!(values(grads.get(&some).unwrap()), vec![0.0; 18]);
    }
}

#[test]
fn log_euclidean_is_not_affine_invariant_by_hand() {
    // A = diag(1, 4), B = [[1, ½], [½, 1]], G = diag(1, 3): the affine-invariant distance stays, δ_LE does not.
    let (a, b) = (diagonal(&[1.0, 4.0]), tensor(&[1.0, 0.5, 0.5, 1.0], 2));
    let g = [1.0, 0.0, 0.0, 3.0];
    let (moved_a, moved_b) = (congruent(&g, &a), congruent(&g, &b));
    assert!((affine(&moved_a, &moved_b) - affine(&a, &b)).abs() < ROUNDING);
    let (before, after) = (between(Metric::LogEuclidean, &a, &b), between(Metric::LogEuclidean, &moved_a, &moved_b));
    assert!((before - after).abs() > 0.02, "{before} and {after}");
    // δ_BW between I and 4 I: √(1 + 1); after G² = diag(4, 1): √((2 − 4)² + (1 − 2)²).
    let (one, four) = (diagonal(&[1.0, 1.0]), diagonal(&[4.0, 4.0]));
    let g = [2.0, 0.0, 0.0, 1.0];
    assert!((between(Metric::BuresWasserstein, &one, &four) - 2f64.sqrt()).abs() < ROUNDING);
    let moved = between(Metric::BuresWasserstein, &congruent(&g, &one), &congruent(&g, &four));
    assert!((moved - 5f64.sqrt()).abs() < ROUNDING);
}

#[test]
fn condition_1e10_in_float64() {
    let w: Vec<f64> = (0..6).map(|k| 10f64.powi(2 * k - 8)).collect();
    let d = w.len();
    // Where the matrix determines its small eigenvalues, value and gradient have all their digits.
    let x = Var::from_tensor(&diagonal(&w)).unwrap();
    let g: Vec<f64> = (0..d * d).map(|k| 1.0 + (k / d + k % d) as f64).collect();
    let y = spd::log(&x).unwrap();
    let logs: Vec<f64> = w.iter().map(|v| v.ln()).collect();
    assert_close("log", &values(&y), &values(&diagonal(&logs)), d * d, IDENTITY_F64);
    let grads = (y * tensor(&g, d)).unwrap().sum_all().unwrap().backward().unwrap();
    let want: Vec<f64> = (0..d * d)
        .map(|k| (k / d, k % d))
        .map(|(i, j)| g[i * d + j] * if i == j { 1.0 / w[i] } else { (logs[i] - logs[j]) / (w[i] - w[j]) })
        .collect();
    assert_close("gradient of log", &values(grads.get(&x).unwrap()), &want, 1, IDENTITY_F64);
    // Turned, the products come back.
    for seed in 0..8 {
        let turned = with_spectrum(&w, &mut stream(seed));
        let a = tensor(&turned, d);
        let root = spd::sqrt(&a).unwrap();
        assert_close("sqrt²", &values(&root.matmul(&root).unwrap()), &turned, d * d, IDENTITY_F64);
        assert_close("exp log", &values(&spd::exp(&spd::log(&a).unwrap()).unwrap()), &turned, d * d, IDENTITY_F64);
        for metric in METRICS {
            assert_eq!(between(metric, &a, &a), 0.0);
            assert!(between(metric, &a, &diagonal(&w)).is_finite());
        }
    }
}

#[test]
fn distance_zero_among_others_contributes_no_gradient() {
    let mut stream = stream(3);
    let a = batch(2, 4, 0.3, 2.0, &mut stream);
    let b = [a[..16].to_vec(), batch(1, 4, 0.3, 2.0, &mut stream)].concat();
    for metric in METRICS {
        let gradient = |weights: [[f64; 2]; 2]| {
            let (x, y) = (Var::from_tensor(&tensor(&a, 4)).unwrap(), Var::from_tensor(&tensor(&b, 4)).unwrap());
            let weights = Tensor::new(&weights, &Device::Cpu).unwrap();
            let distances = spd::distance(metric, &x, &y).unwrap();
            assert_eq!(values(&distances)[0], 0.0);
            let grads = (distances * weights).unwrap().sum_all().unwrap().backward().unwrap();
            [values(grads.get(&x).unwrap()), values(grads.get(&y).unwrap())]
        };
        // The coincident pair may have any weight.
        let without = gradient([[0.0, 1.0], [2.0, 3.0]]);
        assert_eq!(gradient([[5.0, 1.0], [2.0, 3.0]]), without);
        assert!(without.iter().flatten().all(|v| v.is_finite()));
    }
}
