//! `triplet`: Euclidean triplets on normalised global averages.
//!
//! The anchor is an image's view 1, its positive the same image's view 2, its negative view 2 of another image.
//! Deviations, both as settings: CLE-ViT's paper (Yu et al., IJCAI 2023, section 3.3) takes any other image at random
//! and margin 1, without looking at classes: `negative = "random"`. Its released code computes a pairwise cosine loss
//! with class labels instead: `loss = "label-cosine"`.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::ops::{
    constant, gram, label_count, matrix_dims, mean, normalise, pool, positive_part, row_distance, same_dims, select,
    zero_of,
};
use crate::readout::Unread;
use crate::settings::Check;

/// Which negative an anchor gets.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum TripletNegative {
    /// The nearest view 2 of an image of another class.
    Hardest,
    /// View 2 of another image of the batch, drawn at random whatever its class.
    Random,
}

/// Which loss is computed.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub enum TripletLoss {
    /// [`triplet`].
    #[default]
    Triplet,
    /// [`label_cosine`].
    LabelCosine,
}

/// Settings of `triplet`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct TripletConfig {
    /// Weight of the term; default 1.
    pub gamma: f64,
    /// Weight of the cross entropy of the positive view; default 1.
    pub lambda: f64,
    /// Label smoothing of the cross entropies, in `[0, 1)`; default 0.
    pub label_smoothing: f64,
    /// The loss; default `triplet`.
    pub loss: TripletLoss,
    /// The negative of a triplet; default `hardest`. `label-cosine` has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative: Option<TripletNegative>,
    /// The margin; default 0.2 with the hardest negative, 1 with a random one, 0.4 for `label-cosine`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
}

impl Default for TripletConfig {
    fn default() -> Self {
        Self { gamma: 1.0, lambda: 1.0, label_smoothing: 0.0, loss: TripletLoss::Triplet, negative: None, margin: None }
    }
}

impl TripletConfig {
    pub(crate) fn validate(&self, check: Check) -> Result<()> {
        check.weight("gamma", self.gamma)?;
        check.weight("lambda", self.lambda)?;
        check.smoothing(self.label_smoothing)?;
        check.weight("margin", self.margin())?;
        let idle = self.loss == TripletLoss::LabelCosine && self.negative.is_some();
        check.that(!idle, "negative", "set", "no `negative` beside loss = \"label-cosine\", which uses all pairs")
    }

    pub(crate) fn resolved(&self) -> Self {
        Self { negative: self.negative(), margin: Some(self.margin()), ..self.clone() }
    }

    fn negative(&self) -> Option<TripletNegative> {
        match self.loss {
            TripletLoss::Triplet => Some(self.negative.unwrap_or(TripletNegative::Hardest)),
            TripletLoss::LabelCosine => self.negative,
        }
    }

    fn margin(&self) -> f64 {
        self.margin.unwrap_or(match (self.loss, self.negative()) {
            (TripletLoss::LabelCosine, _) => 0.4,
            (TripletLoss::Triplet, Some(TripletNegative::Random)) => 1.0,
            (TripletLoss::Triplet, _) => 0.2,
        })
    }

    /// Whether negatives are drawn at random.
    pub(crate) fn draws_negatives(&self) -> bool {
        self.negative() == Some(TripletNegative::Random)
    }

    /// The term on the maps `[B,C,H,W]` of both views; `drawn` are the random negatives, where the settings ask
    /// for them.
    pub(crate) fn term(
        &self,
        anchor: &Tensor,
        positive: &Tensor,
        labels: &[u32],
        drawn: &[Option<usize>],
    ) -> Result<(Tensor, Unread)> {
        let (a, p) = (pool(anchor)?, pool(positive)?);
        if self.loss == TripletLoss::LabelCosine {
            let features = Tensor::cat(&[a, p], 0)?;
            return Ok((
                label_cosine(&features, &[labels, labels].concat(), self.margin())?,
                Unread::known(BTreeMap::new()),
            ));
        }
        let (a, p) = (normalise(&a)?, normalise(&p)?);
        let negatives = if self.draws_negatives() { drawn.to_vec() } else { hardest_negatives(&a, &p, labels)? };
        unread_triplet(&a, &p, &negatives, self.margin())
    }
}

