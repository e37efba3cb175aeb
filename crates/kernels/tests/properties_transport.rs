//! Symmetry and duality of Sinkhorn's iteration, forbidden entries, ties, invariances and bounds of CoTAP.

#[path = "oracle_common/host.rs"]
mod host;

use candle_core::{DType, Device, Tensor, Var};
use host::values;
use kernels::cotap::cotap;
use kernels::transport::{DsotConfig, SinkhornConfig, dsot_graph, sinkhorn};
use proptest::prelude::*;
use random::{Axis, Seeds, Stream};
use testkit::tolerance::{IDENTITY_F64, assert_close};

const TAU1: f64 = -0.2;
const TAU2: f64 = 0.5;
/// Rounding of sums of numbers of size 1 that cancel or agree exactly.
const ROUNDING: f64 = 1e-12;

fn stream(seed: u64) -> Stream {
    Seeds::new(seed).stream(Axis::Test, &[])
}

fn matrix(values: &[f64], n: usize) -> Tensor {
    Tensor::from_slice(values, (1, n, n), &Device::Cpu).unwrap()
}

fn costs(n: usize, stream: &mut Stream) -> Vec<f64> {
    (0..n * n).map(|_| stream.range(0.0, 2.0)).collect()
}

/// Loss and gradient of one list.
fn ranked(p: &[f64], q: &[f64], tau2: f64) -> (f64, Vec<f64>) {
    let row = |v: &[f64]| Tensor::from_slice(v, (1, v.len()), &Device::Cpu).unwrap();
    let student = Var::from_tensor(&row(p)).unwrap();
    let loss = cotap(&student, &row(q), TAU1, tau2).unwrap();
    let grads = loss.sum_all().unwrap().backward().unwrap();
    (values(&loss)[0], values(grads.get(&student).unwrap()))
}

/// Numbers that are multiples of 1/64: sums and differences of a few are exact.
fn lists(n: usize, stream: &mut Stream) -> (Vec<f64>, Vec<f64>) {
    let mut draw = || (0..n).map(|_| (stream.range(-64.0, 64.0)).round() / 64.0).collect();
    (draw(), draw())
}

