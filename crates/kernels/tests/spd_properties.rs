//! Identities, invariances, bounds and gradients of the SPD kernels.

#[path = "oracle_common/host.rs"]
mod host;

use candle_core::{DType, Device, Tensor, Var};
use host::values;
use kernels::spd::{self, Metric, Prepared};
use proptest::prelude::*;
use random::{Axis, Seeds, Stream};
use testkit::gradient::directional_error;
use testkit::spd::{batch, orthogonal, symmetrise, with_spectrum};
use testkit::tolerance::{FINITE_DIFFERENCE, IDENTITY_F64, ORACLE_F32, ORACLE_F64, assert_close};

const METRICS: [Metric; 2] = [Metric::LogEuclidean, Metric::BuresWasserstein];

fn stream(seed: u64) -> Stream {
    Seeds::new(seed).stream(Axis::Test, &[])
}

fn tensor(values: &[f64], d: usize) -> Tensor {
    Tensor::from_slice(values, (values.len() / (d * d), d, d), &Device::Cpu).unwrap()
}

/// `Q A Qᵀ`, symmetrised.
fn congruence(a: &[f64], q: &[f64], d: usize) -> Vec<f64> {
    let q = Tensor::from_slice(q, (d, d), &Device::Cpu).unwrap();
    let out = q.broadcast_matmul(&tensor(a, d)).unwrap().broadcast_matmul(&q.t().unwrap()).unwrap();
    let mut out = values(&out);
    out.chunks_mut(d * d).for_each(|m| symmetrise(m, d));
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn functions_invert_each_other(seed in any::<u64>(), n in 0usize..4, d in 1usize..12) {
        let a = batch(n, d, 0.2, 3.0, &mut stream(seed));
        let x = tensor(&a, d);
        let close = |what: &str, got: &Tensor, want: &[f64]| assert_close(what, &values(got), want, d * d, IDENTITY_F64);
        close("exp log", &spd::exp(&spd::log(&x).unwrap()).unwrap(), &a);
        let root = spd::sqrt(&x).unwrap();
        close("sqrt²", &root.matmul(&root).unwrap(), &a);
        let identity: Vec<f64> = (0..n * d * d).map(|k| f64::from(u8::from(k % (d * d) % (d + 1) == 0))).collect();
        close("inv_sqrt sqrt", &spd::inv_sqrt(&x).unwrap().matmul(&root).unwrap(), &identity);
    }

    #[test]
    fn distances_are_symmetric_and_invariant(seed in any::<u64>(), d in 1usize..9) {
        let mut stream = stream(seed);
        let (a, b) = (batch(3, d, 0.2, 3.0, &mut stream), batch(2, d, 0.2, 3.0, &mut stream));
        let q = orthogonal(d, &mut stream);
        for metric in METRICS {
            let plain = values(&spd::distance(metric, &tensor(&a, d), &tensor(&b, d)).unwrap());
            let swapped = spd::distance(metric, &tensor(&b, d), &tensor(&a, d)).unwrap();
            assert_close("symmetry", &values(&swapped.t().unwrap()), &plain, 1, IDENTITY_F64);
            let turned = |m: &[f64]| tensor(&congruence(m, &q, d), d);
            let rotated = spd::distance(metric, &turned(&a), &turned(&b)).unwrap();
            assert_close("congruence", &values(&rotated), &plain, 1, IDENTITY_F64);
        }
    }

    #[test]
    fn log_euclidean_is_invariant_under_inversion(seed in any::<u64>(), d in 1usize..9) {
        let mut stream = stream(seed);
        let (a, b) = (tensor(&batch(2, d, 0.2, 3.0, &mut stream), d), tensor(&batch(2, d, 0.2, 3.0, &mut stream), d));
        let inverse = |m: &Tensor| {
            let root = spd::inv_sqrt(m).unwrap();
            root.matmul(&root).unwrap()
        };
        let plain = spd::distance(Metric::LogEuclidean, &a, &b).unwrap();
        let inverted = spd::distance(Metric::LogEuclidean, &inverse(&a), &inverse(&b)).unwrap();
        assert_close("inversion", &values(&inverted), &values(&plain), 1, IDENTITY_F64);
    }

    #[test]
    fn bures_wasserstein_lies_between_its_bounds(seed in any::<u64>(), d in 1usize..9, spread in 0.0f64..5.0) {
        let mut stream = stream(seed);
        let mut wide = |_: usize| {
            let w: Vec<f64> = (0..d).map(|_| 10f64.powf(stream.range(-spread, 1.0))).collect();
            with_spectrum(&w, &mut stream)
        };
        let (a, b) = (wide(0), wide(1));
        let (a, b) = (tensor(&a, d), tensor(&b, d));
        let distance = values(&spd::distance(Metric::BuresWasserstein, &a, &b).unwrap())[0];
        let h: f64 = values(&(spd::sqrt(&a).unwrap() - spd::sqrt(&b).unwrap()).unwrap()).iter().map(|v| v * v).sum();
        let (h, slack) = (h.sqrt(), 1.0 + IDENTITY_F64);
        prop_assert!(h / 2f64.sqrt() <= distance * slack && distance <= h * slack, "{distance} against {h}");
    }

    #[test]
    fn hardest_agrees_with_all_distances(seed in any::<u64>(), d in 1usize..7, k in 0usize..6, spread in 0.0f64..3.0) {
        let mut stream = stream(seed);
        let mut wide = |n: usize| -> Vec<f64> {
            (0..n)
                .flat_map(|_| {
                    let w: Vec<f64> = (0..d).map(|_| 10f64.powf(stream.range(-spread, 0.5))).collect();
                    with_spectrum(&w, &mut stream)
                })
                .collect()
        };
        let (a, mut b) = (wide(3), wide(12));
        b.copy_within(0..d * d, 5 * d * d); // Equal candidates: a tie.
        b[7 * d * d..8 * d * d].copy_from_slice(&a[..d * d]); // And one at distance 0.
        for metric in METRICS {
            let (left, right) = (Prepared::new(metric, &tensor(&a, d)).unwrap(), Prepared::new(metric, &tensor(&b, d)).unwrap());
            let candidates = [11, 0, 1, 2, 5, 7, 9, 10];
            let found = left.nearest_in_groups(&right, 1, k, |_, j| candidates.contains(&j)).unwrap();
            for (i, found) in found.into_iter().enumerate() {
                let mut all: Vec<(usize, f64)> =
                    candidates.iter().map(|&j| (j, left.distance(i, &right, j).unwrap())).collect();
                all.sort_by(|x, y| x.1.total_cmp(&y.1).then(x.0.cmp(&y.0)));
                all.truncate(k);
                prop_assert_eq!(found, all);
            }
        }
    }

    #[test]
    fn gradients_of_functions(seed in any::<u64>(), d in 1usize..6) {
        let mut stream = stream(seed);
        let a = batch(2, d, 0.3, 3.0, &mut stream);
        let g = tensor(&(0..2 * d * d).map(|_| stream.normal()).collect::<Vec<_>>(), d);
        for f in [spd::log, spd::sqrt, spd::inv_sqrt, spd::exp] {
            // The op reads symmetric matrices: differentiate it along (A + Aᵀ) / 2.
            let loss = |x: &Tensor| (f(&((x + x.t().unwrap()).unwrap() * 0.5).unwrap()).unwrap() * &g).unwrap().sum_all().unwrap();
            check_gradient(&loss, &a, d, &mut stream);
        }
    }

    #[test]
    fn gradients_of_distances(seed in any::<u64>(), d in 1usize..6) {
        let mut stream = stream(seed);
        let (a, b) = (batch(2, d, 0.3, 3.0, &mut stream), batch(3, d, 0.3, 3.0, &mut stream));
        let g = Tensor::from_vec((0..6).map(|_| stream.normal()).collect(), (2, 3), &Device::Cpu).unwrap();
        for metric in METRICS {
            let symmetric = |x: &Tensor| ((x + x.t().unwrap()).unwrap() * 0.5).unwrap();
            let (fixed_a, fixed_b) = (tensor(&a, d), tensor(&b, d));
            let of_a = |x: &Tensor| (spd::distance(metric, &symmetric(x), &fixed_b).unwrap() * &g).unwrap().sum_all().unwrap();
            check_gradient(&of_a, &a, d, &mut stream);
            let of_b = |x: &Tensor| (spd::distance(metric, &fixed_a, &symmetric(x)).unwrap() * &g).unwrap().sum_all().unwrap();
            check_gradient(&of_b, &b, d, &mut stream);
        }
    }
}

