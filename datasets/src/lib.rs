//! Datasets of ultra-fine-grained images: sources, decoding, augmentation, samplers.
//!
//! Three sources (generated leaves, a parquet file, a folder of images) become one [`Dataset`]: encoded images with
//! labels, in an order that depends on the content alone. A [`DecodedSet`] holds one split of it as 8-bit RGB at the
//! working size; [`train_views`] and [`eval_view`] turn an image of it into the numbers that a backbone sees, and a
//! [`Loader`] makes batches of them ahead of the training step. No tensors here: plain slices in, plain vectors out.
//!
//! Every random choice comes from a stream of its own ([`random::Seeds`]), so nothing depends on the number of
//! workers, and every method of a suite sees the same anchors in the same order for the same seed.

pub mod augment;
mod decode;
mod error;
mod leaf;
mod loader;
mod math;
mod model;
mod resize;
mod samplers;
mod source;
mod views;

pub use augment::AugmentConfig;
pub use decode::{DecodedSet, MAX_ALLOCATION, MAX_SIDE, Rgb, decode, decode_bytes};
pub use error::{DatasetError, ErrorKind};
pub use leaf::{GeneratedConfig, PerClass};
pub use loader::{EvalPlan, Loader, TrainPlan, ViewBatch};
pub use model::{Dataset, ImageSource, Item, Split};
pub use resize::{Filter, Fit, Resize, resize};
pub use samplers::{batches, epoch_order, m_per_class};
pub use source::{DatasetConfig, FolderConfig, ParquetConfig, load};
pub use views::{EvalConfig, Normalise, Views, WantViews, eval_view, train_views};
