//! The graph over an image's tokens.

use super::device::{Device, Float, Launch, View, arguments};
use super::flag::Flag;
use crate::Result;

/// Side of the tiles of a product, as in `graph.cu`.
const TILE: usize = 16;

/// A grid of tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) images: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Numbers of a token.
    pub(crate) d: usize,
    /// Weight of the squared distance of positions.
    pub(crate) lambda: f64,
}

impl Grid {
    fn n(self) -> usize {
        self.height * self.width
    }
}

/// What the gradient of [`cost`] needs.
pub(crate) struct Costs<D: Device> {
    grid: Grid,
    unit: D::Buffer<f64>,
    norms: D::Buffer<f64>,
    raw: D::Buffer<f64>,
    means: D::Buffer<f64>,
}

fn tiles(rows: usize, columns: usize) -> usize {
    rows.div_ceil(TILE) * columns.div_ceil(TILE)
}

/// A block with one row of numbers and room for its sums.
fn row(blocks: usize) -> Launch {
    Launch { blocks, threads: 256, shared: 32 }
}

/// Costs between the tokens of each image, over their mean.
///
/// # Errors
/// Values that are not finite.
pub(crate) fn cost<D: Device>(
    device: &D,
    op: &'static str,
    x: View<f64>,
    grid: Grid,
) -> Result<(D::Buffer<f64>, Costs<D>)> {
    let (n, d, b) = (grid.n(), grid.d, grid.images);
    let costs = Costs {
        grid,
        unit: device.empty(b * n * d)?,
        norms: device.empty(b * n)?,
        raw: device.empty(b * n * n)?,
        means: device.empty(b)?,
    };
    let out = device.empty::<f64>(b * n * n)?;
    let flag = Flag::new(device, b)?;
    let (word, details) = flag.views(device);
    let (unit, norms) = (device.view(&costs.unit), device.view(&costs.norms));
    let (raw, means) = (device.view(&costs.raw), device.view(&costs.means));
    device.launch("graph_unit", row(b * n), arguments![x, unit, norms, word, details, n, d])?;
    flag.check(device, op, ["x", "x"], b)?;
    let tiles = tiles(n, n);
    let launch = Launch { blocks: b * tiles, threads: TILE * TILE, shared: 0 };
    device.launch("graph_cost", launch, arguments![unit, raw, n, d, grid.height, grid.width, grid.lambda, tiles])?;
    device.launch("graph_mean", row(b), arguments![raw, means, device.view(&out), n])?;
    Ok((out, costs))
}

/// The gradient of the tokens.
pub(crate) fn cost_gradient<D: Device>(device: &D, costs: &Costs<D>, grad: View<f64>) -> Result<D::Buffer<f64>> {
    let grid = costs.grid;
    let (n, d, b) = (grid.n(), grid.d, grid.images);
    let (cosines, out) = (device.empty::<f64>(b * n * n)?, device.empty::<f64>(b * n * d)?);
    let (unit, norms) = (device.view(&costs.unit), device.view(&costs.norms));
    let (raw, means, to) = (device.view(&costs.raw), device.view(&costs.means), device.view(&out));
    let cosines = device.view(&cosines);
    device.launch("graph_cosines", row(b), arguments![raw, means, grad, cosines, n])?;
    let tiles = tiles(n, d);
    let launch = Launch { blocks: b * tiles, threads: TILE * TILE, shared: 0 };
    device.launch("graph_tokens", launch, arguments![cosines, unit, to, n, d, tiles])?;
    device.launch("graph_project", row(b * n), arguments![to, unit, norms, d])?;
    Ok(out)
}

/// Indices of the `k` largest of each of `rows` rows of `n` numbers, by falling value, the lower index first of equal ones.
pub(crate) fn heaviest<D: Device>(
    device: &D,
    values: View<f64>,
    (rows, n): (usize, usize),
    k: usize,
) -> Result<D::Buffer<u32>> {
    let out = device.empty::<u32>(rows * k)?;
    let launch = Launch { blocks: rows, threads: n.next_multiple_of(32).min(256), shared: n };
    device.launch("graph_heaviest", launch, arguments![values, device.view(&out), n, k])?;
    Ok(out)
}

/// Sizes of [`aggregate`]: images, tokens, their length, and edges of a token.
pub(crate) type Edges = (usize, usize, usize, usize);

/// Weighted sums over neighbours, see [`crate::transport::aggregate`].
///
/// # Errors
/// An index that is no token.
pub(crate) fn aggregate<D: Device, T: Float>(
    device: &D,
    op: &'static str,
    (h, index, weights): (View<T>, View<u32>, View<T>),
    (b, n, c, k): Edges,
) -> Result<D::Buffer<T>> {
    let out = device.empty::<T>(b * n * c)?;
    let flag = Flag::new(device, b * n)?;
    let (word, details) = flag.views(device);
    let launch = Launch { blocks: b * n, threads: 128, shared: 0 };
    let kernel = T::version("graph_aggregate_f32", "graph_aggregate_f64");
    device.launch(kernel, launch, arguments![h, index, weights, device.view(&out), word, details, n, c, k])?;
    flag.check(device, op, ["h", "edge_index"], n)?;
    Ok(out)
}

/// Gradients of the tokens and of the weights.
pub(crate) fn aggregate_gradient<D: Device, T: Float>(
    device: &D,
    (h, index, weights): (View<T>, View<u32>, View<T>),
    grad: View<T>,
    (b, n, c, k): Edges,
) -> Result<(D::Buffer<T>, D::Buffer<T>)> {
    let (of_h, of_weights) = (device.empty::<T>(b * n * c)?, device.empty::<T>(b * n * k)?);
    let launch = Launch { blocks: b * n, threads: 128, shared: 0 };
    let kernel = T::version("graph_aggregate_tokens_f32", "graph_aggregate_tokens_f64");
    device.launch(kernel, launch, arguments![index, weights, grad, device.view(&of_h), n, c, k])?;
    let total = b * n * k;
    let launch = Launch { blocks: total.div_ceil(4), threads: 128, shared: 0 };
    let kernel = T::version("graph_aggregate_weights_f32", "graph_aggregate_weights_f64");
    device.launch(kernel, launch, arguments![h, index, grad, device.view(&of_weights), n, c, k, total])?;
    Ok((of_h, of_weights))
}