/// `∇ tr log A = A^{-1}` and `exp log A = A`, of matrices that are taken in different ways: sizes up to and beyond the largest
/// that goes by partial fractions, condition numbers on both sides of theirs, spectra close to one value, side by side.
#[test]
fn logarithms_whichever_way_they_are_taken() {
    let mut stream = stream(41);
    for d in [9, 128, 129] {
        let ends: [f64; 6] = [0.1, 0.9, 2e-3, 5e-5, 0.999, 1.5e-3];
        let all: Vec<f64> = ends
            .iter()
            .flat_map(|end| {
                let mut spectrum: Vec<f64> = (0..d).map(|_| stream.range(*end, 1.0)).collect();
                (spectrum[0], spectrum[1]) = (*end, 1.0);
                with_spectrum(&spectrum, &mut stream)
            })
            .collect();
        let x = Var::from_tensor(&tensor(&all, d)).unwrap();
        let logarithms = spd::log(&x).unwrap();
        assert_close("exp log", &values(&spd::exp(&logarithms.detach()).unwrap()), &all, d * d, 1e-11);
        let identity = Tensor::eye(d, DType::F64, &Device::Cpu).unwrap();
        let traces = logarithms.broadcast_mul(&identity).unwrap().sum_all().unwrap();
        let inverse = traces.backward().unwrap().remove(&x).unwrap();
        let products = values(&inverse.matmul(&x).unwrap());
        let identities: Vec<f64> = (0..ends.len()).flat_map(|_| values(&identity)).collect();
        assert_close("gradient of the trace times the matrix", &products, &identities, d * d, 1e-9);
    }
}