/// Triplet loss with Euclidean distances: `mean_i max(0, ‖a_i − p_i‖ − ‖a_i − n_i‖ + m)` for rows of `[n,d]`.
/// A distance of 0 contributes gradient 0 (Schroff et al., FaceNet, 2015, equation 3, without the squares).
///
/// # Errors
/// [`crate::LossError::Shape`] if the three differ in shape.
pub fn triplet(anchor: &Tensor, positive: &Tensor, negative: &Tensor, margin: f64) -> Result<Tensor> {
    matrix_dims("triplet", "anchor", anchor)?;
    same_dims("triplet", "positive", positive, anchor.dims())?;
    same_dims("triplet", "negative", negative, anchor.dims())?;
    let gap = (row_distance(anchor, positive)? - row_distance(anchor, negative)?)?;
    Ok(positive_part(&(gap + margin)?)?.mean_all()?)
}

/// For each row of `anchor` `[n,d]` the nearest row of `positive` `[n,d]` with another label, by exact float64
/// distances; the lower index among equals; `None` where all labels are the same.
///
/// # Errors
/// [`crate::LossError::Shape`] if the shapes do not fit.
pub fn hardest_negatives(anchor: &Tensor, positive: &Tensor, labels: &[u32]) -> Result<Vec<Option<usize>>> {
    let (n, _) = matrix_dims("hardest_negatives", "anchor", anchor)?;
    same_dims("hardest_negatives", "positive", positive, anchor.dims())?;
    label_count("hardest_negatives", labels, n)?;
    Ok(kernels::mining::hardest_negatives(&anchor.detach(), &positive.detach(), labels)?)
}

/// [`triplet`] over the anchors that have a negative; exactly 0 if none has.
/// Diagnostics: `intra_distance` and `inter_distance` (mean distance to positive and negative), `distance_margin`
/// (their difference), `active_share` (share of hinges above 0).
pub fn mined_triplet(
    anchor: &Tensor,
    positive: &Tensor,
    negatives: &[Option<usize>],
    margin: f64,
) -> Result<(Tensor, BTreeMap<String, f64>)> {
    let (loss, diagnostics) = unread_triplet(anchor, positive, negatives, margin)?;
    Ok((loss, diagnostics.read()?))
}

/// [`mined_triplet`] with diagnostics that are still to be read.
fn unread_triplet(
    anchor: &Tensor,
    positive: &Tensor,
    negatives: &[Option<usize>],
    margin: f64,
) -> Result<(Tensor, Unread)> {
    let kept: Vec<(usize, usize)> = negatives.iter().enumerate().filter_map(|(i, n)| n.map(|n| (i, n))).collect();
    if kept.is_empty() {
        return Ok(((zero_of(anchor)? + zero_of(positive)?)?, Unread::known(BTreeMap::new())));
    }
    let (own, other): (Vec<usize>, Vec<usize>) = kept.into_iter().unzip();
    let (a, p, n) = (select(anchor, &own)?, select(positive, &own)?, select(positive, &other)?);
    let (intra, inter) = (row_distance(&a, &p)?, row_distance(&a, &n)?);
    let loss = positive_part(&((&intra - &inter)? + margin)?)?.mean_all()?;
    let diagnostics = Unread::later(BTreeMap::new(), vec![intra, inter], margin, diagnostics);
    Ok((loss, diagnostics))
}

/// Diagnostics of [`mined_triplet`] from the distances to the positives and to the negatives.
fn diagnostics(distances: &[Vec<f64>], margin: f64) -> BTreeMap<String, f64> {
    let [intra, inter] = distances else { return BTreeMap::new() };
    let active: Vec<f64> = intra.iter().zip(inter).map(|(i, o)| f64::from(u8::from(i - o + margin > 0.0))).collect();
    let named = [
        ("intra_distance", mean(intra)),
        ("inter_distance", mean(inter)),
        ("distance_margin", mean(inter) - mean(intra)),
        ("active_share", mean(&active)),
    ];
    named.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

/// The loss of CLE-ViT's released code on all pairs of features `[n,d]` (normalised inside), itself included:
/// `1/n² Σ_ij [ (1 − cos_ij) if y_i = y_j, max(0, cos_ij − m) otherwise ]`.
///
/// # Errors
/// [`crate::LossError::Shape`] if the shapes do not fit.
pub fn label_cosine(features: &Tensor, labels: &[u32], margin: f64) -> Result<Tensor> {
    let (n, _) = matrix_dims("label_cosine", "features", features)?;
    label_count("label_cosine", labels, n)?;
    let unit = normalise(features)?;
    let cosine = gram(&unit)?;
    let same = (0..n * n).map(|at| f64::from(u8::from(labels[at / n] == labels[at % n]))).collect();
    let same = constant(same, &[n, n], features)?;
    let pull = (cosine.affine(-1.0, 1.0)? * &same)?;
    let push = (positive_part(&(cosine - margin)?)? * same.affine(-1.0, 1.0)?)?;
    Ok(((pull + push)?.sum_all()? / (n * n) as f64)?)
}
