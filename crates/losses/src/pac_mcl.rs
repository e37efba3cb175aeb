//! `pac-mcl-le`, `pac-mcl-bw`: part-aware contrast on the manifold of SPD matrices.
//!
//! The parts of an image's view 1 are aligned to the parts of its view 2; the aligned pair must be nearer than the
//! nearest view-2 part of an image of another class, by a margin. Distances are log-Euclidean (Arsigny et al., 2007,
//! equation 3.5) or Bures-Wasserstein (Bhatia et al., 2019, equation 1), exactly, for mining as for the loss.

use std::collections::BTreeMap;

use candle_core::{D, Tensor};
use candle_nn::VarBuilder;
use kernels::assignment;
use kernels::spd::{Metric, Prepared, pair_distance};
use serde::{Deserialize, Serialize};

use crate::ops::{constant, label_count, log_softmax, mean, positive_part, quantile, same_dims, zero_of};
use crate::parts::Parts;
use crate::readout::Unread;
use crate::settings::Check;
use crate::{LossError, Result};

/// How the parts of view 1 are aligned to the parts of view 2 of the same image.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Alignment {
    /// Each part to its nearest.
    Nearest,
    /// Mutual nearest pairs first, the rest one to one by growing distance.
    Mutual,
    /// The one-to-one alignment of smallest total distance.
    Hungarian,
}

/// What a part is pushed away from.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Negatives {
    /// The nearest part of view 2 of an image of another class.
    #[default]
    Hardest,
    /// The softmin-weighted mean distance to the nearest `k` of them.
    SoftTopK(SoftTopK),
}

/// Settings of [`Negatives::SoftTopK`].
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct SoftTopK {
    /// How many of the nearest; fewer where the batch has fewer. Default 5.
    pub k: usize,
    /// Temperature of the softmin; default 0.05.
    pub temperature: f64,
}

impl Default for SoftTopK {
    fn default() -> Self {
        Self { k: 5, temperature: 0.05 }
    }
}

/// Settings of `pac-mcl-le` and `pac-mcl-bw`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct PacMclConfig {
    /// Weight of the term; default 0.75.
    pub gamma: f64,
    /// Weight of the cross entropy of the positive view; default 1.
    pub lambda: f64,
    /// Label smoothing of the cross entropies, in `[0, 1)`; default 0.
    pub label_smoothing: f64,
    /// Number of parts P; default 6.
    pub parts: usize,
    /// Width d of the reduced tokens; default 64.
    pub dim: usize,
    /// What is added to the diagonal of a covariance; default 1e-4.
    pub eps: f64,
    /// The margin m; default 0.2.
    pub margin: f64,
    /// The alignment; default `mutual` for `pac-mcl-le`, `hungarian` for `pac-mcl-bw`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alignment: Option<Alignment>,
    /// The negatives; default `hardest`.
    pub negatives: Negatives,
}

impl Default for PacMclConfig {
    fn default() -> Self {
        Self {
            gamma: 0.75,
            lambda: 1.0,
            label_smoothing: 0.0,
            parts: 6,
            dim: 64,
            eps: 1e-4,
            margin: 0.2,
            alignment: None,
            negatives: Negatives::Hardest,
        }
    }
}

impl PacMclConfig {
    pub(crate) fn validate(&self, check: Check) -> Result<()> {
        check.weight("gamma", self.gamma)?;
        check.weight("lambda", self.lambda)?;
        check.smoothing(self.label_smoothing)?;
        check.count("parts", self.parts)?;
        check.count("dim", self.dim)?;
        check.positive("eps", self.eps)?;
        check.weight("margin", self.margin)?;
        match self.negatives {
            Negatives::Hardest => Ok(()),
            Negatives::SoftTopK(soft) => {
                check.count("negatives.soft-top-k.k", soft.k)?;
                check.positive("negatives.soft-top-k.temperature", soft.temperature)
            }
        }
    }

    pub(crate) fn resolved(&self, metric: Metric) -> Self {
        Self { alignment: Some(self.alignment(metric)), ..self.clone() }
    }

    fn alignment(&self, metric: Metric) -> Alignment {
        self.alignment.unwrap_or(match metric {
            Metric::LogEuclidean => Alignment::Mutual,
            Metric::BuresWasserstein => Alignment::Hungarian,
        })
    }
}

/// The objective with its parts.
#[derive(Debug)]
pub struct PacMcl {
    /// Attention and reduction.
    pub parts: Parts,
    metric: Metric,
    alignment: Alignment,
    negatives: Negatives,
    margin: f64,
}

