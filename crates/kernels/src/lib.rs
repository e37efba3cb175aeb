//! Kernels with backward passes: SPD and optimal-transport numerics, and the training ops that candle lacks.
//!
//! Every op is a candle op that works inside training. Matrix and transport kernels take float32 or float64
//! tensors and compute in float64 inside.

pub mod assignment;
pub mod cotap;
#[cfg(any(test, feature = "cuda"))]
mod cuda;
pub mod error;
mod even;
pub mod host;
#[cfg(any(test, feature = "cuda"))]
pub mod images;
pub mod libraries;
pub mod mining;
pub mod nn;
pub mod optim;
pub mod spd;
pub mod transport;

pub use error::{Error, Result};
