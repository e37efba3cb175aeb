//! The eigenvectors of a tridiagonalised matrix: its reflections multiplied out, then turned by the rotations of the QL
//! iteration. Eigenvectors are rows, so that rotations and reflections act on contiguous memory.

use std::ops::Range;

use super::wide::Wide;

/// Columns of a row are padded to a multiple of this.
pub(super) const PADDING: usize = 8;

/// The rotations of all sweeps, in order.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    /// Of rows `(i, i + 1)`, `i` falling from `top − 1` within a sweep: cosine and sine.
    rotations: Vec<[f64; 2]>,
    /// `top` and the end in `rotations` of each sweep.
    ends: Vec<(usize, usize)>,
}

impl Sweeps {
    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.rotations.clear();
        self.ends.clear();
    }

    /// Adds the sweep whose rotation of rows `(i, i + 1)` lies at `i · stride` plus two offsets, for the rows of `range`.
    #[inline(always)]
    pub(super) fn record(&mut self, from: &[f64], stride: usize, (cosine, sine): (usize, usize), range: Range<usize>) {
        let top = range.end;
        // Indexed: what an iterator's adapters are given is compiled without the vector instructions around it.
        self.rotations.reserve(range.len());
        for at in range.rev() {
            let one = &from[at * stride..(at + 1) * stride];
            self.rotations.push([one[cosine], one[sine]]);
        }
        self.ends.push((top, self.rotations.len()));
    }

    /// Applies all rotations to `rows`, block of columns by block of columns, which then stays in the nearest cache.
    #[inline(always)]
    pub(super) fn apply<W: Wide>(&self, rows: &mut [f64], stride: usize) {
        let mut block = Vec::new();
        let mut column = 0;
        while column + 8 * W::LANES <= stride {
            self.apply_block::<W, 8>(rows, stride, column, &mut block);
            column += 8 * W::LANES;
        }
        while column < stride {
            self.apply_block::<W, 2>(rows, stride, column, &mut block);
            column += 2 * W::LANES;
        }
    }

    /// Rotates `N` registers of columns; the row that two rotations share stays in registers.
    #[inline(always)]
    fn apply_block<W: Wide, const N: usize>(&self, rows: &mut [f64], stride: usize, column: usize, block: &mut Vec<W>) {
        // The block in contiguous memory.
        block.clear();
        for row in rows.chunks_exact(stride) {
            for q in 0..N {
                block.push(W::load(&row[column + q * W::LANES..]));
            }
        }
        let all = block.as_chunks_mut::<N>().0;
        let mut start = 0;
        for &(top, end) in &self.ends {
            let rotations = &self.rotations[start..end];
            start = end;
            let window = &mut all[top - rotations.len()..=top];
            let Some((last, rest)) = window.split_last_mut() else { continue };
            let mut carry = *last;
            let mut high = last;
            for (low, &[c, s]) in rest.iter_mut().rev().zip(rotations) {
                let (c, s) = (W::splat(c), W::splat(s));
                for q in 0..N {
                    high[q] = s.mul_add(low[q], c.mul(carry[q]));
                    carry[q] = s.neg_mul_add(carry[q], c.mul(low[q]));
                }
                high = low;
            }
            *high = carry;
        }
        for (row, block) in rows.chunks_exact_mut(stride).zip(all.iter()) {
            for q in 0..N {
                block[q].store(&mut row[column + q * W::LANES..]);
            }
        }
    }
}

