//! Matrix products of slices.

#[cfg(target_arch = "x86_64")]
mod blocks;
#[cfg(target_arch = "x86_64")]
mod tile;

use std::mem::MaybeUninit;

use gemm::Parallelism;

use super::buffers::Real;

/// Rows and columns of a product, and its depth.
pub(crate) type Size = (usize, usize, usize);

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
    (m, n, k): Size,
    (dst, pitch): (&mut [T], usize),
    accumulate: bool,
    lhs: (&[T], Strides),
    rhs: (&[T], Strides),
) {
    run((m, n, k), (unwritten(dst), pitch), accumulate, lhs, rhs);
}

/// Numbers as memory that need not have been written.
pub(super) fn unwritten<T: Real>(numbers: &mut [T]) -> &mut [MaybeUninit<T>] {
    // SAFETY: a slice of numbers is one of numbers that may be unwritten; the products write nothing but numbers.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast::<MaybeUninit<T>>(), numbers.len()) }
}

/// `dst = lhs · rhs` as [`product`], over memory that need not be written before: `m` rows of `n` numbers are.
pub(super) fn product_into<T: Real>(
    size: Size,
    dst: (&mut [MaybeUninit<T>], usize),
    lhs: (&[T], Strides),
    rhs: (&[T], Strides),
) {
    run(size, dst, false, lhs, rhs);
}

/// [`product_into`] of row-major factors of these pitches; if `close`, float32 sums are accurate whatever the depth.
///
/// Accurate sums need AVX2 and FMA; elsewhere, and in float64, it is the plain product.
pub(super) fn product_rows<T: Real>(
    size: Size,
    (dst, pitch): (&mut [MaybeUninit<T>], usize),
    close: bool,
    (lhs, lhs_pitch): (&[T], usize),
    (rhs, rhs_pitch): (&[T], usize),
) {
    if close {
        check(size, (dst, pitch), (lhs, rows(lhs_pitch)), (rhs, rows(rhs_pitch)));
        T::multiply_close(size, (dst, pitch), (lhs, lhs_pitch), (rhs, rhs_pitch));
    } else {
        product_into(size, (dst, pitch), (lhs, rows(lhs_pitch)), (rhs, rows(rhs_pitch)));
    }
}

/// Types whose matrices can be multiplied with care.
pub(crate) trait Close: Sized {
    /// The accurate [`product_rows`], all sizes checked.
    fn multiply_close(size: Size, dst: (&mut [MaybeUninit<Self>], usize), lhs: (&[Self], usize), rhs: (&[Self], usize));
}

impl Close for f32 {
    fn multiply_close(size: Size, dst: (&mut [MaybeUninit<f32>], usize), lhs: (&[f32], usize), rhs: (&[f32], usize)) {
        #[cfg(target_arch = "x86_64")]
        if blocks::supported() {
            // SAFETY: the processor has AVX2 and FMA, as asked just above.
            return unsafe { blocks::multiply(size, dst, lhs, rhs) };
        }
        run(size, dst, false, (lhs.0, rows(lhs.1)), (rhs.0, rows(rhs.1)));
    }
}

impl Close for f64 {
    fn multiply_close(size: Size, dst: (&mut [MaybeUninit<f64>], usize), lhs: (&[f64], usize), rhs: (&[f64], usize)) {
        run(size, dst, false, (lhs.0, rows(lhs.1)), (rhs.0, rows(rhs.1)));
    }
}

/// Refuses sizes that reach beyond a slice.
fn check<T, D>((m, n, k): Size, (dst, pitch): (&[D], usize), (lhs, ls): (&[T], Strides), (rhs, rs): (&[T], Strides)) {
    let last = |rows: usize, cols: usize, s: Strides| (rows - 1) * s.row + (cols - 1) * s.col;
    assert!(m > 0 && n > 0 && k > 0, "an empty product: {m}×{n}×{k}");
    assert!(last(m, n, rows(pitch)) < dst.len() && (pitch >= n || m == 1), "dst is too short");
    assert!(last(m, k, ls) < lhs.len() && last(k, n, rs) < rhs.len(), "a factor is too short");
}

fn run<T: Real>(
    (m, n, k): Size,
    (dst, pitch): (&mut [MaybeUninit<T>], usize),
    accumulate: bool,
    (lhs, ls): (&[T], Strides),
    (rhs, rs): (&[T], Strides),
) {
    check((m, n, k), (dst, pitch), (lhs, ls), (rhs, rs));
    let one = T::down(1.0);
    // SAFETY: `check` keeps every element that the product touches inside the three slices, and `dst` is
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
