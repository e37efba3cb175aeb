//! Kernels against the CPU's code where there is no oracle file: edges of sizes, and gradients inside an op.

use candle_core::{DType, Device as CandleDevice, Tensor, Var};
use random::{Axis, Seeds, Stream};
use testkit::tolerance::{ORACLE_F64, assert_close};

use super::super::device::Device;
use super::super::{graph, mining, sinkhorn, spd};
use super::{Emulator, Order};
use crate::spd::Metric;
use crate::spd::function::Function;
use crate::transport::{DsotConfig, SinkhornConfig, aggregate, dsot_graph};

const EMULATOR: Emulator = Emulator(Order::OddFirst);

pub(super) fn normal(count: usize, stream: &mut Stream) -> Vec<f64> {
    (0..count).map(|_| stream.normal()).collect()
}

pub(super) fn variable(values: &[f64], shape: &[usize]) -> Var {
    Var::from_tensor(&Tensor::from_slice(values, shape, &CandleDevice::Cpu).unwrap()).unwrap()
}

pub(super) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Gradients of `Σ y ∘ g`.
pub(super) fn gradients(y: &Tensor, g: &[f64], of: &[&Var]) -> Vec<Vec<f64>> {
    let g = Tensor::from_slice(g, y.shape(), &CandleDevice::Cpu).unwrap();
    let grads = y.mul(&g).unwrap().sum_all().unwrap().backward().unwrap();
    of.iter().map(|var| values(grads.get(var).unwrap())).collect()
}