fn check_gradient(loss: &dyn Fn(&Tensor) -> Tensor, x: &[f64], d: usize, stream: &mut Stream) {
    let variable = Var::from_tensor(&tensor(x, d)).unwrap();
    let grads = loss(&variable).backward().unwrap();
    let exact = values(grads.get(&variable).unwrap());
    let mut f = |x: &[f64]| loss(&tensor(x, d)).to_scalar::<f64>().unwrap();
    let error = directional_error(&mut f, x, &exact, 1e-5, 3, stream);
    assert!(error <= FINITE_DIFFERENCE, "gradient is off by {error:.2e}");
}

#[test]
fn gradient_of_covariance() {
    let mut stream = stream(4);
    let (b, n, d) = (2, 5, 3);
    let x: Vec<f64> = (0..b * n * d + b * n).map(|_| stream.normal()).collect();
    let g = tensor(&(0..b * d * d).map(|_| stream.normal()).collect::<Vec<_>>(), d);
    let loss = |flat: &Tensor| {
        let tokens = flat.narrow(0, 0, b * n * d).unwrap().reshape((b, n, d)).unwrap();
        let logits = flat.narrow(0, b * n * d, b * n).unwrap().reshape((b, n)).unwrap();
        (spd::covariance(&tokens, &logits, 1e-3).unwrap() * &g).unwrap().sum_all().unwrap()
    };
    let flat = |x: &[f64]| Tensor::from_slice(x, x.len(), &Device::Cpu).unwrap();
    let variable = Var::from_tensor(&flat(&x)).unwrap();
    let exact = values(loss(&variable).backward().unwrap().get(&variable).unwrap());
    let mut f = |x: &[f64]| loss(&flat(x)).to_scalar::<f64>().unwrap();
    let error = directional_error(&mut f, &x, &exact, 1e-5, 5, &mut stream);
    assert!(error <= FINITE_DIFFERENCE, "gradient is off by {error:.2e}");
}

#[test]
fn covariance_is_exactly_symmetric_and_shift_invariant() {
    let mut stream = stream(5);
    let x = Tensor::from_vec((0..2 * 7 * 4).map(|_| stream.normal()).collect(), (2, 7, 4), &Device::Cpu).unwrap();
    let logits = Tensor::from_vec((0..14).map(|_| stream.normal()).collect(), (2, 7), &Device::Cpu).unwrap();
    let y = spd::covariance(&x, &logits, 1e-4).unwrap();
    assert_eq!(values(&y), values(&y.t().unwrap()));
    let shifted = spd::covariance(&(&x + 3.0).unwrap(), &(&logits - 50.0).unwrap(), 1e-4).unwrap();
    assert_close("shifted", &values(&shifted), &values(&y), 16, IDENTITY_F64);
}

