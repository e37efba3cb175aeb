//! Transforms of Winograd's F(2×2, 3×3), a map of pixels or of outputs at a time.
//!
//! A tile has 4×4 pixels and lies two pixels from its neighbours, so rows of pixels are split by parity: entry `t` of the even
//! ones and of the odd ones are the columns `2t` and `2t + 1` of tile `t`, and entry `t + 1` its columns 2 and 3.

use std::mem::MaybeUninit;

use crate::nn::buffers::Real;
use crate::nn::columns::Geometry;
use crate::nn::wide::Loop;

/// Entries of a transformed tile.
pub(super) const POINTS: usize = 16;
/// Tiles of a row, at most.
pub(super) const WIDEST: usize = 128;

/// How tiles cover a map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiling {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) padding: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
}

impl Tiling {
    /// The tiles of a convolution.
    pub(super) fn of(g: &Geometry) -> Self {
        Self { height: g.height, width: g.width, padding: g.config.padding, out_height: g.oh, out_width: g.ow }
    }

    pub(super) fn rows(&self) -> usize {
        self.out_height.div_ceil(2)
    }

    pub(super) fn columns(&self) -> usize {
        self.out_width.div_ceil(2)
    }

    /// Tiles of a map.
    pub(super) fn count(&self) -> usize {
        self.rows() * self.columns()
    }

    /// Whether the transforms have room for a row.
    pub(super) fn fits(&self) -> bool {
        self.columns() <= WIDEST
    }
}

/// A row of pixels by parity, one entry more than tiles.
pub(super) type Row<T> = [[T; WIDEST + 2]; 2];

/// Runs a loop over the columns of tiles, compiled for the usual numbers of them.
macro_rules! for_columns {
    ($columns:expr, $run:expr) => {
        match $columns {
            4 => $run(4),
            7 => $run(7),
            14 => $run(14),
            28 => $run(28),
            columns => $run(columns),
        }
    };
}
pub(super) use for_columns;

/// `Bᵀ x B` of the tiles of a map.
pub(super) struct InputTiles<'a, T> {
    /// [height, width].
    pub(super) map: &'a [T],
    pub(super) tiling: Tiling,
    /// Entry by entry, the tiles row by row.
    pub(super) to: [&'a mut [MaybeUninit<T>]; POINTS],
}

impl<T: Real> Loop for InputTiles<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(mut self) {
        for_columns!(self.tiling.columns(), |columns| self.rows(columns));
    }
}

impl<T: Real> InputTiles<'_, T> {
    #[inline(always)]
    fn rows(&mut self, columns: usize) {
        // Padded rows 2·row to 2·row + 3, in turn.
        let mut pixels = [[[T::ZERO; WIDEST + 2]; 2]; 4];
        let mut mixed = pixels[0];
        for (row, pixels) in pixels.iter_mut().enumerate().take(2) {
            self.split(row, columns, pixels);
        }
        for row in 0..self.tiling.rows() {
            for next in 2..4 {
                self.split(2 * row + next, columns, &mut pixels[(2 * row + next) % 4]);
            }
            let [a, b, c, d]: [&Row<T>; 4] = std::array::from_fn(|k| &pixels[(2 * row + k) % 4]);
            self.entries(0, (row, columns), mix(&mut mixed, (a, c), columns + 1, |a, c| a - c));
            self.entries(4, (row, columns), mix(&mut mixed, (b, c), columns + 1, |b, c| b + c));
            self.entries(8, (row, columns), mix(&mut mixed, (b, c), columns + 1, |b, c| c - b));
            self.entries(12, (row, columns), mix(&mut mixed, (b, d), columns + 1, |b, d| b - d));
        }
    }

    /// Row `row` of the padded map; zeros where it is beyond the map.
    #[inline(always)]
    fn split(&self, row: usize, columns: usize, to: &mut Row<T>) {
        let Tiling { height, width, padding, .. } = self.tiling;
        to.iter_mut().for_each(|pixels| pixels[..columns + 1].fill(T::ZERO));
        if (padding..padding + height).contains(&row) {
            split(&self.map[(row - padding) * width..][..width], padding, to);
        }
    }

    /// Four entries of a row of tiles.
    #[inline(always)]
    fn entries(&mut self, point: usize, (row, columns): (usize, usize), [even, odd]: &Row<T>) {
        let (even, after) = (&even[..columns], &even[1..columns + 1]);
        let (odd, behind) = (&odd[..columns], &odd[1..columns + 1]);
        let to = &mut self.to;
        write(&mut *to[point], row, (even, after), |even, after| even - after);
        write(&mut *to[point + 1], row, (odd, after), |odd, after| odd + after);
        write(&mut *to[point + 2], row, (odd, after), |odd, after| after - odd);
        write(&mut *to[point + 3], row, (odd, behind), |odd, behind| odd - behind);
    }
}

