//! Matrix products of slices.
//!
//! The order in which products are added depends on the sizes alone, not on the processor's caches nor on the width of its
//! registers: where multiplications and additions are fused everywhere, as AVX2 and AVX-512 are used, all give the same bits.

#[cfg(target_arch = "x86_64")]
mod blocks;
mod few;
#[cfg(target_arch = "x86_64")]
mod inner;
#[cfg(target_arch = "x86_64")]
mod on_threads;
#[cfg(target_arch = "x86_64")]
mod panels;
#[cfg(target_arch = "x86_64")]
mod plain_tile;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
mod vector;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};
use std::mem::MaybeUninit;

use gemm::Parallelism;

use super::buffers::{Real, fresh};

/// Products that pay for putting the factors in order on all threads.
#[cfg(target_arch = "x86_64")]
const WORK: usize = 32 * 1024 * 1024;
/// Pieces that the rows of a product are cut into where every piece packs the whole right factor, and their rows at least and
/// at most.
const PIECES: usize = 4;
const ROWS: [usize; 2] = [128, 400];
/// Depth of a product of `gemm`, at most: deeper ones it would cut by the processor's caches. They are cut into equal parts.
const DEPTH: usize = 512;
/// Results of a product, at most, for which `gemm` would add products in an order that depends on the width of registers, if
/// both factors lay along the depth.
const FEW: usize = 256;

/// Rows and columns of a product, and its depth.
pub(crate) type Size = (usize, usize, usize);

/// A matrix inside a slice: element `(i, j)` at `i·row + j·col`.
#[derive(Clone, Copy)]
pub(crate) struct Strides {
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

/// The product as rows of `n` numbers, on all threads; each number of the `bias`, where there is one, is added to a column.
///
/// One of each factor's strides must be 1. Cuts depend on the sizes alone, so the bits do not depend on the number of threads.
pub(super) fn product_on_threads<T: Real>(
    (m, n, k): Size,
    lhs: (&[T], Strides),
    rhs: (&[T], Strides),
    bias: Option<&[T]>,
) -> Vec<T> {
    check_factors((m, n, k), lhs, rhs);
    assert!([lhs.1, rhs.1].iter().all(|s| s.row == 1 || s.col == 1), "a factor of two strides");
    assert!(bias.is_none_or(|bias| bias.len() == n), "a bias of another length");
    T::multiply_on_threads((m, n, k), lhs, rhs, bias).unwrap_or_else(|| by_rows((m, n, k), lhs, rhs, bias))
}

/// [`product_on_threads`] by plain products of some rows each.
fn by_rows<T: Real>((m, n, k): Size, lhs: (&[T], Strides), rhs: (&[T], Strides), bias: Option<&[T]>) -> Vec<T> {
    let rows = m.div_ceil(PIECES).next_multiple_of(8).clamp(ROWS[0], ROWS[1]);
    // SAFETY: a chunk is whole rows, which the product or, before it, the bias writes.
    unsafe {
        fresh(m * n, (rows * n, 1), |index, y| {
            let (size, lhs) = ((y.len() / n, n, k), (&lhs.0[index * rows * lhs.1.row..], lhs.1));
            match bias {
                Some(bias) => {
                    y.chunks_mut(n).for_each(|row| {
                        row.write_copy_of_slice(bias);
                    });
                    // SAFETY: as above, all of it is written.
                    product(size, (y.assume_init_mut(), n), true, lhs, rhs);
                }
                None => product_into(size, (y, n), lhs, rhs),
            }
        })
    }
}

/// Types whose matrices can be multiplied in more ways than one.
pub(crate) trait Products: Sized {
    /// The accurate [`product_rows`], all sizes checked.
    fn multiply_close(size: Size, dst: (&mut [MaybeUninit<Self>], usize), lhs: (&[Self], usize), rhs: (&[Self], usize));

    /// A product of few results whose factors lie along the depth, rows of so many numbers each, all sizes checked; false
    /// where the type has no way of its own.
    fn multiply_inner(
        _size: Size,
        _dst: (&mut [MaybeUninit<Self>], usize),
        _accumulate: bool,
        _lhs: (&[Self], usize),
        _rhs: (&[Self], usize),
    ) -> bool {
        false
    }