pub(super) fn matrices(n: usize, d: usize, decades: f64, stream: &mut Stream) -> Vec<f64> {
    let one = |stream: &mut Stream| {
        let spectrum: Vec<f64> = (0..d).map(|_| 10f64.powf(-stream.range(0.0, decades))).collect();
        testkit::spd::with_spectrum(&spectrum, stream)
    };
    (0..n).flat_map(|_| one(stream)).collect()
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn functions_of_every_size() {
    let mut stream = Seeds::new(31).stream(Axis::Test, &[]);
    for (d, decades) in [(1, 2.0), (2, 6.0), (3, 0.0), (7, 4.0), (31, 3.0), (33, 5.0), (64, 6.0), (66, 3.0)] {
        let (a, g) = (matrices(2, d, decades, &mut stream), normal(2 * d * d, &mut stream));
        for (function, op) in [
            (Function::Log, crate::spd::log as fn(&Tensor) -> crate::Result<Tensor>),
            (Function::Sqrt, crate::spd::sqrt),
            (Function::InvSqrt, crate::spd::inv_sqrt),
            (Function::Exp, crate::spd::exp),
        ] {
            let x = variable(&a, &[2, d, d]);
            let y = op(&x).unwrap();
            let want = gradients(&y, &symmetric(&g, d), &[&x]);
            let (a, g) = (EMULATOR.upload(&a).unwrap(), EMULATOR.upload(&g).unwrap());
            let batch = spd::Batch { n: 2, d };
            let (got, eigen) = spd::function(&EMULATOR, "op", function, EMULATOR.view(&a), batch).unwrap();
            let grad = spd::function_gradient(&EMULATOR, function, &eigen, EMULATOR.view(&g)).unwrap();
            let what = format!("{function:?} of {d}x{d}");
            assert_close(&what, &EMULATOR.download(&got).unwrap(), &values(&y), d * d, ORACLE_F64.value);
            assert_close(&what, &EMULATOR.download(&grad).unwrap(), &want[0], d * d, ORACLE_F64.gradient);
            let spectrum = EMULATOR.download(&eigen.values).unwrap();
            assert!(spectrum.chunks(d).all(|own| own.is_sorted()), "{what}: eigenvalues ascend");
        }
    }
}

fn symmetric(g: &[f64], d: usize) -> Vec<f64> {
    let mut g = g.to_vec();
    g.chunks_mut(d * d).for_each(|matrix| testkit::spd::symmetrise(matrix, d));
    g
}

/// Some pairs, a matrix in several and one in none, with and without polar factors kept for the backward pass.
#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn distances_of_some_pairs() {
    let mut stream = Seeds::new(32).stream(Axis::Test, &[]);
    let pairs = [(2usize, 0usize), (0, 0), (2, 3), (2, 1)];
    for (metric, d) in [
        (Metric::LogEuclidean, 5),
        (Metric::BuresWasserstein, 1),
        (Metric::BuresWasserstein, 33),
        (Metric::BuresWasserstein, 65),
    ] {
        let [a, b] = [3, 4].map(|n| matrices(n, d, 2.0, &mut stream));
        let g = normal(pairs.len(), &mut stream);
        let (x, y) = (variable(&a, &[3, d, d]), variable(&b, &[4, d, d]));
        let ready = [&x, &y].map(|t| crate::spd::Prepared::new(metric, t).unwrap());
        let want = crate::spd::pair_distance(&x, &y, &pairs, &ready[0], &ready[1]).unwrap();
        let grads = gradients(&want, &g, &[&x, &y]);
        let [a, b, g] = [a, b, g].map(|v| EMULATOR.upload(&v).unwrap());
        let prepare = |name, memory, n| {
            spd::prepare(&EMULATOR, "op", name, metric, EMULATOR.view(memory), spd::Batch { n, d }).unwrap()
        };
        let (left, right) = (prepare("a", &a, 3), prepare("b", &b, 4));
        for differentiated in [true, false] {
            let list = pairs.iter().map(|&(i, j)| (i as u32, j as u32)).collect();
            let both = (&left, &right);
            let (got, all) = spd::distances::<_, f64>(&EMULATOR, ("op", metric), both, list, differentiated).unwrap();
            let what = format!("{metric:?} of {d}x{d}");
            assert_close(&what, &EMULATOR.download(&got).unwrap(), &values(&want), pairs.len(), ORACLE_F64.value);
            for (side, want) in [spd::Side::A, spd::Side::B].into_iter().zip(&grads) {
                let grad = all.gradient::<f64>(&EMULATOR, both, EMULATOR.view(&g), side).unwrap();
                assert_close(&what, &EMULATOR.download(&grad).unwrap(), want, d * d, ORACLE_F64.gradient);
            }
        }
    }
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn gradients_of_token_costs() {
    let mut stream = Seeds::new(33).stream(Axis::Test, &[]);
    let (images, height, width, d) = (2, 3, 6, 21);
    let n = height * width;
    let mut x = normal(images * n * d, &mut stream);
    x[3 * d..4 * d].fill(0.0); // a token without direction
    let g = normal(images * n * n, &mut stream);
    let config = DsotConfig { height, width, k: 5, eps: 0.1, iterations: 3, lambda_pos: 0.7, self_loop: 0.1 };
    let tokens = variable(&x, &[images, n, d]);
    let want = dsot_graph(&tokens, &config).unwrap().cost;
    let grads = gradients(&want, &g, &[&tokens]);
    let [x, g] = [x, g].map(|v| EMULATOR.upload(&v).unwrap());
    let grid = graph::Grid { images, height, width, d, lambda: config.lambda_pos };
    let (got, costs) = graph::cost(&EMULATOR, "op", EMULATOR.view(&x), grid).unwrap();
    let grad = graph::cost_gradient(&EMULATOR, &costs, EMULATOR.view(&g)).unwrap();
    assert_close("costs", &EMULATOR.download(&got).unwrap(), &values(&want), n * n, ORACLE_F64.value);
    assert_close("gradient", &EMULATOR.download(&grad).unwrap(), &grads[0], n * d, ORACLE_F64.gradient);
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn sums_over_neighbours() {
    let mut stream = Seeds::new(34).stream(Axis::Test, &[]);
    let (b, n, c, k) = (2, 7, 40, 3);
    let (h, w, g) = (normal(b * n * c, &mut stream), normal(b * n * k, &mut stream), normal(b * n * c, &mut stream));
    let index: Vec<u32> = (0..b * n * k).map(|_| stream.below(n) as u32).collect();
    let (tokens, weights) = (variable(&h, &[b, n, c]), variable(&w, &[b, n, k]));
    let edges = Tensor::from_slice(&index, (b, n, k), &CandleDevice::Cpu).unwrap();
    let want = aggregate(&tokens, &edges, &weights).unwrap();
    let grads = gradients(&want, &g, &[&tokens, &weights]);
    let index = EMULATOR.upload(&index).unwrap();
    // In both dtypes; the numbers of the CPU are float64.
    let [h, w, g] = [h, w, g].map(|v| (EMULATOR.upload(&v).unwrap(), single(&v)));
    let sizes = (b, n, c, k);
    let views = (EMULATOR.view(&h.0), EMULATOR.view(&index), EMULATOR.view(&w.0));
    let got = graph::aggregate(&EMULATOR, "op", views, sizes).unwrap();
    let (dh, dw) = graph::aggregate_gradient(&EMULATOR, views, EMULATOR.view(&g.0), sizes).unwrap();
    for (what, got, want) in [("sums", got, &values(&want)), ("tokens", dh, &grads[0]), ("weights", dw, &grads[1])] {
        assert_close(what, &EMULATOR.download(&got).unwrap(), want, want.len(), ORACLE_F64.value);
    }
    let views = (EMULATOR.view(&h.1), EMULATOR.view(&index), EMULATOR.view(&w.1));
    let got = graph::aggregate(&EMULATOR, "op", views, sizes).unwrap();
    let (dh, dw) = graph::aggregate_gradient(&EMULATOR, views, EMULATOR.view(&g.1), sizes).unwrap();
    for (what, got, want) in [("sums", got, &values(&want)), ("tokens", dh, &grads[0]), ("weights", dw, &grads[1])] {
        let got: Vec<f64> = EMULATOR.download(&got).unwrap().into_iter().map(f64::from).collect();
        assert_close(what, &got, want, want.len(), testkit::tolerance::ORACLE_F32.value);
    }
}

fn single(values: &[f64]) -> super::Memory<f32> {
    EMULATOR.upload(&values.iter().map(|v| *v as f32).collect::<Vec<_>>()).unwrap()
}

/// Plans with forbidden entries, with costs far beyond the range of the exponential, and of one token.
#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn plans_of_hard_costs() {
    let mut stream = Seeds::new(35).stream(Axis::Test, &[]);
    for (n, scale, forbidden) in [(1, 1.0, 0), (6, 1.0, 7), (33, 1.0, 200), (9, 3000.0, 0)] {
        let mut cost: Vec<f64> = (0..n * n).map(|_| scale * stream.uniform()).collect();
        for _ in 0..forbidden {
            // The diagonal stays: every row and column has a partner.
            let at = stream.below(n * n);
            cost[at] = if at.is_multiple_of(n + 1) { cost[at] } else { f64::INFINITY };
        }
        let config = SinkhornConfig { eps: 1.0, iterations: 40 };
        let g = normal(n * n, &mut stream);
        let x = variable(&cost, &[1, n, n]);
        let want = crate::transport::sinkhorn(&x, config).unwrap();
        let grads = gradients(&want, &g, &[&x]);
        let [c, g] = [cost, g].map(|v| EMULATOR.upload(&v).unwrap());
        let (plan, path) = sinkhorn::sinkhorn(&EMULATOR, "op", EMULATOR.view(&c), (1, n), config).unwrap();
        let what = format!("{n} tokens, costs up to {scale}");
        assert_close(&what, &EMULATOR.download(&plan).unwrap(), &values(&want), n * n, ORACLE_F64.value);
        if n > 1 && scale < 100.0 {
            let grad = sinkhorn::gradient(&EMULATOR, "op", (EMULATOR.view(&c), EMULATOR.view(&g)), &path).unwrap();
            assert_close(&what, &EMULATOR.download(&grad).unwrap(), &grads[0], n * n, ORACLE_F64.gradient);
        }
    }
}

/// The nearest of other groups, as the CPU finds them: more asked for than there are, copies at distance 0, nobody allowed.
#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn nearest_matrices_of_other_groups() {
    let mut stream = Seeds::new(37).stream(Axis::Test, &[]);
    let (size, d) = (2, 6);
    let (a, mut b) = (matrices(6, d, 2.0, &mut stream), matrices(8, d, 2.0, &mut stream));
    b[3 * d * d..4 * d * d].copy_from_slice(&a[..d * d]);
    b[6 * d * d..7 * d * d].copy_from_slice(&a[..d * d]);
    let may = |i: usize, j: usize| i != 2 && !(i + j).is_multiple_of(3);
    let allowed: Vec<u32> = (0..3 * 4).map(|at| u32::from(may(at / 4, at % 4))).collect();
    for metric in [Metric::LogEuclidean, Metric::BuresWasserstein] {
        let host = [(&a, 6), (&b, 8)]
            .map(|(values, n)| crate::spd::Prepared::new(metric, &variable(values, &[n, d, d])).unwrap());
        let memory = [&a, &b].map(|values| EMULATOR.upload(values).unwrap());
        let prepare = |name, at: usize, n| {
            spd::prepare(&EMULATOR, "op", name, metric, EMULATOR.view(&memory[at]), spd::Batch { n, d }).unwrap()
        };
        let (left, right) = (prepare("a", 0, 6), prepare("b", 1, 8));
        for k in [1, 3, 100] {
            let want = host[0].nearest_in_groups(&host[1], size, k, may).unwrap();
            let groups = mining::Groups { size, allowed: &allowed };
            let got = mining::nearest(&EMULATOR, ("op", metric), (&left, &right), &groups, k).unwrap();
            assert!(got[4].is_empty() && got[5].is_empty(), "a group that may be compared with nobody");
            for (got, want) in got.iter().zip(&want) {
                let indices = |found: &[(usize, f64)]| found.iter().map(|(j, _)| *j).collect::<Vec<_>>();
                assert_eq!(indices(got), indices(want), "{metric:?}, {k} nearest");
                let distances = |found: &[(usize, f64)]| found.iter().map(|(_, x)| *x).collect::<Vec<_>>();
                if !want.is_empty() {
                    assert_close("distances", &distances(got), &distances(want), want.len(), ORACLE_F64.value);
                }
            }
        }
    }
}

