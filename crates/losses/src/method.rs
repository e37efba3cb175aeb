//! A method with its parameters: head, objective and the total loss.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use kernels::spd::Metric;
use random::Stream;

use crate::ce::cross_entropy;
use crate::cotap::{self, Projection, cotap_term};
use crate::dsot::GraphHead;
use crate::layers::Linear;
use crate::ops::{label_count, map_dims, pool, same_dims};
use crate::pac_mcl::PacMcl;
use crate::readout::{Numbers, Unread, fetch};
use crate::supcon::Supcon;
use crate::{CotapConfig, LossError, MethodConfig, Result, Teacher, TripletConfig};

/// What one step of training gives a method.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Feature map of view 1 of each image, `[B,C,H,W]`.
    pub anchor_map: &'a Tensor,
    /// Feature map of view 2, of the same shape, where [`MethodConfig::views`] asks for it.
    pub positive_map: Option<&'a Tensor>,
    /// The teacher's tokens of view 1 ([`Teacher::tokens`]), where [`MethodConfig::views`] asks for them.
    pub teacher_tokens: Option<&'a Tensor>,
    /// The class of each image.
    pub labels: &'a [u32],
    /// The stream of this step, on `random::Axis::Objective`: random pairs and negatives come from a copy of it, so
    /// that the loss is a function of the batch alone.
    pub stream: &'a Stream,
}

/// The random choices of one step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Draws {
    /// Pairs of images (CoTAP).
    pub pairs: Vec<(usize, usize)>,
    /// For each image the image of its random negative, if the method draws one and there is another image.
    pub negatives: Vec<Option<usize>>,
}

/// The loss of one step. Its numbers stay on the device until [`LossOut::read`] fetches all of them at once.
#[derive(Debug)]
pub struct LossOut {
    /// `CE(anchor) + λ·CE(positive) + γ·L_method`, a scalar.
    pub total: Tensor,
    terms: BTreeMap<String, Tensor>,
    diagnostics: Unread,
}

impl LossOut {
    /// The numbers of the step, and the values of further tensors of the same device, in one copy from it: the host waits
    /// for the device once.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn read(&self, also: &[&Tensor]) -> Result<Numbers> {
        let terms = self.terms.len();
        let mut tensors = vec![&self.total];
        tensors.extend(self.terms.values());
        tensors.extend(&self.diagnostics.tensors);
        let own = tensors.len();
        tensors.extend(also);
        let mut values = fetch(&tensors)?;
        let also = values.split_off(own);
        let named = self.terms.keys().cloned().zip(values[1..].iter().map(|term| term[0]));
        Ok(Numbers {
            total: values[0][0],
            terms: named.collect(),
            diagnostics: self.diagnostics.finish(&values[1 + terms..]),
            also,
        })
    }
}

#[derive(Debug)]
enum Head {
    Linear(Linear),
    Graph(GraphHead),
}

#[derive(Debug)]
enum Objective {
    None,
    Supcon(Supcon),
    Triplet(TripletConfig),
    PacMcl(Box<PacMcl>),
    Cotap(CotapConfig, Projection),
}

/// A method: a head and an objective with their parameters.
#[derive(Debug)]
pub struct Method {
    config: MethodConfig,
    channels: usize,
    dtype: DType,
    head: Head,
    objective: Objective,
}

