//! The registry of methods: an enum matched exhaustively.

use kernels::spd::Metric;
use serde::{Deserialize, Serialize};

use crate::settings::Check;
use crate::{
    CeConfig, CeTwoViewConfig, CotapConfig, DsotHeadConfig, PacMclConfig, Result, SupconConfig, TripletConfig,
};

/// A method with its settings, as a suite file names it: `triplet = { margin = 0.2 }`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum MethodConfig {
    /// Cross entropy of the anchor view.
    Ce(CeConfig),
    /// Cross entropy of both views.
    CeTwoView(CeTwoViewConfig),
    /// Supervised contrastive.
    Supcon(SupconConfig),
    /// Euclidean triplet.
    Triplet(TripletConfig),
    /// Part-aware contrast, log-Euclidean.
    PacMclLe(PacMclConfig),
    /// Part-aware contrast, Bures-Wasserstein.
    PacMclBw(PacMclConfig),
    /// Optimal-transport graph head.
    Dsot(DsotHeadConfig),
    /// Ranking distillation of patch correspondences.
    Cotap(CotapConfig),
}

/// What a batch of a method must hold besides the anchor view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Views {
    /// The positive view of each image.
    pub positive: bool,
    /// Tokens of the EMA teacher.
    pub teacher: bool,
}

/// Weights of the terms of the total loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Weights {
    /// Of the cross entropy of the positive view.
    pub(crate) lambda: f64,
    /// Of the method's own term.
    pub(crate) gamma: f64,
    /// Label smoothing.
    pub(crate) smoothing: f64,
}

impl MethodConfig {
    /// The names of all methods, in the order of [`MethodConfig::registry`].
    pub const NAMES: &'static [&'static str] =
        &["ce", "ce-two-view", "supcon", "triplet", "pac-mcl-le", "pac-mcl-bw", "dsot", "cotap"];

    /// Every method by name, with its default settings filled in.
    pub fn registry() -> Vec<(&'static str, MethodConfig)> {
        std::iter::successors(Some(Self::Ce(CeConfig::default())), Self::following)
            .map(|config| (config.name(), config.resolved()))
            .collect()
    }

    /// The method after this one in the registry; exhaustive, so that none is forgotten.
    fn following(&self) -> Option<Self> {
        match self {
            Self::Ce(_) => Some(Self::CeTwoView(CeTwoViewConfig::default())),
            Self::CeTwoView(_) => Some(Self::Supcon(SupconConfig::default())),
            Self::Supcon(_) => Some(Self::Triplet(TripletConfig::default())),
            Self::Triplet(_) => Some(Self::PacMclLe(PacMclConfig::default())),
            Self::PacMclLe(_) => Some(Self::PacMclBw(PacMclConfig::default())),
            Self::PacMclBw(_) => Some(Self::Dsot(DsotHeadConfig::default())),
            Self::Dsot(_) => Some(Self::Cotap(CotapConfig::default())),
            Self::Cotap(_) => None,
        }
    }

    /// The method's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ce(_) => "ce",
            Self::CeTwoView(_) => "ce-two-view",
            Self::Supcon(_) => "supcon",
            Self::Triplet(_) => "triplet",
            Self::PacMclLe(_) => "pac-mcl-le",
            Self::PacMclBw(_) => "pac-mcl-bw",
            Self::Dsot(_) => "dsot",
            Self::Cotap(_) => "cotap",
        }
    }

    /// The method in one line.
    pub fn description(&self) -> &'static str {
        match self {
            Self::Ce(_) => "cross entropy of the anchor view",
            Self::CeTwoView(_) => "cross entropy of both views: what the second view alone is worth",
            Self::Supcon(_) => "supervised contrastive loss on projected features of both views",
            Self::Triplet(_) => "Euclidean triplets on normalised features: own second view against another image's",
            Self::PacMclLe(_) => "aligned parts as covariances, hinge on log-Euclidean distances",
            Self::PacMclBw(_) => "aligned parts as covariances, hinge on Bures-Wasserstein distances",
            Self::Dsot(_) => "graph head on a doubly-stochastic optimal-transport graph of the tokens",
            Self::Cotap(_) => "ranking distillation of patch correspondences from an EMA teacher",
        }
    }

    /// Refuses settings outside their ranges.
    ///
    /// # Errors
    /// [`crate::LossError::Setting`] with the method, the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let check = Check(self.name());
        match self {
            Self::Ce(config) => config.validate(check),
            Self::CeTwoView(config) => config.validate(check),
            Self::Supcon(config) => config.validate(check),
            Self::Triplet(config) => config.validate(check),
            Self::PacMclLe(config) | Self::PacMclBw(config) => config.validate(check),
            Self::Dsot(config) => config.validate(check),
            Self::Cotap(config) => config.validate(check),
        }
    }

    /// The same method with every default filled in that depends on other settings: what enters a cell's identity.
    pub fn resolved(&self) -> Self {
        match self {
            Self::Triplet(config) => Self::Triplet(config.resolved()),
            Self::PacMclLe(config) => Self::PacMclLe(config.resolved(Metric::LogEuclidean)),
            Self::PacMclBw(config) => Self::PacMclBw(config.resolved(Metric::BuresWasserstein)),
            Self::Ce(_) | Self::CeTwoView(_) | Self::Supcon(_) | Self::Dsot(_) | Self::Cotap(_) => self.clone(),
        }
    }

    /// What a batch of this method must hold. The positive view is needed by every method that looks at it in its own
    /// term, or gives its cross entropy a weight λ > 0.
    pub fn views(&self) -> Views {
        let own_term = match self {
            Self::Supcon(_) | Self::Triplet(_) | Self::PacMclLe(_) | Self::PacMclBw(_) => true,
            Self::Ce(_) | Self::CeTwoView(_) | Self::Dsot(_) | Self::Cotap(_) => false,
        };
        let teacher = match self {
            Self::Cotap(_) => true,
            Self::Ce(_)
            | Self::CeTwoView(_)
            | Self::Supcon(_)
            | Self::Triplet(_)
            | Self::PacMclLe(_)
            | Self::PacMclBw(_)
            | Self::Dsot(_) => false,
        };
        Views { positive: own_term || self.weights().lambda > 0.0, teacher }
    }

    /// Decay of the teacher's moving average at the first step, for a method that has a teacher.
    pub fn teacher_decay(&self) -> Option<f64> {
        match self {
            Self::Cotap(c) => Some(c.ema),
            Self::Ce(_)
            | Self::CeTwoView(_)
            | Self::Supcon(_)
            | Self::Triplet(_)
            | Self::PacMclLe(_)
            | Self::PacMclBw(_)
            | Self::Dsot(_) => None,
        }
    }

    pub(crate) fn weights(&self) -> Weights {
        let (lambda, gamma, smoothing) = match self {
            Self::Ce(c) => (0.0, 0.0, c.label_smoothing),
            Self::CeTwoView(c) => (c.lambda, 0.0, c.label_smoothing),
            Self::Supcon(c) => (c.lambda, c.gamma, c.label_smoothing),
            Self::Triplet(c) => (c.lambda, c.gamma, c.label_smoothing),
            Self::PacMclLe(c) | Self::PacMclBw(c) => (c.lambda, c.gamma, c.label_smoothing),
            Self::Dsot(c) => (c.lambda, 0.0, c.label_smoothing),
            Self::Cotap(c) => (c.lambda, c.gamma, c.label_smoothing),
        };
        Weights { lambda, gamma, smoothing }
    }
}
