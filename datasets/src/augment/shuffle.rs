//! Tile shuffle (the self-shuffling of CLE-ViT, Yu et al. 2023).

use random::Stream;

/// Which tile goes where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShuffleParams {
    /// Tiles on a side.
    pub grid: usize,
    /// Place `k` (counted row by row) receives the tile that was at `order[k]`.
    pub order: Vec<usize>,
}

/// A uniformly random permutation of `grid`² tiles; the identity is possible.
pub fn draw(grid: usize, stream: &mut Stream) -> ShuffleParams {
    ShuffleParams { grid, order: stream.permutation(grid * grid) }
}

/// Permutes the tiles of `[3, S, S]` values. Tiles have `⌊S/grid⌋` pixels on a side; where `grid` does not divide `S`,
/// the rest at the right and at the bottom stays as it is, so that no tile is ever resized.
///
/// # Panics
/// If `planes` does not hold `3·size²` values or the order not `grid²` tiles.
pub fn apply(planes: &mut [f32], size: usize, params: &ShuffleParams) {
    let grid = params.grid;
    assert_eq!(planes.len(), 3 * size * size, "shuffle: planes of [3, {size}, {size}]");
    assert_eq!(params.order.len(), grid * grid, "shuffle: order of {grid}×{grid} tiles");
    let tile = size / grid.max(1);
    let mut source = vec![0.0f32; size * size];
    for plane in planes.chunks_exact_mut(size * size) {
        source.copy_from_slice(plane);
        for (to, &from) in params.order.iter().enumerate() {
            for y in 0..tile {
                let target = ((to / grid) * tile + y) * size + (to % grid) * tile;
                let origin = ((from / grid) * tile + y) * size + (from % grid) * tile;
                plane[target..target + tile].copy_from_slice(&source[origin..origin + tile]);
            }
        }
    }
}