/// Writes `Qᵀ` to `rows`, `Q` the product of the reflections `I − β v vᵀ`; row `k` of `reflections` is `v` of reflection
/// `k`, 0 up to column `k`. Both have rows of `stride` numbers, 0 beyond the first `d`.
#[inline(always)]
pub(super) fn multiply_out<W: Wide>(betas: &[f64], reflections: &[f64], rows: &mut [f64], stride: usize) {
    let d = betas.len();
    rows.fill(0.0);
    rows.iter_mut().step_by(stride + 1).for_each(|v| *v = 1.0);
    let mut k = d.saturating_sub(2);
    // Two at a time: (I − β w wᵀ) after (I − α v vᵀ) takes the products with both vectors in one pass.
    while k >= 2 {
        k -= 2;
        let start = (k + 1) / PADDING * PADDING;
        let (w, v) = reflections[k * stride..(k + 2) * stride].split_at(stride);
        let pair = Two::new::<W>((&v[start..], betas[k + 1]), (&w[start..], betas[k]));
        let mut groups = rows[(k + 1) * stride..d * stride].chunks_exact_mut(4 * stride);
        for group in &mut groups {
            pair.reflect::<W, 4>(group, stride, start);
        }
        for row in groups.into_remainder().chunks_exact_mut(stride) {
            pair.reflect::<W, 1>(row, stride, start);
        }
    }
    if k == 1 {
        let pair = Two::new::<W>((&reflections[..stride], 0.0), (&reflections[..stride], betas[0]));
        for row in rows[stride..d * stride].chunks_exact_mut(stride) {
            pair.reflect::<W, 1>(row, stride, 0);
        }
    }
}

/// Two reflections, `I − α v vᵀ` and then `I − β w wᵀ`, from the right.
struct Two<'a> {
    v: &'a [[f64; PADDING]],
    w: &'a [[f64; PADDING]],
    alpha: f64,
    beta: f64,
    /// `vᵀ w`.
    product: f64,
}

impl<'a> Two<'a> {
    #[inline(always)]
    fn new<W: Wide>((v, alpha): (&'a [f64], f64), (w, beta): (&'a [f64], f64)) -> Self {
        let (v, w) = (v.as_chunks::<PADDING>().0, w.as_chunks::<PADDING>().0);
        let mut sum = W::splat(0.0);
        for (v, w) in v.iter().zip(w) {
            for q in (0..PADDING).step_by(W::LANES) {
                sum = W::load(&v[q..]).mul_add(W::load(&w[q..]), sum);
            }
        }
        Self { v, w, alpha, beta, product: total(sum) }
    }

    /// Reflects `R` rows, which share the loads of the vectors.
    #[inline(always)]
    fn reflect<W: Wide, const R: usize>(&self, rows: &mut [f64], stride: usize, start: usize) {
        let (v, w) = (self.v, self.w);
        let n = v.len();
        let mut parts = rows.chunks_exact_mut(stride);
        let rows: [&mut [[f64; PADDING]]; R] =
            std::array::from_fn(|_| parts.next().map_or(&mut [][..], |row| &mut row[start..].as_chunks_mut().0[..n]));
        let mut sums = [[W::splat(0.0); 2]; R];
        for at in 0..n {
            for q in (0..PADDING).step_by(W::LANES) {
                let (v, w) = (W::load(&v[at][q..]), W::load(&w[at][q..]));
                for r in 0..R {
                    let row = W::load(&rows[r][at][q..]);
                    sums[r] = [row.mul_add(v, sums[r][0]), row.mul_add(w, sums[r][1])];
                }
            }
        }
        let factors: [[W; 2]; R] = std::array::from_fn(|r| {
            let first = self.alpha * total(sums[r][0]);
            let second = self.beta * (total(sums[r][1]) - first * self.product);
            [W::splat(first), W::splat(second)]
        });
        for at in 0..n {
            for q in (0..PADDING).step_by(W::LANES) {
                let (v, w) = (W::load(&v[at][q..]), W::load(&w[at][q..]));
                for r in 0..R {
                    let row = &mut rows[r][at][q..];
                    factors[r][1].neg_mul_add(w, factors[r][0].neg_mul_add(v, W::load(row))).store(row);
                }
            }
        }
    }
}

#[inline(always)]
fn total<W: Wide>(lanes: W) -> f64 {
    W::lanes(&[lanes]).iter().sum()
}