    /// [`product_on_threads`], all sizes checked, where the type has a way of its own that pays.
    fn multiply_on_threads(
        _size: Size,
        _lhs: (&[Self], Strides),
        _rhs: (&[Self], Strides),
        _bias: Option<&[Self]>,
    ) -> Option<Vec<Self>> {
        None
    }
}

/// Registers that the processor has.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Registers {
    /// AVX2 and FMA.
    Eight,
    /// AVX-512 beside them.
    Sixteen,
}

/// The widest.
#[cfg(target_arch = "x86_64")]
fn registers() -> Option<Registers> {
    use std::arch::is_x86_feature_detected as has;
    match has!("avx2") && has!("fma") {
        true if has!("avx512f") => Some(Registers::Sixteen),
        true => Some(Registers::Eight),
        false => None,
    }
}

/// The accurate product; the processor has these registers.
#[cfg(target_arch = "x86_64")]
fn multiply_close_by(
    registers: Registers,
    size: Size,
    dst: (&mut [MaybeUninit<f32>], usize),
    lhs: (&[f32], usize),
    rhs: (&[f32], usize),
) {
    // SAFETY: `registers` gives what the processor has, and the narrower where it has the wider.
    unsafe {
        match registers {
            Registers::Eight => blocks::multiply::<__m256>(size, dst, lhs, rhs),
            Registers::Sixteen => blocks::multiply::<__m512>(size, dst, lhs, rhs),
        }
    }
}

/// Inner products; the processor has these registers.
#[cfg(target_arch = "x86_64")]
fn multiply_inner_by(
    registers: Registers,
    size: Size,
    dst: (&mut [MaybeUninit<f32>], usize),
    accumulate: bool,
    (lhs, rhs): (inner::Along, inner::Along),
) {
    use std::marker::PhantomData;

    use inner::Inner;
    use vector::Register;
    // SAFETY: as above.
    unsafe {
        match registers {
            Registers::Eight => __m256::run(Inner::<__m256, 2> { size, dst, accumulate, lhs, rhs, of: PhantomData }),
            Registers::Sixteen => __m512::run(Inner::<__m512, 1> { size, dst, accumulate, lhs, rhs, of: PhantomData }),
        }
    }
}

/// The plain product on all threads; the processor has these registers.
#[cfg(target_arch = "x86_64")]
fn multiply_on_threads_by(
    registers: Registers,
    size: Size,
    lhs: (&[f32], Strides),
    rhs: (&[f32], Strides),
    bias: Option<&[f32]>,
) -> Vec<f32> {
    // SAFETY: as above.
    unsafe {
        match registers {
            Registers::Eight => on_threads::multiply::<__m256>(size, lhs, rhs, bias),
            Registers::Sixteen => on_threads::multiply::<__m512>(size, lhs, rhs, bias),
        }
    }
}

impl Products for f32 {
    fn multiply_close(size: Size, dst: (&mut [MaybeUninit<f32>], usize), lhs: (&[f32], usize), rhs: (&[f32], usize)) {
        #[cfg(target_arch = "x86_64")]
        if let Some(registers) = registers() {
            return multiply_close_by(registers, size, dst, lhs, rhs);
        }
        run(size, dst, false, (lhs.0, rows(lhs.1)), (rhs.0, rows(rhs.1)));
    }

    #[cfg(target_arch = "x86_64")]
    fn multiply_inner(
        size: Size,
        dst: (&mut [MaybeUninit<f32>], usize),
        accumulate: bool,
        lhs: (&[f32], usize),
        rhs: (&[f32], usize),
    ) -> bool {
        let Some(registers) = registers() else { return false };
        multiply_inner_by(registers, size, dst, accumulate, (lhs, rhs));
        true
    }

    #[cfg(target_arch = "x86_64")]
    fn multiply_on_threads(
        size: Size,
        lhs: (&[f32], Strides),
        rhs: (&[f32], Strides),
        bias: Option<&[f32]>,
    ) -> Option<Vec<f32>> {
        let registers = registers().filter(|_| size.0 * size.1 * size.2 >= WORK)?;
        Some(multiply_on_threads_by(registers, size, lhs, rhs, bias))
    }
}

impl Products for f64 {
    fn multiply_close(size: Size, dst: (&mut [MaybeUninit<f64>], usize), lhs: (&[f64], usize), rhs: (&[f64], usize)) {
        run(size, dst, false, (lhs.0, rows(lhs.1)), (rhs.0, rows(rhs.1)));
    }
}

/// The last number's place in a matrix.
fn last(rows: usize, cols: usize, s: Strides) -> usize {
    (rows - 1) * s.row + (cols - 1) * s.col
}

