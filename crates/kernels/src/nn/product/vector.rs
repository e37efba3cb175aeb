//! Registers of float32 numbers: eight by AVX2 and FMA, sixteen by AVX-512.
//!
//! A lane computes what it would in any other register, so products are the same bits for both.

use std::arch::asm;
use std::arch::x86_64::{__m256, __m512};
use std::mem::MaybeUninit;

use super::plain_tile::Rows;

/// Rows of a tile, at most.
pub(super) const ROWS: usize = 6;
/// Registers of columns of a panel.
pub(super) const PANEL: usize = 2;
/// Numbers of a vector.
pub(super) const LANES: usize = 8;

/// Packed numbers, as many as the narrowest register has.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(super) struct Vector(pub(super) [f32; LANES]);

impl Vector {
    /// Zeros.
    pub(super) const ZERO: Self = Self([0.0; LANES]);

    /// Up to eight numbers, then zeros.
    #[inline(always)]
    pub(super) fn of_few(numbers: &[f32]) -> Self {
        let mut vector = Self::ZERO;
        vector.0[..numbers.len()].copy_from_slice(numbers);
        vector
    }

    #[inline(always)]
    pub(super) fn load(self) -> __m256 {
        // SAFETY: both are eight floats.
        unsafe { std::mem::transmute::<[f32; LANES], __m256>(self.0) }
    }

    #[inline(always)]
    pub(super) fn of(numbers: __m256) -> Self {
        // SAFETY: both are eight floats.
        Self(unsafe { std::mem::transmute::<__m256, [f32; LANES]>(numbers) })
    }
}

/// Two vectors that lie in one line of a cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([Vector; 2]);

impl Line {
    /// Zeros.
    pub(super) const ZERO: Self = Self([Vector::ZERO; 2]);
    /// Vectors of a line.
    pub(super) const VECTORS: usize = 2;

    /// The vectors of lines.
    pub(super) fn vectors(lines: &[Self]) -> &[Vector] {
        // SAFETY: a line is two vectors and nothing else.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * Self::VECTORS) }
    }

    /// The vectors of lines that can be written.
    pub(super) fn vectors_mut(lines: &mut [Self]) -> &mut [Vector] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * Self::VECTORS) }
    }

    /// The vectors of lines that need not have been written.
    pub(super) fn unwritten(lines: &mut [MaybeUninit<Self>]) -> &mut [MaybeUninit<Vector>] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * Self::VECTORS) }
    }
}

/// Work in registers.
pub(super) trait Job {
    /// Does it; to be `#[inline(always)]`, so that it is compiled for the instructions of the register.
    fn run(self);
}

/// A register of float32 numbers.
///
/// Values exist where the processor has the instructions, so only code that [`Register::run`] calls makes them.
pub(super) trait Register: Copy {
    /// Its numbers in memory.
    type Packed: Copy;
    /// How many.
    const LANES: usize;
    /// Columns of a panel.
    const COLUMNS: usize = PANEL * Self::LANES;
    /// [`Vector`]s in a register.
    const VECTORS: usize = Self::LANES / LANES;

    /// Vectors as what registers hold; there are whole registers of them.
    fn packed(vectors: &[Vector]) -> &[Self::Packed];
    /// The same, to write to.
    fn packed_mut(vectors: &mut [Vector]) -> &mut [Self::Packed];
    /// The numbers of a register.
    fn numbers(packed: &Self::Packed) -> &[f32];
    /// Up to as many numbers as there are lanes, then zeros.
    fn of_few(numbers: &[f32]) -> Self::Packed;
    fn load(packed: &Self::Packed) -> Self;
    fn store(self) -> Self::Packed;
    fn zero() -> Self;
    /// `x` in every lane.
    fn all(x: f32) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    /// `self · other + sum`, rounded once.
    fn times_plus(self, other: Self, sum: Self) -> Self;

