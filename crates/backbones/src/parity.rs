//! Parity with timm: networks whose every parameter is filled by a formula, and files that hold what timm computes for
//! them. Format, formula and bars: `ci/backbones/README.md`.

mod case;
mod formula;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use random::Seeds;

pub use case::{ParityCase, parity_files};
pub use formula::{fill, unit};

use crate::{Backbone, BackboneConfig, BatchStatistics, Error, ParameterStore, Pass, Result, TimmConfig};

/// Why parity files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ParityError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is nothing to compare with.
    #[error("{path} holds no parity file")]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// The file is not what the format describes.
    #[error("{path}: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The architecture is none of ours, or not at this size.
    #[error("{path}: {source}")]
    Architecture {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<Error>,
    },
    /// Names or shapes in the file are not those of our network.
    #[error("{path}: names and shapes are not those of `{arch}` here: {misfits}")]
    Names {
        /// The file.
        path: PathBuf,
        /// The architecture.
        arch: String,
        /// Which.
        misfits: Box<crate::WeightMisfits>,
    },
}

/// Largest errors of a dtype.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParityBars {
    /// Features and logits in eval mode.
    pub eval: f64,
    /// Features in train mode.
    pub train: f64,
    /// Gradients, the median over the parameters.
    pub median_gradient: f64,
    /// Gradients, the worst parameter.
    pub worst_gradient: f64,
}

impl ParityBars {
    /// Those of float64, and of float32 for anything else. Train mode is ill-conditioned in float32: the float64 bars
    /// are the ones that prove the wiring.
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::F64 => Self { eval: 1e-9, train: 1e-9, median_gradient: 1e-7, worst_gradient: 1e-6 },
            _ => Self { eval: 1e-5, train: 1e-3, median_gradient: 5e-3, worst_gradient: 0.2 },
        }
    }
}

/// Errors of one architecture in one dtype. Not finite numbers give infinity.
#[derive(Debug, Clone, PartialEq)]
pub struct ParityErrors {
    /// `‖got − want‖ / ‖want‖` of the features in eval mode.
    pub features_eval: f64,
    /// The same of the logits.
    pub logits_eval: f64,
    /// The same of the features in train mode.
    pub features_train: f64,
    /// Error of each parameter's gradient with its name, smallest first: the larger of the errors of norm and probe, over
    /// the norm (or 1e-6 of the largest norm, where that is more).
    pub gradients: Vec<(f64, String)>,
}

impl ParityErrors {
    /// The upper median of the gradients' errors.
    pub fn median_gradient(&self) -> f64 {
        self.gradients.get(self.gradients.len() / 2).map_or(f64::INFINITY, |(error, _)| *error)
    }

    /// The largest error of a gradient.
    pub fn worst_gradient(&self) -> f64 {
        self.gradients.last().map_or(f64::INFINITY, |(error, _)| *error)
    }
}

impl ParityCase {
    /// The network's configuration: a ViT's position embedding is for the file's image size.
    pub fn config(&self) -> BackboneConfig {
        let mut settings = TimmConfig::named(self.arch());
        settings.image_size = self.arch().starts_with("vit_").then_some(self.size());
        BackboneConfig::Timm(settings)
    }

