//! Objectives and heads of the methods, one a file.
//!
//! A *method* is a head, which turns a feature map into logits, and an objective, which adds a term to the cross
//! entropies of the two views: `L = CE(anchor) + λ·CE(positive) + γ·L_method`. [`MethodConfig`] is the registry:
//! an enum with a variant a method, matched exhaustively, so that the compiler names what a new method still lacks.
//! [`Method`] is a method with its parameters.
//!
//! | method | file | term or head |
//! |---|---|---|
//! | `ce`, `ce-two-view` | [`ce`] | cross entropy with label smoothing |
//! | `supcon` | [`supcon`] | supervised contrastive |
//! | `triplet` | [`triplet`] | Euclidean triplet on normalised features |
//! | `pac-mcl-le`, `pac-mcl-bw` | [`pac_mcl`], [`parts`] | part-aware contrast on the SPD manifold |
//! | `dsot` | [`dsot`] | graph head on a doubly-stochastic transport plan |
//! | `cotap` | [`cotap`] | ranking distillation of patch correspondences |
//!
//! Everything runs in float32 or float64; what needs float64 (covariances, mining) computes in it inside.

pub mod ce;
pub mod cotap;
pub mod dsot;
pub mod error;
pub mod layers;
pub mod method;
pub mod ops;
pub mod pac_mcl;
pub mod parts;
pub mod readout;
pub mod registry;
mod settings;
pub mod supcon;
pub mod triplet;

pub use ce::{CeConfig, CeTwoViewConfig};
pub use cotap::{CotapConfig, PairCount, Teacher};
pub use dsot::DsotHeadConfig;
pub use error::{LossError, Result};
pub use method::{Batch, Draws, LossOut, Method};
pub use pac_mcl::{Alignment, Negatives, PacMclConfig, SoftTopK};
pub use readout::Numbers;
pub use registry::{MethodConfig, Views};
pub use supcon::SupconConfig;
pub use triplet::{TripletConfig, TripletLoss, TripletNegative};
