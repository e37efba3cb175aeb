//! Device code of the kernels: the host's side of it, written once over a small [`Device`].
//!
//! The kernels themselves are `.cu` files beside the CPU's code of the same op (`spd/eigen.cu`, `transport/sinkhorn.cu`, …);
//! `kernels.cu` makes one module of them. A [`Device`] allocates, copies and launches. There are two: a card ([`card`]),
//! and the emulator of the tests, which runs the same kernels compiled by the host's C++ compiler.
//!
//! All numbers are computed in float64; float32 tensors are read and written where they lie. A kernel notes the first
//! entry that it must refuse in a flag, the only word that comes back to the host.

mod cotap;
mod device;
mod flag;
mod graph;
pub(crate) mod mining;
mod sinkhorn;
mod spd;
pub(crate) mod train;

#[cfg(feature = "cuda")]
mod card;
#[cfg(feature = "cuda")]
pub(crate) mod tensors;

#[cfg(test)]
mod emulator;
