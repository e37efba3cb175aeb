//! The loops of layer normalisation over one piece: some tokens, whose channels are neighbours, or the maps of one
//! image, whose channels are `inner` apart and which are walked in blocks of pixels.

use std::mem::MaybeUninit;

use super::buffers::Real;
use super::moments::{lanes, lanes2};
use super::wide::Loop;

/// Pixels of a block.
const BLOCK: usize = 64;

/// Layout of a piece.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) channels: usize,
    /// 1 for tokens, else the pixels of a map.
    pub(super) inner: usize,
}

impl Piece {
    /// First pixels and sizes of the blocks.
    #[inline(always)]
    fn blocks(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.inner).step_by(BLOCK).map(move |at| (at, BLOCK.min(self.inner - at)))
    }

    /// Calls `f(channel, its values)` for a block of an image.
    #[inline(always)]
    fn each_channel<T>(self, x: &[T], (at, len): (usize, usize), mut f: impl FnMut(usize, &[T])) {
        for (c, map) in x.chunks(self.inner).enumerate() {
            f(c, &map[at..at + len]);
        }
    }
}

/// Mean and 1/σ of each token or pixel.
pub(super) struct Moments<'a, T> {
    pub(super) piece: Piece,
    pub(super) x: &'a [T],
    pub(super) eps: f64,
    pub(super) moments: &'a mut [[f64; 2]],
}

impl<T: Real> Loop for Moments<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self { piece, x, eps, moments } = self;
        let n = piece.channels as f64;
        if piece.inner == 1 {
            for (x, moments) in x.chunks(piece.channels).zip(moments) {
                let mean = lanes(x, |v| v.up()) / n;
                let var = lanes(x, |v| (v.up() - mean) * (v.up() - mean)) / n;
                *moments = [mean, 1.0 / (var + eps).sqrt()];
            }
            return;
        }
        for block in piece.blocks() {
            let (mut mean, mut var) = ([0.0; BLOCK], [0.0; BLOCK]);
            piece.each_channel(x, block, |_, x| mean.iter_mut().zip(x).for_each(|(sum, x)| *sum += x.up()));
            mean.iter_mut().for_each(|mean| *mean /= n);
            piece.each_channel(x, block, |_, x| {
                var.iter_mut().zip(&mean).zip(x).for_each(|((sum, mean), x)| *sum += (x.up() - mean) * (x.up() - mean));
            });
            for ((moments, mean), var) in moments[block.0..block.0 + block.1].iter_mut().zip(mean).zip(var) {
                *moments = [mean, 1.0 / (var / n + eps).sqrt()];
            }
        }
    }
}

/// `y = γ x̂ + β`.
pub(super) struct Forward<'a, T> {
    pub(super) piece: Piece,
    pub(super) x: &'a [T],
    pub(super) moments: &'a [[f64; 2]],
    pub(super) gamma: &'a [T],
    pub(super) beta: &'a [T],
    pub(super) y: &'a mut [MaybeUninit<T>],
}

impl<T: Real> Loop for Forward<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self { piece, x, moments, gamma, beta, y } = self;
        let (c, inner) = (piece.channels, piece.inner);
        if inner == 1 {
            for ((x, y), moments) in x.chunks(c).zip(y.chunks_mut(c)).zip(moments) {
                let [mean, inv] = moments.map(T::down);
                for (((y, x), gamma), beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                    y.write((*x - mean) * inv * *gamma + *beta);
                }
            }
            return;
        }
        for (at, len) in piece.blocks() {
            let (mean, inv) = down::<T>(&moments[at..at + len]);
            for (((x, y), gamma), beta) in x.chunks(inner).zip(y.chunks_mut(inner)).zip(gamma).zip(beta) {
                let values = y[at..at + len].iter_mut().zip(&x[at..at + len]);
                for ((y, x), (mean, inv)) in values.zip(mean.iter().zip(&inv)) {
                    y.write((*x - *mean) * *inv * *gamma + *beta);
                }
            }
        }
    }
}

