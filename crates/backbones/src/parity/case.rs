//! One architecture's parity files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::ParityError;
use crate::WeightMisfits;
use crate::skeleton::tensors_of;

/// The JSON file; keys that nothing here needs are ignored.
#[derive(Debug, Deserialize)]
struct Description {
    arch: String,
    input: [usize; 4],
    num_classes: usize,
    num_features: usize,
    params: Vec<NamedShape>,
    grads: BTreeMap<String, [f64; 2]>,
}

#[derive(Debug, Deserialize)]
struct NamedShape {
    name: String,
    shape: Vec<usize>,
}

/// What timm computes for one architecture, as a pair of files `<arch>.json` and `<arch>.safetensors` says.
#[derive(Debug)]
pub struct ParityCase {
    description: Description,
    shapes: BTreeMap<String, Vec<usize>>,
    classifier_prefix: &'static str,
    classifier: String,
    features_eval: Vec<f64>,
    logits_eval: Vec<f64>,
    features_train: Vec<f64>,
}

/// The JSON files of a folder by name; at least one.
///
/// # Errors
/// [`ParityError::Read`], [`ParityError::Empty`], and [`ParityError::Format`] for tensors without their JSON file.
pub fn parity_files(folder: &Path) -> Result<Vec<PathBuf>, ParityError> {
    let read = |source| ParityError::Read { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let extension = path.extension().and_then(|e| e.to_str());
        if extension == Some("safetensors") && !path.with_extension("json").exists() {
            let reason = format!("there is no {} beside it", path.with_extension("json").display());
            return Err(ParityError::Format { path, reason });
        }
        if extension == Some("json") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(ParityError::Empty { path: folder.to_owned() });
    }
    Ok(files)
}

impl ParityCase {
    /// Reads a JSON file and the tensors beside it.
    ///
    /// # Errors
    /// [`ParityError`].
    pub fn read(json: &Path) -> Result<Self, ParityError> {
        let bytes =
            |path: &Path| std::fs::read(path).map_err(|source| ParityError::Read { path: path.to_owned(), source });
        Self::parse(json, &bytes(json)?, &bytes(&json.with_extension("safetensors"))?)
    }

    /// Parses the contents of both files; `path` is that of the JSON file, for messages.
    ///
    /// # Errors
    /// [`ParityError`]: contents that are not as described, an unknown architecture, names or shapes that are not those of
    /// our network, a gradient that is missing.
    pub fn parse(path: &Path, json: &[u8], tensors: &[u8]) -> Result<Self, ParityError> {
        let format = |reason: String| ParityError::Format { path: path.to_owned(), reason };
        let description: Description = serde_json::from_slice(json).map_err(|e| format(e.to_string()))?;
        let [batch, channels, height, width] = description.input;
        if batch == 0 || channels != 3 || height == 0 || height != width {
            return Err(format(format!("`input` is {:?}, expected [batch, 3, size, size]", description.input)));
        }
        if path.file_stem().and_then(|stem| stem.to_str()) != Some(&description.arch) {
            return Err(format(format!("`arch` is `{}`, which is not the file's name", description.arch)));
        }
        let mut shapes = BTreeMap::new();
        for NamedShape { name, shape } in &description.params {
            if shapes.insert(name.clone(), shape.clone()).is_some() {
                return Err(format(format!("`params` names `{name}` twice")));
            }
        }
        let tensors_path = path.with_extension("safetensors");
        let mut outputs = outputs(&tensors_path, tensors)?;
        let mut take = |name: &str| outputs.remove(name).unwrap_or_default();
        let mut case = Self {
            description,
            shapes,
            classifier_prefix: "",
            classifier: String::new(),
            features_eval: take("features_eval"),
            logits_eval: take("logits_eval"),
            features_train: take("features_train"),
        };
        case.check(path)?;
        Ok(case)
    }

