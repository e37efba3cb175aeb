//! Transforms of 3×3 filters for Winograd's F(2×2, 3×3), and of their gradients, a row of filters at a time.

use std::mem::MaybeUninit;

use super::tiles::POINTS;
use crate::nn::buffers::Real;
use crate::nn::wide::Loop;

/// Filters that are transformed side by side.
const LANES: usize = 8;

/// Numbers of as many filters.
type Lanes<T> = [T; LANES];

/// `f` of each lane.
#[inline(always)]
fn each<T: Copy>([a, b, c]: [&Lanes<T>; 3], f: impl Fn(T, T, T) -> T) -> Lanes<T> {
    std::array::from_fn(|lane| f(a[lane], b[lane], c[lane]))
}

/// `G w Gᵀ` of filters, entry by entry.
pub(super) struct Filters<'a, T> {
    /// [filters, 3, 3].
    pub(super) w: &'a [T],
    pub(super) to: [&'a mut [MaybeUninit<T>]; POINTS],
}

impl<T: Real> Loop for Filters<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(mut self) {
        for (index, w) in self.w.chunks(9 * LANES).enumerate() {
            let count = w.len() / 9;
            let mut taps = [[T::ZERO; LANES]; 9];
            for (lane, w) in w.chunks_exact(9).enumerate() {
                for (tap, w) in taps.iter_mut().zip(w) {
                    tap[lane] = *w;
                }
            }
            let columns = std::array::from_fn(|column| spread([0, 1, 2].map(|row| &taps[3 * row + column])));
            let [left, middle, right]: [[Lanes<T>; 4]; 3] = columns;
            for (row, ((left, middle), right)) in left.iter().zip(&middle).zip(&right).enumerate() {
                for (to, entry) in self.to[4 * row..].iter_mut().zip(&spread([left, middle, right])) {
                    to[index * LANES..][..count].write_copy_of_slice(&entry[..count]);
                }
            }
        }
    }
}

/// `G v`.
#[inline(always)]
fn spread<T: Real>([a, b, c]: [&Lanes<T>; 3]) -> [Lanes<T>; 4] {
    let half = T::down(0.5);
    let plus = each([a, b, c], |a, b, c| (a + c + b) * half);
    let minus = each([a, b, c], |a, b, c| (a + c - b) * half);
    [*a, plus, minus, *c]
}

/// `Gᵀ m G` of entries.
pub(super) struct FilterGradients<'a, T> {
    pub(super) from: [&'a [T]; POINTS],
    /// [filters, 3, 3].
    pub(super) to: &'a mut [MaybeUninit<T>],
}

impl<T: Real> Loop for FilterGradients<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        for (index, to) in self.to.chunks_mut(9 * LANES).enumerate() {
            let count = to.len() / 9;
            let entries: [Lanes<T>; POINTS] = std::array::from_fn(|point| {
                let mut lanes = [T::ZERO; LANES];
                lanes[..count].copy_from_slice(&self.from[point][index * LANES..][..count]);
                lanes
            });
            let columns: [[Lanes<T>; 3]; 4] =
                std::array::from_fn(|column| gather([0, 1, 2, 3].map(|row| &entries[4 * row + column])));
            let taps = [0, 1, 2].map(|row| gather(columns.each_ref().map(|column| &column[row])));
            for (lane, to) in to.chunks_exact_mut(9).enumerate() {
                for (to, tap) in to.iter_mut().zip(taps.as_flattened()) {
                    to.write(tap[lane]);
                }
            }
        }
    }
}

/// `Gᵀ v`.
#[inline(always)]
fn gather<T: Real>([a, b, c, d]: [&Lanes<T>; 4]) -> [Lanes<T>; 3] {
    let half = T::down(0.5);
    let first = each([a, b, c], |a, b, c| a + (b + c) * half);
    let second = each([b, c, d], |b, c, _| (b - c) * half);
    let third = each([b, c, d], |b, c, d| (b + c) * half + d);
    [first, second, third]
}
