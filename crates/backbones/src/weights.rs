//! Checkpoints as timm stores them on the Hub: `model.safetensors` into a parameter store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};

use crate::skeleton::tensors_of;
use crate::{Backbone, BackboneConfig, Error, ParameterStore, Result, resample_grid};

/// Names that a message lists of each kind at most.
const LISTED: usize = 20;

/// A name and a shape.
pub type NamedShape = (String, Vec<usize>);

/// Why a checkpoint does not fit an architecture: every tensor that does not, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WeightMisfits {
    /// In the architecture and not in the file, with the shape that is expected.
    pub missing: Vec<NamedShape>,
    /// In the file and not in the architecture, with the shape in the file.
    pub unexpected: Vec<NamedShape>,
    /// Name, shape in the file, shape that is expected.
    pub misshaped: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Tensors that are none of f16, bf16, f32 and f64, with their dtypes.
    pub not_floats: Vec<(String, String)>,
    /// Tensors that hold a NaN or an infinity, or do in the store's dtype.
    pub not_finite: Vec<String>,
}

impl WeightMisfits {
    /// Whether everything fits.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What the odd names mean that some checkpoints of timm have.
    fn explanations(&self) -> Vec<&'static str> {
        let has = |list: &[NamedShape], start: &str| list.iter().any(|(name, _)| name.starts_with(start));
        let mut out = Vec::new();
        if has(&self.unexpected, "dist_token") {
            out.push("`dist_token`: a distilled transformer has a second token, which this architecture lacks");
        }
        if has(&self.unexpected, "fc_norm.") {
            out.push("`fc_norm`: a transformer that pools by the mean and normalises after it, not before");
        }
        if has(&self.unexpected, "norm_pre.") {
            out.push("`norm_pre`: a transformer with a normalisation before its blocks");
        }
        if has(&self.unexpected, "model.") || has(&self.unexpected, "module.") {
            out.push("names begin with `model.` or `module.`: the checkpoint of a wrapper, not timm's");
        }
        out
    }
}

/// At most [`LISTED`] items, after how many there are.
fn list(what: &str, items: impl ExactSizeIterator<Item = String>) -> Option<String> {
    let count = items.len();
    if count == 0 {
        return None;
    }
    let mut shown: Vec<String> = items.take(LISTED).collect();
    if count > LISTED {
        shown.push(format!("and {} more", count - LISTED));
    }
    Some(format!("{what} {count}: {}", shown.join(", ")))
}

impl std::fmt::Display for WeightMisfits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shaped = |(name, shape): &NamedShape| format!("{name} {shape:?}");
        let parts = [
            list("missing", self.missing.iter().map(shaped)),
            list("unexpected", self.unexpected.iter().map(shaped)),
            list("mis-shaped", self.misshaped.iter().map(|(n, got, want)| format!("{n} {got:?} (expected {want:?})"))),
            list("no floats", self.not_floats.iter().map(|(name, dtype)| format!("{name} {dtype}"))),
            list("not finite", self.not_finite.iter().cloned()),
        ];
        let mut parts: Vec<String> = parts.into_iter().flatten().collect();
        parts.extend(self.explanations().into_iter().map(str::to_owned));
        f.write_str(&parts.join("; "))
    }
}

