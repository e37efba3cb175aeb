//! Every kernel against the oracle files, in both dtypes and in every order of turns.

use std::path::Path;

use testkit::oracle::{Case, cases};
use testkit::tolerance::{ORACLE_F32, ORACLE_F64, Tolerance, relative_error};

use super::super::device::{Device, Float};
use super::super::{cotap, graph, sinkhorn, spd};
use super::{Emulator, Memory, Order};
use crate::Result;
use crate::spd::Metric;
use crate::spd::function::Function;
use crate::transport::SinkhornConfig;

/// A dtype of the tests.
trait Real: Float + std::fmt::Debug + PartialEq {
    const NAME: &'static str;
    const BAR: Tolerance;
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
}

impl Real for f32 {
    const NAME: &'static str = "f32";
    const BAR: Tolerance = ORACLE_F32;

    fn of(x: f64) -> Self {
        x as Self
    }

    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    const NAME: &'static str = "f64";
    const BAR: Tolerance = ORACLE_F64;

    fn of(x: f64) -> Self {
        x
    }

    fn wide(self) -> f64 {
        self
    }
}

/// The cases of an op: those of the folder `shared`, and those that the binary carries.
fn every_case(op: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/oracles/data");
    let mut own: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    own.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{op}.")));
    own.sort();
    assert!(!own.is_empty(), "no shipped case of {op}");
    cases(op, "").into_iter().chain(own.iter().map(|path| Case::read(path).unwrap())).collect()
}

fn upload<T: Real>(device: &Emulator, values: &[f64]) -> Memory<T> {
    let values: Vec<T> = values.iter().map(|&v| T::of(v)).collect();
    device.upload(&values).unwrap()
}

fn input<T: Real>(device: &Emulator, case: &Case, name: &str) -> Memory<T> {
    upload(device, &case.tensor(name).values)
}

fn numbers<T: Real>(device: &Emulator, memory: &Memory<T>) -> Vec<f64> {
    device.download(memory).unwrap().into_iter().map(T::wide).collect()
}

/// What `run` gives, which must not depend on the order of turns.
pub(super) fn in_every_order<R: PartialEq>(run: impl Fn(&Emulator) -> Result<R>) -> Result<R> {
    let first = run(&Emulator(Order::Forward));
    for order in &Order::ALL[1..] {
        let other = run(&Emulator(*order));
        match (&first, &other) {
            (Ok(a), Ok(b)) => assert!(a == b, "{order:?} gives something else"),
            (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string()),
            (Ok(_), Err(error)) => panic!("{order:?} is refused, and the first order is not: {error}"),
            (Err(error), Ok(_)) => panic!("the first order is refused, and {order:?} is not: {error}"),
        }
    }
    first
}

/// Compares with the tensor `name`, symmetrised first where it is a gradient of symmetric matrices.
#[track_caller]
fn check<T: Real>(case: &Case, name: &str, got: &[f64], item: usize, gradient: bool, symmetric: bool) {
    let mut got = got.to_vec();
    if symmetric {
        got.chunks_mut(item).for_each(|matrix| testkit::spd::symmetrise(matrix, item.isqrt()));
    }
    let bar = if gradient { T::BAR.gradient } else { T::BAR.value };
    let error = relative_error(&got, &case.tensor(name).values, item);
    let what = format!("{}.{} {} {name}", case.op, case.case, T::NAME);
    assert!(error <= bar, "{what}: relative error {error:.2e} is above {bar:.0e}");
}

