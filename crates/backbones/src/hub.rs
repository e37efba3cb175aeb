//! The `config.json` beside a checkpoint on the Hub, as timm writes it. Nothing here needs a tensor.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{BackboneConfig, Error, Result, TimmConfig};

/// Why a `config.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HubConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is no JSON object.
    #[error("{path}: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and column.
        reason: String,
    },
    /// A key is absent or holds something else than expected.
    #[error("{path}: `{key}` {reason}")]
    Key {
        /// The file.
        path: PathBuf,
        /// The key, with those above it, such as `pretrained_cfg.mean`.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The architecture is none of ours, or the settings do not fit it.
    #[error("{path}: `architecture`: {source}")]
    Architecture {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<Error>,
    },
}

/// How an image is brought to its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// Linear in both directions.
    Bilinear,
    /// Cubic in both directions.
    Bicubic,
}

/// How a test image becomes a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CropMode {
    /// The short side is resized, then the centre is cut out.
    Center,
    /// Both sides are resized, whatever that does to the proportions.
    Squash,
    /// The long side is resized, then a border is added.
    Border,
}

/// What timm's `config.json` says about a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct HubConfig {
    /// timm's name of the architecture, one of [`crate::architectures`].
    pub architecture: String,
    /// Which training the weights come from, such as `a1_in1k`.
    pub tag: Option<String>,
    /// Classes of the classifier; 0 without one.
    pub num_classes: usize,
    /// Channels of the last map.
    pub num_features: usize,
    /// Channels, height and width of the images that the weights were trained on.
    pub input_size: [usize; 3],
    /// The same for tests, where the file says so.
    pub test_input_size: Option<[usize; 3]>,
    /// What is subtracted from the three colours, which lie in [0, 1].
    pub mean: [f64; 3],
    /// What they are divided by then.
    pub std: [f64; 3],
    /// How images are resized.
    pub interpolation: Interpolation,
    /// The input's side over the side that an image is resized to before it is cropped.
    pub crop_pct: f64,
    /// The same for tests at `test_input_size`.
    pub test_crop_pct: Option<f64>,
    /// How a test image becomes a square.
    pub crop_mode: CropMode,
    /// The first convolutions, such as `conv1`.
    pub first_conv: Vec<String>,
    /// The classifiers, such as `fc`; a distilled transformer has two.
    pub classifier: Vec<String>,
}

