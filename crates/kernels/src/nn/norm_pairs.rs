//! Batch normalisation from pairs to pairs of float32.

use rayon::prelude::*;

use super::activation::rectify;
use super::buffers::Real;
use super::moments::Sizes;
use super::pair::{Pair, Pairs, Target, fresh_pairs, joined};
use super::wide::{Loop, wide};
use crate::even::Even;

/// Mean and biased variance of each channel.
pub(super) fn moments(sizes: Sizes, high: &[f32], rest: &[f32]) -> Vec<(f64, f64)> {
    let count = sizes.count() as f64;
    let of = |c: usize| {
        let sum = |mean: Option<f64>| -> f64 {
            sizes.maps(c).map(|at| wide(Sum { high: &high[at.clone()], rest: &rest[at], mean })).sum()
        };
        let mean = sum(None) / count;
        (mean, sum(Some(mean)) / count)
    };
    (0..sizes.channels).into_par_iter().evenly(1).map(of).collect()
}

/// `Σ v` of a map, or `Σ (v − mean)²`.
struct Sum<'a> {
    high: &'a [f32],
    rest: &'a [f32],
    mean: Option<f64>,
}

impl Loop for Sum<'_> {
    type Out = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        match self.mean {
            None => sum(self.high, self.rest, |v| v),
            Some(mean) => sum(self.high, self.rest, |v| (v - mean) * (v - mean)),
        }
    }
}

/// `Σ f(v)` in eight fixed lanes.
#[inline(always)]
fn sum(high: &[f32], rest: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let ((high, last), (rest, last_rest)) = (high.as_chunks::<8>(), rest.as_chunks::<8>());
    let mut sum: f64 = last.iter().zip(last_rest).map(|(high, rest)| f(joined(*high, *rest))).sum();
    let mut lanes = [0.0; 8];
    for (high, rest) in high.iter().zip(rest) {
        for lane in 0..8 {
            lanes[lane] += f(joined(high[lane], rest[lane]));
        }
    }
    for lane in lanes {
        sum += lane;
    }
    sum
}

/// `y = scale x + shift` by the channel's line, rectified if asked for. A task has at least `maps` maps.
pub(super) fn normalise(sizes: Sizes, x: Pair, lines: &[[f64; 2]], relu: bool, maps: usize) -> Pairs {
    let Sizes { channels, map, .. } = sizes;
    // SAFETY: the map of `x` is as long as the chunk, and a pair of the chunk is written for each of its pairs.
    unsafe {
        fresh_pairs(x.high.len(), (map, maps), |index, y| {
            let x = x.at(index * map..index * map + y.high.len());
            wide(Line { x, y, line: lines[index % channels], relu });
        })
    }
}

struct Line<'a> {
    x: Pair<'a>,
    y: Target<'a>,
    line: [f64; 2],
    relu: bool,
}

impl Loop for Line<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let [scale, shift] = self.line;
        let Some(rest) = self.x.rest else {
            let line = self.x.high.iter().map(|x| x.up() * scale + shift);
            return if self.relu { self.y.write(line.map(rectify)) } else { self.y.write(line) };
        };
        let line = self.x.high.iter().zip(rest).map(|(high, rest)| joined(*high, *rest) * scale + shift);
        if self.relu { self.y.write(line.map(rectify)) } else { self.y.write(line) }
    }
}