/// Of matrices factorised together, as of those factorised on their own, in either direction, with spectra from narrow to wide.
#[test]
fn pairs_have_the_distances_of_single_batches() {
    let (d, pairs) = (6, [(0, 0), (1, 2), (3, 1), (2, 2)]);
    let mut stream = stream(15);
    let mut draw = |least: f64| {
        let one = |_| with_spectrum(&[least, 0.5, 0.7, 1.0, 1.5 * least, stream.range(1.0, 2.0)], &mut stream);
        Var::from_tensor(&tensor(&(0..4).flat_map(one).collect::<Vec<_>>(), d)).unwrap()
    };
    for (metric, least) in METRICS.into_iter().flat_map(|metric| [0.5, 1e-3, 1e-8].map(|least| (metric, least))) {
        let (a, b) = (draw(least), draw(0.1));
        let single = [&a, &b].map(|x| Prepared::new(metric, x).unwrap());
        let (left, right) = Prepared::pair(metric, &a, &b).unwrap();
        for (x, y, [own, other], [p, q]) in
            [(&a, &b, [&single[0], &single[1]], [&left, &right]), (&b, &a, [&single[1], &single[0]], [&right, &left])]
        {
            let (want, got) = (
                spd::pair_distance(x, y, &pairs, own, other).unwrap(),
                spd::pair_distance(x, y, &pairs, p, q).unwrap(),
            );
            assert_close("distance", &values(&got), &values(&want), 1, IDENTITY_F64);
            for (&(i, j), want) in pairs.iter().zip(values(&want)) {
                assert_close("value alone", &[p.distance(i, q, j).unwrap()], &[want], 1, 1e-9);
            }
            let gradients = |y: &Tensor| y.sum_all().unwrap().backward().unwrap();
            let (want, got) = (gradients(&want), gradients(&got));
            for of in [x, y] {
                let of_both = [&got, &want].map(|all| values(all.get(of).unwrap()));
                assert_close("gradient", &of_both[0], &of_both[1], d * d, ORACLE_F64.gradient);
            }
        }
    }
}

