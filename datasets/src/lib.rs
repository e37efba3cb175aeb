//! Datasets of ultra-fine-grained images: sources, decoding, augmentation, samplers.
//!
//! Every source (generated leaves, a parquet file, a folder of images with or without lists, and the UFG subsets, which
//! are verified and kept by [`import()`]) becomes a [`Dataset`]: encoded images with labels, in an order that depends on
//! the content alone. A [`DecodedSet`] holds one split of it as 8-bit RGB at the working size, in memory or in a mapped
//! file that is built once; [`train_views`] and [`eval_view`] turn an image of it into the numbers that a backbone sees,
//! and a [`Loader`] makes batches of them ahead of the training step. What is drawn for a view is a [`Recipe`], apart from what
//! is done with it, so that a device may do it instead: the loader also makes batches of bytes with recipes. No tensors here: plain slices in, plain vectors out.
//!
//! Every random choice comes from a stream of its own ([`random::Seeds`]), so nothing depends on the number of
//! workers, and every method of a suite sees the same anchors in the same order for the same seed.

mod archive;
pub mod augment;
mod cache;
mod decode;
mod decoded_set;
mod error;
mod export;
mod import;
mod in_order;
mod leaf;
mod loader;
mod manifest;
mod math;
mod model;
mod resize;
mod samplers;
mod source;
mod ufg;
mod views;

pub use augment::AugmentConfig;
pub use cache::{CacheEvent, cache_path, estimate_cache};
pub use decode::{MAX_ALLOCATION, MAX_SIDE, Rgb, RgbRef, decode, decode_bytes, decode_working};
pub use decoded_set::DecodedSet;
pub use error::{DatasetError, ErrorKind};
pub use export::{ExportOptions, export};
pub use import::{Import, ImportEvent, ImportOptions, Imported, find_imports, import};
pub use leaf::{GeneratedConfig, PerClass};
pub use loader::{ByteBatch, EvalPlan, Loader, Place, ViewBatch};
pub use manifest::{Manifest, ManifestItem, Origin, SourceKind, StandIn, manifest_path};
pub use model::{Dataset, ImageSource, Item, Split};
pub use resize::{Filter, Fit, Resize, resize};
pub use samplers::{batches, epoch_order, m_per_class};
pub use source::{AnnoConfig, DatasetConfig, FolderConfig, ParquetConfig, ParquetImages, load};
pub use ufg::{Facts, GroupMember, Histogram, MIRROR_REPOSITORY, Stage, Subset, UfgConfig, UfgId};
pub use views::{
    EvalConfig, Normalise, RECIPE_WORDS, Recipe, Recipes, TrainPlan, Views, WantViews, eval_view, recipe_words,
    train_recipes, train_views,
};
