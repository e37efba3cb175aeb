//! Tiles of a plain float32 product: six rows times two registers of columns, sums that stay in registers over the whole depth.

use std::mem::MaybeUninit;

use super::vector::{Job, PANEL, ROWS, Register};

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
/// as long as the panel, which is not empty.
pub(super) struct PlainTile<'a, W: Register> {
    pub(super) rows: Rows<'a>,
    pub(super) panel: &'a [[W::Packed; PANEL]],
    pub(super) place: Place<'a>,
    /// If this is what is written, all of the place must be.
    pub(super) before: Before<'a>,
}

impl<W: Register> Job for PlainTile<'_, W> {
    #[inline(always)]
    fn run(self) {
        let Self { rows, panel, place, before } = self;
        let last = panel.len().checked_sub(1).expect("a panel that is not empty") * rows.step;
        assert!(rows.rows.iter().all(|row| row.len() > last), "rows as long as the panel");
        // SAFETY: as just asserted; jobs run where the instructions are.
        let sums = unsafe { W::sums(rows, panel) };
        if (place.rows, place.columns) == (ROWS, W::COLUMNS) {
            place.take(sums, before);
        } else {
            let mut packed = [[W::zero().store(); PANEL]; ROWS];
            for row in 0..ROWS {
                for index in 0..PANEL {
                    packed[row][index] = sums[row][index].store();
                }
            }
            place.take_part::<W>(&packed, before);
        }
    }
}

impl Place<'_> {
    /// Writes a tile.
    #[inline(always)]
    fn take<W: Register>(self, sums: [[W; PANEL]; ROWS], before: Before) {
        for (row, sums) in sums.into_iter().enumerate() {
            let to = &mut self.to[row * self.pitch..][..W::COLUMNS];
            for (index, sum) in sums.into_iter().enumerate() {
                let to = &mut to[index * W::LANES..][..W::LANES];
                let sum = match before {
                    Before::Nothing => sum,
                    Before::Columns(numbers) => W::load(&W::of_few(&numbers[index * W::LANES..][..W::LANES])).add(sum),
                    // SAFETY: as promised where the tile was made.
                    Before::Written => W::load(&W::of_few(unsafe { to.assume_init_ref() })).add(sum),
                };
                to.write_copy_of_slice(W::numbers(&sum.store()));
            }
        }
    }

    /// Writes the first rows and columns of a tile.
    #[inline(never)]
    fn take_part<W: Register>(self, sums: &[[W::Packed; PANEL]; ROWS], before: Before) {
        for (row, sums) in sums.iter().enumerate().take(self.rows) {
            let to = &mut self.to[row * self.pitch..][..self.columns];
            let sums = sums.iter().flat_map(W::numbers);
            for (column, (to, sum)) in to.iter_mut().zip(sums).enumerate() {
                let before = match before {
                    Before::Nothing => 0.0,
                    Before::Columns(numbers) => numbers[column],
                    // SAFETY: as promised where the tile was made.
                    Before::Written => unsafe { to.assume_init() },
                };
                to.write(before + sum);
            }
        }
    }
}
