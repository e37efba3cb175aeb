//! What a backbone or its parameters can refuse.

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a backbone could not be built, run or loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration that describes no network.
    #[error("backbone: `{field}` = {value}, expected {expected}")]
    Config {
        /// The field, as in the suite file.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed, in words.
        expected: &'static str,
    },
    /// A name that is none of timm's, or of an architecture that is not here.
    #[error("no architecture `{name}`; {}", known(alike))]
    UnknownArchitecture {
        /// The name.
        name: String,
        /// Names that are near: of the same family, or few letters away. None if there are none.
        alike: Vec<&'static str>,
    },
    /// Images that do not consist of whole patches.
    #[error("images of {height}×{width} pixels do not consist of patches: both have to be multiples of {multiple}")]
    ImageSize {
        /// Height of the images.
        height: usize,
        /// Width of the images.
        width: usize,
        /// Side of a patch.
        multiple: usize,
    },
    /// A training pass without random numbers through a network that leaves something out.
    #[error("`{what}` is above 0, but this training pass has no stream to draw from: pass one by `Pass::training`")]
    NoStream {
        /// The setting.
        what: &'static str,
    },
    /// Activations in bfloat16 where there is no code for them.
    #[error(
        "bfloat16 activations need float32 parameters on a CUDA card, but these are {dtype:?} on {device}: set the precision to \
         float32, or build the network over a float32 store on a card"
    )]
    Precision {
        /// Dtype of the parameters.
        dtype: candle_core::DType,
        /// Where they lie.
        device: String,
    },
    /// Fast algorithms where there are none.
    #[error(
        "fast algorithms are cuDNN's on a CUDA card, and {reason}: set the algorithms to deterministic, or build with the \
         feature `cudnn` and install cuDNN 9"
    )]
    Algorithms {
        /// What is missing.
        reason: String,
    },
    /// Tensors that are not those of the store.
    #[error("the tensors do not fit the parameters: {0}")]
    Load(Misfits),
    /// Running statistics of a network over plain tensors, which cannot be updated.
    #[error(
        "`{name}` is a plain tensor and cannot follow the batch: run this network with `TrainFrozen` or `Eval` statistics, \
         or build it over a parameter store"
    )]
    FrozenStatistics {
        /// The buffer.
        name: String,
    },
    /// A checkpoint that does not fit the architecture. Nothing of it was loaded.
    #[error("{path}: the weights do not fit the architecture, and nothing was loaded: {misfits}")]
    Weights {
        /// The file.
        path: std::path::PathBuf,
        /// Every tensor that does not fit.
        misfits: Box<crate::WeightMisfits>,
    },
    /// A file that is no checkpoint.
    #[error("{path} cannot be used as weights: {reason}")]
    WeightsFile {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        reason: String,
    },
    /// A kernel refused.
    #[error(transparent)]
    Kernel(#[from] kernels::Error),
    /// The tensor library refused.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// A hint about names.
fn known(alike: &[&str]) -> String {
    match alike {
        [] => "`bench list backbones` shows the names".to_owned(),
        _ => format!("near it there are {}", alike.join(", ")),
    }
}

/// Which tensors do not fit, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Misfits {
    /// In the store and not among the tensors.
    pub missing: Vec<String>,
    /// Among the tensors and not in the store.
    pub unexpected: Vec<String>,
    /// Name, shape of the tensor, shape in the store.
    pub misshaped: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Tensors that are no floats, with their dtypes.
    pub not_floats: Vec<(String, candle_core::DType)>,
}

impl Misfits {
    /// Whether everything fits.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Display for Misfits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        for (what, names) in [("missing", &self.missing), ("unexpected", &self.unexpected)] {
            if !names.is_empty() {
                parts.push(format!("{what} {}: {}", names.len(), names.join(", ")));
            }
        }
        parts.extend(
            self.misshaped.iter().map(|(name, got, want)| format!("`{name}` has shape {got:?}, expected {want:?}")),
        );
        parts.extend(self.not_floats.iter().map(|(name, dtype)| format!("`{name}` is {dtype:?}, expected a float")));
        f.write_str(&parts.join("; "))
    }
}
