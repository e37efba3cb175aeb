//! Properties, gradients and refusals of the transport kernels.

#[path = "oracle_common/host.rs"]
mod host;

use candle_core::{DType, Device, Tensor, Var};
use host::values;
use kernels::Error;
use kernels::transport::{DsotConfig, SinkhornConfig, aggregate, dsot_graph, sinkhorn};
use proptest::prelude::*;
use random::{Axis, Seeds, Stream};
use testkit::gradient::directional_error;
use testkit::tolerance::{FINITE_DIFFERENCE, IDENTITY_F64, ORACLE_F32, assert_close};

fn stream(seed: u64) -> Stream {
    Seeds::new(seed).stream(Axis::Test, &[])
}

fn normal(shape: &[usize], stream: &mut Stream) -> Tensor {
    let count = shape.iter().product();
    Tensor::from_vec((0..count).map(|_| stream.normal()).collect::<Vec<f64>>(), shape, &Device::Cpu).unwrap()
}

fn check_gradient(loss: &dyn Fn(&Tensor) -> Tensor, x: &Tensor, stream: &mut Stream) {
    let variable = Var::from_tensor(x).unwrap();
    let exact = values(loss(&variable).backward().unwrap().get(&variable).unwrap());
    let mut f = |v: &[f64]| {
        let x = Tensor::from_slice(v, x.shape(), &Device::Cpu).unwrap();
        loss(&x).to_scalar::<f64>().unwrap()
    };
    let error = directional_error(&mut f, &values(x), &exact, 1e-5, 3, stream);
    assert!(error <= FINITE_DIFFERENCE, "gradient is off by {error:.2e}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn plans_have_their_marginals(seed in any::<u64>(), b in 0usize..3, n in 1usize..9, sharp in any::<bool>()) {
        let mut stream = stream(seed);
        let cost = normal(&[b, n, n], &mut stream).sqr().unwrap();
        // Sharp enough to need the logarithms, or converged.
        let config = if sharp { SinkhornConfig { eps: 0.002, iterations: 10 } } else { SinkhornConfig { eps: 1.0, iterations: 2000 } };
        let plan = sinkhorn(&cost, config).unwrap();
        prop_assert_eq!(plan.dims(), [b, n, n]);
        prop_assert!(values(&plan).iter().all(|p| (0.0..=1.0).contains(p)));
        let want = vec![1.0 / n as f64; b * n];
        assert_close("columns", &values(&plan.sum(1).unwrap()), &want, 1, IDENTITY_F64);
        if !sharp {
            assert_close("rows", &values(&plan.sum(2).unwrap()), &want, 1, IDENTITY_F64);
        }
    }

    #[test]
    fn potentials_of_rows_and_columns_change_nothing(seed in any::<u64>(), n in 1usize..8) {
        // After convergence, C_ij + r_i + c_j has the plan of C.
        let mut stream = stream(seed);
        let cost = normal(&[1, n, n], &mut stream);
        let (r, c) = (normal(&[1, n, 1], &mut stream), normal(&[1, 1, n], &mut stream));
        let moved = cost.broadcast_add(&r).unwrap().broadcast_add(&c).unwrap();
        let config = SinkhornConfig { eps: 2.0, iterations: 1000 };
        let (plan, other) = (sinkhorn(&cost, config).unwrap(), sinkhorn(&moved, config).unwrap());
        assert_close("plan", &values(&other), &values(&plan), n * n, IDENTITY_F64);
    }

    #[test]
    fn gradient_of_plans(seed in any::<u64>(), n in 1usize..7, wide in any::<bool>()) {
        let mut stream = stream(seed);
        let mut cost = normal(&[2, n, n], &mut stream).abs().unwrap();
        if wide {
            // One entry beyond what scalings carry: the logarithms take over.
            let mut far = vec![0.0; 2 * n * n];
            far[n - 1] = 200.0;
            cost = (cost + Tensor::from_vec(far, (2, n, n), &Device::Cpu).unwrap()).unwrap();
        }
        let g = normal(&[2, n, n], &mut stream);
        let config = SinkhornConfig { eps: 0.5, iterations: 6 };
        let loss = |x: &Tensor| (sinkhorn(x, config).unwrap() * &g).unwrap().sum_all().unwrap();
        let x = Var::from_tensor(&cost).unwrap();
        if n == 1 {
            // The plan is the constant 1: the gradient is exactly 0.
            prop_assert_eq!(values(loss(&x).backward().unwrap().get(&x).unwrap()), vec![0.0; 2]);
        } else {
            // The step of the differences is relative to the largest entry; keep it small against ε.
            let exact = values(loss(&x).backward().unwrap().get(&x).unwrap());
            let mut f = |v: &[f64]| loss(&Tensor::from_slice(v, (2, n, n), &Device::Cpu).unwrap()).to_scalar::<f64>().unwrap();
            let step = 1e-5 / if wide { 200.0 } else { 1.0 };
            let error = directional_error(&mut f, &values(&cost), &exact, step, 3, &mut stream);
            prop_assert!(error <= FINITE_DIFFERENCE, "gradient is off by {error:.2e}");
        }
    }

    #[test]
    fn graphs_are_what_they_say(seed in any::<u64>(), height in 1usize..5, width in 1usize..5, k in 1usize..20) {
        let mut stream = stream(seed);
        let n = height * width;
        let k = k.min(n);
        let config = DsotConfig { height, width, k, eps: 0.1, iterations: 20, lambda_pos: 0.1, self_loop: 0.2 };
        let graph = dsot_graph(&normal(&[2, n, 6], &mut stream), &config).unwrap();
        let adjacency = values(&graph.adjacency);
        prop_assert_eq!(&adjacency, &values(&graph.adjacency.transpose(1, 2).unwrap()));
        let (index, weight) = (graph.edge_index.flatten_all().unwrap().to_vec1::<u32>().unwrap(), values(&graph.edge_weight));
        for row in 0..2 * n {
            let own = &adjacency[row * n..(row + 1) * n];
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&i, &j| own[j].total_cmp(&own[i]).then(i.cmp(&j)));
            let got: Vec<usize> = index[row * k..(row + 1) * k].iter().map(|&i| i as usize).collect();
            prop_assert_eq!(&got, &order[..k]);
            let total: f64 = got.iter().map(|&j| own[j]).sum();
            let want: Vec<f64> = got.iter().map(|&j| own[j] / total).collect();
            assert_close("weights", &weight[row * k..(row + 1) * k], &want, k, IDENTITY_F64);
        }
    }

    #[test]
    fn aggregate_is_a_weighted_sum(seed in any::<u64>(), n in 1usize..6, c in 1usize..11, k in 1usize..5) {
        let mut stream = stream(seed);
        let (h, w) = (normal(&[2, n, c], &mut stream), normal(&[2, n, k], &mut stream));
        let index: Vec<u32> = (0..2 * n * k).map(|_| stream.below(n) as u32).collect();
        let edges = Tensor::from_slice(&index, (2, n, k), &Device::Cpu).unwrap();
        let (from, weight) = (values(&h), values(&w));
        let mut want = vec![0.0; 2 * n * c];
        for edge in 0..2 * n * k {
            let (row, token) = (edge / k, edge / (n * k) * n + index[edge] as usize);
            (0..c).for_each(|x| want[row * c + x] += weight[edge] * from[token * c + x]);
        }
        assert_close("float64", &values(&aggregate(&h, &edges, &w).unwrap()), &want, 2 * n * c, IDENTITY_F64);
        let single = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
        let got = aggregate(&single(&h), &edges, &single(&w)).unwrap();
        prop_assert_eq!(got.dtype(), DType::F32);
        assert_close("float32", &values(&got), &want, 2 * n * c, ORACLE_F32.value);
        let g = normal(&[2, n, c], &mut stream);
        let loss = |h: &Tensor, w: &Tensor| (aggregate(h, &edges, w).unwrap() * &g).unwrap().sum_all().unwrap();
        check_gradient(&|x| loss(x, &w), &h, &mut stream);
        check_gradient(&|x| loss(&h, x), &w, &mut stream);
    }
}

