//! Evaluation on the test split: the anchor path alone, a centre crop, running statistics.

use std::sync::Arc;

use backbones::BatchStatistics;
use candle_core::{DType, Device, Tensor};
use datasets::{DecodedSet, EvalPlan, Item, Loader};
use records::{Prediction, Scores, Stage};

use super::failure::Cause;
use super::model::Network;
use super::{Failure, deadline};
use crate::suite::Protocol;

/// Images of a forward pass; the numbers of an image do not depend on its neighbours.
const BATCH: usize = 64;
/// Hex digits by which a prediction names its image.
const IMAGE_DIGITS: usize = 16;

/// What a network says about the test split.
pub(crate) struct Evaluation {
    /// Scores.
    pub(crate) scores: Scores,
    /// One prediction an image.
    pub(crate) predictions: Vec<Prediction>,
}

/// Evaluates on all images of `set`, whose items are `items`, after `step` steps.
pub(crate) fn evaluate(
    network: &Network,
    set: &Arc<DecodedSet>,
    items: &[Item],
    classes: usize,
    protocol: &Protocol,
    device: &Device,
    step: u64,
) -> Result<Evaluation, Failure> {
    let failed = |e: &dyn Cause| Failure::at(Stage::Evaluate, e);
    let labels: Vec<u32> = items.iter().map(|item| item.label).collect();
    let (mut logits, mut features) = (Vec::new(), Vec::new());
    for batch in batches(set, items.len(), protocol) {
        deadline::check(Stage::Evaluate)?;
        let batch = batch.map_err(|e| Failure::at(Stage::Data, e))?;
        let shape = (batch.labels.len(), 3, protocol.input_size, protocol.input_size);
        let images = Tensor::from_vec(batch.anchor, shape, device).map_err(|e| failed(&e))?;
        let map = network.backbone.forward_t(&images, BatchStatistics::Eval).map_err(|e| failed(&e))?;
        let map = map.detach();
        let said = network.method.logits(&map).map_err(|e| match e.is_non_finite() {
            true => Failure::diverged(step, format!("the input of a kernel ({e})")),
            false => failed(&e),
        })?;
        logits.extend(numbers(&said).map_err(|e| failed(&e))?);
        let pooled = map.mean((2, 3)).map_err(|e| failed(&e))?;
        features.extend(numbers(&pooled).map_err(|e| failed(&e))?);
    }
    if !logits.iter().chain(&features).all(|v| v.is_finite()) {
        return Err(Failure::diverged(step, "the network's output on the test split"));
    }
    let dim = network.backbone.channels();
    let found = metrics::classification(&logits, &labels, classes).map_err(|e| failed(&e))?;
    let retrieval = metrics::retrieval(&features, &labels, dim).map_err(|e| failed(&e))?;
    let scores = Scores {
        correct: found.correct,
        total: found.total,
        top1: found.top1,
        top5: found.top5,
        macro_f1: found.macro_f1,
        nll: found.nll,
        ece: found.ece15,
        recall_at_1: retrieval.recall_at_1,
        recall_at_4: retrieval.recall_at_4,
        map_at_r: retrieval.map_at_r,
        per_class: found.per_class.clone(),
    };
    let predictions = items.iter().zip(found.images).map(|(item, said)| Prediction {
        image: item.sha256[..IMAGE_DIGITS].to_owned(),
        label: item.label,
        predicted: said.predicted,
        probability: said.probability as f32,
        true_probability: said.true_probability as f32,
        rank: said.rank,
    });
    Ok(Evaluation { scores, predictions: predictions.collect() })
}

/// The test images in their order, made ahead on the host, whatever the device: what a card makes is the square resize of a
/// training view, which evaluation's whole image at a short side, with the weights' kernel and a window of it, is not.
fn batches(set: &Arc<DecodedSet>, images: usize, protocol: &Protocol) -> Loader {
    let range = |start: usize| (start..(start + BATCH).min(images)).collect();
    let plan = EvalPlan { eval: protocol.evaluation(), size: protocol.input_size, norm: protocol.normalise() };
    Loader::eval(Arc::clone(set), (0..images).step_by(BATCH).map(range).collect(), plan, None)
}

fn numbers(tensor: &Tensor) -> candle_core::Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}