fn functions<T: Real>() {
    let all = [
        ("spd_log", Function::Log),
        ("spd_sqrt", Function::Sqrt),
        ("spd_inv_sqrt", Function::InvSqrt),
        ("spd_exp", Function::Exp),
    ];
    for (op, function) in all {
        for case in every_case(op) {
            let batch = spd::Batch::of(op, "a", &case.tensor("a").shape).unwrap();
            let (y, grad) = in_every_order(|device| {
                let (a, g) = (input::<T>(device, &case, "a"), input::<T>(device, &case, "g"));
                let (y, eigen) = spd::function(device, op, function, device.view(&a), batch)?;
                let grad = spd::function_gradient(device, function, &eigen, device.view(&g))?;
                Ok((numbers(device, &y), numbers(device, &grad)))
            })
            .unwrap();
            check::<T>(&case, "y", &y, batch.d * batch.d, false, false);
            check::<T>(&case, "grad_a", &grad, batch.d * batch.d, true, true);
        }
    }
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn functions_f64() {
    functions::<f64>();
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn functions_f32() {
    functions::<f32>();
}

/// Distances of all pairs and both gradients.
fn all_pairs<T: Real>(device: &Emulator, op: &'static str, metric: Metric, case: &Case) -> Result<[Vec<f64>; 3]> {
    let batches = ["a", "b"].map(|name| spd::Batch::of(op, name, &case.tensor(name).shape).unwrap());
    let [a, b] = ["a", "b"].map(|name| input::<T>(device, case, name));
    let g = input::<T>(device, case, "g");
    let left = spd::prepare(device, op, "a", metric, device.view(&a), batches[0])?;
    let right = spd::prepare(device, op, "b", metric, device.view(&b), batches[1])?;
    let pairs = (0..batches[0].n as u32).flat_map(|i| (0..batches[1].n as u32).map(move |j| (i, j))).collect();
    let both = (&left, &right);
    let (dist, all) = spd::distances::<_, T>(device, (op, metric), both, pairs, true)?;
    let grad_a = all.gradient(device, both, device.view(&g), spd::Side::A)?;
    let grad_b = all.gradient(device, both, device.view(&g), spd::Side::B)?;
    Ok([numbers(device, &dist), numbers(device, &grad_a), numbers(device, &grad_b)])
}

fn distances<T: Real>() {
    for (op, metric) in [("le_distance", Metric::LogEuclidean), ("bw_distance", Metric::BuresWasserstein)] {
        for case in every_case(op) {
            let size = case.tensor("a").shape[1].pow(2);
            let [dist, grad_a, grad_b] = in_every_order(|device| all_pairs::<T>(device, op, metric, &case)).unwrap();
            check::<T>(&case, "dist", &dist, dist.len(), false, false);
            check::<T>(&case, "grad_a", &grad_a, size, true, true);
            check::<T>(&case, "grad_b", &grad_b, size, true, true);
        }
    }
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn distances_f64() {
    distances::<f64>();
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn distances_f32() {
    distances::<f32>();
}

fn covariances<T: Real>() {
    for case in every_case("covariance") {
        let &[b, n, d] = case.tensor("x").shape.as_slice() else { panic!("x is [B, n, d]") };
        let (y, dx, dl) = in_every_order(|device| {
            let [x, logits, g] = ["x", "logits", "g"].map(|name| input::<T>(device, &case, name));
            let views = (device.view(&x), device.view(&logits));
            let (y, moments) = spd::covariance(device, "covariance", views, (b, n, d), case.number("eps"))?;
            let both = (device.view(&x), device.view(&g));
            let (dx, dl) = spd::covariance_gradient(device, both, &moments, (b, n, d))?;
            Ok((numbers(device, &y), numbers(device, &dx), numbers(device, &dl)))
        })
        .unwrap();
        check::<T>(&case, "y", &y, d * d, false, false);
        check::<T>(&case, "grad_x", &dx, n * d, true, false);
        check::<T>(&case, "grad_logits", &dl, n, true, false);
    }
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn covariances_in_both_dtypes() {
    covariances::<f64>();
    covariances::<f32>();
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// The plan and the gradient of `n² Σ g ∘ plan`.
fn plan<T: Real>(device: &Emulator, case: &Case) -> Result<(Vec<f64>, Vec<f64>)> {
    let &[b, n, _] = case.tensor("cost").shape.as_slice() else { panic!("cost is [B, N, N]") };
    let config = SinkhornConfig { eps: case.number("eps"), iterations: case.number("iters") as usize };
    let cost = input::<T>(device, case, "cost");
    let scaled: Vec<f64> = case.tensor("g").values.iter().map(|g| T::of(*g).wide() * (n * n) as f64).collect();
    let g = upload::<T>(device, &scaled);
    let (plans, path) = sinkhorn::sinkhorn(device, "sinkhorn", device.view(&cost), (b, n), config)?;
    let grad = sinkhorn::gradient(device, "sinkhorn", (device.view(&cost), device.view(&g)), &path)?;
    Ok((numbers(device, &plans), numbers(device, &grad)))
}

fn plans<T: Real>() {
    for case in every_case("sinkhorn") {
        let n = case.tensor("cost").shape[1];
        let (plans, grad) = in_every_order(|device| plan::<T>(device, &case)).unwrap();
        check::<T>(&case, "plan", &plans, n * n, false, false);
        for (b, got) in grad.chunks(n * n).enumerate() {
            let own = b * n * n..(b + 1) * n * n;
            let want = &case.tensor("grad_cost").values[own.clone()];
            let terms = case.tensor("plan").values[own.clone()].iter().zip(&case.tensor("g").values[own]);
            // What float64 rounding leaves in the expected gradient itself, where that was computed in float64.
            let exact = case.attributes.contains_key("digits");
            let rounding = f64::EPSILON * norm(terms.map(|(p, g)| (n * n) as f64 * p * g)) / case.number("eps");
            let reference = if exact { 0.0 } else { rounding };
            let error = norm(got.iter().zip(want).map(|(a, b)| a - b));
            let bar = T::BAR.gradient * norm(want.iter().copied()) + reference;
            assert!(error <= bar, "sinkhorn.{} {} grad_cost of entry {b}", case.case, T::NAME);
        }
    }
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn plans_f64() {
    plans::<f64>();
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn plans_f32() {
    plans::<f32>();
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn graphs() {
    for case in every_case("dsot_graph") {
        let whole = |name: &str| case.number(name) as usize;
        let (height, width, k) = (whole("height"), whole("width"), whole("k"));
        let (images, d, n) = (case.tensor("x").shape[0], case.tensor("x").shape[2], height * width);
        let grid = graph::Grid { images, height, width, d, lambda: case.number("lambda_pos") };
        let (cost, index) = in_every_order(|device| {
            let (x, adjacency) = (input::<f64>(device, &case, "x"), input::<f64>(device, &case, "adjacency"));
            let (cost, _) = graph::cost(device, "dsot_graph", device.view(&x), grid)?;
            let index = graph::heaviest(device, device.view(&adjacency), (images * n, n), k)?;
            Ok((numbers(device, &cost), device.download(&index)?))
        })
        .unwrap();
        check::<f64>(&case, "cost", &cost, n * n, false, false);
        let index: Vec<usize> = index.into_iter().map(|i| i as usize).collect();
        assert_eq!(index, case.tensor("edge_index").indices(), "{}", case.case);
    }
}

fn ranking_losses<T: Real>() {
    for case in every_case("cotap") {
        let n = case.tensor("p").values.len();
        let (loss, grad) = in_every_order(|device| {
            let (p, q) = (input::<T>(device, &case, "p"), input::<T>(device, &case, "q"));
            let views = (device.view(&p), device.view(&q));
            let taus = (case.number("tau1"), case.number("tau2"));
            let (loss, slopes) = cotap::cotap(device, "cotap", views, (1, n), taus)?;
            let one = upload::<T>(device, &[1.0]);
            let grad = cotap::gradient(device, &slopes, device.view(&one), (1, n))?;
            Ok((numbers(device, &loss), numbers(device, &grad)))
        })
        .unwrap();
        check::<T>(&case, "loss", &loss, 1, false, false);
        check::<T>(&case, "grad_p", &grad, n, true, false);
        let (loss, grad) = in_every_order(|device| {
            let (p, q) = (input::<T>(device, &case, "p"), input::<T>(device, &case, "q"));
            let views = (device.view(&p), device.view(&q));
            let taus = (case.number("tau1"), case.number("tau2"));
            let (terms, grad) = cotap::by_ranks(device, "cotap", views, (1, n), taus)?;
            Ok(([numbers(device, &terms).iter().sum()], numbers(device, &grad)))
        })
        .unwrap();
        check::<T>(&case, "loss", &loss, 1, false, false);
        check::<T>(&case, "grad_p", &grad, n, true, false);
    }
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn ranking_losses_in_both_dtypes() {
    ranking_losses::<f64>();
    ranking_losses::<f32>();
}
