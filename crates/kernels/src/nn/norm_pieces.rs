//! The loops of batch normalisation over one map.

use std::mem::MaybeUninit;

use super::activation::rectify;
use super::buffers::Real;
use super::moments::{lanes, lanes2};
use super::wide::Loop;

/// `Σ g` and `Σ g (x − μ)` of a channel.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    pub(super) g: f64,
    pub(super) gx: f64,
}

/// `y = scale x + shift` of a map, rounded once, rectified if asked for.
pub(super) struct Line<'a, T> {
    pub(super) x: &'a [T],
    pub(super) y: &'a mut [MaybeUninit<T>],
    /// Scale, shift.
    pub(super) line: [f64; 2],
    pub(super) relu: bool,
}

impl<T: Real> Loop for Line<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let [scale, shift] = self.line;
        let line = |x: T| T::down(x.up() * scale + shift);
        let values = self.y.iter_mut().zip(self.x);
        if self.relu {
            values.for_each(|(y, x)| {
                y.write(rectify(line(*x)));
            });
        } else {
            values.for_each(|(y, x)| {
                y.write(line(*x));
            });
        }
    }
}

/// A map's share of its channel's [`Sums`].
pub(super) struct Share<'a, T> {
    pub(super) x: &'a [T],
    pub(super) g: &'a mut [T],
    /// The rectified result.
    pub(super) y: Option<&'a [T]>,
    pub(super) mean: f64,
}

impl<T: Real> Loop for Share<'_, T> {
    type Out = Sums;

    #[inline(always)]
    fn run(self) -> Sums {
        let Self { x, g, y, mean } = self;
        if let Some(y) = y {
            g.iter_mut().zip(y).for_each(|(g, y)| *g = if *y > T::ZERO { *g } else { T::ZERO });
        }
        Sums { g: lanes(g, |g| g.up()), gx: lanes2(x, g, |x, g| (x.up() - mean) * g.up()) }
    }
}

/// From `g` to `scale g + slope (x − mean) + shift` of a map, in place.
pub(super) struct Slope<'a, T> {
    pub(super) x: &'a [T],
    pub(super) g: &'a mut [T],
    /// Scale, slope, shift, mean.
    pub(super) line: [T; 4],
}

impl<T: Real> Loop for Slope<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let [scale, slope, shift, mean] = self.line;
        self.g.iter_mut().zip(self.x).for_each(|(g, x)| *g = scale * *g + (slope * (*x - mean) + shift));
    }
}
