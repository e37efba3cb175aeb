//! Float32 products of few results, both factors lying along the depth: inner products in sixteen interleaved sums, six of them
//! at a time.

use std::mem::MaybeUninit;

use super::Size;
use super::vector::{Job, Register};

/// Sums of an inner product: the numbers of the widest register.
const SUMS: usize = 16;
/// Rows of the left factor and of the right one whose inner products are taken together.
const LEFT: usize = 2;
const RIGHT: usize = 3;

/// Rows of a matrix, from each to the next.
pub(super) type Along<'a> = (&'a [f32], usize);

/// `dst = lhs · rhsᵀ`, or `dst += lhs · rhsᵀ`, in registers of which `N` have sixteen numbers.
pub(super) struct Inner<'a, W, const N: usize> {
    pub(super) size: Size,
    /// Rows and their pitch; written before, if it is added to them.
    pub(super) dst: (&'a mut [MaybeUninit<f32>], usize),
    pub(super) accumulate: bool,
    pub(super) lhs: Along<'a>,
    pub(super) rhs: Along<'a>,
    /// Which registers.
    pub(super) of: std::marker::PhantomData<W>,
}

impl<W: Register, const N: usize> Job for Inner<'_, W, N> {
    #[inline(always)]
    fn run(self) {
        let ((m, n, k), (dst, pitch)) = (self.size, self.dst);
        for i in (0..m).step_by(LEFT) {
            for j in (0..n).step_by(RIGHT) {
                // Rows that are not there are the last one again, and are not written.
                let mut left = [&self.lhs.0[..0]; LEFT];
                for (index, left) in left.iter_mut().enumerate() {
                    *left = &self.lhs.0[(i + index).min(m - 1) * self.lhs.1..][..k];
                }
                let mut right = [&self.rhs.0[..0]; RIGHT];
                for (index, right) in right.iter_mut().enumerate() {
                    *right = &self.rhs.0[(j + index).min(n - 1) * self.rhs.1..][..k];
                }
                let sums = inner::<W, N>(left, right);
                for (index, sums) in sums.iter().enumerate().take(m - i) {
                    let to = &mut dst[(i + index) * pitch + j..][..RIGHT.min(n - j)];
                    for (to, sum) in to.iter_mut().zip(sums) {
                        // SAFETY: what is added to was written before.
                        to.write(if self.accumulate { *sum + unsafe { to.assume_init() } } else { *sum });
                    }
                }
            }
        }
    }
}

/// The inner products of rows of one length.
#[inline(always)]
fn inner<W: Register, const N: usize>(left: [&[f32]; LEFT], right: [&[f32]; RIGHT]) -> [[f32; RIGHT]; LEFT] {
    let mut sums = [[[W::zero(); RIGHT]; LEFT]; N];
    let whole = left[0].len() / SUMS * SUMS;
    for at in (0..whole).step_by(SUMS) {
        step(&mut sums, left, right, at, SUMS);
    }
    if whole < left[0].len() {
        step(&mut sums, left, right, whole, left[0].len() - whole);
    }
    let mut out = [[0.0; RIGHT]; LEFT];
    for row in 0..LEFT {
        for column in 0..RIGHT {
            let mut numbers = [0.0; SUMS];
            for (sums, numbers) in sums.iter().zip(numbers.chunks_exact_mut(W::LANES)) {
                numbers.copy_from_slice(W::numbers(&sums[row][column].store()));
            }
            for half in [8, 4, 2, 1] {
                for lane in 0..half {
                    numbers[lane] += numbers[lane + half];
                }
            }
            out[row][column] = numbers[0];
        }
    }
    out
}

/// Adds up to sixteen products of each pair of rows, from `at` on, to their sums.
#[inline(always)]
fn step<W: Register, const N: usize>(
    sums: &mut [[[W; RIGHT]; LEFT]; N],
    left: [&[f32]; LEFT],
    right: [&[f32]; RIGHT],
    at: usize,
    count: usize,
) {
    for (index, sums) in sums.iter_mut().enumerate() {
        let from = (index * W::LANES).min(count);
        let range = at + from..at + (from + W::LANES).min(count);
        let mut b = [W::zero(); RIGHT];
        for column in 0..RIGHT {
            b[column] = W::load(&W::of_few(&right[column][range.clone()]));
        }
        for row in 0..LEFT {
            let a = W::load(&W::of_few(&left[row][range.clone()]));
            for column in 0..RIGHT {
                sums[row][column] = a.times_plus(b[column], sums[row][column]);
            }
        }
    }
}