#[test]
fn gradient_of_graphs() {
    let mut stream = stream(12);
    let config = DsotConfig { height: 3, width: 4, k: 12, eps: 0.3, iterations: 15, lambda_pos: 0.1, self_loop: 0.2 };
    let x = normal(&[2, 12, 5], &mut stream);
    let g = normal(&[2, 12, 12], &mut stream);
    // All edges kept, put back in the order of the tokens: no choice that a small step could change.
    let loss = |x: &Tensor| {
        let graph = dsot_graph(x, &config).unwrap();
        let weights = Tensor::zeros((2, 12, 12), DType::F64, &Device::Cpu).unwrap();
        let dense = weights.scatter_add(&graph.edge_index, &graph.edge_weight, 2).unwrap();
        (dense * &g).unwrap().sum_all().unwrap()
    };
    check_gradient(&loss, &x, &mut stream);
}

/// Plans and their gradients, and ranking losses with theirs, have the same bits on one thread and on four.
#[test]
fn threads_change_nothing() {
    let mut stream = stream(13);
    let cost = normal(&[6, 21, 21], &mut stream).to_dtype(DType::F32).unwrap();
    let (p, q, g) = (normal(&[3, 900], &mut stream), normal(&[3, 900], &mut stream), normal(&[6, 21, 21], &mut stream));
    let g = g.to_dtype(DType::F32).unwrap();
    let bits = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (cost, p) = (Var::from_tensor(&cost).unwrap(), Var::from_tensor(&p).unwrap());
            let plan = sinkhorn(&cost, SinkhornConfig { eps: 0.2, iterations: 7 }).unwrap();
            let loss = kernels::cotap::cotap(&p, &q, -0.2, 0.5).unwrap();
            let of_cost = (&plan * &g).unwrap().sum_all().unwrap().backward().unwrap();
            let of_p = loss.sum_all().unwrap().backward().unwrap();
            let tensors = [plan, of_cost.get(&cost).unwrap().clone(), loss, of_p.get(&p).unwrap().clone()];
            tensors.iter().flat_map(values).map(f64::to_bits).collect::<Vec<u64>>()
        })
    };
    assert_eq!(bits(1), bits(4));
}