fn shuffled(n: usize, stream: &mut Stream) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    (1..n).rev().for_each(|i| order.swap(i, stream.below(i + 1)));
    order
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_plan_of_a_symmetric_cost_becomes_symmetric(seed in any::<u64>(), n in 1usize..9) {
        let mut cost = costs(n, &mut stream(seed));
        testkit::spd::symmetrise(&mut cost, n);
        let plan = sinkhorn(&matrix(&cost, n), SinkhornConfig { eps: 0.5, iterations: 2000 }).unwrap();
        assert_close("symmetric", &values(&plan.t().unwrap()), &values(&plan), n * n, IDENTITY_F64);
    }

    #[test]
    fn the_dual_never_falls(seed in any::<u64>(), n in 1usize..9, eps in prop_oneof![Just(1.0), Just(0.1), Just(0.02), Just(0.003)]) {
        // The columns of the plan sum to 1/N, so that the dual ⟨f⟩ + ⟨g⟩ − ε Σ P is the mean of C + ε log P, minus ε.
        let cost = costs(n, &mut stream(seed));
        let dual = |iterations: usize| {
            let plan = sinkhorn(&matrix(&cost, n), SinkhornConfig { eps, iterations }).unwrap();
            let plan = values(&plan);
            let sum: f64 = plan.iter().zip(&cost).map(|(p, c)| c + eps * p.ln()).sum();
            (plan.iter().all(|p| *p > 0.0)).then_some(sum / (n * n) as f64 - eps)
        };
        let path: Vec<f64> = (1..30).filter_map(dual).collect();
        prop_assume!(path.len() == 29);
        let fell = path.windows(2).find(|pair| pair[1] < pair[0] - ROUNDING);
        prop_assert!(fell.is_none(), "{fell:?}");
        // Weak duality: no plan with these marginals is cheaper; the uniform one costs ⟨C⟩ plus its entropy term.
        let uniform = cost.iter().sum::<f64>() / (n * n) as f64 - eps * ((n * n) as f64).ln() - eps;
        prop_assert!(path[28] <= uniform + ROUNDING, "{} above {uniform}", path[28]);
    }

    #[test]
    fn transposed_permuted_and_shifted_costs(seed in any::<u64>(), n in 1usize..8, shift in -5.0f64..5.0) {
        let mut stream = stream(seed);
        let cost = costs(n, &mut stream);
        let config = SinkhornConfig { eps: 0.1, iterations: 7 };
        let plan = values(&sinkhorn(&matrix(&cost, n), config).unwrap());
        let moved: Vec<f64> = cost.iter().map(|c| c + shift).collect();
        assert_close("shifted", &values(&sinkhorn(&matrix(&moved, n), config).unwrap()), &plan, n * n, IDENTITY_F64);
        let (rows, columns) = (shuffled(n, &mut stream), shuffled(n, &mut stream));
        let pick = |of: &[f64]| -> Vec<f64> { (0..n * n).map(|k| of[rows[k / n] * n + columns[k % n]]).collect() };
        let permuted = sinkhorn(&matrix(&pick(&cost), n), config).unwrap();
        assert_close("permuted", &values(&permuted), &pick(&plan), n * n, IDENTITY_F64);
    }

    #[test]
    fn forbidden_entries_are_the_limit_of_dear_ones(seed in any::<u64>(), n in 2usize..8) {
        // log K = −∞ off the diagonal at random: zeros in plan and gradient, and elsewhere what a cost of 1e5 gives.
        let mut stream = stream(seed);
        let plain = costs(n, &mut stream);
        let forbidden: Vec<bool> = (0..n * n).map(|k| k / n != k % n && stream.range(0.0, 1.0) < 0.3).collect();
        let with = |dear: f64| -> Vec<f64> { plain.iter().zip(&forbidden).map(|(c, f)| if *f { dear } else { *c }).collect() };
        let g: Vec<f64> = (0..n * n).map(|_| stream.normal()).collect();
        let config = SinkhornConfig { eps: 0.3, iterations: 9 };
        let run = |cost: &[f64]| {
            let x = Var::from_tensor(&matrix(cost, n)).unwrap();
            let plan = sinkhorn(&x, config).unwrap();
            let grads = (&plan * matrix(&g, n)).unwrap().sum_all().unwrap().backward().unwrap();
            (values(&plan), values(grads.get(&x).unwrap()))
        };
        let ((plan, gradient), (near, near_gradient)) = (run(&with(f64::INFINITY)), run(&with(1e5)));
        for k in (0..n * n).filter(|&k| forbidden[k]) {
            prop_assert_eq!((plan[k], gradient[k]), (0.0, 0.0));
        }
        assert_close("plan", &plan, &near, n * n, IDENTITY_F64);
        let size = near_gradient.iter().map(|v| v * v).sum::<f64>().sqrt().max(1.0);
        prop_assert!(gradient.iter().zip(&near_gradient).all(|(a, b)| (a - b).abs() <= IDENTITY_F64 * size));
        let total = |j: usize| (0..n).map(|i| plan[i * n + j]).sum::<f64>();
        prop_assert!((0..n).all(|j| (total(j) * n as f64 - 1.0).abs() <= IDENTITY_F64));
    }

    #[test]
    fn cotap_does_not_see_the_order_of_the_pairs(seed in any::<u64>(), n in 1usize..60) {
        let mut stream = stream(seed);
        let (p, q) = lists(n, &mut stream);
        let order = shuffled(n, &mut stream);
        let pick = |of: &[f64]| -> Vec<f64> { order.iter().map(|&i| of[i]).collect() };
        let ((loss, gradient), (other, turned)) = (ranked(&p, &q, TAU2), ranked(&pick(&p), &pick(&q), TAU2));
        assert_close("loss", &[other], &[loss], 1, IDENTITY_F64);
        assert_close("gradient", &turned, &pick(&gradient), n, IDENTITY_F64);
    }

    #[test]
    fn cotap_sees_differences_of_p_in_units_of_tau2(seed in any::<u64>(), n in 1usize..60, shift in -8i8..9, power in -2i32..3) {
        let (p, q) = lists(n, &mut stream(seed));
        let (loss, gradient) = ranked(&p, &q, TAU2);
        let shifted: Vec<f64> = p.iter().map(|v| v + f64::from(shift)).collect();
        let (other, same) = ranked(&shifted, &q, TAU2);
        assert_close("shifted", &[other], &[loss], 1, IDENTITY_F64);
        assert_close("shifted gradient", &same, &gradient, n, IDENTITY_F64);
        // So the gradient sums to 0.
        let total: f64 = gradient.iter().sum();
        prop_assert!(total.abs() <= ROUNDING, "{total}");
        let c = 2f64.powi(power);
        let scaled: Vec<f64> = p.iter().map(|v| v * c).collect();
        let (other, smaller) = ranked(&scaled, &q, TAU2 * c);
        assert_close("scaled", &[other], &[loss], 1, IDENTITY_F64);
        assert_close("scaled gradient", &smaller.iter().map(|g| g * c).collect::<Vec<_>>(), &gradient, n, IDENTITY_F64);
    }

    #[test]
    fn cotap_lies_between_zero_and_the_heights(seed in any::<u64>(), n in 1usize..60, bad in any::<bool>()) {
        // 0 ≤ s/(1+s) < 1. The bound is approached by a student that reverses the teacher, by far.
        let mut stream = stream(seed);
        let (mut p, q) = lists(n, &mut stream);
        if bad {
            p = q.iter().map(|v| -1e6 * v).collect();
        }
        let (loss, gradient) = ranked(&p, &q, TAU2);
        let heights: Vec<f64> = q.iter().map(|v| (v - TAU1).max(0.0)).collect();
        let bound = heights.iter().sum::<f64>() / n as f64;
        prop_assert!((0.0..=bound).contains(&loss), "{loss} is not in [0, {bound}]");
        prop_assert!(gradient.iter().all(|g| g.is_finite()));
        let lowest = q.iter().copied().fold(f64::INFINITY, f64::min);
        let reachable = q.iter().zip(&heights).filter(|(v, _)| **v > lowest).map(|(_, h)| h).sum::<f64>() / n as f64;
        prop_assert!(!bad || loss >= 0.99 * reachable, "{loss} is far from {reachable}");
        // A student that keeps the order with differences of at least τ2 loses nothing.
        let good: Vec<f64> = q.iter().map(|v| 64.0 * TAU2 * v).collect();
        let (none, flat) = ranked(&good, &q, TAU2);
        prop_assert!(none.abs() <= ROUNDING && flat.iter().all(|g| g.abs() <= ROUNDING), "{none} {flat:?}");
    }
}

