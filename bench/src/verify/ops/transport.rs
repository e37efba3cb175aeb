//! Optimal transport and the ranking loss.

use candle_core::Tensor;
use kernels::transport::{DsotConfig, SinkhornConfig};

use super::super::measure::{Part, norm, tolerance};
use super::{Failure, Outcome, Run, backward, gradient_values, values};

/// Digits that an oracle's gradient of a plan must have been computed with to be held against the bare tolerance.
const ENOUGH_DIGITS: u32 = 30;

pub(super) fn sinkhorn(run: &Run<'_>) -> Outcome {
    let (cost, g) = (run.variable("cost", 3)?, run.tensor("g", 3)?);
    let (b, n, columns) = cost.dims3()?;
    run.agree("the last dimension of `cost`", columns, n)?;
    run.agree("tensor `g`", g.elem_count(), b * n * n)?;
    let config = SinkhornConfig { eps: run.case.number("eps")?, iterations: run.case.count("iters")? };
    let plan = kernels::transport::sinkhorn(&cost, config)?;
    let grads = backward(&plan, &g, (n * n) as f64)?;
    let got = gradient_values("grad_cost", &grads, &cost)?;
    Ok(vec![run.value("plan", &values(&plan)?, n * n)?, plan_gradient(run, &got, n, config.eps)?])
}

/// Compares the gradient of plans. Its terms `N² P ∘ g / ε` cancel almost entirely where the plan is almost a
/// permutation (by 1e-10 at ε = 0.01): float64 then leaves `ε₆₄ ‖N² P ∘ g‖ / ε` of error in the expected gradient itself.
/// The tolerance grows by that, and a note says so, unless the file's attribute `digits` tells that it was computed with
/// enough of them.
fn plan_gradient(run: &Run<'_>, got: &[f64], n: usize, eps: f64) -> Result<Part, Failure> {
    let bar = tolerance(run.precision).gradient;
    let digits = run.case.optional("digits").and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    if digits >= ENOUGH_DIGITS {
        let measured = run.compare("grad_cost", got, n * n, |_| bar)?;
        return Ok(Part { gradient: true, measured, note: None });
    }
    let (plan, g, want) = (run.case.tensor("plan")?, run.case.tensor("g")?, run.case.tensor("grad_cost")?);
    let floor = |b: usize| {
        let entry = b * n * n..(b + 1) * n * n;
        let terms = norm(entry.clone().map(|k| (n * n) as f64 * plan.values[k] * g.values[k]));
        let scale = norm(entry.map(|k| want.values[k]));
        f64::EPSILON * terms / eps / if scale == 0.0 { 1.0 } else { scale }
    };
    let measured = run.compare("grad_cost", got, n * n, |b| bar + floor(b))?;
    // A floor that nobody sees in the printed tolerance needs no words.
    let told = measured.tolerance > bar * 1.05;
    let note = told.then(|| {
        format!(
            "gradient tolerance {bar:.0e} + {:.1e}, the oracle's own float64 floor: its terms cancel by {:.0e}",
            measured.tolerance - bar,
            f64::EPSILON / (measured.tolerance - bar)
        )
    });
    Ok(Part { gradient: true, measured, note })
}

pub(super) fn dsot_graph(run: &Run<'_>) -> Outcome {
    let x = run.tensor("x", 3)?;
    let config = DsotConfig {
        height: run.case.count("height")?,
        width: run.case.count("width")?,
        k: run.case.count("k")?,
        eps: run.case.number("eps")?,
        iterations: run.case.count("iters")?,
        lambda_pos: run.case.number("lambda_pos")?,
        self_loop: run.case.number("self_loop_alpha")?,
    };
    let n = x.dim(1)?;
    run.agree("the second dimension of `x`", n, config.height.saturating_mul(config.width))?;
    let graph = kernels::transport::dsot_graph(&x, &config)?;
    Ok(vec![
        run.value("cost", &values(&graph.cost)?, n * n)?,
        run.value("adjacency", &values(&graph.adjacency)?, n * n)?,
        run.value("edge_index", &values(&graph.edge_index)?, n * config.k)?,
        run.value("edge_weight", &values(&graph.edge_weight)?, n * config.k)?,
    ])
}

pub(super) fn cotap(run: &Run<'_>) -> Outcome {
    let (p, q) = (run.variable("p", 1)?, run.tensor("q", 1)?);
    let n = p.dim(0)?;
    run.agree("tensor `q`", q.dim(0)?, n)?;
    let row = |t: &Tensor| t.unsqueeze(0);
    let loss = kernels::cotap::cotap(&row(&p)?, &row(&q)?, run.case.number("tau1")?, run.case.number("tau2")?)?;
    let grads = loss.sum_all()?.backward()?;
    Ok(vec![run.value("loss", &values(&loss)?, 1)?, run.gradient("grad_p", &grads, &p, n)?])
}