impl PacMcl {
    /// The objective on maps with `channels`; parameters as in [`Parts::new`].
    pub fn new(config: &PacMclConfig, metric: Metric, channels: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            parts: Parts::new(channels, config.parts, config.dim, config.eps, vb)?,
            metric,
            alignment: config.alignment(metric),
            negatives: config.negatives,
            margin: config.margin,
        })
    }

    /// The term on the maps `[B,C,H,W]` of both views, in float64.
    pub(crate) fn term(&self, anchor: &Tensor, positive: &Tensor, labels: &[u32]) -> Result<(Tensor, Unread)> {
        let (a, b) = (self.parts.covariances(anchor)?, self.parts.covariances(positive)?);
        let (loss, _, diagnostics) =
            unread_pac_mcl(self.metric, self.alignment, self.negatives, self.margin, &a, &b, labels)?;
        Ok((loss, diagnostics))
    }
}

/// What [`pac_mcl`] returns.
#[derive(Debug)]
pub struct PacMclOut {
    /// The loss, a scalar.
    pub loss: Tensor,
    /// For each image and part of view 1 the aligned part of view 2: n·P indices in `0..P`, row by row.
    pub matches: Vec<usize>,
    /// See [`pac_mcl`].
    pub diagnostics: BTreeMap<String, f64>,
}

/// Part-aware contrast of the parts `anchor` and `positive` `[n,P,d,d]` of the two views of n images:
/// `mean max(0, δ(p, π(p)) − δ⁻(p) + m)` over the parts p of view 1 whose image has another class in the batch, where
/// π is the `alignment` of the image's own parts and δ⁻ the distance to the [`Negatives`] among the view-2 parts of
/// images of another class. Exactly 0 if no image has another class in the batch. Alignment and choice of negatives
/// are constants to the gradient; the weights of `soft-top-k` are not. A hinge at exactly 0 has gradient 0.
///
/// Diagnostics: `eigenvalue_min`, `eigenvalue_q01`, `eigenvalue_median` (of the smallest eigenvalue over the parts of
/// both views); `aligned_median`, `aligned_q95`, `intra_distance` (mean) of the aligned pairs;
/// and where there are negatives `inter_distance` (mean of δ⁻), `distance_margin` (inter − intra over the same parts)
/// and `active_share` (share of hinges above 0).
///
/// # Errors
/// [`LossError::Shape`] if the shapes do not fit; the errors of the distance kernels, such as a part that is not
/// positive definite.
pub fn pac_mcl(
    metric: Metric,
    alignment: Alignment,
    negatives: Negatives,
    margin: f64,
    anchor: &Tensor,
    positive: &Tensor,
    labels: &[u32],
) -> Result<PacMclOut> {
    let (loss, matches, diagnostics) = unread_pac_mcl(metric, alignment, negatives, margin, anchor, positive, labels)?;
    Ok(PacMclOut { loss, matches, diagnostics: diagnostics.read()? })
}

/// [`pac_mcl`] with diagnostics that are still to be read: the loss, the matches, the diagnostics.
fn unread_pac_mcl(
    metric: Metric,
    alignment: Alignment,
    negatives: Negatives,
    margin: f64,
    anchor: &Tensor,
    positive: &Tensor,
    labels: &[u32],
) -> Result<(Tensor, Vec<usize>, Unread)> {
    let (n, parts, d) = check_parts(anchor, positive, labels)?;
    let list = |x: &Tensor| x.detach().reshape((n * parts, d, d));
    let (ready_a, ready_b) = Prepared::pair(metric, &list(anchor)?, &list(positive)?)?;
    let aligned = align(alignment, &ready_a, &ready_b, n, parts)?;
    let mut diagnostics = eigenvalue_diagnostics(&ready_a, &ready_b);
    diagnostics.extend(aligned_diagnostics(&aligned));
    let matches: Vec<usize> = aligned.iter().map(|&(q, _)| q).collect();
    let mined = mine(negatives, &ready_a, &ready_b, labels, parts)?;
    let rows: Vec<usize> = (0..n * parts).filter(|&r| !mined[r].is_empty()).collect();
    if rows.is_empty() {
        return Ok(((zero_of(anchor)? + zero_of(positive)?)?, matches, Unread::known(diagnostics)));
    }
    let widest = rows.iter().map(|&r| mined[r].len()).max().unwrap_or(0);
    let pairs = pairs(&rows, &matches, &mined, parts, widest);
    let distances = pair_distance(anchor, positive, &pairs, &ready_a, &ready_b)?;
    let intra = distances.narrow(0, 0, rows.len())?;
    let inter = distances.narrow(0, rows.len(), rows.len() * widest)?.reshape((rows.len(), widest))?;
    let counts: Vec<usize> = rows.iter().map(|&r| mined[r].len()).collect();
    let inter = soften(negatives, &inter, &counts)?;
    let hinges = positive_part(&((&intra - &inter)? + margin)?)?;
    let loss = hinges.mean_all()?;
    let diagnostics = Unread::later(diagnostics, vec![intra, inter, hinges], margin, hinge_diagnostics);
    Ok((loss, matches, diagnostics))
}