#[test]
fn a_gradient_step_on_cotap_helps() {
    let (p, q) = lists(40, &mut stream(5));
    // The counts stand still for a small step unless p has ties: break them first.
    let apart: Vec<f64> = p.iter().enumerate().map(|(i, v)| v + 1e-6 * i as f64).collect();
    let (before, slope) = ranked(&apart, &q, TAU2);
    // A step of length 1e-8 lowers the loss by 1e-8 times the length of the gradient.
    let length = slope.iter().map(|g| g * g).sum::<f64>().sqrt();
    let after = ranked(&apart.iter().zip(&slope).map(|(v, g)| v - 1e-8 / length * g).collect::<Vec<_>>(), &q, TAU2).0;
    assert!(before > 0.01 && length > 0.01, "{before}, {length}");
    assert!(((before - after) / (1e-8 * length) - 1.0).abs() < 1e-3, "{before} to {after}");
}

#[test]
fn tied_edges_are_taken_by_the_lower_index() {
    // Equal tokens and no positions: every plan entry is 1/N², only the self loop stands out.
    let x = Tensor::ones((2, 6, 3), DType::F64, &Device::Cpu).unwrap();
    let config = DsotConfig { height: 2, width: 3, k: 4, eps: 0.1, iterations: 4, lambda_pos: 0.0, self_loop: 0.2 };
    let graph = dsot_graph(&x, &config).unwrap();
    let index: Vec<u32> = graph.edge_index.flatten_all().unwrap().to_vec1().unwrap();
    for (row, got) in index.chunks(4).enumerate() {
        let own = (row % 6) as u32;
        let others = (0..6).filter(|&j| j != own).take(3);
        assert_eq!(got, std::iter::once(own).chain(others).collect::<Vec<u32>>(), "row {row}");
    }
    let weight = values(&graph.edge_weight);
    let (edge, own) = (1.0 / 36.0, 1.0 / 36.0 + 0.2);
    for row in weight.chunks(4) {
        let total = own + 3.0 * edge;
        assert_close("weights", row, &[own / total, edge / total, edge / total, edge / total], 4, IDENTITY_F64);
    }
}

#[test]
fn one_token_has_the_whole_plan() {
    let cost = Var::from_tensor(&Tensor::new(&[[[3.0f64]], [[-2.0]]], &Device::Cpu).unwrap()).unwrap();
    let plan = sinkhorn(&cost, SinkhornConfig { eps: 0.05, iterations: 3 }).unwrap();
    assert_close("plan", &values(&plan), &[1.0, 1.0], 1, IDENTITY_F64);
    let grads = plan.sum_all().unwrap().backward().unwrap();
    assert!(values(grads.get(&cost).unwrap()).iter().all(|g| g.abs() <= ROUNDING));
    let none = Tensor::zeros((0, 4, 4), DType::F64, &Device::Cpu).unwrap();
    assert_eq!(sinkhorn(&none, SinkhornConfig { eps: 0.05, iterations: 3 }).unwrap().dims(), [0, 4, 4]);
}
