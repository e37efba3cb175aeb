//! Classification and calibration: logits and labels to scores, and to one line per image.
//!
//! With logits `z` of an image, `p = softmax(z)`, true class `y` and `n` images of `c` classes:
//!
//! | score | formula | unit |
//! |---|---|---|
//! | predicted class | `argmax z`, the lower id of equals | class id |
//! | rank | `1 + #{j : z_j > z_y} + #{j < y : z_j = z_y}` | from 1 |
//! | top-k | share of images with rank ≤ k; 1 for `c ≤ k` | fraction |
//! | macro-F1 | mean over all `c` classes of `2 TP / (2 TP + FP + FN)`, and 0 where that is 0/0 | fraction |
//! | NLL | mean of `log Σ exp(z − max z) − (z_y − max z)` | nats |
//! | ECE | `Σ_k (n_k / n) · abs(accuracy_k − confidence_k)`, 15 bins of `max p` | fraction |
//!
//! ECE: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. (3); bin `k` is
//! `(k/15, (k+1)/15]`. The rank is the position in a stable sort by falling logit.

use crate::error::{MetricError, check_finite, check_length};

/// Bins of the expected calibration error.
pub const ECE_BINS: usize = 15;

/// What the logits say about one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageScore {
    /// Class id with the largest logit, the lower id of equals.
    pub predicted: u32,
    /// Probability of the predicted class.
    pub probability: f64,
    /// Probability of the true class; 0 where it is below the smallest float64.
    pub true_probability: f64,
    /// Negative log-likelihood of the true class, nats; finite even where `true_probability` is 0.
    pub nll: f64,
    /// Rank of the true class, from 1.
    pub rank: u32,
}

/// Scores of a whole split. Accuracies are fractions.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassificationScores {
    /// Images whose predicted class is the true one.
    pub correct: u64,
    /// Images.
    pub total: u64,
    /// `correct / total`.
    pub top1: f64,
    /// Share of images whose true class is among the five with the largest logits.
    pub top5: f64,
    /// Unweighted mean of the classes' F1 over all classes.
    pub macro_f1: f64,
    /// Mean negative log-likelihood, nats.
    pub nll: f64,
    /// Expected calibration error, [`ECE_BINS`] bins.
    pub ece15: f64,
    /// Accuracy (recall) of each class, by class id; none where a class has no image.
    pub per_class: Vec<Option<f64>>,
    /// Counts, row-major `[classes, classes]`: true class × predicted class.
    pub confusion: Vec<u64>,
    /// One entry per image, in the order of the labels.
    pub images: Vec<ImageScore>,
}

/// Scores row-major `logits` `[n, classes]` against `labels` `[n]`.
///
/// # Errors
/// [`MetricError::Empty`] without labels or classes, [`MetricError::Length`] if `logits` is not `[n, classes]`,
/// [`MetricError::NotFinite`] for NaN or an infinity, [`MetricError::Label`] for a label ≥ `classes`,
/// [`MetricError::Overflow`] if an image's log-likelihood is no float64.
pub fn classification(logits: &[f64], labels: &[u32], classes: usize) -> Result<ClassificationScores, MetricError> {
    if labels.is_empty() {
        return Err(MetricError::Empty { what: "labels" });
    }
    if classes == 0 {
        return Err(MetricError::Empty { what: "classes" });
    }
    check_length("logits", logits.len(), labels.len() * classes)?;
    check_finite("logits", logits)?;
    if let Some(image) = labels.iter().position(|&label| label as usize >= classes) {
        return Err(MetricError::Label { image, label: labels[image], classes });
    }
    let images: Vec<ImageScore> =
        logits.chunks_exact(classes).zip(labels).map(|(row, &label)| image_score(row, label as usize)).collect();
    if let Some(image) = images.iter().position(|i| !i.nll.is_finite()) {
        return Err(MetricError::Overflow { image });
    }
    Ok(summarise(images, labels, classes))
}

fn image_score(logits: &[f64], label: usize) -> ImageScore {
    let (predicted, largest) = logits
        .iter()
        .enumerate()
        .fold((0, f64::NEG_INFINITY), |best, (id, &z)| if z > best.1 { (id, z) } else { best });
    let mass: f64 = logits.iter().map(|z| (z - largest).exp()).sum();
    let own = logits[label];
    let before = logits.iter().enumerate().filter(|&(id, &z)| z > own || (z == own && id < label)).count();
    ImageScore {
        predicted: predicted as u32,
        probability: 1.0 / mass,
        true_probability: (own - largest).exp() / mass,
        nll: mass.ln() - (own - largest),
        rank: 1 + before as u32,
    }
}

fn summarise(images: Vec<ImageScore>, labels: &[u32], classes: usize) -> ClassificationScores {
    let n = images.len() as f64;
    let mut confusion = vec![0u64; classes * classes];
    for (image, &label) in images.iter().zip(labels) {
        confusion[label as usize * classes + image.predicted as usize] += 1;
    }
    let within = |k: u32| images.iter().filter(|i| i.rank <= k).count() as u64;
    let correct = within(1);
    let support: Vec<u64> = confusion.chunks_exact(classes).map(|row| row.iter().sum()).collect();
    let per_class =
        (0..classes).map(|c| (support[c] > 0).then(|| confusion[c * classes + c] as f64 / support[c] as f64)).collect();
    ClassificationScores {
        correct,
        total: images.len() as u64,
        top1: correct as f64 / n,
        top5: within(5) as f64 / n,
        macro_f1: macro_f1(&confusion, &support),
        nll: images.iter().map(|i| i.nll).sum::<f64>() / n,
        ece15: expected_calibration_error(&images, labels),
        per_class,
        confusion,
        images,
    }
}

/// Mean over the classes of `2 TP / (support + predictions)`, which is `2 TP / (2 TP + FP + FN)`.
fn macro_f1(confusion: &[u64], support: &[u64]) -> f64 {
    let classes = support.len();
    let mut predictions = vec![0u64; classes];
    for row in confusion.chunks_exact(classes) {
        row.iter().zip(&mut predictions).for_each(|(count, sum)| *sum += count);
    }
    let f1 = |c: usize| match support[c] + predictions[c] {
        0 => 0.0,
        both => 2.0 * confusion[c * classes + c] as f64 / both as f64,
    };
    (0..classes).map(f1).sum::<f64>() / classes as f64
}

fn expected_calibration_error(images: &[ImageScore], labels: &[u32]) -> f64 {
    let upper = |k: usize| (k + 1) as f64 / ECE_BINS as f64;
    let mut hits = [0.0; ECE_BINS];
    let mut confidence = [0.0; ECE_BINS];
    for (image, &label) in images.iter().zip(labels) {
        let bin = (0..ECE_BINS - 1).find(|&k| image.probability <= upper(k)).unwrap_or(ECE_BINS - 1);
        hits[bin] += f64::from(u8::from(image.predicted == label));
        confidence[bin] += image.probability;
    }
    hits.iter().zip(&confidence).map(|(h, c)| (h - c).abs()).sum::<f64>() / images.len() as f64
}
