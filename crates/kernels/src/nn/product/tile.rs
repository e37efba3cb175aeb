//! Tiles of a float32 product for AVX2 and FMA: sums of a few rows times one or two vectors of columns.

use std::arch::x86_64::{__m256, _mm256_add_ps, _mm256_fmadd_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_sub_ps};
use std::mem::MaybeUninit;

/// Rows of a tile, at most.
pub(super) const ROWS: usize = 6;
/// Numbers of a vector.
pub(super) const LANES: usize = 8;
/// Vectors of columns of a panel.
pub(super) const PANEL: usize = 2;
/// Columns of a panel.
pub(super) const COLUMNS: usize = PANEL * LANES;
/// Products of a chain.
const CHAIN: usize = 16;
/// Chains of a group. Chains, and the chains of a group, are summed without regard to rounding.
const GROUP: usize = 4;

/// One vector of packed numbers.
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

    /// The first of at least eight numbers.
    #[inline(always)]
    pub(super) fn first_of(numbers: &[f32]) -> Self {
        let mut vector = Self::ZERO;
        vector.0.copy_from_slice(&numbers[..LANES]);
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

/// Where a tile goes.
pub(super) struct Target<'a> {
    /// The result from the tile's first number on.
    pub(super) to: &'a mut [MaybeUninit<f32>],
    pub(super) pitch: usize,
    /// Columns of the tile that belong to the result.
    pub(super) columns: usize,
    /// The rests of the tile between the blocks of a deep product.
    pub(super) rests: &'a mut [Vector],
    /// Whether there are sums and rests of blocks before.
    pub(super) follows: bool,
    /// Whether blocks are to follow.
    pub(super) goes_on: bool,
}

/// Sums of groups, each with what rounding it left over.
type Totals<const M: usize, const V: usize> = [[[__m256; 2]; V]; M];

/// Adds the products of one column of the rows to the sums of a chain.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn step<const M: usize, const V: usize, R: AsRef<[f32]> + ?Sized>(
    chain: &mut [[__m256; V]; M],
    rows: &[&R; M],
    at: usize,
    b: &[Vector; V],
) {
    let mut vectors = [_mm256_setzero_ps(); V];
    for vector in 0..V {
        vectors[vector] = b[vector].load();
    }
    for row in 0..M {
        let x = _mm256_set1_ps(rows[row].as_ref()[at]);
        for vector in 0..V {
            chain[row][vector] = _mm256_fmadd_ps(x, vectors[vector], chain[row][vector]);
        }
    }
}

/// Adds a group to the sums, and the rounding errors of these additions to the rests (Dekker 1971, exact where a group is
/// not above the sum before it).
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add<const M: usize, const V: usize>(totals: &mut Totals<M, V>, group: &[[__m256; V]; M]) {
    for row in 0..M {
        for vector in 0..V {
            let ([sum, rest], group) = (totals[row][vector], group[row][vector]);
            let next = _mm256_add_ps(sum, group);
            let error = _mm256_sub_ps(group, _mm256_sub_ps(next, sum));
            totals[row][vector] = [next, _mm256_add_ps(rest, error)];
        }
    }
}

/// The sum of a group's products, which are taken from the rows.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn group_of<const M: usize, const V: usize>(rows: &mut [&[f32]; M], panel: &[[Vector; V]]) -> [[__m256; V]; M] {
    let zero = _mm256_setzero_ps();
    let mut group = [[zero; V]; M];
    let (chains, last) = panel.as_chunks::<CHAIN>();
    let mut ahead = *rows;
    for b in chains {
        let mut chain = [[zero; V]; M];
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
            for vector in 0..V {
                group[row][vector] = _mm256_add_ps(group[row][vector], chain[row][vector]);
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

/// The product of `M` rows and a panel of `V` vectors of columns. The rows are as long as the panel.
#[target_feature(enable = "avx2,fma")]
pub(super) fn tile<const M: usize, const V: usize>(rows: [&[f32]; M], panel: &[[Vector; V]], target: Target) {
    let mut rows = rows;
    let mut totals = target.totals::<M, V>();
    for (index, panel) in panel.chunks(CHAIN * GROUP).enumerate() {
        let group = group_of(&mut rows, panel);
        if index == 0 && !target.follows {
            for row in 0..M {
                for vector in 0..V {
                    totals[row][vector][0] = group[row][vector];
                }
            }
        } else {
            add(&mut totals, &group);
        }
    }
    target.take(totals);
}

impl Target<'_> {
    /// The sums and rests of the blocks before, or zeros.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn totals<const M: usize, const V: usize>(&self) -> Totals<M, V> {
        let mut totals = [[[_mm256_setzero_ps(); 2]; V]; M];
        if !self.follows {
            return totals;
        }
        let (rests, _) = self.rests.as_chunks::<V>();
        for ((row, totals), rests) in totals.iter_mut().enumerate().zip(rests) {
            let before = self.to[row * self.pitch..][..self.columns].chunks(LANES);
            for ((totals, rest), before) in totals.iter_mut().zip(rests).zip(before) {
                let mut sums = Vector::ZERO;
                for (sum, before) in sums.0.iter_mut().zip(before) {
                    // SAFETY: the block before wrote it.
                    *sum = unsafe { before.assume_init() };
                }
                *totals = [sums.load(), rest.load()];
            }
        }
        totals
    }

    /// Writes the sums, with their rests rounded into them unless blocks are to follow.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn take<const M: usize, const V: usize>(self, totals: Totals<M, V>) {
        for (row, totals) in totals.iter().enumerate() {
            let to = &mut self.to[row * self.pitch..][..self.columns];
            for (vector, [sum, rest]) in totals.iter().enumerate() {
                let numbers = if self.goes_on {
                    self.rests[row * V + vector] = Vector::of(*rest);
                    Vector::of(*sum)
                } else {
                    Vector::of(_mm256_add_ps(*sum, *rest))
                };
                let to = &mut to[(vector * LANES).min(self.columns)..];
                match to.first_chunk_mut::<LANES>() {
                    Some(to) => *to = numbers.0.map(MaybeUninit::new),
                    None => {
                        to.write_copy_of_slice(&numbers.0[..to.len()]);
                    }
                }
            }
        }
    }
}
