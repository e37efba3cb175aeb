//! Training ops, forward and backward, of activations in float32, float64 or bfloat16.
//!
//! Sums, statistics, gradients of parameters and the parameters of norms and biases are [`Stored::Sum`]: float32 for
//! bfloat16. Sums are added in an order that depends on shapes alone, without atomics: the same shapes give the same bits.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod cast;
pub(crate) mod conv;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod norm;
pub(crate) mod optim;
pub(crate) mod pool;

use super::device::{Device, Launch, Stored, View, arguments, kernel};
use crate::{Error, Result};

/// Threads of a block of an elementwise kernel, and values that it takes.
const THREADS: usize = 256;
const BLOCK: usize = 4 * THREADS;
/// Values of a channel that a block sums, at least; and the most pieces of a channel. Guesses: enough blocks for any card
/// where channels are few and maps large.
const PIECE: usize = 16 * 1024;
const PIECES: usize = 64;

/// Two results.
pub(crate) type Two<D, A, B> = (<D as Device>::Buffer<A>, <D as Device>::Buffer<B>);

/// Refuses more values than kernels count.
fn countable(op: &'static str, values: usize) -> Result<usize> {
    if values < 1 << 31 {
        return Ok(values);
    }
    Err(Error::Device { op, reason: format!("{values} values are more than a kernel counts; take smaller batches") })
}

/// An elementwise kernel over `values` numbers.
fn each(op: &'static str, values: usize) -> Result<Launch> {
    Ok(Launch { blocks: countable(op, values)?.div_ceil(BLOCK), threads: THREADS, shared: 0 })
}

/// A warp for each of `rows`.
fn warps(rows: usize) -> Launch {
    Launch { blocks: rows.div_ceil(THREADS / 32), threads: THREADS, shared: 0 }
}

/// A thread for each of `n`.
fn threads(n: usize) -> Launch {
    Launch { blocks: n.div_ceil(THREADS), threads: THREADS, shared: 0 }
}

/// Length and number of the pieces that a sum of `all` terms is cut into.
fn pieces(all: usize, least: usize, most: usize) -> (usize, usize) {
    let length = least.max(all.div_ceil(most)).min(all.max(1));
    (length, all.div_ceil(length).max(1))
}

/// Adds `pieces` pieces of `n` numbers, in their order.
fn joined<D: Device, S: Stored>(device: &D, parts: D::Buffer<S>, n: usize, pieces: usize) -> Result<D::Buffer<S>> {
    if pieces == 1 {
        return Ok(parts);
    }
    let out = device.empty::<S>(n)?;
    let arguments = arguments![device.view(&parts), device.view(&out), n, pieces];
    device.launch(kernel!(S, "sum_pieces"), threads(n), arguments)?;
    Ok(out)
}

/// A copy.
fn copied<D: Device, S: Stored>(device: &D, values: View<S>) -> Result<D::Buffer<S>> {
    let out = device.empty::<S>(values.len())?;
    // The sum of a single piece.
    let arguments = arguments![values, device.view(&out), values.len(), 1usize];
    device.launch(kernel!(S, "sum_pieces"), threads(values.len()), arguments)?;
    Ok(out)
}

/// Sizes of maps [batch, channels, pixels].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Maps {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    /// Pixels of a map.
    pub(crate) map: usize,
}

impl Maps {
    /// All values.
    pub(crate) fn len(self) -> usize {
        self.batch * self.channels * self.map
    }

    /// Values of a channel.
    fn all(self) -> usize {
        self.batch * self.map
    }

    /// Sums over each channel: of `g`, and where `x` and `mean` are given of `g (x − mean)`, `[2, channels]`; with `y`, `g`
    /// counts where that is above 0 alone.
    fn sums<D: Device, T: Stored>(
        self,
        device: &D,
        g: View<T>,
        x: Option<(View<T>, View<T::Sum>)>,
        y: Option<View<T>>,
    ) -> Result<D::Buffer<T::Sum>> {
        let (length, pieces) = pieces(self.all(), PIECE, PIECES);
        let n = self.channels * if x.is_some() { 2 } else { 1 };
        let parts = device.empty::<T::Sum>(pieces * n)?;
        let (values, mean) = x.unwrap_or((View::none(), View::none()));
        let launch = Launch { blocks: self.channels * pieces, threads: THREADS, shared: 32 };
        let arguments = arguments![
            values,
            y.unwrap_or(View::none()),
            g,
            mean,
            device.view(&parts),
            self.channels,
            self.map,
            self.all(),
            length,
            usize::from(y.is_some())
        ];
        device.launch(kernel!(T, "norm_sums"), launch, arguments)?;
        joined(device, parts, n, pieces)
    }
}