    /// The sums of the products of six rows and a panel, in their order.
    ///
    /// # Safety
    /// The processor has the instructions; each row has as many numbers, `step` apart, as the panel is deep, and that is at
    /// least one.
    unsafe fn sums(rows: Rows, panel: &[[Self::Packed; PANEL]]) -> [[Self; PANEL]; ROWS];

    /// Does the work.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn run(job: impl Job);
}

/// A vector instruction.
macro_rules! instruction {
    ($name:ident($($argument:expr),*)) => {
        // SAFETY: called where the processor has the instruction, see `Register`.
        unsafe { std::arch::x86_64::$name($($argument),*) }
    };
}

/// A register of `$n` numbers, which are `$vectors` vectors.
macro_rules! register {
    (
        $register:ident, $n:literal, $vectors:literal, $features:literal,
        [$set1:ident $setzero:ident $add:ident $sub:ident $fmadd:ident],
        $r:literal, [$($sum:tt $row:literal $at:literal),*], [$($free:tt)*]
    ) => {
        impl Register for $register {
            type Packed = [Vector; $vectors];
            const LANES: usize = $n;

            #[inline(always)]
            fn packed(vectors: &[Vector]) -> &[Self::Packed] {
                vectors.as_chunks().0
            }
            #[inline(always)]
            fn packed_mut(vectors: &mut [Vector]) -> &mut [Self::Packed] {
                vectors.as_chunks_mut().0
            }
            #[inline(always)]
            fn numbers(packed: &Self::Packed) -> &[f32] {
                // SAFETY: vectors are eight numbers each and nothing else.
                unsafe { std::slice::from_raw_parts(packed.as_ptr().cast(), $n) }
            }
            #[inline(always)]
            fn of_few(numbers: &[f32]) -> Self::Packed {
                let mut packed = [0.0; $n];
                packed[..numbers.len()].copy_from_slice(numbers);
                // SAFETY: as in `numbers`.
                unsafe { std::mem::transmute::<[f32; $n], Self::Packed>(packed) }
            }
            #[inline(always)]
            fn load(packed: &Self::Packed) -> Self {
                // SAFETY: both are as many numbers.
                unsafe { std::mem::transmute::<Self::Packed, Self>(*packed) }
            }
            #[inline(always)]
            fn store(self) -> Self::Packed {
                // SAFETY: both are as many numbers.
                unsafe { std::mem::transmute::<Self, Self::Packed>(self) }
            }
            #[inline(always)]
            fn zero() -> Self {
                instruction!($setzero())
            }
            #[inline(always)]
            fn all(x: f32) -> Self {
                instruction!($set1(x))
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                instruction!($add(self, other))
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                instruction!($sub(self, other))
            }
            #[inline(always)]
            fn times_plus(self, other: Self, sum: Self) -> Self {
                instruction!($fmadd(self, other, sum))
            }

            // In assembly: compiled, the loop loads numbers of many products ahead and runs out of registers.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn sums(rows: Rows, panel: &[[Self::Packed; PANEL]]) -> [[Self; PANEL]; ROWS] {
                let (depth, step) = (panel.len(), rows.step);
                let end = |row: usize| rows.rows[row].as_ptr().wrapping_add(depth * step);
                let mut sums = [[std::arch::x86_64::$setzero(); PANEL]; ROWS];
                // SAFETY: the loop reads the registers of the panel and, `index` counting bytes up to zero, as many numbers
                // of each row, which are there as the caller promises; it writes nothing but the registers declared.
                unsafe {
                    asm!(
                        "2:",
                        concat!("vmovups ", $r, "mm12, [{panel}]"),
                        concat!("vmovups ", $r, "mm13, [{panel} + {size}]"),
                        concat!("vbroadcastss ", $r, "mm14, [{a} + {index}]"),
                        concat!("vbroadcastss ", $r, "mm15, [{b} + {index}]"),
                        concat!("vfmadd231ps ", $r, "mm0, ", $r, "mm14, ", $r, "mm12"),
                        concat!("vfmadd231ps ", $r, "mm1, ", $r, "mm14, ", $r, "mm13"),
                        concat!("vfmadd231ps ", $r, "mm2, ", $r, "mm15, ", $r, "mm12"),
                        concat!("vfmadd231ps ", $r, "mm3, ", $r, "mm15, ", $r, "mm13"),
                        concat!("vbroadcastss ", $r, "mm14, [{c} + {index}]"),
                        concat!("vbroadcastss ", $r, "mm15, [{d} + {index}]"),
                        concat!("vfmadd231ps ", $r, "mm4, ", $r, "mm14, ", $r, "mm12"),
                        concat!("vfmadd231ps ", $r, "mm5, ", $r, "mm14, ", $r, "mm13"),
                        concat!("vfmadd231ps ", $r, "mm6, ", $r, "mm15, ", $r, "mm12"),
                        concat!("vfmadd231ps ", $r, "mm7, ", $r, "mm15, ", $r, "mm13"),
                        concat!("vbroadcastss ", $r, "mm14, [{e} + {index}]"),
                        concat!("vbroadcastss ", $r, "mm15, [{f} + {index}]"),
                        concat!("vfmadd231ps ", $r, "mm8, ", $r, "mm14, ", $r, "mm12"),
                        concat!("vfmadd231ps ", $r, "mm9, ", $r, "mm14, ", $r, "mm13"),
                        concat!("vfmadd231ps ", $r, "mm10, ", $r, "mm15, ", $r, "mm12"),
                        concat!("vfmadd231ps ", $r, "mm11, ", $r, "mm15, ", $r, "mm13"),
                        "add {panel}, {pair}",
                        "add {index}, {step}",
                        "jnz 2b",
                        size = const size_of::<Self>(),
                        pair = const PANEL * size_of::<Self>(),
                        panel = inout(reg) panel.as_ptr() => _,
                        index = inout(reg) -((depth * step * size_of::<f32>()) as isize) => _,
                        step = in(reg) step * size_of::<f32>(),
                        a = in(reg) end(0),
                        b = in(reg) end(1),
                        c = in(reg) end(2),
                        d = in(reg) end(3),
                        e = in(reg) end(4),
                        f = in(reg) end(5),
                        $(inout($sum) sums[$row][$at],)*
                        $(out($free) _,)*
                        options(nostack, readonly),
                    );
                }
                sums
            }

            #[inline]
            unsafe fn run(job: impl Job) {
                #[target_feature(enable = $features)]
                fn allowed(job: impl Job) {
                    job.run();
                }
                // SAFETY: the processor has the instructions, as the caller promises.
                unsafe { allowed(job) }
            }
        }
    };
}

register!(
    __m256, 8, 1, "avx2,fma",
    [_mm256_set1_ps _mm256_setzero_ps _mm256_add_ps _mm256_sub_ps _mm256_fmadd_ps],
    "y", [
        "ymm0" 0 0, "ymm1" 0 1, "ymm2" 1 0, "ymm3" 1 1, "ymm4" 2 0, "ymm5" 2 1,
        "ymm6" 3 0, "ymm7" 3 1, "ymm8" 4 0, "ymm9" 4 1, "ymm10" 5 0, "ymm11" 5 1
    ], ["ymm12" "ymm13" "ymm14" "ymm15"]
);
register!(
    __m512, 16, 2, "avx512f",
    [_mm512_set1_ps _mm512_setzero_ps _mm512_add_ps _mm512_sub_ps _mm512_fmadd_ps],
    "z", [
        "zmm0" 0 0, "zmm1" 0 1, "zmm2" 1 0, "zmm3" 1 1, "zmm4" 2 0, "zmm5" 2 1,
        "zmm6" 3 0, "zmm7" 3 1, "zmm8" 4 0, "zmm9" 4 1, "zmm10" 5 0, "zmm11" 5 1
    ], ["zmm12" "zmm13" "zmm14" "zmm15"]
);
