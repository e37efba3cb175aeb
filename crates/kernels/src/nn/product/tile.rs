//! Tiles of a float32 product with accurate sums: a few rows times one or two registers of columns.

use std::mem::MaybeUninit;

use super::vector::{Job, Register};

/// Products of a chain.
const CHAIN: usize = 16;
/// Chains of a group. Chains, and the chains of a group, are summed without regard to rounding.
const GROUP: usize = 4;

/// Where a tile goes.
pub(super) struct Target<'a, W: Register> {
    /// The result from the tile's first number on.
    pub(super) to: &'a mut [MaybeUninit<f32>],
    pub(super) pitch: usize,
    /// Columns of the tile that belong to the result.
    pub(super) columns: usize,
    /// The rests of the tile between the blocks of a deep product.
    pub(super) rests: &'a mut [W::Packed],
    /// Whether there are sums and rests of blocks before.
    pub(super) follows: bool,
    /// Whether blocks are to follow.
    pub(super) goes_on: bool,
}

/// Sums of groups, each with what rounding it left over.
type Totals<W, const M: usize, const V: usize> = [[[W; 2]; V]; M];

/// Adds the products of one column of the rows to the sums of a chain.
#[inline(always)]
fn step<W: Register, const M: usize, const V: usize, R: AsRef<[f32]> + ?Sized>(
    chain: &mut [[W; V]; M],
    rows: &[&R; M],
    at: usize,
    b: &[W::Packed; V],
) {
    let mut registers = [W::zero(); V];
    for index in 0..V {
        registers[index] = W::load(&b[index]);
    }
    for row in 0..M {
        let x = W::all(rows[row].as_ref()[at]);
        for index in 0..V {
            chain[row][index] = x.times_plus(registers[index], chain[row][index]);
        }
    }
}

/// Adds a group to the sums, and the rounding errors of these additions to the rests (Dekker 1971, exact where a group is
/// not above the sum before it).
#[inline(always)]
fn add<W: Register, const M: usize, const V: usize>(totals: &mut Totals<W, M, V>, group: &[[W; V]; M]) {
    for row in 0..M {
        for index in 0..V {
            let ([sum, rest], group) = (totals[row][index], group[row][index]);
            let next = sum.add(group);
            let error = group.sub(next.sub(sum));
            totals[row][index] = [next, rest.add(error)];
        }
    }
}

/// The sum of a group's products, which are taken from the rows.
#[inline(always)]
fn group_of<W: Register, const M: usize, const V: usize>(
    rows: &mut [&[f32]; M],
    panel: &[[W::Packed; V]],
) -> [[W; V]; M] {
    let mut group = [[W::zero(); V]; M];
    let (chains, last) = panel.as_chunks::<CHAIN>();
    let mut ahead = *rows;
    for b in chains {
        let mut chain = [[W::zero(); V]; M];
        let mut now = [&[0.0; CHAIN]; M];
        for row in 0..M {
            if let Some((first, others)) = ahead[row].split_first_chunk() {
                (now[row], ahead[row]) = (first, others);
            }
        }
        // Written out: a loop's end costs more than a few products.
        macro_rules! steps {
            ($($at:literal)*) => {$(step(&mut chain, &now, $at, &b[$at]);)*};
        }
        steps!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        for row in 0..M {
            for index in 0..V {
                group[row][index] = group[row][index].add(chain[row][index]);
            }
        }
    }
    for (index, b) in last.iter().enumerate() {
        step(&mut group, &ahead, index, b);
    }
    *rows = ahead;
    for row in 0..M {
        rows[row] = &ahead[row][last.len()..];
    }
    group
}

/// The product of `M` rows and a panel of `V` registers of columns. The rows are as long as the panel.
pub(super) struct Tile<'a, W: Register, const M: usize, const V: usize> {
    pub(super) rows: [&'a [f32]; M],
    pub(super) panel: &'a [[W::Packed; V]],
    pub(super) target: Target<'a, W>,
}

impl<W: Register, const M: usize, const V: usize> Job for Tile<'_, W, M, V> {
    #[inline(always)]
    fn run(self) {
        let Self { mut rows, panel, target } = self;
        let mut totals = target.totals::<M, V>();
        for (index, panel) in panel.chunks(CHAIN * GROUP).enumerate() {
            let group = group_of(&mut rows, panel);
            if index == 0 && !target.follows {
                for row in 0..M {
                    for index in 0..V {
                        totals[row][index][0] = group[row][index];
                    }
                }
            } else {
                add(&mut totals, &group);
            }
        }
        target.take(totals);
    }
}

impl<W: Register> Target<'_, W> {
    /// The sums and rests of the blocks before, or zeros.
    #[inline(always)]
    fn totals<const M: usize, const V: usize>(&self) -> Totals<W, M, V> {
        let mut totals = [[[W::zero(); 2]; V]; M];
        if !self.follows {
            return totals;
        }
        for (row, totals) in totals.iter_mut().enumerate() {
            let before = &self.to[row * self.pitch..][..self.columns];
            // SAFETY: the block before wrote them.
            let before = unsafe { before.assume_init_ref() };
            for ((index, totals), before) in totals.iter_mut().enumerate().zip(before.chunks(W::LANES)) {
                *totals = [W::load(&W::of_few(before)), W::load(&self.rests[row * V + index])];
            }
        }
        totals
    }

    /// Writes the sums, with their rests rounded into them unless blocks are to follow.
    #[inline(always)]
    fn take<const M: usize, const V: usize>(self, totals: Totals<W, M, V>) {
        for (row, totals) in totals.into_iter().enumerate() {
            let to = &mut self.to[row * self.pitch..][..self.columns];
            for (index, [sum, rest]) in totals.into_iter().enumerate() {
                let numbers = if self.goes_on {
                    self.rests[row * V + index] = rest.store();
                    sum.store()
                } else {
                    sum.add(rest).store()
                };
                let first = (index * W::LANES).min(to.len());
                let to = &mut to[first..];
                let few = to.len().min(W::LANES);
                to[..few].write_copy_of_slice(&W::numbers(&numbers)[..few]);
            }
        }
    }
}
