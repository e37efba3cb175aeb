//! Transport kernels and CoTAP against the oracle files, in both dtypes, every case.

mod oracle_common;

use candle_core::Var;
use kernels::cotap::cotap;
use kernels::transport::{DsotConfig, SinkhornConfig, dsot_graph, sinkhorn};
use oracle_common::host::values;
use oracle_common::{DTYPES, check, gradient, input, tolerance};
use testkit::oracle::cases;

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// What float64 rounding leaves in the expected gradient itself: its terms `N² P ∘ g / ε` cancel almost entirely where
/// the plan is almost a permutation (by 1e-10 in `sharp5`, whose expected gradient is off by 2e-6 of its size
/// against 50 digits).
fn rounding(terms: impl Iterator<Item = f64>, eps: f64) -> f64 {
    f64::EPSILON * norm(terms) / eps
}

#[test]
fn sinkhorn_plans() {
    for case in cases("sinkhorn", "") {
        for dtype in DTYPES {
            let cost = Var::from_tensor(&input(&case, "cost", dtype)).unwrap();
            let n = case.tensor("cost").shape[1];
            let config = SinkhornConfig { eps: case.number("eps"), iterations: case.number("iters") as usize };
            let plan = sinkhorn(&cost, config).unwrap();
            let bar = tolerance(dtype);
            check(&case, "plan", dtype, &plan, n * n, bar.value, false);
            let grads = gradient(&plan, &input(&case, "g", dtype), (n * n) as f64);
            let got = values(grads.get(&cost).unwrap());
            for (b, got) in got.chunks(n * n).enumerate() {
                let own = b * n * n..(b + 1) * n * n;
                let want = &case.tensor("grad_cost").values[own.clone()];
                let terms = case.tensor("plan").values[own.clone()].iter().zip(&case.tensor("g").values[own]);
                let reference = rounding(terms.map(|(p, g)| (n * n) as f64 * p * g), config.eps);
                let error = norm(got.iter().zip(want).map(|(a, b)| a - b));
                let bar = bar.gradient * norm(want.iter().copied()) + reference;
                let name = &case.case;
                assert!(
                    error <= bar,
                    "sinkhorn.{name} {dtype:?} grad_cost of entry {b}: {error:.2e} is above {bar:.2e}"
                );
            }
        }
    }
}

#[test]
fn graphs() {
    for case in cases("dsot_graph", "") {
        let whole = |name: &str| case.number(name) as usize;
        let config = DsotConfig {
            height: whole("height"),
            width: whole("width"),
            k: whole("k"),
            eps: case.number("eps"),
            iterations: whole("iters"),
            lambda_pos: case.number("lambda_pos"),
            self_loop: case.number("self_loop_alpha"),
        };
        let n = config.height * config.width;
        for dtype in DTYPES {
            let graph = dsot_graph(&input(&case, "x", dtype), &config).unwrap();
            let bar = tolerance(dtype).value;
            check(&case, "cost", dtype, &graph.cost, n * n, bar, false);
            check(&case, "adjacency", dtype, &graph.adjacency, n * n, bar, false);
            check(&case, "edge_weight", dtype, &graph.edge_weight, n * config.k, bar, false);
            let index: Vec<u32> = graph.edge_index.flatten_all().unwrap().to_vec1().unwrap();
            let index: Vec<usize> = index.into_iter().map(|i| i as usize).collect();
            assert_eq!(index, case.tensor("edge_index").indices(), "{} {dtype:?}", case.case);
        }
    }
}

#[test]
fn ranking_losses() {
    for case in cases("cotap", "") {
        for dtype in DTYPES {
            let row = |name| input(&case, name, dtype).unsqueeze(0).unwrap();
            let p = Var::from_tensor(&row("p")).unwrap();
            let loss = cotap(&p, &row("q"), case.number("tau1"), case.number("tau2")).unwrap();
            let bar = tolerance(dtype);
            check(&case, "loss", dtype, &loss, 1, bar.value, false);
            let grads = loss.sum_all().unwrap().backward().unwrap();
            check(&case, "grad_p", dtype, grads.get(&p).unwrap(), case.tensor("p").values.len(), bar.gradient, false);
        }
    }
}