#[test]
fn a_token_without_direction_gets_no_gradient() {
    let mut x = vec![0.5; 4 * 3];
    x[3..6].fill(0.0);
    x[7] = -1.0;
    let x = Var::from_tensor(&Tensor::from_vec(x, (1, 4, 3), &Device::Cpu).unwrap()).unwrap();
    let config = DsotConfig { height: 2, width: 2, k: 2, eps: 0.1, iterations: 5, lambda_pos: 0.1, self_loop: 0.2 };
    let graph = dsot_graph(&x, &config).unwrap();
    let loss = graph.edge_weight.sqr().unwrap().sum_all().unwrap();
    let gradient = values(loss.backward().unwrap().get(&x).unwrap());
    assert!(gradient.iter().all(|g| g.is_finite()) && gradient.iter().any(|g| *g != 0.0));
    assert_eq!(gradient[3..6], [0.0; 3]);
}

#[test]
fn forbidden_entries_are_ordinary() {
    let inf = f64::INFINITY;
    let cost = Var::new(&[[[0.1, inf, 0.3], [inf, 0.2, inf], [0.5, 0.4, 0.0]]], &Device::Cpu).unwrap();
    let plan = sinkhorn(&cost, SinkhornConfig { eps: 0.1, iterations: 50 }).unwrap();
    let grads = plan.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let gradient = values(grads.get(&cost).unwrap());
    for (k, c) in values(&cost).into_iter().enumerate() {
        assert!(values(&plan)[k].is_finite() && gradient[k].is_finite());
        assert_eq!(c.is_infinite(), values(&plan)[k] == 0.0);
        assert!(c.is_finite() || gradient[k] == 0.0);
    }
}

