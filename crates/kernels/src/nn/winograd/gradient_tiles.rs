//! Transforms of the gradients of maps, see [`super::tiles`].

use std::mem::MaybeUninit;

use super::tiles::{POINTS, Row, Tiling, WIDEST, for_columns, join, mix, split, write};
use crate::nn::buffers::Real;
use crate::nn::wide::Loop;

/// `A ∂y Aᵀ` of the tiles of a map of gradients.
pub(super) struct GradientTiles<'a, T> {
    /// [out height, out width].
    pub(super) map: &'a [T],
    pub(super) tiling: Tiling,
    /// Entry by entry, the tiles row by row.
    pub(super) to: [&'a mut [MaybeUninit<T>]; POINTS],
}

impl<T: Real> Loop for GradientTiles<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(mut self) {
        for_columns!(self.tiling.columns(), |columns| self.rows(columns));
    }
}

impl<T: Real> GradientTiles<'_, T> {
    #[inline(always)]
    fn rows(&mut self, columns: usize) {
        let Tiling { out_height, out_width, .. } = self.tiling;
        let mut pixels = [[[T::ZERO; WIDEST + 2]; 2]; 2];
        let mut mixed = pixels[0];
        for row in 0..self.tiling.rows() {
            for (row, to) in (2 * row..).zip(&mut pixels) {
                to.iter_mut().for_each(|pixels| pixels[..columns].fill(T::ZERO));
                if row < out_height {
                    split(&self.map[row * out_width..][..out_width], 0, to);
                }
            }
            let [a, b] = &pixels;
            self.entries(0, (row, columns), a);
            self.entries(4, (row, columns), mix(&mut mixed, (a, b), columns, |a, b| a + b));
            self.entries(8, (row, columns), mix(&mut mixed, (a, b), columns, |a, b| a - b));
            self.entries(12, (row, columns), mix(&mut mixed, (b, b), columns, |b, _| T::ZERO - b));
        }
    }

    /// Four entries of a row of tiles.
    #[inline(always)]
    fn entries(&mut self, point: usize, (row, columns): (usize, usize), [even, odd]: &Row<T>) {
        let pixels = (&even[..columns], &odd[..columns]);
        let to = &mut self.to;
        write(&mut *to[point], row, pixels, |even, _| even);
        write(&mut *to[point + 1], row, pixels, |even, odd| even + odd);
        write(&mut *to[point + 2], row, pixels, |even, odd| even - odd);
        write(&mut *to[point + 3], row, pixels, |_, odd| T::ZERO - odd);
    }
}

/// `B m Bᵀ` of the tiles of a map, added where tiles overlap.
pub(super) struct InputGradients<'a, T> {
    /// Entry by entry, the tiles row by row.
    pub(super) from: [&'a [T]; POINTS],
    pub(super) tiling: Tiling,
    /// [height, width].
    pub(super) to: &'a mut [MaybeUninit<T>],
}

impl<T: Real> Loop for InputGradients<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(mut self) {
        for_columns!(self.tiling.columns(), |columns| self.rows(columns));
    }
}

impl<T: Real> InputGradients<'_, T> {
    #[inline(always)]
    fn rows(&mut self, columns: usize) {
        let Tiling { height, width, padding, .. } = self.tiling;
        // The four columns of `B` times a row, by tile, zeros on both sides of the tiles.
        let mut sums = [[[T::ZERO; WIDEST + 2]; 2]; 2];
        let mut pixels = sums[0];
        for row in 0..=self.tiling.rows() {
            for second in 0..2 {
                let at = 2 * row + second;
                if !(padding..padding + height).contains(&at) {
                    continue;
                }
                for point in 0..4 {
                    let to = &mut sums[point / 2][point % 2][1..columns + 1];
                    self.sum(point, (row, columns), second == 1, to);
                }
                pixels_of(&sums, columns, &mut pixels);
                let row = &mut self.to[(at - padding) * width..][..width];
                join(&pixels, padding, row);
            }
        }
    }

    /// Entry `point` of a row's tiles, and of the tiles of the row above, which reach into it.
    #[inline(always)]
    fn sum(&self, point: usize, (row, columns): (usize, usize), second: bool, to: &mut [T]) {
        let of = |k: usize, row: usize| &self.from[4 * k + point][row * columns..][..columns];
        to.fill(T::ZERO);
        if row < self.tiling.rows() && second {
            let own = of(1, row).iter().zip(of(2, row)).zip(of(3, row));
            to.iter_mut().zip(own).for_each(|(to, ((b, c), d))| *to = *b - *c + *d);
        } else if row < self.tiling.rows() {
            to.copy_from_slice(of(0, row));
        }
        if row > 0 && second {
            to.iter_mut().zip(of(3, row - 1)).for_each(|(to, d)| *to -= *d);
        } else if row > 0 {
            let above = of(0, row - 1).iter().zip(of(1, row - 1)).zip(of(2, row - 1));
            to.iter_mut().zip(above).for_each(|(to, ((a, b), c))| *to += *b + *c - *a);
        }
    }
}

/// A row of pixels from the entries of its tiles.
#[inline(always)]
fn pixels_of<T: Real>([[a, b], [c, d]]: &[Row<T>; 2], columns: usize, [even, odd]: &mut Row<T>) {
    let len = columns + 1;
    for t in 0..len {
        even[t] = a[t + 1] + (b[t] + c[t] - a[t]);
        odd[t] = b[t + 1] - c[t + 1] + d[t + 1] - d[t];
    }
}