/// What was loaded from a checkpoint, and what was knowingly left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadReport {
    /// The file.
    pub path: PathBuf,
    /// Tensors that were loaded, and the numbers in them.
    pub tensors: usize,
    /// See [`Self::tensors`].
    pub numbers: usize,
    /// Loaded tensors by their dtype in the file, such as `F16`.
    pub dtypes: BTreeMap<String, usize>,
    /// timm's classifier, which is dropped: a method has a fresh head of its own.
    pub classifier: Vec<NamedShape>,
    /// Counters of the batches that normalisations have seen (`num_batches_tracked`): the running statistics follow with
    /// a fixed momentum and need none.
    pub counters: usize,
    /// Patches along a side of the position embedding in the file and in the store, where it was resampled.
    pub resampled: Option<[usize; 2]>,
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dtypes: Vec<String> = self.dtypes.iter().map(|(dtype, count)| format!("{count} {dtype}")).collect();
        let (path, numbers) = (self.path.display(), self.numbers as f64 / 1e6);
        write!(f, "{path}: {} tensors loaded ({}), {numbers:.1} million numbers", self.tensors, dtypes.join(", "))?;
        if !self.classifier.is_empty() {
            let names: Vec<String> = self.classifier.iter().map(|(name, shape)| format!("{name} {shape:?}")).collect();
            write!(f, "; classifier dropped: {}", names.join(", "))?;
        }
        if self.counters > 0 {
            write!(f, "; {} batch counters left out", self.counters)?;
        }
        if let Some([from, to]) = self.resampled {
            write!(f, "; position embedding resampled from {from}×{from} to {to}×{to} patches")?;
        }
        Ok(())
    }
}

/// The contents of a `model.safetensors`.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Weights {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::WeightsFile`] where it cannot be read or is no complete safetensors file.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| unusable(path, &e))?;
        Self::from_bytes(path, bytes)
    }

    /// The contents of a file that was read already; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::WeightsFile`] where they are no complete safetensors file.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        SafeTensors::deserialize(&bytes).map_err(|e| unusable(path, &e))?;
        Ok(Self { path: path.to_owned(), bytes })
    }

    /// Sets the backbone's parameters and buffers in `store` to those of the file, converted to the store's dtype.
    ///
    /// The file must hold every tensor of the architecture in its shape and nothing else but timm's classifier (also the
    /// `pre_logits` and the second head of old transformers), which is dropped, and the counters of batch
    /// normalisations. What else is in the store, such as a method's head, keeps its values. The position embedding of a
    /// ViT of another image size is resampled ([`resample_grid`]), as timm does.
    ///
    /// # Errors
    /// [`Error::Weights`] with everything that does not fit; the store is unchanged then. [`Error::WeightsFile`].
    pub fn load(&self, config: &BackboneConfig, store: &ParameterStore) -> Result<LoadReport> {
        // Whatever the store lacks of the backbone comes into being, in the right shapes.
        Backbone::new(config, store.var_builder())?;
        let file = SafeTensors::deserialize(&self.bytes).map_err(|e| unusable(&self.path, &e))?;
        let mut reading = Reading::new(self, tensors_of(config)?, config.classifier_prefix()?, store.dtype());
        for name in file.names() {
            reading.tensor(name, &file.tensor(name).map_err(|e| unusable(&self.path, &e))?)?;
        }
        let (tensors, report) = reading.finish()?;
        store.set(&tensors)?;
        Ok(report)
    }
}

fn unusable(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::WeightsFile { path: path.to_owned(), reason: reason.to_string() }
}

/// Tensors of a file, sorted into what is wanted and what is not.
struct Reading {
    wanted: BTreeMap<String, Vec<usize>>,
    classifier_prefix: &'static str,
    dtype: DType,
    tensors: BTreeMap<String, Tensor>,
    misfits: WeightMisfits,
    report: LoadReport,
}

impl Reading {
    fn new(
        weights: &Weights,
        wanted: BTreeMap<String, Vec<usize>>,
        classifier_prefix: &'static str,
        dtype: DType,
    ) -> Self {
        let report = LoadReport {
            path: weights.path.clone(),
            tensors: 0,
            numbers: 0,
            dtypes: BTreeMap::new(),
            classifier: Vec::new(),
            counters: 0,
            resampled: None,
        };
        let (tensors, misfits) = (BTreeMap::new(), WeightMisfits::default());
        Self { wanted, classifier_prefix, dtype, tensors, misfits, report }
    }

