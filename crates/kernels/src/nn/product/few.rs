//! Products of few results, each number a sum of its own: [`gemm`] would add their products in an order that depends on
//! the width of the processor's registers.

use std::mem::MaybeUninit;

use super::{Size, Strides};
use crate::nn::buffers::Real;
use crate::nn::wide::{Loop, wide};

/// Partial sums of an inner product.
const SUMS: usize = 32;

/// A product of one row or one column, or one of factors that lie along the depth.
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
    pub(super) fn multiply(self) {
        let ((m, n, k), (lhs, ls), (rhs, rs), (to, pitch)) = (self.size, self.lhs, self.rhs, self.to);
        let put = |to: &mut MaybeUninit<T>, sum: T| {
            // SAFETY: what is added to was written before.
            let before = self.accumulate.then(|| unsafe { to.assume_init() });
            to.write(before.map_or(sum, |before| before + sum));
        };
        if m > 1 && n > 1 {
            for i in 0..m {
                let sums = wide(Rows { vector: &lhs[i * ls.row..][..k], matrix: (rhs, rs), columns: n });
                to[i * pitch..].iter_mut().zip(sums).for_each(|(to, sum)| put(to, sum));
            }
            return;
        }
        let (vector, matrix, columns, step): (Vec<T>, _, _, _) = if m == 1 {
            ((0..k).map(|l| lhs[l * ls.col]).collect(), (rhs, rs), n, 1)
        } else {
            ((0..k).map(|l| rhs[l * rs.row]).collect(), (lhs, Strides { row: ls.col, col: ls.row }), m, pitch)
        };
        let sums = wide(Rows { vector: &vector, matrix, columns });
        to.iter_mut().step_by(step).zip(sums).for_each(|(to, sum)| put(to, sum));
    }
}

/// A vector times a matrix of so many columns; one of the matrix's strides is 1.
struct Rows<'a, T> {
    vector: &'a [T],
    matrix: (&'a [T], Strides),
    columns: usize,
}

impl<T: Real> Loop for Rows<'_, T> {
    type Out = Vec<T>;

    #[inline(always)]
    fn run(self) -> Vec<T> {
        let Self { vector, matrix: (matrix, strides), columns } = self;
        let mut sums = vec![T::ZERO; columns];
        if strides.row == 1 {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = inner(vector, &matrix[j * strides.col..][..vector.len()]);
            }
        } else {
            for (l, factor) in vector.iter().enumerate() {
                let row = &matrix[l * strides.row..][..columns];
                sums.iter_mut().zip(row).for_each(|(sum, number)| *sum += *factor * *number);
            }
        }
        sums
    }
}

/// An inner product, in interleaved partial sums that are added pairwise.
#[inline(always)]
fn inner<T: Real>(a: &[T], b: &[T]) -> T {
    let mut sums = [T::ZERO; SUMS];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<SUMS>(), b.as_chunks::<SUMS>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..SUMS {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += *a * *b;
    }
    let mut half = SUMS / 2;
    while half > 0 {
        let (low, high) = sums.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(low, high)| *low += *high);
        half /= 2;
    }
    sums[0]
}
