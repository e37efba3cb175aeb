//! Matrix products of slices.

use std::mem::MaybeUninit;

use gemm::Parallelism;

use super::buffers::Real;

/// A matrix inside a slice: element `(i, j)` at `i·row + j·col`.
#[derive(Clone, Copy)]
pub(super) struct Strides {
    row: usize,
    col: usize,
}

/// A row-major matrix of this pitch.
pub(super) fn rows(pitch: usize) -> Strides {
    Strides { row: pitch, col: 1 }
}

/// The transpose of a row-major matrix of this pitch.
pub(super) fn transposed(pitch: usize) -> Strides {
    Strides { row: 1, col: pitch }
}

/// `dst = lhs · rhs`, or `dst += lhs · rhs`, with `lhs` m×k, `rhs` k×n and a row-major `dst` of pitch `pitch`.
pub(super) fn product<T: Real>(
    (m, n, k): (usize, usize, usize),
    (dst, pitch): (&mut [T], usize),
    accumulate: bool,
    lhs: (&[T], Strides),
    rhs: (&[T], Strides),
) {
    // SAFETY: a slice of numbers is one of numbers that may be unwritten, and only numbers are written to it below.
    let dst = unsafe { std::slice::from_raw_parts_mut(dst.as_mut_ptr().cast::<MaybeUninit<T>>(), dst.len()) };
    run((m, n, k), (dst, pitch), accumulate, lhs, rhs);
}

/// `dst = lhs · rhs` as [`product`], over memory that need not be written before: `m` rows of `n` numbers are.
pub(super) fn product_into<T: Real>(
    size: (usize, usize, usize),
    dst: (&mut [MaybeUninit<T>], usize),
    lhs: (&[T], Strides),
    rhs: (&[T], Strides),
) {
    run(size, dst, false, lhs, rhs);
}

fn run<T: Real>(
    (m, n, k): (usize, usize, usize),
    (dst, pitch): (&mut [MaybeUninit<T>], usize),
    accumulate: bool,
    (lhs, ls): (&[T], Strides),
    (rhs, rs): (&[T], Strides),
) {
    let last = |rows: usize, cols: usize, s: Strides| (rows - 1) * s.row + (cols - 1) * s.col;
    assert!(m > 0 && n > 0 && k > 0, "an empty product: {m}×{n}×{k}");
    assert!(last(m, n, rows(pitch)) < dst.len() && (pitch >= n || m == 1), "dst is too short");
    assert!(last(m, k, ls) < lhs.len() && last(k, n, rs) < rhs.len(), "a factor is too short");
    let one = T::down(1.0);
    // SAFETY: the asserts above keep every element that the product touches inside the three slices, and `dst` is
    // borrowed mutably, so it overlaps neither factor; it is read only to accumulate, where `product` has a slice of written
    // numbers; T is f32 or f64, both of which `gemm` handles.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr().cast::<T>(),
            1,
            pitch as isize,
            accumulate,
            lhs.as_ptr(),
            ls.col as isize,
            ls.row as isize,
            rhs.as_ptr(),
            rs.col as isize,
            rs.row as isize,
            one,
            one,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
