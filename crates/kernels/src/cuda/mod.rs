//! Device code of the kernels: the host's side of it, written once over a small [`Device`].
//!
//! The kernels themselves are `.cu` files beside the CPU's code of the same op (`spd/eigen.cu`, `transport/sinkhorn.cu`, …);
//! `kernels.cu` makes one module of them. A [`Device`] allocates, copies and launches. There are two: a card ([`card`]),
//! and the emulator of the tests, which runs the same kernels compiled by the host's C++ compiler.
//!
//! Matrix and transport kernels compute in float64 and read and write float32 tensors where they lie; what they must refuse
//! they note in a flag, the only word that comes back to the host. Those of [`train`] compute in the type of the activations,
//! in float32 for bfloat16, and steps of optimisers in float64.

pub(crate) mod augment;
mod cotap;
mod device;
mod flag;
mod graph;
pub(crate) mod mining;
mod sinkhorn;
mod spd;
pub(crate) mod train;

#[cfg(feature = "cuda")]
pub(crate) mod augment_stage;
#[cfg(feature = "cuda")]
pub(crate) mod card;
#[cfg(any(test, feature = "cudnn"))]
pub(crate) mod cudnn;
#[cfg(feature = "cusolver")]
pub(crate) mod cusolver;
#[cfg(feature = "cuda")]
pub(crate) mod tensors;

#[cfg(test)]
mod emulator;
