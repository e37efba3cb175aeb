//! `dsot`: a graph head on a doubly-stochastic optimal-transport graph over the tokens.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use kernels::transport::{DsotConfig, aggregate, dsot_graph};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::layers::Linear;
use crate::ops::{map_dims, positive_part, tokens};
use crate::settings::Check;

/// Settings of `dsot`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct DsotHeadConfig {
    /// Weight of the cross entropy of the positive view; default 1.
    pub lambda: f64,
    /// Label smoothing of the cross entropies, in `[0, 1)`; default 0.
    pub label_smoothing: f64,
    /// Edges kept a token; all N where the map has fewer than `k` positions. Default 16.
    pub k: usize,
    /// Entropic regularisation of the transport plan; default 0.10.
    pub eps: f64,
    /// Sinkhorn iterations; default 20.
    pub iterations: usize,
    /// Weight of the squared distance of positions in the cost; default 0.10.
    pub lambda_pos: f64,
    /// Weight of the self loops; default 0.20.
    pub self_loop: f64,
    /// Width of the graph convolutions; default 256.
    pub hidden: usize,
}

impl Default for DsotHeadConfig {
    fn default() -> Self {
        Self {
            lambda: 1.0,
            label_smoothing: 0.0,
            k: 16,
            eps: 0.10,
            iterations: 20,
            lambda_pos: 0.10,
            self_loop: 0.20,
            hidden: 256,
        }
    }
}

impl DsotHeadConfig {
    pub(crate) fn validate(&self, check: Check) -> Result<()> {
        check.weight("lambda", self.lambda)?;
        check.smoothing(self.label_smoothing)?;
        check.count("k", self.k)?;
        check.positive("eps", self.eps)?;
        check.count("iterations", self.iterations)?;
        check.weight("lambda_pos", self.lambda_pos)?;
        check.weight("self_loop", self.self_loop)?;
        check.count("hidden", self.hidden)
    }
}

/// Two weighted graph convolutions `H ← ReLU(Linear(A·H))` over the tokens, their mean, and a linear layer.
/// A is the top-k row-normalised graph of [`dsot_graph`] and the gradient flows through its weights as well.
#[derive(Debug)]
pub struct GraphHead {
    config: DsotHeadConfig,
    first: Linear,
    second: Linear,
    classifier: Linear,
}

impl GraphHead {
    /// A head on maps with `channels`; parameters `conv1`, `conv2` and `fc` under the path of `vb`.
    pub fn new(config: &DsotHeadConfig, channels: usize, classes: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            config: config.clone(),
            first: Linear::new(channels, config.hidden, vb.pp("conv1"))?,
            second: Linear::new(config.hidden, config.hidden, vb.pp("conv2"))?,
            classifier: Linear::new(config.hidden, classes, vb.pp("fc"))?,
        })
    }

    /// Logits `[B,classes]` of a map `[B,C,H,W]`.
    ///
    /// # Errors
    /// [`crate::LossError::Shape`] if `map` has not rank 4; the errors of the transport kernel.
    pub fn forward(&self, map: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = map_dims("dsot", map)?;
        let x = tokens(map)?;
        let config = DsotConfig {
            height,
            width,
            k: self.config.k.min(height * width),
            eps: self.config.eps,
            iterations: self.config.iterations,
            lambda_pos: self.config.lambda_pos,
            self_loop: self.config.self_loop,
        };
        let graph = dsot_graph(&x, &config)?;
        let mut h = x;
        for layer in [&self.first, &self.second] {
            h = positive_part(&layer.forward(&aggregate(&h, &graph.edge_index, &graph.edge_weight)?)?)?;
        }
        self.classifier.forward(&h.mean(1)?)
    }
}
