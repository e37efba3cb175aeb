//! Products of few results, each a sum of its own: [`gemm`] would add their products in an order that depends on the width of
//! the processor's registers.

use std::mem::MaybeUninit;

use super::{Size, Strides};
use crate::nn::buffers::Real;
use crate::nn::wide::{Loop, wide};

/// Results that are few, where both factors lie along the depth.
const RESULTS: usize = 256;
/// Partial sums of an inner product.
const SUMS: usize = 16;

/// Whether a product is of this kind.
pub(super) fn applies((m, n, _): Size, lhs: Strides, rhs: Strides) -> bool {
    m == 1 || n == 1 || (lhs.col == 1 && rhs.row == 1 && m * n <= RESULTS)
}

/// A product of this kind.
pub(super) struct Few<'a, T> {
    pub(super) size: Size,
    /// Its rows and their pitch, written before if it is added to them.
    pub(super) to: (&'a mut [MaybeUninit<T>], usize),
    pub(super) accumulate: bool,
    pub(super) lhs: (&'a [T], Strides),
    pub(super) rhs: (&'a [T], Strides),
}

impl<T: Real> Few<'_, T> {
    /// Computes it.
    pub(super) fn multiply(mut self) {
        let ((m, n, k), (lhs, ls), (rhs, rs)) = (self.size, self.lhs, self.rhs);
        if ls.col == 1 && rs.row == 1 {
            for i in 0..m {
                for j in 0..n {
                    self.put(i, j, wide(Inner { a: &lhs[i * ls.row..][..k], b: &rhs[j * rs.col..][..k] }));
                }
            }
        } else if m == 1 {
            let row: Vec<T> = (0..k).map(|l| lhs[l * ls.col]).collect();
            let sums = of_vector(&row, (rhs, rs), n);
            sums.into_iter().enumerate().for_each(|(j, sum)| self.put(0, j, sum));
        } else {
            let column: Vec<T> = (0..k).map(|l| rhs[l * rs.row]).collect();
            let sums = of_vector(&column, (lhs, Strides { row: ls.col, col: ls.row }), m);
            sums.into_iter().enumerate().for_each(|(i, sum)| self.put(i, 0, sum));
        }
    }

    fn put(&mut self, i: usize, j: usize, sum: T) {
        let to = &mut self.to.0[i * self.to.1 + j];
        // SAFETY: what is added to was written before.
        let before = self.accumulate.then(|| unsafe { to.assume_init() });
        to.write(before.map_or(sum, |before| before + sum));
    }
}

/// A vector times a matrix of so many columns; one of the matrix's strides is 1.
fn of_vector<T: Real>(vector: &[T], (matrix, strides): (&[T], Strides), columns: usize) -> Vec<T> {
    if strides.row == 1 {
        let sum = |j: usize| wide(Inner { a: vector, b: &matrix[j * strides.col..][..vector.len()] });
        return (0..columns).map(sum).collect();
    }
    let mut sums = vec![T::ZERO; columns];
    for (l, factor) in vector.iter().enumerate() {
        let row = &matrix[l * strides.row..][..columns];
        sums.iter_mut().zip(row).for_each(|(sum, number)| *sum += *factor * *number);
    }
    sums
}

/// An inner product, in interleaved partial sums that are added pairwise.
struct Inner<'a, T> {
    a: &'a [T],
    b: &'a [T],
}

impl<T: Real> Loop for Inner<'_, T> {
    type Out = T;

    #[inline(always)]
    fn run(self) -> T {
        let mut sums = [T::ZERO; SUMS];
        let ((a, a_rest), (b, b_rest)) = (self.a.as_chunks::<SUMS>(), self.b.as_chunks::<SUMS>());
        for (a, b) in a.iter().zip(b) {
            for lane in 0..SUMS {
                sums[lane] += a[lane] * b[lane];
            }
        }
        for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            sums[lane] += *a * *b;
        }
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                let other = sums[lane + half];
                sums[lane] += other;
            }
        }
        sums[0]
    }
}
