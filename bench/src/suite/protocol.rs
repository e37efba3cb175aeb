//! The protocol: how a trial is trained and evaluated, the same for every method of a suite.

use backbones::{Algorithms, HubConfig, Interpolation, Precision};
use datasets::{AugmentConfig, EvalConfig, Filter, Fit, Normalise, Resize};
use serde::{Deserialize, Serialize};

/// The kernel of every resize, unless something else is said.
const FILTER: Filter = Filter::Bilinear;

/// How a trial is trained and evaluated. Every field enters the identity of the cell.
///
/// As a suite says it, `resize`, `interpolation` and `normalise` may be left out for backbones with weights, whose own
/// preprocessing then counts; [`Protocol::resolved`] fills them in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Protocol {
    /// Side of the square that the network sees, pixels.
    pub(crate) input_size: usize,
    /// Short side to which a test image is resized before the centre crop, pixels. Default: what the weights ask for,
    /// `⌊input_size / crop_pct⌋`; needed where a backbone has none.
    #[serde(default)]
    pub(crate) resize: Option<usize>,
    /// The kernel of every resize. Default: what the weights ask for, else bilinear. Bilinear is left out of the
    /// identity, so that cells from before there was a choice keep theirs.
    #[serde(default, skip_serializing_if = "is_plain")]
    pub(crate) interpolation: Option<Filter>,
    /// Short side to which images are brought once, when they are decoded. Random crops are taken from that.
    /// Default: `resize`.
    #[serde(default)]
    pub(crate) working_size: Option<usize>,
    /// Passes over the training images.
    pub(crate) epochs: u64,
    /// Images of a step (each counts once, however many views it has).
    pub(crate) batch_size: usize,
    /// What the backbone's activations are stored in; bfloat16 needs a card. Default: float32, which is left out of the
    /// identity, so that cells from before there was a choice keep theirs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) precision: Precision,
    /// By which algorithms convolutions run; the fast ones need a card with cuDNN, and give other numbers in every run. Default:
    /// deterministic, which is left out of the identity too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) algorithms: Algorithms,
    /// Epochs between two evaluations on the test split; the last epoch is always evaluated, and is the headline.
    #[serde(default = "default_evaluate_epochs")]
    pub(crate) evaluate_epochs: u64,
    /// The optimiser.
    pub(crate) optimizer: OptimizerConfig,
    /// The schedule of the learning rate.
    pub(crate) schedule: Schedule,
    /// Largest norm of the gradient; larger ones are scaled down to it.
    #[serde(default)]
    pub(crate) clip_norm: Option<f64>,
    /// The views' augmentation.
    #[serde(default)]
    pub(crate) augment: AugmentConfig,
    /// Mean and standard deviation of the input's channels. Default: those of the weights, else ImageNet's.
    #[serde(default)]
    pub(crate) normalise: Option<Normalise>,
}

fn is_plain(interpolation: &Option<Filter>) -> bool {
    interpolation.is_none_or(|filter| filter == FILTER)
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_evaluate_epochs() -> u64 {
    1
}

/// Optimisers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OptimizerConfig {
    /// AdamW with decoupled weight decay, none on norms and biases.
    Adamw(AdamwSettings),
    /// Stochastic gradient descent with momentum.
    Sgd(SgdSettings),
}

/// Settings of AdamW.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdamwSettings {
    /// Learning rate at the end of the warm-up.
    pub(crate) learning_rate: f64,
    /// Weight decay.
    #[serde(default = "default_weight_decay")]
    pub(crate) weight_decay: f64,
}

fn default_weight_decay() -> f64 {
    0.05
}

/// Settings of stochastic gradient descent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SgdSettings {
    /// Learning rate at the end of the warm-up.
    pub(crate) learning_rate: f64,
    /// Momentum.
    #[serde(default = "default_momentum")]
    pub(crate) momentum: f64,
    /// Weight decay.
    #[serde(default)]
    pub(crate) weight_decay: f64,
}

fn default_momentum() -> f64 {
    0.9
}

impl OptimizerConfig {
    fn validate(&self) -> Result<(), String> {
        let positive = |key: &str, value: f64| {
            let holds = value.is_finite() && value > 0.0;
            if holds { Ok(()) } else { Err(format!("`{key}` = {value} must be a number above 0")) }
        };
        let decay = |value: f64| {
            let holds = value.is_finite() && value >= 0.0;
            if holds { Ok(()) } else { Err(format!("`weight_decay` = {value} must be a number, 0 or above")) }
        };
        positive("learning_rate", self.learning_rate())?;
        match self {
            Self::Adamw(settings) => decay(settings.weight_decay),
            Self::Sgd(settings) => {
                decay(settings.weight_decay)?;
                let momentum = settings.momentum;
                let holds = (0.0..1.0).contains(&momentum);
                if holds { Ok(()) } else { Err(format!("`momentum` = {momentum} must be 0 or above and below 1")) }
            }
        }
    }