/// Against one covariance after the other of copies of the tokens, values and gradients.
#[test]
fn part_covariances_are_those_of_each_part() {
    let (b, parts, n, d) = (3, 4, 7, 5);
    for dtype in [DType::F64, DType::F32] {
        let mut stream = stream(14);
        let mut draw = |shape: &[usize]| {
            let count = shape.iter().product();
            let values: Vec<f64> = (0..count).map(|_| stream.normal()).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let x = Var::from_tensor(&draw(&[b, n, d]).to_dtype(dtype).unwrap()).unwrap();
        let logits = Var::from_tensor(&draw(&[b, parts, n]).to_dtype(dtype).unwrap()).unwrap();
        let g = draw(&[b, parts, d, d]);
        let got = spd::part_covariances(&x, &logits, 1e-3).unwrap();
        assert_eq!((got.dims(), got.dtype()), (&[b, parts, d, d][..], DType::F64));
        assert_eq!(values(&got), values(&got.t().unwrap()));
        let copies = x.to_dtype(DType::F64).unwrap().unsqueeze(1).unwrap().broadcast_as((b, parts, n, d)).unwrap();
        let copies = copies.contiguous().unwrap().reshape((b * parts, n, d)).unwrap();
        let scores = logits.to_dtype(DType::F64).unwrap().reshape((b * parts, n)).unwrap();
        let want = spd::covariance(&copies, &scores, 1e-3).unwrap().reshape((b, parts, d, d)).unwrap();
        assert_close("value", &values(&got), &values(&want), d * d, IDENTITY_F64);
        let gradients = |y: &Tensor| (y * &g).unwrap().sum_all().unwrap().backward().unwrap();
        let (got, want) = (gradients(&got), gradients(&want));
        // In float32 one side rounds once, the other as often as there are parts.
        let bar = if dtype == DType::F64 { IDENTITY_F64 } else { ORACLE_F32.gradient };
        for (of, item) in [(&x, n * d), (&logits, n)] {
            assert_close("gradient", &values(got.get(of).unwrap()), &values(want.get(of).unwrap()), item, bar);
        }
    }
}

#[test]
fn identical_matrices_are_at_distance_zero_with_gradient_zero() {
    let a = batch(3, 6, 1e-3, 2.0, &mut stream(6));
    for metric in METRICS {
        for dtype in [DType::F64, DType::F32] {
            let x = Var::from_tensor(&tensor(&a, 6).to_dtype(dtype).unwrap()).unwrap();
            let prepared = Prepared::new(metric, &x).unwrap();
            let own = spd::pair_distance(&x, &x, &[(0, 0), (2, 2)], &prepared, &prepared).unwrap();
            assert_eq!(values(&own), [0.0, 0.0]);
            let grads = own.sum_all().unwrap().backward().unwrap();
            assert_eq!(values(grads.get(&x).unwrap()), vec![0.0; a.len()]);
        }
    }
}

#[test]
fn close_matrices_keep_their_digits() {
    // A = I, B = (1 + t)² I: δ_BW = √d t and δ_LE = 2 √d ln(1 + t).
    let (d, t) = (5, 1e-7);
    let scaled = |s: f64| tensor(&(0..d * d).map(|k| if k % (d + 1) == 0 { s } else { 0.0 }).collect::<Vec<_>>(), d);
    let root = (d as f64).sqrt();
    for (metric, want) in [(Metric::BuresWasserstein, root * t), (Metric::LogEuclidean, 2.0 * root * t.ln_1p())] {
        let got = values(&spd::distance(metric, &scaled(1.0), &scaled((1.0 + t) * (1.0 + t))).unwrap());
        // (1 + t)² was rounded: a relative 1e-16 of 1, 1e-9 of the distance.
        assert_close("close", &got, &[want], 1, 1e-8);
    }
}

#[test]
fn batches_of_any_shape_and_layout() {
    let a = batch(6, 3, 0.5, 2.0, &mut stream(7));
    let flat = tensor(&a, 3);
    let nested = flat.reshape((2, 3, 3, 3)).unwrap();
    assert_eq!(spd::log(&nested).unwrap().dims(), [2, 3, 3, 3]);
    assert_eq!(values(&spd::log(&nested).unwrap()), values(&spd::log(&flat).unwrap()));
    let strided = nested.transpose(0, 1).unwrap();
    let want = spd::log(&nested).unwrap().transpose(0, 1).unwrap();
    assert_eq!(values(&spd::log(&strided).unwrap()), values(&want));
    let empty = flat.narrow(0, 0, 0).unwrap();
    assert_eq!(spd::log(&empty).unwrap().dims(), [0, 3, 3]);
    for metric in METRICS {
        assert_eq!(spd::distance(metric, &empty, &flat).unwrap().dims(), [0, 6]);
        let one = flat.narrow(0, 2, 1).unwrap();
        assert_eq!(spd::distance(metric, &one, &flat).unwrap().dims(), [1, 6]);
    }
}

#[test]
fn pairs_that_repeat_add_up() {
    let mut stream = stream(9);
    let (a, b) = (batch(3, 4, 0.3, 2.0, &mut stream), batch(2, 4, 0.3, 2.0, &mut stream));
    for metric in METRICS {
        let (x, y) = (Var::from_tensor(&tensor(&a, 4)).unwrap(), Var::from_tensor(&tensor(&b, 4)).unwrap());
        let (px, py) = (Prepared::new(metric, &x).unwrap(), Prepared::new(metric, &y).unwrap());
        let twice = spd::pair_distance(&x, &y, &[(2, 1), (0, 1), (2, 1)], &px, &py).unwrap();
        let all = spd::distance(metric, &x, &y).unwrap();
        let weights = Tensor::new(&[[0.0, 1.0], [0.0, 0.0], [0.0, 2.0]], &Device::Cpu).unwrap();
        let (got, want) = (
            twice.sum_all().unwrap().backward().unwrap(),
            (all * weights).unwrap().sum_all().unwrap().backward().unwrap(),
        );
        for variable in [&x, &y] {
            let (got, want) = (values(got.get(variable).unwrap()), values(want.get(variable).unwrap()));
            assert_close("gradient", &got, &want, 16, IDENTITY_F64);
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut stream = stream(10);
    let (a, b) = (batch(9, 16, 1e-4, 2.0, &mut stream), batch(7, 16, 1e-4, 2.0, &mut stream));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            METRICS.map(|metric| {
                let (x, y) = (Var::from_tensor(&tensor(&a, 16)).unwrap(), Var::from_tensor(&tensor(&b, 16)).unwrap());
                let distances = spd::distance(metric, &x, &y).unwrap();
                let grads = distances.sum_all().unwrap().backward().unwrap();
                [values(&distances), values(grads.get(&x).unwrap()), values(grads.get(&y).unwrap())]
            })
        })
    };
    assert_eq!(run(1), run(4));
}