/// Splits a row of pixels that is padded by so many.
#[inline(always)]
pub(super) fn split<T: Real>(pixels: &[T], padding: usize, [even, odd]: &mut Row<T>) {
    let (pairs, last) = pixels.as_chunks::<2>();
    let [first, second] = if padding.is_multiple_of(2) { [even, odd] } else { [odd, even] };
    let (first, second) = (&mut first[padding / 2..], &mut second[padding.div_ceil(2)..]);
    for ((first, second), pair) in first.iter_mut().zip(second.iter_mut()).zip(pairs) {
        (*first, *second) = (pair[0], pair[1]);
    }
    if let [last] = last {
        first[pairs.len()] = *last;
    }
}

/// `f(a, b)` of the first `len` entries of both parities.
#[inline(always)]
pub(super) fn mix<'a, T: Real>(
    to: &'a mut Row<T>,
    (a, b): (&Row<T>, &Row<T>),
    len: usize,
    f: impl Fn(T, T) -> T,
) -> &'a Row<T> {
    for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
        for ((to, a), b) in to[..len].iter_mut().zip(&a[..len]).zip(&b[..len]) {
            *to = f(*a, *b);
        }
    }
    to
}

/// Writes `f(a, b)` as row `row` of tiles.
#[inline(always)]
pub(super) fn write<T: Real>(to: &mut [MaybeUninit<T>], row: usize, (a, b): (&[T], &[T]), f: impl Fn(T, T) -> T) {
    for ((to, a), b) in to[row * a.len()..][..a.len()].iter_mut().zip(a).zip(b) {
        to.write(f(*a, *b));
    }
}

/// The way back of [`split`]: writes a row of pixels.
#[inline(always)]
pub(super) fn join<T: Real>([even, odd]: &Row<T>, padding: usize, row: &mut [MaybeUninit<T>]) {
    let (pairs, last) = row.as_chunks_mut::<2>();
    let [first, second] = if padding.is_multiple_of(2) { [even, odd] } else { [odd, even] };
    let (first, second) = (&first[padding / 2..], &second[padding.div_ceil(2)..]);
    let count = pairs.len();
    for ((pair, first), second) in pairs.iter_mut().zip(first).zip(second) {
        pair[0].write(*first);
        pair[1].write(*second);
    }
    if let [last] = last {
        last.write(first[count]);
    }
}

/// `Aᵀ m A` of the tiles of a map.
pub(super) struct OutputTiles<'a, T> {
    /// Entry by entry, the tiles row by row.
    pub(super) from: [&'a [T]; POINTS],
    pub(super) tiling: Tiling,
    /// [out height, out width].
    pub(super) to: &'a mut [MaybeUninit<T>],
}

impl<T: Real> Loop for OutputTiles<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(mut self) {
        for_columns!(self.tiling.columns(), |columns| self.rows(columns));
    }
}

impl<T: Real> OutputTiles<'_, T> {
    #[inline(always)]
    fn rows(&mut self, columns: usize) {
        let Tiling { out_height, out_width, .. } = self.tiling;
        let mut sums = [[[T::ZERO; WIDEST + 2]; 2]; 2];
        let mut pixels = sums[0];
        for (at, to) in self.to[..out_height * out_width].chunks_mut(out_width).enumerate() {
            let of = |point: usize| &self.from[point][at / 2 * columns..][..columns];
            for point in 0..4 {
                let rows = of(point).iter().zip(of(4 + point)).zip(of(8 + point)).zip(of(12 + point));
                let sums = sums[point / 2][point % 2][..columns].iter_mut();
                if at.is_multiple_of(2) {
                    sums.zip(rows).for_each(|(to, (((a, b), c), _))| *to = *a + *b + *c);
                } else {
                    sums.zip(rows).for_each(|(to, (((_, b), c), d))| *to = *b - *c - *d);
                }
            }
            let [[a, b], [c, d]] = &sums;
            let [even, odd] = &mut pixels;
            for t in 0..columns {
                even[t] = a[t] + b[t] + c[t];
                odd[t] = b[t] - c[t] - d[t];
            }
            join(&pixels, 0, to);
        }
    }
}