    /// Learning rate at the end of the warm-up.
    pub(crate) fn learning_rate(&self) -> f64 {
        match self {
            Self::Adamw(settings) => settings.learning_rate,
            Self::Sgd(settings) => settings.learning_rate,
        }
    }
}

/// Schedules of the learning rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Schedule {
    /// Linear warm-up, then half a cosine to `min_learning_rate`.
    Cosine(CosineSettings),
}

/// Settings of the cosine schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CosineSettings {
    /// Epochs of warm-up.
    #[serde(default)]
    pub(crate) warmup_epochs: u64,
    /// Learning rate at the end.
    #[serde(default)]
    pub(crate) min_learning_rate: f64,
}

impl Protocol {
    /// Short side to which a test image is resized.
    fn resize(&self) -> usize {
        self.resize.unwrap_or(self.input_size)
    }

    /// Short side to which images are reduced when they are decoded.
    pub(crate) fn working_size(&self) -> usize {
        self.working_size.unwrap_or_else(|| self.resize())
    }

    fn filter(&self) -> Filter {
        self.interpolation.unwrap_or(FILTER)
    }

    /// Mean and standard deviation of the input's channels.
    pub(crate) fn normalise(&self) -> Normalise {
        self.normalise.unwrap_or_default()
    }

    /// How images are reduced when they are decoded.
    pub(crate) fn working(&self) -> Resize {
        Resize { size: self.working_size(), fit: Fit::ShortSide, filter: self.filter() }
    }

    /// How a test image becomes an input.
    pub(crate) fn evaluation(&self) -> EvalConfig {
        EvalConfig { resize: self.resize(), filter: self.filter() }
    }

    /// The same with every default filled in, from the weights where there are some: the form that enters the identity
    /// of a cell.
    pub(crate) fn resolved(&self, weights: Option<&HubConfig>) -> Self {
        let resize = weights.map(|config| config.resize_for(self.input_size));
        let filter = weights.map(|config| match config.interpolation {
            Interpolation::Bilinear => Filter::Bilinear,
            Interpolation::Bicubic => Filter::Bicubic,
        });
        let single = |values: [f64; 3]| values.map(|value| value as f32);
        let normalise = weights.map(|config| Normalise { mean: single(config.mean), std: single(config.std) });
        let mut out = self.clone();
        out.resize = Some(self.resize.or(resize).unwrap_or(self.input_size));
        out.interpolation = Some(self.interpolation.or(filter).unwrap_or(FILTER));
        out.normalise = Some(self.normalise.or(normalise).unwrap_or_default());
        out.working_size = Some(out.working_size());
        out
    }

    /// The first field that is out of range, and what is wrong with it.
    pub(crate) fn validate(&self) -> Result<(), (&'static str, String)> {
        let check = |holds: bool, field: &'static str, expected: &str| {
            if holds { Ok(()) } else { Err((field, format!("must be {expected}"))) }
        };
        let Schedule::Cosine(cosine) = &self.schedule;
        let at_least = format!("at least input_size ({}) and at most 8192", self.input_size);
        check((8..=4096).contains(&self.input_size), "input_size", "8 to 4096 pixels")?;
        check((self.input_size..=8192).contains(&self.resize()), "resize", &at_least)?;
        check((self.input_size..=8192).contains(&self.working_size()), "working_size", &at_least)?;
        check((1..=100_000).contains(&self.epochs), "epochs", "1 to 100000")?;
        check((1..=65_536).contains(&self.batch_size), "batch_size", "1 to 65536")?;
        check(self.evaluate_epochs >= 1, "evaluate_epochs", "at least 1")?;
        check(self.clip_norm.is_none_or(|n| n.is_finite() && n > 0.0), "clip_norm", "a number above 0")?;
        self.optimizer.validate().map_err(|reason| ("optimizer", reason))?;
        let rate = self.optimizer.learning_rate();
        if !(0.0..=rate).contains(&cosine.min_learning_rate) {
            let value = cosine.min_learning_rate;
            return Err(("schedule", format!("`min_learning_rate` = {value} must be 0 to the learning rate ({rate})")));
        }
        if cosine.warmup_epochs >= self.epochs {
            let (warmup, epochs) = (cosine.warmup_epochs, self.epochs);
            return Err(("schedule", format!("`warmup_epochs` = {warmup} must be below `epochs` ({epochs})")));
        }
        self.augment.validate(self.input_size).map_err(|e| ("augment", e.to_string()))?;
        self.normalise().validate().map_err(|e| ("normalise", e.to_string()))
    }
}
