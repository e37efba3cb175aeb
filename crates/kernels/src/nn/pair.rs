//! Float32 numbers with what rounding them left over: 48 bits for the ops of a network whose next rounding would turn
//! over the gates of rectifiers.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::buffers::Real;
use super::wide::Loop;
use crate::even::Even;

/// Numbers as pairs: rounded, and what rounding left over.
#[derive(Debug)]
pub(super) struct Pairs {
    pub(super) high: Vec<f32>,
    pub(super) rest: Vec<f32>,
}

/// Numbers to read as pairs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) high: &'a [f32],
    /// Zeros, if there is none.
    pub(super) rest: Option<&'a [f32]>,
}

impl Pair<'_> {
    /// Some of them.
    #[inline(always)]
    pub(super) fn at(&self, range: std::ops::Range<usize>) -> Self {
        Self { high: &self.high[range.clone()], rest: self.rest.map(|rest| &rest[range]) }
    }

    /// All of them in float64, by `to`, which is as long.
    #[inline(always)]
    pub(super) fn join(&self, to: &mut [f64]) {
        match self.rest {
            Some(rest) => {
                to.iter_mut().zip(self.high.iter().zip(rest)).for_each(|(to, (high, rest))| *to = joined(*high, *rest));
            }
            None => to.iter_mut().zip(self.high).for_each(|(to, high)| *to = high.up()),
        }
    }
}

/// A pair's number; exact where the rest is a rounding error.
#[inline(always)]
pub(super) fn joined(high: f32, rest: f32) -> f64 {
    high.up() + rest.up()
}

/// A number's pair. What is not finite in float32 leaves nothing over.
#[inline(always)]
pub(super) fn split(number: f64) -> (f32, f32) {
    let high = f32::down(number);
    let rest = f32::down(number - high.up());
    (high, if high.is_finite() { rest } else { 0.0 })
}

/// Pairs in memory that need not have been written.
pub(super) struct Target<'a> {
    pub(super) high: &'a mut [MaybeUninit<f32>],
    pub(super) rest: &'a mut [MaybeUninit<f32>],
}

impl Target<'_> {
    /// Some of them.
    #[inline(always)]
    pub(super) fn at(&mut self, range: std::ops::Range<usize>) -> Target<'_> {
        Target { high: &mut self.high[range.clone()], rest: &mut self.rest[range] }
    }

    /// Writes all of them: the numbers are as many.
    #[inline(always)]
    pub(super) fn write(self, numbers: impl Iterator<Item = f64>) {
        for ((high, rest), number) in self.high.iter_mut().zip(self.rest).zip(numbers) {
            let pair = split(number);
            high.write(pair.0);
            rest.write(pair.1);
        }
    }
}

/// `len` pairs that `fill(index of the chunk, chunk)` writes, on all threads. A task has at least `chunks` chunks.
///
/// # Safety
/// `fill` must write every pair of the chunk that it is given.
pub(super) unsafe fn fresh_pairs(
    len: usize,
    (chunk, chunks): (usize, usize),
    fill: impl Fn(usize, Target) + Sync,
) -> Pairs {
    let (mut high, mut rest) = (Vec::with_capacity(len), Vec::with_capacity(len));
    let parts = high.spare_capacity_mut()[..len].par_chunks_mut(chunk);
    let parts = parts.zip(rest.spare_capacity_mut()[..len].par_chunks_mut(chunk)).enumerate().evenly(chunks);
    parts.for_each(|(index, (high, rest))| fill(index, Target { high, rest }));
    // SAFETY: the capacities are at least `len`, the chunks cover the first `len` numbers of each, and `fill` writes all of
    // a chunk.
    unsafe {
        high.set_len(len);
        rest.set_len(len);
    }
    Pairs { high, rest }
}

/// Pairs to float64.
pub(super) struct Join<'a> {
    pub(super) from: Pair<'a>,
    pub(super) to: &'a mut [f64],
}

impl Loop for Join<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        self.from.join(self.to);
    }
}

/// Float64 to pairs.
pub(super) struct Split<'a> {
    pub(super) from: &'a [f64],
    pub(super) to: Target<'a>,
}

impl Loop for Split<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        self.to.write(self.from.iter().copied());
    }
}

/// Values that one task handles.
const CHUNK: usize = 16 * 1024;

/// `a + b`, rectified if asked for.
pub(super) fn sum(a: Pair, b: Pair, relu: bool) -> Pairs {
    // SAFETY: `a` and `b` are as long as the chunk, so the loop writes all of it.
    unsafe {
        fresh_pairs(a.high.len(), (CHUNK, 1), |index, to| {
            let range = index * CHUNK..index * CHUNK + to.high.len();
            super::wide::wide(Sum { a: a.at(range.clone()), b: b.at(range), to, relu });
        })
    }
}

struct Sum<'a> {
    a: Pair<'a>,
    b: Pair<'a>,
    to: Target<'a>,
    relu: bool,
}

impl Loop for Sum<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        const BLOCK: usize = 128;
        let Self { a, b, mut to, relu } = self;
        let (mut left, mut right) = ([0.0; BLOCK], [0.0; BLOCK]);
        for first in (0..a.high.len()).step_by(BLOCK) {
            let range = first..(first + BLOCK).min(a.high.len());
            let (left, right) = (&mut left[..range.len()], &mut right[..range.len()]);
            a.at(range.clone()).join(left);
            b.at(range.clone()).join(right);
            let sums = left.iter().zip(right.iter()).map(|(a, b)| *a + *b);
            let to = to.at(range);
            if relu { to.write(sums.map(super::activation::rectify)) } else { to.write(sums) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_holds_forty_eight_bits() {
        for number in [std::f64::consts::PI, -1.0 / 3.0, 1e-20, 16_777_217.0, 0.0, 3.4e38] {
            let (high, rest) = split(number);
            assert_eq!(high, number as f32);
            assert!((joined(high, rest) - number).abs() <= number.abs() * 2f64.powi(-48), "{number}");
        }
        // A whole number of 48 bits, nothing lost.
        let (high, rest) = split(281_474_976_710_655.0);
        assert_eq!(joined(high, rest), 281_474_976_710_655.0);
    }

    #[test]
    fn what_is_not_finite_stays_what_it_is() {
        for number in [f64::INFINITY, f64::NEG_INFINITY, 1e39] {
            let (high, rest) = split(number);
            assert_eq!((high, rest), (number as f32, 0.0));
        }
        let (high, rest) = split(f64::NAN);
        assert!(high.is_nan() && rest == 0.0);
    }

    #[test]
    fn sums_take_what_is_left_over() {
        let small = 2f32.powi(-30);
        let (high, rest) = ([1.0f32, -1.0, 2.0], [small, -small, 0.0]);
        let (a, b) = (Pair { high: &high, rest: Some(&rest) }, Pair { high: &[-1.0, 1.0, 1.0], rest: None });
        // Without its rest the first gate would be shut.
        assert_eq!(sum(a, b, true).high, [small, 0.0, 3.0]);
        let y = sum(a, b, false);
        assert_eq!((y.high, y.rest), (vec![small, -small, 3.0], vec![0.0; 3]));
    }
}