    fn tensor(&mut self, name: &str, view: &safetensors::tensor::TensorView<'_>) -> Result<()> {
        let got = view.shape().to_vec();
        let Some(want) = self.wanted.get(name).cloned() else {
            if name.ends_with(".num_batches_tracked") {
                self.report.counters += 1;
            } else if self.is_classifier(name) {
                self.report.classifier.push((name.to_owned(), got));
            } else {
                self.misfits.unexpected.push((name.to_owned(), got));
            }
            return Ok(());
        };
        let float = matches!(view.dtype(), Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64);
        if !float {
            self.misfits.not_floats.push((name.to_owned(), format!("{:?}", view.dtype())));
        }
        let grids = sides(name, &got, &want);
        if got != want && grids.is_none() {
            self.misfits.misshaped.push((name.to_owned(), got, want));
            return Ok(());
        }
        if !float {
            return Ok(());
        }
        let mut tensor = view.load(&Device::Cpu)?.to_dtype(self.dtype)?;
        if let Some([from, to]) = grids.filter(|[from, to]| from != to) {
            tensor = resampled(&tensor, from, to)?;
            self.report.resampled = Some([from, to]);
        }
        if !is_finite(&tensor)? {
            self.misfits.not_finite.push(name.to_owned());
        }
        *self.report.dtypes.entry(format!("{:?}", view.dtype())).or_default() += 1;
        self.report.tensors += 1;
        self.report.numbers += tensor.elem_count();
        self.tensors.insert(name.to_owned(), tensor);
        Ok(())
    }

    fn is_classifier(&self, name: &str) -> bool {
        [self.classifier_prefix, "head_dist.", "pre_logits."].iter().any(|prefix| name.starts_with(prefix))
    }

    fn finish(mut self) -> Result<(BTreeMap<String, Tensor>, LoadReport)> {
        let misshaped = |name: &String| self.misfits.misshaped.iter().any(|(other, ..)| other == name);
        let no_float = |name: &String| self.misfits.not_floats.iter().any(|(other, _)| other == name);
        let absent = |name: &String| !self.tensors.contains_key(name) && !misshaped(name) && !no_float(name);
        self.misfits.missing =
            self.wanted.iter().filter(|(n, _)| absent(n)).map(|(n, s)| (n.clone(), s.clone())).collect();
        self.misfits.unexpected.sort();
        self.misfits.misshaped.sort();
        self.misfits.not_floats.sort();
        self.misfits.not_finite.sort();
        self.report.classifier.sort();
        if self.misfits.is_empty() {
            return Ok((self.tensors, self.report));
        }
        Err(Error::Weights { path: self.report.path, misfits: Box::new(self.misfits) })
    }
}

/// Patches along the sides of two position embeddings, [1, 1 + n², C] each, of one width.
fn sides(name: &str, got: &[usize], want: &[usize]) -> Option<[usize; 2]> {
    let (&[1, got_tokens, got_width], &[1, want_tokens, want_width]) = (got, want) else { return None };
    if name != "pos_embed" || got_width != want_width {
        return None;
    }
    let side = |tokens: usize| {
        let patches = tokens.checked_sub(1)?;
        Some(patches.isqrt()).filter(|side| *side > 0 && side * side == patches)
    };
    Some([side(got_tokens)?, side(want_tokens)?])
}

/// A position embedding for another grid; the class token's is kept.
fn resampled(tensor: &Tensor, from: usize, to: usize) -> Result<Tensor> {
    let patches = tensor.narrow(1, 1, from * from)?;
    let patches = resample_grid(&patches, [from, from], [to, to])?.to_dtype(tensor.dtype())?;
    Ok(Tensor::cat(&[tensor.narrow(1, 0, 1)?, patches], 1)?)
}

fn is_finite(tensor: &Tensor) -> Result<bool> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F32 => flat.to_vec1::<f32>()?.iter().all(|v| v.is_finite()),
        _ => flat.to_dtype(DType::F64)?.to_vec1::<f64>()?.iter().all(|v| v.is_finite()),
    })
}