fn check_parts(anchor: &Tensor, positive: &Tensor, labels: &[u32]) -> Result<(usize, usize, usize)> {
    let dims = anchor.dims();
    let (n, parts, d) = match *dims {
        [n, p, d, e] if d == e && n * p * d > 0 => (n, p, d),
        _ => {
            let expected = "[n,P,d,d], none 0".to_owned();
            return Err(LossError::Shape { op: "pac_mcl", name: "anchor", got: dims.to_vec(), expected });
        }
    };
    same_dims("pac_mcl", "positive", positive, dims)?;
    label_count("pac_mcl", labels, n)?;
    Ok((n, parts, d))
}

/// For each part of view 1 the aligned part of view 2 and its distance.
fn align(how: Alignment, a: &Prepared, b: &Prepared, n: usize, parts: usize) -> Result<Vec<(usize, f64)>> {
    let own = |image: usize| (0..parts * parts).map(move |at| (image * parts + at / parts, image * parts + at % parts));
    let costs = a.distances(b, &(0..n).flat_map(own).collect::<Vec<_>>())?;
    let image = |cost: &[f64]| -> Vec<(usize, f64)> {
        let matched = match how {
            Alignment::Nearest => assignment::nearest(cost, parts),
            Alignment::Mutual => assignment::mutual(cost, parts),
            Alignment::Hungarian => assignment::hungarian(cost, parts),
        };
        matched.into_iter().enumerate().map(|(p, q)| (q, cost[p * parts + q])).collect()
    };
    Ok(costs.chunks_exact(parts * parts).flat_map(image).collect())
}

/// For each part of view 1 its negatives, nearest first: one or `k` indices of view-2 parts, none where the batch
/// has no other class.
fn mine(negatives: Negatives, a: &Prepared, b: &Prepared, labels: &[u32], parts: usize) -> Result<Vec<Vec<usize>>> {
    let k = match negatives {
        Negatives::Hardest => 1,
        Negatives::SoftTopK(soft) => soft.k,
    };
    let nearest = a.nearest_in_groups(b, parts, k, |i, j| labels[i] != labels[j])?;
    Ok(nearest.into_iter().map(|found| found.into_iter().map(|(q, _)| q).collect()).collect())
}

/// The pairs whose distances enter the loss: the aligned pair of each row, then `widest` negatives of each row, padded
/// with the first.
fn pairs(rows: &[usize], matches: &[usize], mined: &[Vec<usize>], parts: usize, widest: usize) -> Vec<(usize, usize)> {
    let aligned = rows.iter().map(|&r| (r, r / parts * parts + matches[r]));
    let negative = |r: usize, k: usize| (r, *mined[r].get(k).unwrap_or(&mined[r][0]));
    aligned.chain(rows.iter().flat_map(|&r| (0..widest).map(move |k| negative(r, k)))).collect()
}

/// δ⁻ of each row from the distances `[rows,k]` to its negatives, of which the first `counts` are real.
fn soften(negatives: Negatives, distances: &Tensor, counts: &[usize]) -> Result<Tensor> {
    let Negatives::SoftTopK(soft) = negatives else {
        return Ok(distances.squeeze(1)?);
    };
    let (rows, k) = distances.dims2()?;
    let mask = (0..rows * k).map(|at| if at % k < counts[at / k] { 0.0 } else { f64::NEG_INFINITY }).collect();
    let logits = (distances.affine(-1.0 / soft.temperature, 0.0)? + constant(mask, &[rows, k], distances)?)?;
    Ok((log_softmax(&logits)?.exp()? * distances)?.sum(D::Minus1)?)
}

fn named<const N: usize>(values: [(&str, f64); N]) -> BTreeMap<String, f64> {
    values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn ascending(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn eigenvalue_diagnostics(a: &Prepared, b: &Prepared) -> BTreeMap<String, f64> {
    let smallest = |p: &Prepared| (0..p.len()).map(|i| p.eigenvalues(i)[0]).collect::<Vec<f64>>();
    let all = ascending([smallest(a), smallest(b)].concat());
    named([
        ("eigenvalue_min", all[0]),
        ("eigenvalue_q01", quantile(&all, 0.01)),
        ("eigenvalue_median", quantile(&all, 0.5)),
    ])
}

fn aligned_diagnostics(aligned: &[(usize, f64)]) -> BTreeMap<String, f64> {
    let distances = ascending(aligned.iter().map(|&(_, distance)| distance).collect());
    named([
        ("aligned_median", quantile(&distances, 0.5)),
        ("aligned_q95", quantile(&distances, 0.95)),
        ("intra_distance", mean(&distances)),
    ])
}

/// From the distances of the aligned pairs, those to the negatives, and the hinges.
fn hinge_diagnostics(values: &[Vec<f64>], _: f64) -> BTreeMap<String, f64> {
    let [intra, inter, hinges] = values else { return BTreeMap::new() };
    let active = hinges.iter().filter(|&&h| h > 0.0).count() as f64 / hinges.len() as f64;
    let margin = mean(inter) - mean(intra);
    named([("inter_distance", mean(inter)), ("distance_margin", margin), ("active_share", active)])
}