/// Means and 1/σ of a block, rounded.
#[inline(always)]
fn down<T: Real>(moments: &[[f64; 2]]) -> ([T; BLOCK], [T; BLOCK]) {
    let (mut mean, mut inv) = ([T::ZERO; BLOCK], [T::ZERO; BLOCK]);
    for ((mean, inv), moments) in mean.iter_mut().zip(&mut inv).zip(moments) {
        [*mean, *inv] = moments.map(T::down);
    }
    (mean, inv)
}

/// `∂x = (γ g − mean(γ g) − x̂ mean(γ g x̂)) / σ`, means over the channels, and per channel `Σ g x̂`, `Σ g`.
pub(super) struct Backward<'a, T> {
    pub(super) piece: Piece,
    pub(super) x: &'a [T],
    /// The result's gradient, then that of `x`.
    pub(super) g: &'a mut [T],
    pub(super) moments: &'a [[f64; 2]],
    pub(super) gamma: &'a [T],
    pub(super) sums: &'a mut [[f64; 2]],
}

impl<T: Real> Loop for Backward<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        if self.piece.inner == 1 { self.tokens() } else { self.maps() }
    }
}

impl<T: Real> Backward<'_, T> {
    #[inline(always)]
    fn tokens(self) {
        let c = self.piece.channels;
        let mut normal = vec![T::ZERO; c];
        for ((x, g), moments) in self.x.chunks(c).zip(self.g.chunks_mut(c)).zip(self.moments) {
            let [mean, inv] = moments.map(T::down);
            normal.iter_mut().zip(x).for_each(|(normal, x)| *normal = (*x - mean) * inv);
            for (((sums, normal), g), gamma) in self.sums.iter_mut().zip(&normal).zip(g.iter_mut()).zip(self.gamma) {
                *sums = [sums[0] + g.up() * normal.up(), sums[1] + g.up()];
                *g = *gamma * *g;
            }
            let shift = T::down(lanes(g, |v| v.up()) / c as f64);
            let slope = T::down(lanes2(g, &normal, |a, b| a.up() * b.up()) / c as f64);
            g.iter_mut().zip(&normal).for_each(|(g, normal)| *g = inv * (*g - shift - *normal * slope));
        }
    }

    #[inline(always)]
    fn maps(self) {
        let Self { piece, x, g, moments, gamma, sums } = self;
        let (inner, n) = (piece.inner, piece.channels as f64);
        for (at, len) in piece.blocks() {
            let (mean, inv) = down::<T>(&moments[at..at + len]);
            let (mut shift, mut slope) = ([0.0; BLOCK], [0.0; BLOCK]);
            let mut normal = [T::ZERO; BLOCK];
            for (((x, g), gamma), sums) in x.chunks(inner).zip(g.chunks(inner)).zip(gamma).zip(sums.iter_mut()) {
                let gy = &g[at..at + len];
                for (((normal, x), mean), inv) in normal.iter_mut().zip(&x[at..at + len]).zip(&mean).zip(&inv) {
                    *normal = (*x - *mean) * *inv;
                }
                let products = lanes2(&normal[..len], gy, |a, b| a.up() * b.up());
                *sums = [sums[0] + products, sums[1] + lanes(gy, |v| v.up())];
                for (((shift, slope), normal), gy) in shift.iter_mut().zip(&mut slope).zip(&normal).zip(gy) {
                    let scaled = *gamma * *gy;
                    *shift += scaled.up();
                    *slope += (scaled * *normal).up();
                }
            }
            let (shift, slope) = (shift.map(|v| T::down(v / n)), slope.map(|v| T::down(v / n)));
            for ((x, g), gamma) in x.chunks(inner).zip(g.chunks_mut(inner)).zip(gamma) {
                let values = g[at..at + len].iter_mut().zip(&x[at..at + len]);
                let statistics = mean.iter().zip(&inv).zip(shift.iter().zip(&slope));
                for ((g, x), ((mean, inv), (shift, slope))) in values.zip(statistics) {
                    *g = *inv * (*gamma * *g - *shift - (*x - *mean) * *inv * *slope);
                }
            }
        }
    }
}
