//! Optimal transport: Sinkhorn, the doubly-stochastic graph of an image's tokens, and the sum over its edges.
//!
//! Tensors are float32 or float64; plans and graphs are computed in float64 inside. Tensors on a card are
//! computed there, in a build with the feature `cuda`.

mod aggregate;
mod cost;
mod extended;
mod graph;
mod lanes;
mod precise;
mod scaling;
mod sinkhorn;
mod values;

pub use aggregate::aggregate;
pub use graph::{DsotConfig, DsotGraph, dsot_graph};
pub use sinkhorn::{SinkhornConfig, sinkhorn};
