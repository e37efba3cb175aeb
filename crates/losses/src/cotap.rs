//! `cotap`: ranking distillation of patch correspondences from an EMA teacher.
//!
//! For a pair (u, v) of images the similarities of all N×N token pairs are ranked by the teacher; the student is asked
//! for the same ranking (the kernel `kernels::cotap` states the loss).

use candle_core::Tensor;
use candle_nn::VarBuilder;
use kernels::nn::inner_products;
use random::Stream;
use serde::{Deserialize, Serialize};

use crate::layers::Mlp;
use crate::ops::{normalise, same_dims, select, tokens};
use crate::settings::Check;
use crate::{LossError, MethodConfig, Result};

/// How many pairs of images a step compares.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub enum PairCount {
    /// One for each image of the batch, which is its first member.
    #[default]
    PerImage,
    /// This many, whatever the batch; their first members are drawn without repetition as far as the batch goes.
    Fixed(usize),
}

/// Settings of `cotap`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct CotapConfig {
    /// Weight of the term; default 1.
    pub gamma: f64,
    /// Weight of the cross entropy of the positive view; default 1.
    pub lambda: f64,
    /// Label smoothing of the cross entropies, in `[0, 1)`; default 0.
    pub label_smoothing: f64,
    /// Threshold τ1 below which a teacher similarity has no weight; default −0.2.
    pub tau1: f64,
    /// Width τ2 of the penalty; default 0.5.
    pub tau2: f64,
    /// Width of the two hidden layers of the projection; default 2048.
    pub hidden: usize,
    /// Width of the projected tokens; default 256.
    pub output: usize,
    /// Pairs of images a step; default `per-image`.
    pub pairs: PairCount,
    /// Decay of the teacher's moving average at the first step, from where it rises to 1 along a cosine; default
    /// 0.9997.
    pub ema: f64,
}

impl Default for CotapConfig {
    fn default() -> Self {
        Self {
            gamma: 1.0,
            lambda: 1.0,
            label_smoothing: 0.0,
            tau1: -0.2,
            tau2: 0.5,
            hidden: 2048,
            output: 256,
            pairs: PairCount::PerImage,
            ema: 0.9997,
        }
    }
}

impl CotapConfig {
    pub(crate) fn validate(&self, check: Check) -> Result<()> {
        check.weight("gamma", self.gamma)?;
        check.weight("lambda", self.lambda)?;
        check.smoothing(self.label_smoothing)?;
        check.that((-1.0..=1.0).contains(&self.tau1), "tau1", self.tau1, "a similarity in [-1, 1]")?;
        check.positive("tau2", self.tau2)?;
        check.count("hidden", self.hidden)?;
        check.count("output", self.output)?;
        if let PairCount::Fixed(pairs) = self.pairs {
            check.count("pairs.fixed", pairs)?;
        }
        check.that((0.0..=1.0).contains(&self.ema), "ema", self.ema, "a decay in [0, 1]")
    }

    /// The pairs (u, v) of a step, v ≠ u if there are two images.
    pub(crate) fn draw_pairs(&self, images: usize, stream: &mut Stream) -> Vec<(usize, usize)> {
        if images == 0 {
            return Vec::new();
        }
        let first: Vec<usize> = match self.pairs {
            PairCount::PerImage => (0..images).collect(),
            PairCount::Fixed(count) => stream.permutation(images).into_iter().cycle().take(count).collect(),
        };
        first.into_iter().map(|u| (u, other_than(u, images, stream))).collect()
    }
}

/// An index of `0..n` other than `i`, drawn evenly; `i` itself if there is no other.
pub(crate) fn other_than(i: usize, n: usize, stream: &mut Stream) -> usize {
    if n < 2 {
        return i;
    }
    let j = stream.below(n - 1);
    if j < i { j } else { j + 1 }
}

/// The token projection: three linear layers with ReLU between them, then L2 normalisation.
#[derive(Debug)]
pub struct Projection(Mlp);

impl Projection {
    /// A projection of maps with `channels`; parameters under `vb.pp("projection")`.
    pub fn new(config: &CotapConfig, channels: usize, vb: VarBuilder) -> Result<Self> {
        let widths = [channels, config.hidden, config.hidden, config.output];
        Ok(Self(Mlp::new(&widths, vb.pp("projection"))?))
    }

    /// Projected, normalised tokens `[B,N,output]` of a map `[B,C,H,W]`.
    ///
    /// # Errors
    /// [`LossError::Shape`] if `map` has not rank 4.
    pub fn tokens(&self, map: &Tensor) -> Result<Tensor> {
        normalise(&self.0.forward(&tokens(map)?)?)
    }
}

/// The teacher's side of the objective: the projection with averaged parameters. Its outputs carry no gradient.
#[derive(Debug)]
pub struct Teacher {
    projection: Projection,
    dtype: candle_core::DType,
}

impl Teacher {
    /// The teacher of a method on maps with `channels`. `vb` gives the averaged parameters under the same names as
    /// [`crate::Method::new`] takes the student's (`objective.projection.*`).
    ///
    /// # Errors
    /// [`LossError::Missing`] for a method without a teacher.
    pub fn new(config: &MethodConfig, channels: usize, vb: VarBuilder) -> Result<Self> {
        match config {
            MethodConfig::Cotap(cotap) => {
                Ok(Self { dtype: vb.dtype(), projection: Projection::new(cotap, channels, vb.pp("objective"))? })
            }
            other => Err(LossError::Missing { method: other.name(), missing: "teacher" }),
        }
    }

    /// The batch's `teacher_tokens` `[B,N,output]` from the map `[B,C,H,W]` of the averaged backbone.
    ///
    /// # Errors
    /// [`LossError::Shape`] if `map` has not rank 4.
    pub fn tokens(&self, map: &Tensor) -> Result<Tensor> {
        Ok(self.projection.tokens(&map.detach().to_dtype(self.dtype)?)?.detach())
    }
}

/// The term: mean over `pairs` (u, v) of the CoTAP loss between the similarities `S = cosine/2 + 0.5` of all token
/// pairs, student's p against teacher's q, both from normalised tokens `[B,N,D]`. Gradient to the student alone.
///
/// # Errors
/// [`LossError::Shape`] if the tokens differ in shape or there is no pair; the errors of the kernel.
pub fn cotap_term(
    student: &Tensor,
    teacher: &Tensor,
    pairs: &[(usize, usize)],
    tau1: f64,
    tau2: f64,
) -> Result<Tensor> {
    let shape = |expected: &str| LossError::Shape {
        op: "cotap",
        name: "student",
        got: student.dims().to_vec(),
        expected: expected.to_owned(),
    };
    let [b, n, _] = *student.dims() else { return Err(shape("[B,N,D]")) };
    if pairs.is_empty() || pairs.iter().any(|&(u, v)| u >= b || v >= b) {
        return Err(shape("a batch that holds both images of each pair, and at least one pair"));
    }
    same_dims("cotap", "teacher_tokens", teacher, student.dims())?;
    let (first, second): (Vec<usize>, Vec<usize>) = pairs.iter().copied().unzip();
    let similarity = |t: &Tensor| -> Result<Tensor> {
        let cosine = inner_products(&select(t, &first)?, &select(t, &second)?)?;
        Ok(cosine.affine(0.5, 0.5)?.reshape((pairs.len(), n * n))?)
    };
    let (p, q) = (similarity(student)?, similarity(&teacher.detach())?);
    Ok(kernels::cotap::cotap(&p, &q, tau1, tau2)?.mean_all()?)
}
