//! Matrix functions, distances and covariances.

use candle_core::Tensor;
use kernels::spd::{self, Metric};

use super::{Outcome, Run, backward, values};

fn function(run: &Run<'_>, f: fn(&Tensor) -> kernels::Result<Tensor>) -> Outcome {
    let (a, g) = (run.variable("a", 3)?, run.tensor("g", 3)?);
    let (n, d, columns) = a.dims3()?;
    run.agree("the last dimension of `a`", columns, d)?;
    run.agree("tensor `g`", g.elem_count(), n * d * d)?;
    let y = f(&a)?;
    let grads = backward(&y, &g, 1.0)?;
    Ok(vec![run.value("y", &values(&y)?, d * d)?, run.symmetric_gradient("grad_a", &grads, &a, d)?])
}

pub(super) fn log(run: &Run<'_>) -> Outcome {
    function(run, spd::log)
}

pub(super) fn sqrt(run: &Run<'_>) -> Outcome {
    function(run, spd::sqrt)
}

pub(super) fn inv_sqrt(run: &Run<'_>) -> Outcome {
    function(run, spd::inv_sqrt)
}

pub(super) fn exp(run: &Run<'_>) -> Outcome {
    function(run, spd::exp)
}

fn distance(run: &Run<'_>, metric: Metric) -> Outcome {
    let (a, b, g) = (run.variable("a", 3)?, run.variable("b", 3)?, run.tensor("g", 2)?);
    let ((n, d, columns), (m, e, more)) = (a.dims3()?, b.dims3()?);
    run.agree("the last dimension of `a`", columns, d)?;
    run.agree("the second dimension of `b`", e, d)?;
    run.agree("the last dimension of `b`", more, d)?;
    run.agree("the first dimension of `g`", g.dim(0)?, n)?;
    run.agree("the last dimension of `g`", g.dim(1)?, m)?;
    let dist = spd::distance(metric, &a, &b)?;
    let grads = backward(&dist, &g, 1.0)?;
    Ok(vec![
        run.value("dist", &values(&dist)?, n * m)?,
        run.symmetric_gradient("grad_a", &grads, &a, d)?,
        run.symmetric_gradient("grad_b", &grads, &b, d)?,
    ])
}

pub(super) fn le_distance(run: &Run<'_>) -> Outcome {
    distance(run, Metric::LogEuclidean)
}

pub(super) fn bw_distance(run: &Run<'_>) -> Outcome {
    distance(run, Metric::BuresWasserstein)
}

pub(super) fn covariance(run: &Run<'_>) -> Outcome {
    let (x, logits, g) = (run.variable("x", 3)?, run.variable("logits", 2)?, run.tensor("g", 3)?);
    let (b, n, d) = x.dims3()?;
    run.agree("the first dimension of `logits`", logits.dim(0)?, b)?;
    run.agree("the last dimension of `logits`", logits.dim(1)?, n)?;
    run.agree("tensor `g`", g.elem_count(), b * d * d)?;
    let y = spd::covariance(&x, &logits, run.case.number("eps")?)?;
    let grads = backward(&y, &g, 1.0)?;
    Ok(vec![
        run.value("y", &values(&y)?, d * d)?,
        run.gradient("grad_x", &grads, &x, n * d)?,
        run.gradient("grad_logits", &grads, &logits, n)?,
    ])
}
