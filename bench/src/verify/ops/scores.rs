//! Metrics of evaluation: they take plain numbers, which pass through tensors of the dtype first.

use super::{Failure, Outcome, Run};

pub(super) fn classification(run: &Run<'_>) -> Outcome {
    let logits = run.plain("logits", 2)?;
    let labels = run.case.indices("labels")?;
    let shape = &run.case.tensor("logits")?.shape;
    run.agree("tensor `labels`", labels.len(), shape[0])?;
    let got = metrics::classification(&logits, &labels, shape[1])?;
    [("top1", got.top1), ("top5", got.top5), ("macro_f1", got.macro_f1), ("nll", got.nll), ("ece15", got.ece15)]
        .into_iter()
        .map(|(name, value)| run.value(name, &[value], 1))
        .collect()
}

pub(super) fn retrieval(run: &Run<'_>) -> Outcome {
    let embeddings = run.plain("embeddings", 2)?;
    let labels = run.case.indices("labels")?;
    let shape = &run.case.tensor("embeddings")?.shape;
    run.agree("tensor `labels`", labels.len(), shape[0])?;
    let got = metrics::retrieval(&embeddings, &labels, shape[1])?;
    let map_at_r = got.map_at_r.ok_or_else(|| Failure::Op("no class has two images: no mAP@R".into()))?;
    [("recall_at_1", got.recall_at_1), ("recall_at_4", got.recall_at_4), ("map_at_r", map_at_r)]
        .into_iter()
        .map(|(name, value)| run.value(name, &[value], 1))
        .collect()
}
