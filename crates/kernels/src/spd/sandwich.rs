//! Sums `Σ w_j (T + c_j)^{-1} G (T + c_j)^{-1}` with tridiagonal `T` and symmetric `G`, several in lockstep: the derivatives
//! of sums of resolvents.
//!
//! With `T + c = U D Uᵀ`, `U` unit upper bidiagonal, first `H = U^{-1} G U^{-ᵀ}`, row by row from the last, then
//! `U^{-ᵀ} D^{-1} H D^{-1} U^{-1}` from the first. Both are symmetric, and in these orders an upper triangle is made from
//! upper triangles alone: two operations a number, a term and a pass.

use super::resolvents::{Room, TERMS};
use super::wide::Wide;

/// Memory of the sums.
pub(super) struct Sandwich<W> {
    /// Of each row: `u_i` and `1/δ_i` of [`TERMS`] terms at a time.
    couplings: Vec<[W; TERMS]>,
    inverses: Vec<[W; TERMS]>,
    /// `H`, then `U^{-ᵀ} D^{-1} H`.
    half: Vec<[W; TERMS]>,
    zeros: Vec<[W; TERMS]>,
    sum: Vec<W>,
}

impl<W> Default for Sandwich<W> {
    fn default() -> Self {
        Self { couplings: Vec::new(), inverses: Vec::new(), half: Vec::new(), zeros: Vec::new(), sum: Vec::new() }
    }
}

impl<W: Wide> Sandwich<W> {
    /// Makes room for matrices of `d`×`d`.
    #[inline(always)]
    fn size(&mut self, d: usize) {
        let zero = W::splat(0.0);
        for rows in [&mut self.couplings, &mut self.inverses, &mut self.zeros] {
            rows.resize(d, [zero; TERMS]);
        }
        self.half.resize(d * d, [zero; TERMS]);
        self.sum.resize(d * d, zero);
    }

    /// Factorises `T + c` for some terms.
    #[inline(always)]
    fn factorise(&mut self, diagonal: &[W], off: &[W], terms: &[(W, W)]) {
        let (zero, one) = (W::splat(0.0), W::splat(1.0));
        let mut below = [zero; TERMS];
        for i in (0..diagonal.len()).rev() {
            // The last row is coupled to none: the inverse pivot below it is 0.
            let coupling = if i + 1 < diagonal.len() { off[i] } else { zero };
            for q in 0..TERMS {
                let u = coupling.mul(below[q]);
                below[q] = one.div(u.neg_mul_add(coupling, diagonal[i].add(terms[q].0)));
                self.couplings[i][q] = u;
                self.inverses[i][q] = below[q];
            }
        }
    }

    /// `H` from the upper triangle of `G`.
    #[inline(always)]
    fn inward(&mut self, matrix: &[W], d: usize) {
        let zero = W::splat(0.0);
        for i in (0..d).rev() {
            let u_i = self.couplings[i];
            let (row, next) = self.half[i * d..].split_at_mut(d);
            let mut z = [zero; TERMS];
            // What stands right of the diagonal stands below it, too.
            let mut beside = [zero; TERMS];
            if i + 1 < d {
                let (row, next) = (&mut row[i + 1..d], &next[i + 1..d]);
                let (g, u) = (&matrix[i * d + i + 1..(i + 1) * d], &self.couplings[i + 1..d]);
                for (((h, below), g), u) in row.iter_mut().zip(next).zip(g).zip(u).rev() {
                    for q in 0..TERMS {
                        z[q] = u[q].neg_mul_add(z[q], *g);
                        h[q] = u_i[q].neg_mul_add(below[q], z[q]);
                    }
                }
                beside = row[0];
            }
            let g = matrix[i * d + i];
            for q in 0..TERMS {
                row[i][q] = u_i[q].neg_mul_add(beside[q], u_i[q].neg_mul_add(z[q], g));
            }
        }
    }

    /// Adds the terms to the sum, or begins it with them.
    #[inline(always)]
    fn outward(&mut self, off: &[W], terms: &[(W, W)], begin: bool) {
        let d = off.len();
        let zero = W::splat(0.0);
        let mut weights = [zero; TERMS];
        for q in 0..TERMS {
            weights[q] = terms[q].1;
        }
        // The number left of the diagonal is that above it.
        let mut beside = [zero; TERMS];
        for i in 0..d {
            let e = self.inverses[i];
            let (done, rest) = self.half.split_at_mut(i * d);
            let above = if i > 0 { &done[(i - 1) * d + i..] } else { &self.zeros[..d] };
            let mut coupling = if i > 0 { off[i - 1] } else { zero };
            let b = coupling;
            let mut r = beside;
            let columns = rest[i..d].iter_mut().zip(above).zip(&mut self.sum[i * d + i..(i + 1) * d]);
            let factors = self.inverses[i..d].iter().zip(&off[i..d]);
            for (at, (((h, above), sum), (inverses, next))) in columns.zip(factors).enumerate() {
                let mut total = if begin { zero } else { *sum };
                for q in 0..TERMS {
                    h[q] = e[q].mul(b.neg_mul_add(above[q], h[q]));
                    r[q] = inverses[q].mul(coupling.neg_mul_add(r[q], h[q]));
                    total = weights[q].mul_add(r[q], total);
                }
                *sum = total;
                coupling = *next;
                if at == 1 {
                    beside = r;
                }
            }
        }
    }
}

impl<W: Wide> Room<W> {
    /// Replaces the upper triangle of `G` in `work.matrix` by that of `Σ w (T + c)^{-1} G (T + c)^{-1}`.
    #[inline(always)]
    pub(super) fn sandwiches(&mut self) {
        let d = self.d;
        let sandwich = &mut self.sandwich;
        sandwich.size(d);
        for terms in self.terms.chunks_exact(TERMS) {
            sandwich.factorise(&self.work.diagonal[..d], &self.work.off[..d], terms);
            sandwich.inward(&self.work.matrix, d);
            sandwich.outward(&self.work.off[..d], terms, terms.as_ptr() == self.terms.as_ptr());
        }
        std::mem::swap(&mut self.work.matrix, &mut sandwich.sum);
    }
}
