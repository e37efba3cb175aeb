//! Losses.

use kernels::spd::Metric;
use losses::{Alignment, Negatives};

use super::{Failure, Outcome, Run, values};

/// The labels `[n]`.
fn labels(run: &Run<'_>, n: usize) -> Result<Vec<u32>, Failure> {
    let labels = run.case.indices("labels")?;
    run.agree("tensor `labels`", labels.len(), n)?;
    Ok(labels)
}

pub(super) fn supcon(run: &Run<'_>) -> Outcome {
    let z = run.variable("z", 2)?;
    let (n, d) = z.dims2()?;
    let loss = losses::supcon::supcon(&z, &labels(run, n)?, run.case.number("temperature")?)?;
    let grads = loss.backward()?;
    Ok(vec![run.value("loss", &values(&loss)?, 1)?, run.gradient("grad_z", &grads, &z, d)?])
}

pub(super) fn triplet(run: &Run<'_>) -> Outcome {
    let [a, p, n] = [run.variable("anchor", 2)?, run.variable("positive", 2)?, run.variable("negative", 2)?];
    let d = a.dim(1)?;
    run.agree("tensor `positive`", p.elem_count(), a.elem_count())?;
    run.agree("tensor `negative`", n.elem_count(), a.elem_count())?;
    let loss = losses::triplet::triplet(&a, &p, &n, run.case.number("margin")?)?;
    let grads = loss.backward()?;
    Ok(vec![
        run.value("loss", &values(&loss)?, 1)?,
        run.gradient("grad_anchor", &grads, &a, d)?,
        run.gradient("grad_positive", &grads, &p, d)?,
        run.gradient("grad_negative", &grads, &n, d)?,
    ])
}

pub(super) fn pac_mcl(run: &Run<'_>) -> Outcome {
    let (a, b) = (run.variable("anchor", 4)?, run.variable("positive", 4)?);
    let (n, parts, d, columns) = a.dims4()?;
    run.agree("the last dimension of `anchor`", columns, d)?;
    run.agree("tensor `positive`", b.elem_count(), a.elem_count())?;
    let unknown = |name: &str, text: &str, known: &str| {
        Failure::File(run.case.wrong(format!("attribute `{name}` = `{text}` is none of {known}")))
    };
    let metric = match run.case.text("metric")? {
        "le" => Metric::LogEuclidean,
        "bw" => Metric::BuresWasserstein,
        other => return Err(unknown("metric", other, "le, bw")),
    };
    let alignment = match run.case.text("align")? {
        "nearest" => Alignment::Nearest,
        "mutual" => Alignment::Mutual,
        "hungarian" => Alignment::Hungarian,
        other => return Err(unknown("align", other, "nearest, mutual, hungarian")),
    };
    let (margin, labels) = (run.case.number("margin")?, labels(run, n)?);
    let out = losses::pac_mcl::pac_mcl(metric, alignment, Negatives::Hardest, margin, &a, &b, &labels)?;
    let grads = out.loss.backward()?;
    let matches: Vec<f64> = out.matches.iter().map(|&q| q as f64).collect();
    Ok(vec![
        run.value("loss", &values(&out.loss)?, 1)?,
        run.value("match", &matches, parts)?,
        run.symmetric_gradient("grad_anchor", &grads, &a, d)?,
        run.symmetric_gradient("grad_positive", &grads, &b, d)?,
    ])
}