    /// Checks the file against our network.
    fn check(&mut self, path: &Path) -> Result<(), ParityError> {
        let format = |reason: String| ParityError::Format { path: path.to_owned(), reason };
        let architecture = |source| ParityError::Architecture { path: path.to_owned(), source: Box::new(source) };
        let config = self.config();
        let wanted = tensors_of(&config).map_err(architecture)?;
        let channels = config.channels().map_err(architecture)?;
        self.classifier_prefix = config.classifier_prefix().map_err(architecture)?;
        if self.description.num_features != channels {
            let got = self.description.num_features;
            return Err(format(format!("`num_features` is {got}, but the network here has {channels}")));
        }
        let misfits = misfits(&self.backbone_shapes(), &wanted);
        if !misfits.is_empty() {
            let arch = self.description.arch.clone();
            return Err(ParityError::Names { path: path.to_owned(), arch, misfits: Box::new(misfits) });
        }
        if let Some(name) = self.trained().into_iter().find(|name| !self.grads().contains_key(*name)) {
            return Err(format(format!("`grads` lacks `{name}`")));
        }
        let trained = self.trained();
        if let Some(name) = self.grads().keys().find(|name| !trained.contains(name.as_str())) {
            return Err(format(format!("`grads` names `{name}`, which is no parameter of the backbone")));
        }
        let (classes, prefix) = (self.description.num_classes, self.classifier_prefix);
        let is_classifier = |(name, shape): &(&String, &Vec<usize>)| {
            name.starts_with(prefix) && name.ends_with(".weight") && ***shape == [classes, channels]
        };
        let classifier = self.shapes.iter().find(is_classifier).and_then(|(name, _)| name.strip_suffix(".weight"));
        let Some(classifier) = classifier.map(str::to_owned) else {
            return Err(format(format!("`params` has no classifier `{prefix}…` of shape [{classes}, {channels}]")));
        };
        if self.shapes.get(&format!("{classifier}.bias")) != Some(&vec![classes]) {
            return Err(format(format!("`params` lacks `{classifier}.bias` of shape [{classes}]")));
        }
        if self.logits_eval.len() != self.batch() * classes {
            return Err(format(format!("`logits_eval` does not consist of {} × {classes} numbers", self.batch())));
        }
        self.classifier = classifier;
        Ok(())
    }

    /// timm's name.
    pub fn arch(&self) -> &str {
        &self.description.arch
    }

    /// Images.
    pub fn batch(&self) -> usize {
        self.description.input[0]
    }

    /// Side of an image.
    pub fn size(&self) -> usize {
        self.description.input[2]
    }

    /// Name and shape of every parameter and buffer, timm's classifier included.
    pub(super) fn shapes(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.shapes
    }

    /// [`Self::shapes`] without the classifier.
    pub(super) fn backbone_shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let own = self.shapes.iter().filter(|(name, _)| !name.starts_with(self.classifier_prefix));
        own.map(|(name, shape)| (name.clone(), shape.clone())).collect()
    }

    /// Name of the classifier's linear layer.
    pub(super) fn classifier(&self) -> &str {
        &self.classifier
    }

    /// Norm and probe of each gradient.
    pub(super) fn grads(&self) -> &BTreeMap<String, [f64; 2]> {
        &self.description.grads
    }

    pub(super) fn features_eval(&self) -> &[f64] {
        &self.features_eval
    }

    pub(super) fn logits_eval(&self) -> &[f64] {
        &self.logits_eval
    }

    pub(super) fn features_train(&self) -> &[f64] {
        &self.features_train
    }
}

/// The three tensors, float64 each, and nothing else.
fn outputs(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Vec<f64>>, ParityError> {
    let format = |reason: String| ParityError::Format { path: path.to_owned(), reason };
    let file = SafeTensors::deserialize(bytes).map_err(|e| format(format!("no safetensors file: {e}")))?;
    let names = ["features_eval", "logits_eval", "features_train"];
    if let Some(name) = file.names().into_iter().find(|name| !names.contains(name)) {
        return Err(format(format!("`{name}` is none of {}", names.join(", "))));
    }
    let mut out = BTreeMap::new();
    for name in names {
        let view = file.tensor(name).map_err(|_| format(format!("no tensor `{name}`")))?;
        if view.dtype() != Dtype::F64 {
            return Err(format(format!("`{name}` is {:?}, expected F64", view.dtype())));
        }
        let (numbers, _) = view.data().as_chunks::<8>();
        out.insert(name.to_owned(), numbers.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect());
    }
    Ok(out)
}

fn misfits(got: &BTreeMap<String, Vec<usize>>, want: &BTreeMap<String, Vec<usize>>) -> WeightMisfits {
    let without = |a: &BTreeMap<String, Vec<usize>>, b: &BTreeMap<String, Vec<usize>>| {
        a.iter().filter(|(name, _)| !b.contains_key(*name)).map(|(n, s)| (n.clone(), s.clone())).collect()
    };
    let both = got.iter().filter_map(|(name, got)| Some((name.clone(), got.clone(), want.get(name)?.clone())));
    WeightMisfits {
        missing: without(want, got),
        unexpected: without(got, want),
        misshaped: both.filter(|(_, got, want)| got != want).collect(),
        ..WeightMisfits::default()
    }
}