/// Bounds by maps leave few distances to compute where groups differ by more than their members, and find the same.
#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn few_distances_are_computed() {
    let mut stream = Seeds::new(39).stream(Axis::Test, &[]);
    let (groups, size, d) = (8, 3, 8);
    let n = groups * size;
    let side = |stream: &mut Stream| -> Vec<f64> {
        (0..groups)
            .flat_map(|_| {
                let centre = matrices(1, d, 1.0, stream);
                let one = |stream: &mut Stream| -> Vec<f64> {
                    let own = matrices(1, d, 1.0, stream);
                    centre.iter().zip(own).map(|(c, o)| c + 0.05 * o).collect()
                };
                (0..size).flat_map(|_| one(stream)).collect::<Vec<_>>()
            })
            .collect()
    };
    let (a, b) = (side(&mut stream), side(&mut stream));
    let metric = Metric::BuresWasserstein;
    let may = |i: usize, j: usize| i != j;
    let allowed: Vec<u32> = (0..groups * groups).map(|at| u32::from(may(at / groups, at % groups))).collect();
    let host = [&a, &b].map(|values| crate::spd::Prepared::new(metric, &variable(values, &[n, d, d])).unwrap());
    let want = host[0].nearest_in_groups(&host[1], size, 1, may).unwrap();
    let memory = [&a, &b].map(|values| EMULATOR.upload(values).unwrap());
    let prepared = [0, 1]
        .map(|at| spd::prepare(&EMULATOR, "op", "a", metric, EMULATOR.view(&memory[at]), spd::Batch { n, d }).unwrap());
    let groups = mining::Groups { size, allowed: &allowed };
    let sides = (&prepared[0], &prepared[1]);
    let got = mining::nearest(&EMULATOR, ("op", metric), sides, &groups, 1).unwrap();
    let index = |found: &[Vec<(usize, f64)>]| found.iter().map(|found| found[0].0).collect::<Vec<_>>();
    assert_eq!(index(&got), index(&want));
    let found = mining::search(&EMULATOR, ("op", metric), sides, &groups, 1).unwrap();
    let looked: u32 = EMULATOR.download(&found.looked).unwrap().iter().sum();
    assert!((n..=5 * n).contains(&(looked as usize)), "{looked} distances for {n} matrices with 21 candidates each");
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn nearest_rows_with_another_label() {
    let mut stream = Seeds::new(38).stream(Axis::Test, &[]);
    let (n, d) = (9, 37);
    let (a, mut b) = (normal(n * d, &mut stream), normal(n * d, &mut stream));
    // Two equally near ones: the lower index counts.
    b.copy_within(5 * d..6 * d, 7 * d);
    let labels: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
    let squared = |i: usize, j: usize| -> f64 { (0..d).map(|k| (a[i * d + k] - b[j * d + k]).powi(2)).sum() };
    let want: Vec<Option<usize>> = (0..n)
        .map(|i| {
            let others = (0..n).filter(|&j| labels[j] != labels[i]).map(|j| (squared(i, j), j));
            others.min_by(|x, y| x.0.total_cmp(&y.0)).map(|(_, j)| j)
        })
        .collect();
    let memory = [&a, &b].map(|values| EMULATOR.upload(values).unwrap());
    let views = (EMULATOR.view(&memory[0]), EMULATOR.view(&memory[1]));
    assert_eq!(mining::nearest_rows(&EMULATOR, "op", views, &labels, (n, d)).unwrap(), want);
    assert_eq!(mining::nearest_rows(&EMULATOR, "op", views, &vec![4; n], (n, d)).unwrap(), vec![None; n]);
    let singles = [single(&a), single(&b)];
    let views = (EMULATOR.view(&singles[0]), EMULATOR.view(&singles[1]));
    assert_eq!(mining::nearest_rows(&EMULATOR, "op", views, &labels, (n, d)).unwrap(), want);
}
