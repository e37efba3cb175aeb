//! Tiles of a plain float32 product for AVX2 and FMA: six rows times two vectors of columns, twelve vectors of sums that stay
//! in registers over the whole depth.

use std::arch::asm;
use std::arch::x86_64::{__m256, _mm256_add_ps, _mm256_setzero_ps};
use std::mem::MaybeUninit;

use super::tile::{COLUMNS, LANES, PANEL, ROWS, Vector};

/// What a tile is added to.
#[derive(Clone, Copy)]
pub(super) enum Before<'a> {
    Nothing,
    /// A number for each of the tile's columns.
    Columns(&'a [f32]),
    /// What is written where the tile goes.
    Written,
}

/// Where a tile goes.
pub(super) struct Place<'a> {
    /// The result from the tile's first number on.
    pub(super) to: &'a mut [MaybeUninit<f32>],
    pub(super) pitch: usize,
    /// Rows and columns of the tile that belong to the result.
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// Six rows of a left factor.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// Each from its first number on.
    pub(super) rows: [&'a [f32]; ROWS],
    /// From a number of a row to the next.
    pub(super) step: usize,
}

/// The product of six rows and a panel of columns, each number the sum of its products in their order. The rows are at least
/// as long as the panel.
///
/// The loop is in assembly: compiled, it loads numbers of many products ahead and runs out of registers.
///
/// # Safety
/// If the tile is added to what is written, all of its place must be.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn plain_tile(rows: Rows, panel: &[[Vector; PANEL]], place: Place, before: Before) {
    let (depth, step) = (panel.len(), rows.step);
    assert!(depth > 0 && rows.rows.iter().all(|row| row.len() > (depth - 1) * step), "rows as long as the panel");
    let end = |row: usize| rows.rows[row].as_ptr().wrapping_add(depth * step);
    let mut sums = [[_mm256_setzero_ps(); PANEL]; ROWS];
    // SAFETY: the loop reads the vectors of the panel and, `index` counting bytes up to zero, as many numbers of each row; it
    // writes nothing but the registers that are declared.
    unsafe {
        asm!(
            "2:",
            "vmovaps ymm12, [{panel}]",
            "vmovaps ymm13, [{panel} + 32]",
            "vbroadcastss ymm14, [{a} + {index}]",
            "vbroadcastss ymm15, [{b} + {index}]",
            "vfmadd231ps ymm0, ymm14, ymm12",
            "vfmadd231ps ymm1, ymm14, ymm13",
            "vfmadd231ps ymm2, ymm15, ymm12",
            "vfmadd231ps ymm3, ymm15, ymm13",
            "vbroadcastss ymm14, [{c} + {index}]",
            "vbroadcastss ymm15, [{d} + {index}]",
            "vfmadd231ps ymm4, ymm14, ymm12",
            "vfmadd231ps ymm5, ymm14, ymm13",
            "vfmadd231ps ymm6, ymm15, ymm12",
            "vfmadd231ps ymm7, ymm15, ymm13",
            "vbroadcastss ymm14, [{e} + {index}]",
            "vbroadcastss ymm15, [{f} + {index}]",
            "vfmadd231ps ymm8, ymm14, ymm12",
            "vfmadd231ps ymm9, ymm14, ymm13",
            "vfmadd231ps ymm10, ymm15, ymm12",
            "vfmadd231ps ymm11, ymm15, ymm13",
            "add {panel}, 64",
            "add {index}, {step}",
            "jnz 2b",
            panel = inout(reg) panel.as_ptr() => _,
            index = inout(reg) -((depth * step * size_of::<f32>()) as isize) => _,
            step = in(reg) step * size_of::<f32>(),
            a = in(reg) end(0),
            b = in(reg) end(1),
            c = in(reg) end(2),
            d = in(reg) end(3),
            e = in(reg) end(4),
            f = in(reg) end(5),
            inout("ymm0") sums[0][0], inout("ymm1") sums[0][1],
            inout("ymm2") sums[1][0], inout("ymm3") sums[1][1],
            inout("ymm4") sums[2][0], inout("ymm5") sums[2][1],
            inout("ymm6") sums[3][0], inout("ymm7") sums[3][1],
            inout("ymm8") sums[4][0], inout("ymm9") sums[4][1],
            inout("ymm10") sums[5][0], inout("ymm11") sums[5][1],
            out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
            options(nostack, readonly),
        );
    }
    // SAFETY: as the caller promises.
    unsafe { place.take(sums, before) };
}

impl Place<'_> {
    /// Writes a tile.
    ///
    /// # Safety
    /// As [`plain_tile`].
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn take(self, sums: [[__m256; PANEL]; ROWS], before: Before) {
        if (self.rows, self.columns) != (ROWS, COLUMNS) {
            let mut block = [[Vector::ZERO; PANEL]; ROWS];
            for row in 0..ROWS {
                for vector in 0..PANEL {
                    block[row][vector] = Vector::of(sums[row][vector]);
                }
            }
            // SAFETY: as the caller promises.
            return unsafe { self.take_part(&block, before) };
        }
        for (row, sums) in sums.iter().enumerate() {
            let (to, _) = self.to[row * self.pitch..][..COLUMNS].as_chunks_mut::<LANES>();
            for vector in 0..PANEL {
                let sum = match before {
                    Before::Nothing => sums[vector],
                    Before::Columns(numbers) => {
                        _mm256_add_ps(Vector::first_of(&numbers[vector * LANES..]).load(), sums[vector])
                    }
                    Before::Written => {
                        // SAFETY: as the caller promises.
                        let before = to[vector].map(|before| unsafe { before.assume_init() });
                        _mm256_add_ps(Vector(before).load(), sums[vector])
                    }
                };
                to[vector] = Vector::of(sum).0.map(MaybeUninit::new);
            }
        }
    }

    /// Writes the first rows and columns of a tile.
    ///
    /// # Safety
    /// As [`plain_tile`].
    #[inline(never)]
    unsafe fn take_part(self, sums: &[[Vector; PANEL]; ROWS], before: Before) {
        for (row, sums) in sums.iter().enumerate().take(self.rows) {
            let to = &mut self.to[row * self.pitch..][..self.columns];
            for (column, (to, sum)) in to.iter_mut().zip(sums.iter().flat_map(|vector| vector.0)).enumerate() {
                let before = match before {
                    Before::Nothing => 0.0,
                    Before::Columns(numbers) => numbers[column],
                    // SAFETY: as the caller promises.
                    Before::Written => unsafe { to.assume_init() },
                };
                to.write(before + sum);
            }
        }
    }
}