impl HubConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// [`HubConfigError`], which names the file and the key.
    pub fn read(path: &Path) -> std::result::Result<Self, HubConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| HubConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Parses the text of the file; `path` is for messages alone. Keys that say nothing about features or images are
    /// left alone; an argument in `model_args` that changes the network is refused.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn parse(path: &Path, text: &str) -> std::result::Result<Self, HubConfigError> {
        let json = |reason: String| HubConfigError::Json { path: path.to_owned(), reason };
        let value: Value = serde_json::from_str(text).map_err(|e| json(format!("no JSON: {e}")))?;
        let Value::Object(top) = &value else { return Err(json("not an object".into())) };
        let root = Keys { path, prefix: "", map: top };
        let Some(pretrained) = top.get("pretrained_cfg") else {
            let reason = "is missing: the file is not one that timm 0.6 or later writes";
            return Err(root.error("pretrained_cfg", reason));
        };
        let Value::Object(pretrained) = pretrained else { return Err(root.error("pretrained_cfg", "is no object")) };
        let keys = Keys { path, prefix: "pretrained_cfg.", map: pretrained };
        let config = Self {
            architecture: root.text("architecture")?,
            tag: keys.optional("tag", Keys::text)?,
            num_classes: root.whole("num_classes")?,
            num_features: root.whole("num_features")?,
            input_size: keys.sizes("input_size")?,
            test_input_size: keys.optional("test_input_size", Keys::sizes)?,
            mean: keys.triple("mean", 0.0)?,
            std: keys.triple("std", f64::MIN_POSITIVE)?,
            interpolation: keys.interpolation("interpolation")?,
            crop_pct: keys.share("crop_pct")?,
            test_crop_pct: keys.optional("test_crop_pct", Keys::share)?,
            crop_mode: keys.optional("crop_mode", Keys::crop_mode)?.unwrap_or(CropMode::Center),
            first_conv: keys.names("first_conv")?,
            classifier: keys.names("classifier")?,
        };
        root.check_model_args()?;
        config.check(&root)?;
        Ok(config)
    }

    /// The backbone of these weights, without stochastic depth or dropout. A ViT has the position embedding of
    /// `input_size`.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`], which lists names that are near, or settings that do not fit.
    pub fn backbone(&self) -> Result<BackboneConfig> {
        let mut settings = TimmConfig::named(&self.architecture);
        if self.architecture.starts_with("vit_") {
            settings.image_size = Some(self.input_size[1]);
        }
        let config = BackboneConfig::Timm(settings);
        config.validate()?;
        Ok(config)
    }

    /// Pixels of the short side that a test image is resized to before the centre of `size` pixels is cut out:
    /// `⌊size / crop_pct⌋`, as in timm.
    pub fn resize_for(&self, size: usize) -> usize {
        (size as f64 / self.crop_pct).floor() as usize
    }

    fn check(&self, root: &Keys) -> std::result::Result<(), HubConfigError> {
        let architecture =
            |source| HubConfigError::Architecture { path: root.path.to_owned(), source: Box::new(source) };
        let config = self.backbone().map_err(architecture)?;
        let channels = config.channels().map_err(architecture)?;
        if self.num_features != channels {
            let reason = format!("is {}, but `{}` has {channels} channels", self.num_features, self.architecture);
            return Err(root.error("num_features", reason));
        }
        if self.input_size[0] != 3 {
            let reason = format!("has {} channels, but the backbones take 3", self.input_size[0]);
            return Err(root.error("pretrained_cfg.input_size", reason));
        }
        if self.input_size[1] != self.input_size[2] {
            return Err(root.error("pretrained_cfg.input_size", "is no square"));
        }
        let prefix = config.classifier_prefix().map_err(architecture)?;
        let known = |name: &&String| format!("{name}.").starts_with(prefix) || *name == "head_dist";
        match self.classifier.iter().find(|name| !known(name)) {
            Some(name) => {
                let reason = format!("is `{name}`, but the classifier of `{}` is `{prefix}…`", self.architecture);
                Err(root.error("pretrained_cfg.classifier", reason))
            }
            None => Ok(()),
        }
    }
}

/// An object of the file, with where it lies for messages.
struct Keys<'a> {
    path: &'a Path,
    prefix: &'static str,
    map: &'a Map<String, Value>,
}

type Parsed<T> = std::result::Result<T, HubConfigError>;