impl Method {
    /// A method on maps with `channels` for this many classes. Parameters of the head lie under `head.` (the linear
    /// head is `head.fc.weight` `[classes,channels]` and `head.fc.bias`), those that only training needs under
    /// `objective.`. Maps are converted to the dtype of `vb`, float32 or float64.
    ///
    /// # Errors
    /// [`LossError::Setting`] for settings outside their ranges, [`LossError::Dtype`], the errors of `vb`.
    pub fn new(config: &MethodConfig, channels: usize, classes: usize, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let dtype = vb.dtype();
        if !matches!(dtype, DType::F32 | DType::F64) {
            return Err(LossError::Dtype { got: dtype });
        }
        let (head_vb, vb) = (vb.pp("head"), vb.pp("objective"));
        let head = match config {
            MethodConfig::Dsot(dsot) => Head::Graph(GraphHead::new(dsot, channels, classes, head_vb)?),
            MethodConfig::Ce(_)
            | MethodConfig::CeTwoView(_)
            | MethodConfig::Supcon(_)
            | MethodConfig::Triplet(_)
            | MethodConfig::PacMclLe(_)
            | MethodConfig::PacMclBw(_)
            | MethodConfig::Cotap(_) => Head::Linear(Linear::new(channels, classes, head_vb.pp("fc"))?),
        };
        let parts = |config, metric, vb| -> Result<Objective> {
            Ok(Objective::PacMcl(Box::new(PacMcl::new(config, metric, channels, vb)?)))
        };
        let objective = match config {
            MethodConfig::Ce(_) | MethodConfig::CeTwoView(_) | MethodConfig::Dsot(_) => Objective::None,
            MethodConfig::Supcon(config) => Objective::Supcon(Supcon::new(config, channels, vb)?),
            MethodConfig::Triplet(config) => Objective::Triplet(config.clone()),
            MethodConfig::PacMclLe(config) => parts(config, Metric::LogEuclidean, vb)?,
            MethodConfig::PacMclBw(config) => parts(config, Metric::BuresWasserstein, vb)?,
            MethodConfig::Cotap(config) => Objective::Cotap(config.clone(), Projection::new(config, channels, vb)?),
        };
        Ok(Self { config: config.resolved(), channels, dtype, head, objective })
    }

    /// The settings, with all defaults filled in.
    pub fn config(&self) -> &MethodConfig {
        &self.config
    }

    /// Logits `[B,classes]` of a feature map `[B,C,H,W]`.
    ///
    /// # Errors
    /// [`LossError::Shape`] if the map has not rank 4 or other channels than the method.
    pub fn logits(&self, map: &Tensor) -> Result<Tensor> {
        self.head_logits(&self.working(map)?)
    }

    /// The teacher's tokens `[B,N,D]` of a feature map, from averaged parameters under the names of [`Method::new`].
    /// To do this each step, keep a [`Teacher`] while the averaged tensors stay the same.
    ///
    /// # Errors
    /// Those of [`Teacher::new`] and [`Teacher::tokens`].
    pub fn teacher_tokens(config: &MethodConfig, channels: usize, vb: VarBuilder, map: &Tensor) -> Result<Tensor> {
        Teacher::new(config, channels, vb)?.tokens(map)
    }

    /// Attention maps `[B,P,H,W]` of the parts, each summing to 1; `None` for a method without parts.
    ///
    /// # Errors
    /// [`LossError::Shape`] as for [`Method::logits`].
    pub fn part_attention(&self, map: &Tensor) -> Result<Option<Tensor>> {
        match &self.objective {
            Objective::PacMcl(pac) => Ok(Some(pac.parts.attention(&self.working(map)?)?)),
            Objective::None | Objective::Supcon(_) | Objective::Triplet(_) | Objective::Cotap(..) => Ok(None),
        }
    }

    /// Part covariances `[B,P,d,d]` in float64; `None` for a method without parts.
    ///
    /// # Errors
    /// [`LossError::Shape`] as for [`Method::logits`].
    pub fn part_covariances(&self, map: &Tensor) -> Result<Option<Tensor>> {
        match &self.objective {
            Objective::PacMcl(pac) => Ok(Some(pac.parts.covariances(&self.working(map)?)?)),
            Objective::None | Objective::Supcon(_) | Objective::Triplet(_) | Objective::Cotap(..) => Ok(None),
        }
    }

    /// The random choices for a batch of `images`, a function of a copy of the stream.
    pub fn draw(&self, images: usize, stream: &Stream) -> Draws {
        let mut stream = stream.clone();
        match &self.objective {
            Objective::Cotap(config, _) => {
                Draws { pairs: config.draw_pairs(images, &mut stream), negatives: Vec::new() }
            }
            Objective::Triplet(config) if config.draws_negatives() => {
                let other = |i| (images > 1).then(|| cotap::other_than(i, images, &mut stream));
                Draws { pairs: Vec::new(), negatives: (0..images).map(other).collect() }
            }
            Objective::None | Objective::Supcon(_) | Objective::Triplet(_) | Objective::PacMcl(_) => Draws::default(),
        }
    }

