//! Sizes and sums of a batch per channel, in float64.

use candle_core::Tensor;
use rayon::prelude::*;

use super::buffers::{Real, beside, check_activations};
use super::wide::{Loop, wide};
use crate::even::Even;
use crate::{Error, Result};

/// Name of the op in errors.
pub(super) const OP: &str = "batch_norm";

/// Refuses anything but one value per channel.
pub(super) fn check_vector(name: &'static str, tensor: &Tensor, channels: usize) -> Result<()> {
    if tensor.dims() == [channels] {
        return Ok(());
    }
    Err(Error::Shape { op: OP, name, got: tensor.dims().to_vec(), expected: format!("[{channels}]") })
}

/// Sizes of a batch that is normalised per channel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) channels: usize,
    pub(super) map: usize,
}

impl Sizes {
    /// Sizes of `x`, checked against the other arguments.
    pub(super) fn of(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Self> {
        let (batch, channels, map) = match *x.dims() {
            [b, c] if c > 0 => (b, c, 1),
            [b, c, h, w] if c * h * w > 0 => (b, c, h * w),
            _ => {
                let expected = "[B, C, H, W] or [B, C], with at least one channel and one pixel".into();
                return Err(Error::Shape { op: OP, name: "x", got: x.dims().to_vec(), expected });
            }
        };
        for (name, tensor) in [("gamma", gamma), ("beta", beta)] {
            check_vector(name, tensor, channels)?;
        }
        check_activations(OP, x)?;
        if let Some(other) = [gamma, beta].into_iter().find(|t| t.dtype() != beside(x.dtype())) {
            return Err(Error::Dtype { op: OP, got: other.dtype() });
        }
        if !(eps > 0.0 && eps.is_finite()) {
            return Err(Error::Attribute { op: OP, name: "eps", value: eps, expected: "positive and finite" });
        }
        Ok(Self { batch, channels, map })
    }

    /// Values per channel.
    pub(super) fn count(&self) -> usize {
        self.batch * self.map
    }

    /// Where the maps of channel `c` lie, image by image.
    pub(super) fn maps(&self, c: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        let Sizes { batch, channels, map } = *self;
        (0..batch).map(move |b| (b * channels + c) * map..(b * channels + c + 1) * map)
    }

    /// Mean and biased variance of each channel.
    pub(super) fn moments<T: Real>(&self, x: &[T]) -> Vec<(f64, f64)> {
        let count = self.count() as f64;
        let of = |c: usize| {
            let mean = self.maps(c).map(|at| wide(MapSum { x: &x[at] })).sum::<f64>() / count;
            let squares: f64 = self.maps(c).map(|at| wide(MapSquares { x: &x[at], mean })).sum();
            (mean, squares / count)
        };
        (0..self.channels).into_par_iter().evenly(1).map(of).collect()
    }
}

/// `Σ v` of a map.
pub(super) struct MapSum<'a, T> {
    pub(super) x: &'a [T],
}

impl<T: Real> Loop for MapSum<'_, T> {
    type Out = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        lanes(self.x, |v| v.up())
    }
}

/// `Σ (v − mean)²` of a map.
struct MapSquares<'a, T> {
    x: &'a [T],
    mean: f64,
}

impl<T: Real> Loop for MapSquares<'_, T> {
    type Out = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        lanes(self.x, |v| (v.up() - self.mean) * (v.up() - self.mean))
    }
}

/// `Σ f(v)` in eight fixed lanes.
#[inline(always)]
pub(super) fn lanes<T: Real>(values: &[T], f: impl Fn(T) -> f64) -> f64 {
    let chunks = values.chunks_exact(8);
    let mut sum: f64 = chunks.remainder().iter().map(|v| f(*v)).sum();
    let mut lanes = [0.0; 8];
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += f(*v);
        }
    }
    for lane in lanes {
        sum += lane;
    }
    sum
}

/// `Σ f(a, b)` in eight fixed lanes.
#[inline(always)]
pub(super) fn lanes2<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> f64) -> f64 {
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let mut sum: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| f(*a, *b)).sum();
    let mut lanes = [0.0; 8];
    for (a, b) in a8.zip(b8) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f(*a, *b);
        }
    }
    for lane in lanes {
        sum += lane;
    }
    sum
}