impl Keys<'_> {
    fn error(&self, key: &str, reason: impl Into<String>) -> HubConfigError {
        HubConfigError::Key { path: self.path.to_owned(), key: format!("{}{key}", self.prefix), reason: reason.into() }
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> HubConfigError {
        let mut shown: String = value.to_string().chars().take(60).collect();
        if shown.len() < value.to_string().len() {
            shown.push('…');
        }
        self.error(key, format!("is {shown}, expected {expected}"))
    }

    fn get(&self, key: &str) -> Parsed<&Value> {
        self.map.get(key).ok_or_else(|| self.error(key, "is missing"))
    }

    /// `None` where the key is absent or null.
    fn optional<T>(&self, key: &str, of: impl Fn(&Self, &str) -> Parsed<T>) -> Parsed<Option<T>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => of(self, key).map(Some),
        }
    }

    fn text(&self, key: &str) -> Parsed<String> {
        let value = self.get(key)?;
        value.as_str().map(str::to_owned).ok_or_else(|| self.wrong(key, value, "a text"))
    }

    fn whole(&self, key: &str) -> Parsed<usize> {
        let value = self.get(key)?;
        let whole = value.as_u64().and_then(|n| usize::try_from(n).ok());
        whole.ok_or_else(|| self.wrong(key, value, "a whole number of at least 0"))
    }

    fn sizes(&self, key: &str) -> Parsed<[usize; 3]> {
        let value = self.get(key)?;
        let size = |v: &Value| v.as_u64().filter(|n| (1..=1 << 16).contains(n)).map(|n| n as usize);
        let sizes: Option<Vec<usize>> = value.as_array().and_then(|list| list.iter().map(size).collect());
        let sizes = sizes.and_then(|list| <[usize; 3]>::try_from(list).ok());
        sizes.ok_or_else(|| self.wrong(key, value, "three sizes: channels, height, width"))
    }

    /// Three finite numbers of at least `low`.
    fn triple(&self, key: &str, low: f64) -> Parsed<[f64; 3]> {
        let value = self.get(key)?;
        let number = |v: &Value| v.as_f64().filter(|n| n.is_finite() && *n >= low);
        let numbers: Option<Vec<f64>> = value.as_array().and_then(|list| list.iter().map(number).collect());
        let numbers = numbers.and_then(|list| <[f64; 3]>::try_from(list).ok());
        let expected = if low > 0.0 { "three numbers above 0" } else { "three numbers of at least 0" };
        numbers.ok_or_else(|| self.wrong(key, value, expected))
    }

    fn share(&self, key: &str) -> Parsed<f64> {
        let value = self.get(key)?;
        let share = value.as_f64().filter(|n| *n > 0.0 && *n <= 1.0);
        share.ok_or_else(|| self.wrong(key, value, "a number above 0 and at most 1"))
    }

    fn interpolation(&self, key: &str) -> Parsed<Interpolation> {
        match self.text(key)?.as_str() {
            "bilinear" => Ok(Interpolation::Bilinear),
            "bicubic" => Ok(Interpolation::Bicubic),
            _ => Err(self.wrong(key, self.get(key)?, "\"bilinear\" or \"bicubic\"")),
        }
    }

    fn crop_mode(&self, key: &str) -> Parsed<CropMode> {
        match self.text(key)?.as_str() {
            "center" => Ok(CropMode::Center),
            "squash" => Ok(CropMode::Squash),
            "border" => Ok(CropMode::Border),
            _ => Err(self.wrong(key, self.get(key)?, "\"center\", \"squash\" or \"border\"")),
        }
    }

    /// A name, several, or none where it is null.
    fn names(&self, key: &str) -> Parsed<Vec<String>> {
        let value = self.get(key)?;
        let expected = "a name or a list of names";
        match value {
            Value::Null => Ok(Vec::new()),
            Value::String(name) => Ok(vec![name.clone()]),
            Value::Array(list) => {
                let names: Option<Vec<String>> = list.iter().map(|v| v.as_str().map(str::to_owned)).collect();
                names.ok_or_else(|| self.wrong(key, value, expected))
            }
            _ => Err(self.wrong(key, value, expected)),
        }
    }

    /// Arguments that the network was made with: those that change it are refused.
    fn check_model_args(&self) -> Parsed<()> {
        let arguments = match self.map.get("model_args") {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Object(arguments)) => arguments,
            Some(other) => return Err(self.wrong("model_args", other, "an object")),
        };
        let arguments = Keys { path: self.path, prefix: "model_args.", map: arguments };
        for (key, value) in arguments.map {
            let harmless = match key.as_str() {
                // The classifier is not loaded; the position embedding's size shows in its shape.
                "num_classes" | "img_size" => true,
                "in_chans" => value.as_u64() == Some(3),
                "global_pool" => ["avg", "token"].map(Value::from).contains(value),
                _ => value.is_null(),
            };
            if !harmless {
                return Err(arguments.wrong(key, value, "an argument that leaves timm's network as its name says"));
            }
        }
        Ok(())
    }
}