/// Refuses factors that reach beyond their slices.
fn check_factors<T>((m, n, k): Size, (lhs, ls): (&[T], Strides), (rhs, rs): (&[T], Strides)) {
    assert!(m > 0 && n > 0 && k > 0, "an empty product: {m}×{n}×{k}");
    assert!(last(m, k, ls) < lhs.len() && last(k, n, rs) < rhs.len(), "a factor is too short");
}

/// Refuses sizes that reach beyond a slice.
fn check<T, D>((m, n, k): Size, (dst, pitch): (&[D], usize), lhs: (&[T], Strides), rhs: (&[T], Strides)) {
    check_factors((m, n, k), lhs, rhs);
    assert!(last(m, n, rows(pitch)) < dst.len() && (pitch >= n || m == 1), "dst is too short");
}

fn run<T: Real>(
    (m, n, k): Size,
    (dst, pitch): (&mut [MaybeUninit<T>], usize),
    accumulate: bool,
    (lhs, ls): (&[T], Strides),
    (rhs, rs): (&[T], Strides),
) {
    check((m, n, k), (dst, pitch), (lhs, ls), (rhs, rs));
    let along = ls.col == 1 && rs.row == 1 && m * n <= FEW;
    if along
        && m > 1
        && n > 1
        && T::multiply_inner((m, n, k), (&mut *dst, pitch), accumulate, (lhs, ls.row), (rhs, rs.col))
    {
        return;
    }
    if m == 1 || n == 1 || along {
        let (size, to) = ((m, n, k), (dst, pitch));
        return few::Few { size, to, accumulate, lhs: (lhs, ls), rhs: (rhs, rs) }.multiply();
    }
    let (one, depth) = (T::down(1.0), k.div_ceil(k.div_ceil(DEPTH)));
    for at in (0..k).step_by(depth) {
        // SAFETY: `check` keeps every element that the product touches inside the three slices, and `dst` is
        // borrowed mutably, so it overlaps neither factor; it is read only to accumulate, where `product` has a slice of
        // written numbers, or the first part has written it; T is f32 or f64, both of which `gemm` handles.
        unsafe {
            gemm::gemm(
                m,
                n,
                depth.min(k - at),
                dst.as_mut_ptr().cast::<T>(),
                1,
                pitch as isize,
                accumulate || at > 0,
                lhs[at * ls.col..].as_ptr(),
                ls.col as isize,
                ls.row as isize,
                rhs[at * rs.row..].as_ptr(),
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
}

#[cfg(test)]
mod tests {
    use random::{Axis, Seeds};
    use testkit::tolerance::{IDENTITY_F64, PLAIN_SUM_F32};

    use super::*;

    fn numbers<T: Real>(index: u64, len: usize) -> Vec<T> {
        let mut stream = Seeds::new(13).stream(Axis::Test, &[index]);
        (0..len).map(|_| T::down(stream.normal())).collect()
    }

    fn check_on_threads<T: Real>(tolerance: f64, (m, n, k): Size, turned: [bool; 2], biased: bool) {
        let (lhs, rhs, bias) = (numbers::<T>(1, m * k), numbers::<T>(2, k * n), numbers::<T>(3, n));
        let strides =
            |turned: bool, rows_: usize, columns: usize| if turned { transposed(rows_) } else { rows(columns) };
        let (ls, rs) = (strides(turned[0], m, k), strides(turned[1], k, n));
        let bias = biased.then_some(&bias[..]);
        let of = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| product_on_threads::<T>((m, n, k), (&lhs, ls), (&rhs, rs), bias))
        };
        let got = of(1);
        let bits = |numbers: &[T]| numbers.iter().map(|v| v.up().to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got), bits(&of(3)), "{m}×{n}×{k}");
        assert_eq!(got.len(), m * n);
        for i in 0..m {
            for j in 0..n {
                let products = (0..k).map(|l| lhs[i * ls.row + l * ls.col].up() * rhs[l * rs.row + j * rs.col].up());
                let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                let bias = bias.map_or(0.0, |bias| bias[j].up());
                let error = (got[i * n + j].up() - sum - bias).abs() / (size + bias.abs());
                assert!(error <= tolerance, "{m}×{n}×{k}, turned {turned:?}, ({i}, {j}): {error:e}");
            }
        }
    }

    fn check_all(size: Size) {
        for turned in [[false, false], [false, true], [true, false], [true, true]] {
            for biased in [false, true] {
                check_on_threads::<f32>(PLAIN_SUM_F32, size, turned, biased);
                check_on_threads::<f64>(IDENTITY_F64, size, turned, biased);
            }
        }
    }

    /// Sizes around tiles, panels, blocks and tasks, both orders of both factors.
    #[test]
    fn products_on_all_threads_are_those_of_the_definition() {
        let sizes = [
            (1, 1, 1),
            (7, 5, 3),
            (6, 16, 16),
            (25, 33, 17),
            (13, 8, 400),
            (97, 24, 31),
            (50, 200, 385),
            (30, 330, 790),
        ];
        sizes.into_iter().for_each(check_all);
        // Above what pays for putting the factors in order.
        [(335, 331, 397), (1205, 37, 769), (48, 1040, 800)].into_iter().for_each(check_all);
    }

    /// The widest registers of the processor change no bit.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn all_registers_give_the_same_bits() {
        let Some(widest) = registers() else { return };
        let bits = |numbers: &[f32]| numbers.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        for (m, n, k) in
            [(1, 1, 1), (5, 3, 70), (13, 49, 64), (6, 32, 385), (25, 33, 1000), (97, 81, 800), (31, 200, 17)]
        {
            let (lhs, rhs, bias) = (numbers::<f32>(1, m * k), numbers::<f32>(2, k * n), numbers::<f32>(3, n));
            let close = |registers: Registers| {
                let pitch = n + 3;
                let mut y = vec![7.0f32; m * pitch];
                multiply_close_by(registers, (m, n, k), (unwritten(&mut y), pitch), (&lhs, k), (&rhs, n));
                bits(&y)
            };
            assert_eq!(close(Registers::Eight), close(widest), "accurate {m}×{n}×{k}");
            for (ls, rs) in [(rows(k), rows(n)), (transposed(m), transposed(k))] {
                let plain = |registers: Registers| {
                    bits(&multiply_on_threads_by(registers, (m, n, k), (&lhs, ls), (&rhs, rs), Some(&bias)))
                };
                assert_eq!(plain(Registers::Eight), plain(widest), "plain {m}×{n}×{k}");
            }
        }
    }

    /// Numbers of all their digits, so that no sum is exact, from integers alone.
    fn drawn<T: Real>(len: usize, seed: u64) -> Vec<T> {
        let mut state = seed;
        let draw = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            T::down(((state >> 40) as f64 / f64::from(1 << 24) - 0.5) * 1.1)
        };
        (0..len).map(draw).collect()
    }

    /// FNV-1a over the bits of products of all kinds: few results, one row or column, tiles and more, shallow and deep.
    fn digest_of_products<T: Real>() -> u64 {
        let mut digest = 0xcbf2_9ce4_8422_2325_u64;
        let mut take = |numbers: &[T]| {
            for number in numbers {
                digest = (digest ^ number.up().to_bits()).wrapping_mul(0x0100_0000_01b3);
            }
        };
        let sizes = [
            (1, 1, 1),
            (1, 70, 90),
            (40, 1, 600),
            (5, 7, 33),
            (16, 16, 1500),
            (9, 100, 2),
            (33, 65, 513),
            (130, 96, 1300),
            (70, 300, 2100),
        ];
        for (m, n, k) in sizes {
            let (lhs, rhs): (Vec<T>, Vec<T>) = (drawn(m * k, 1), drawn(k * n, 2));
            for (ls, rs) in [(rows(k), rows(n)), (rows(k), transposed(k)), (transposed(m), rows(n))] {
                let mut y: Vec<T> = drawn(m * n, 3);
                product((m, n, k), (&mut y, n), true, (&lhs, ls), (&rhs, rs));
                take(&y);
                take(&product_on_threads((m, n, k), (&lhs, ls), (&rhs, rs), None));
            }
            let mut y: Vec<T> = drawn(m * n, 3);
            product_rows((m, n, k), (unwritten(&mut y), n), true, (&lhs, k), (&rhs, n));
            take(&y);
        }
        digest
    }

    /// The digests are of one processor; that they come out on any other is the claim.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_processor_with_fused_products_gives_the_same_bits() {
        if registers().is_some() {
            let digests = (digest_of_products::<f32>(), digest_of_products::<f64>());
            assert_eq!(digests, (12_810_884_330_339_744_511, 15_519_877_533_587_521_419));
        }
    }
}