    /// The image batch.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn images(&self, dtype: DType) -> Result<Tensor> {
        let shape = (self.batch(), 3, self.size(), self.size());
        Ok(Tensor::from_vec(unit("input", self.batch() * 3 * self.size().pow(2)), shape, &Device::Cpu)?
            .to_dtype(dtype)?)
    }

    /// The network with filled parameters, on the CPU.
    ///
    /// # Errors
    /// Those of [`Backbone::new`].
    pub fn network(&self, dtype: DType) -> Result<(ParameterStore, Backbone)> {
        self.network_on(dtype, &Device::Cpu)
    }

    fn network_on(&self, dtype: DType, device: &Device) -> Result<(ParameterStore, Backbone)> {
        let store = ParameterStore::new(Seeds::new(0), dtype, device);
        let backbone = Backbone::new(&self.config(), store.var_builder())?;
        let filled = |(name, shape): (&String, &Vec<usize>)| {
            Ok((name.clone(), Tensor::from_vec(fill(name, shape), shape.as_slice(), &Device::Cpu)?))
        };
        let tensors: BTreeMap<String, Tensor> = self.backbone_shapes().iter().map(filled).collect::<Result<_>>()?;
        store.load(&tensors)?;
        Ok((store, backbone))
    }

    /// Runs the network on the CPU and measures its errors.
    ///
    /// # Errors
    /// What the network refuses.
    pub fn run(&self, dtype: DType) -> Result<ParityErrors> {
        self.run_on(dtype, &Device::Cpu)
    }

    /// Runs the network on a device and measures its errors. Losses, gradients and timm's classifier are computed there as
    /// well; only the comparison is the CPU's.
    ///
    /// # Errors
    /// What the network refuses, or the device.
    pub fn run_on(&self, dtype: DType, device: &Device) -> Result<ParityErrors> {
        let (store, backbone) = self.network_on(dtype, device)?;
        let x = self.images(dtype)?.to_device(device)?;
        let eval = backbone.features(&x, &mut Pass::new(BatchStatistics::Eval))?;
        let logits = self.logits(&eval.pooled()?)?;
        let features_eval = relative_error(&numbers(&eval.into_tensor())?, self.features_eval());
        let train = backbone.forward_features(&x, BatchStatistics::TrainFrozen)?;
        let count = train.elem_count();
        let cotangent = Tensor::from_vec(unit("cotangent", count), train.shape(), &Device::Cpu)?.to_dtype(dtype)?;
        let cotangent = cotangent.to_device(device)?;
        let loss = (&train * cotangent)?.sum_all()?.affine(1.0 / count as f64, 0.0)?;
        Ok(ParityErrors {
            features_eval,
            logits_eval: relative_error(&numbers(&logits)?, self.logits_eval()),
            features_train: relative_error(&numbers(&train)?, self.features_train()),
            gradients: self.gradient_errors(&store, &loss.backward()?)?,
        })
    }

    /// timm's `forward_head` of pooled features.
    fn logits(&self, pooled: &Tensor) -> Result<Tensor> {
        let parameter = |name: String| -> Result<Tensor> {
            let shape = &self.shapes()[&name];
            let filled = Tensor::from_vec(fill(&name, shape), shape.as_slice(), &Device::Cpu)?;
            Ok(filled.to_dtype(pooled.dtype())?.to_device(pooled.device())?)
        };
        let named = |name: &str| -> Result<_> {
            Ok((parameter(format!("{name}.weight"))?, parameter(format!("{name}.bias"))?))
        };
        let pooled = match self.shapes().contains_key("head.norm.weight") {
            true => {
                let (gamma, beta) = named("head.norm")?;
                kernels::nn::layer_norm(pooled, &gamma, &beta, 1e-6)?
            }
            false => pooled.clone(),
        };
        let (weight, bias) = named(self.classifier())?;
        Ok(pooled.matmul(&weight.t()?)?.broadcast_add(&bias)?)
    }

    fn gradient_errors(&self, store: &ParameterStore, grads: &GradStore) -> Result<Vec<(f64, String)>> {
        let largest = self.grads().values().map(|[norm, _]| *norm).fold(0.0, f64::max);
        let mut errors = Vec::new();
        for parameter in store.parameters() {
            let [norm, probe] = self.grads()[&parameter.name];
            let error = match grads.get(parameter.var.as_tensor()) {
                Some(gradient) => {
                    let gradient = numbers(gradient)?;
                    let direction = unit(&format!("probe.{}", parameter.name), gradient.len());
                    let got = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
                    let got_probe: f64 = gradient.iter().zip(direction).map(|(g, u)| g * u).sum();
                    (got - norm).abs().max((got_probe - probe).abs()) / norm.max(1e-6 * largest)
                }
                None => f64::INFINITY,
            };
            errors.push((if error.is_finite() { error } else { f64::INFINITY }, parameter.name));
        }
        errors.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(errors)
    }

    /// Names of the parameters that have a gradient: those of the backbone that are no buffers.
    pub(crate) fn trained(&self) -> BTreeSet<&str> {
        let names = self.backbone_shapes().into_keys();
        names
            .filter(|name| !crate::store::is_buffer(name))
            .filter_map(|n| self.shapes().get_key_value(&n))
            .map(|(n, _)| n.as_str())
            .collect()
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// `‖got − want‖ / ‖want‖`; infinity for another length or anything that is not finite.
fn relative_error(got: &[f64], want: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(g, w)| g - w));
    let error = difference / norm(&mut want.iter().copied());
    if got.len() == want.len() && error.is_finite() { error } else { f64::INFINITY }
}