    /// The loss of a batch.
    ///
    /// # Errors
    /// [`LossError::Missing`] where the batch lacks a view that the method needs, [`LossError::Shape`] and
    /// [`LossError::Label`] for what does not fit, the errors of the kernels.
    pub fn loss(&self, batch: &Batch) -> Result<LossOut> {
        self.loss_with(batch, &self.draw(batch.labels.len(), batch.stream))
    }

    /// [`Method::loss`] with the random choices given.
    ///
    /// # Errors
    /// Those of [`Method::loss`].
    pub fn loss_with(&self, batch: &Batch, draws: &Draws) -> Result<LossOut> {
        let weights = self.config.weights();
        let anchor = self.working(batch.anchor_map)?;
        label_count("loss", batch.labels, anchor.dim(0)?)?;
        let positive = match batch.positive_map {
            Some(map) if self.config.views().positive => {
                same_dims("loss", "positive_map", map, batch.anchor_map.dims())?;
                Some(self.working(map)?)
            }
            _ => None,
        };
        let mut terms = BTreeMap::new();
        let mut total = cross_entropy(&self.head_logits(&anchor)?, batch.labels, weights.smoothing)?;
        terms.insert("ce_anchor".to_owned(), total.detach());
        if weights.lambda > 0.0 {
            let map = self.need(positive.as_ref(), "positive_map")?;
            let term = cross_entropy(&self.head_logits(map)?, batch.labels, weights.smoothing)?;
            terms.insert("ce_positive".to_owned(), term.detach());
            total = (total + (term * weights.lambda)?)?;
        }
        let mut diagnostics = Unread::known(BTreeMap::new());
        if let Some((term, found)) = self.term(&anchor, positive.as_ref(), batch, draws)? {
            terms.insert("method".to_owned(), term.detach());
            total = (total + (term.to_dtype(self.dtype)? * weights.gamma)?)?;
            diagnostics = found;
        }
        Ok(LossOut { total, terms, diagnostics })
    }

    /// The method's own term with its diagnostics, if it has one.
    fn term(
        &self,
        anchor: &Tensor,
        positive: Option<&Tensor>,
        batch: &Batch,
        draws: &Draws,
    ) -> Result<Option<(Tensor, Unread)>> {
        let second = || self.need(positive, "positive_map");
        let nothing = || Unread::known(BTreeMap::new());
        match &self.objective {
            Objective::None => Ok(None),
            Objective::Supcon(supcon) => Ok(Some((supcon.term(anchor, second()?, batch.labels)?, nothing()))),
            Objective::Triplet(config) => config.term(anchor, second()?, batch.labels, &draws.negatives).map(Some),
            Objective::PacMcl(pac) => pac.term(anchor, second()?, batch.labels).map(Some),
            Objective::Cotap(config, projection) => {
                let teacher = self.need(batch.teacher_tokens, "teacher_tokens")?.to_dtype(self.dtype)?;
                let student = projection.tokens(anchor)?;
                let term = cotap_term(&student, &teacher, &draws.pairs, config.tau1, config.tau2)?;
                Ok(Some((term, nothing())))
            }
        }
    }

    fn need<'t>(&self, tensor: Option<&'t Tensor>, missing: &'static str) -> Result<&'t Tensor> {
        tensor.ok_or(LossError::Missing { method: self.config.name(), missing })
    }

    fn head_logits(&self, map: &Tensor) -> Result<Tensor> {
        match &self.head {
            Head::Linear(linear) => linear.forward(&pool(map)?),
            Head::Graph(graph) => graph.forward(map),
        }
    }

    /// The map in the dtype of the parameters.
    fn working(&self, map: &Tensor) -> Result<Tensor> {
        let (_, channels, _, _) = map_dims("method", map)?;
        if channels != self.channels {
            let expected = format!("[B,{},H,W]", self.channels);
            return Err(LossError::Shape { op: "method", name: "map", got: map.dims().to_vec(), expected });
        }
        Ok(map.to_dtype(self.dtype)?)
    }
}