#[test]
fn refusals_of_sinkhorn() {
    let good = SinkhornConfig { eps: 0.1, iterations: 3 };
    let cost = |v: [[f64; 2]; 2]| Tensor::new(&[[[0.0, 1.0], [1.0, 0.0]], v], &Device::Cpu).unwrap();
    let inf = f64::INFINITY;
    assert!(matches!(sinkhorn(&cost([[f64::NAN, 0.0], [0.0, 0.0]]), good), Err(Error::NonFinite { batch: 1, .. })));
    assert!(matches!(sinkhorn(&cost([[-inf, 0.0], [0.0, 0.0]]), good), Err(Error::NonFinite { batch: 1, .. })));
    let row = sinkhorn(&cost([[0.0, 0.0], [inf, inf]]), good);
    assert!(matches!(row, Err(Error::Infeasible { batch: 1, line: "row", index: 1, .. })), "{row:?}");
    let column = sinkhorn(&cost([[inf, 0.0], [inf, 0.0]]), good);
    assert!(matches!(column, Err(Error::Infeasible { batch: 1, line: "column", index: 0, .. })), "{column:?}");
    let fine = cost([[0.0, 0.0], [0.0, 0.0]]);
    for config in [SinkhornConfig { eps: 0.0, ..good }, SinkhornConfig { eps: f64::NAN, ..good }] {
        assert!(matches!(sinkhorn(&fine, config), Err(Error::Attribute { name: "eps", .. })));
    }
    let none = SinkhornConfig { iterations: 0, ..good };
    assert!(matches!(sinkhorn(&fine, none), Err(Error::Attribute { name: "iterations", .. })));
    assert!(matches!(sinkhorn(&fine.narrow(2, 0, 1).unwrap(), good), Err(Error::Shape { .. })));
    assert!(matches!(sinkhorn(&fine.to_dtype(DType::U8).unwrap(), good), Err(Error::Dtype { .. })));
}

#[test]
fn refusals_of_graphs() {
    let x = Tensor::ones((1, 6, 3), DType::F64, &Device::Cpu).unwrap();
    let good = DsotConfig { height: 2, width: 3, k: 2, eps: 0.1, iterations: 3, lambda_pos: 0.1, self_loop: 0.2 };
    assert!(dsot_graph(&x, &good).is_ok());
    assert!(matches!(dsot_graph(&x, &DsotConfig { height: 3, ..good }), Err(Error::Shape { .. })));
    for k in [0, 7] {
        assert!(matches!(dsot_graph(&x, &DsotConfig { k, ..good }), Err(Error::Attribute { name: "k", .. })));
    }
    let negative = DsotConfig { lambda_pos: -0.1, ..good };
    assert!(matches!(dsot_graph(&x, &negative), Err(Error::Attribute { name: "lambda_pos", .. })));
    let nan = DsotConfig { self_loop: f64::NAN, ..good };
    assert!(matches!(dsot_graph(&x, &nan), Err(Error::Attribute { name: "self_loop", .. })));
    let infinite = (&x / 0.0).unwrap();
    assert!(matches!(dsot_graph(&infinite, &good), Err(Error::NonFinite { name: "x", .. })));
    let index = Tensor::full(6u32, (1, 6, 2), &Device::Cpu).unwrap();
    let weight = Tensor::ones((1, 6, 2), DType::F64, &Device::Cpu).unwrap();
    assert!(matches!(aggregate(&x, &index, &weight), Err(Error::Index { index: 6, len: 6, .. })));
    let fine = Tensor::zeros((1, 6, 2), DType::U32, &Device::Cpu).unwrap();
    assert!(matches!(aggregate(&x, &fine, &x), Err(Error::Shape { name: "edge_weight", .. })));
    let single = weight.to_dtype(DType::F32).unwrap();
    assert!(matches!(aggregate(&x, &fine, &single), Err(Error::DtypeMismatch { .. })));
}
