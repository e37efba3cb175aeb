//! Sums `Σ w_j (T + c_j)^{-1}` of symmetric matrices in lockstep, without an eigendecomposition.
//!
//! `A = Q T Qᵀ` with a tridiagonal `T`. The inverse of a tridiagonal matrix has in each row, from the diagonal on, numbers in
//! the ratios of a two-term recurrence, so that a term costs `O(d²)`; then the reflections that made `T` are applied in
//! reverse.

use std::any::Any;
use std::cell::RefCell;

use super::bidiagonal::Delayed;
use super::congruence::expand;
use super::linalg::mirror;
use super::rational::Fractions;
use super::sandwich::Sandwich;
use super::tridiagonal::Tridiagonal;
use super::wide::Wide;

/// Terms of a sum that are added in one pass.
pub(super) const TERMS: usize = 4;

/// What a sum is of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Of {
    /// The matrix.
    Matrix,
    /// The matrix, with a few digits.
    MatrixRoughly,
    /// `FᵀF` of a bidiagonalised `F`.
    Gram,
}

/// Memory of one thread, used again for matrices of the same size.
pub(super) struct Room<W> {
    pub(super) d: usize,
    pub(super) work: Tridiagonal<W>,
    /// Poles and weights of each term; a lane that needs fewer terms has weights of 0.
    pub(super) terms: Vec<(W, W)>,
    /// First number of a row of the inverse, and the factors from column to column, of [`TERMS`] terms at a time.
    pub(super) starts: Vec<[W; TERMS]>,
    factors: Vec<[W; TERMS]>,
    pub(super) vectors: [Vec<W>; 3],
    pub(super) delayed: Delayed<W>,
    /// Memory of the derivatives, empty until there is one.
    pub(super) sandwich: Sandwich<W>,
}

thread_local! {
    static ROOM: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

impl<W: Wide> Room<W> {
    #[inline(always)]
    pub(super) fn take(d: usize) -> Box<Self> {
        let kept = ROOM.take().and_then(|room| room.downcast::<Self>().ok()).filter(|room| room.d == d);
        kept.unwrap_or_else(|| {
            let zero = W::splat(0.0);
            Box::new(Self {
                d,
                work: Tridiagonal::new(d),
                terms: Vec::new(),
                starts: vec![[zero; TERMS]; d],
                factors: vec![[zero; TERMS]; d],
                vectors: [vec![zero; d], vec![zero; d], vec![zero; d]],
                delayed: Delayed::new(d),
                sandwich: Sandwich::default(),
            })
        })
    }

    #[inline(always)]
    pub(super) fn keep(self: Box<Self>) {
        ROOM.set(Some(self));
    }

    /// Makes the sum that of `fractions`, one for each lane, with poles and weights in these units.
    #[inline(always)]
    pub(super) fn sum_of(&mut self, fractions: [&Fractions; 8], [poles, weights]: [[f64; 8]; 2]) {
        let n = fractions.iter().map(|f| f.poles.len()).max().unwrap_or(0).next_multiple_of(TERMS);
        self.terms.clear();
        let of = |from: &[f64], j: usize, other: f64| from.get(j).copied().unwrap_or(other);
        self.terms.extend((0..n).map(|j| {
            let pole = W::from_lanes(|k| of(&fractions[k].poles, j, 1.0) * poles[k]);
            (pole, W::from_lanes(|k| of(&fractions[k].weights, j, 0.0) * weights[k]))
        }));
    }

    /// As [`Self::inverses`], of `BᵀB + c I`: nothing is subtracted from anything.
    #[inline(always)]
    fn gram_inverses(&mut self, terms: usize) {
        let d = self.d;
        let terms = &self.terms[terms..terms + TERMS];
        let (diagonal, off) = (&self.work.diagonal[..d], &self.work.off[..d]);
        let (starts, factors) = (&mut self.starts[..d], &mut self.factors[..d]);
        let (zero, one) = (W::splat(0.0), W::splat(1.0));
        // With pivots η_k = b_{k-1}² + s_k from below, s_k = c + a_k² s_{k+1} / η_{k+1}; kept where the row's start will be.
        let mut below = [zero; TERMS];
        for k in (0..d).rev() {
            let (a, b) = (diagonal[k], if k > 0 { off[k - 1] } else { zero });
            let left = if k > 0 { diagonal[k - 1] } else { zero };
            for q in 0..TERMS {
                // Before the last row comes the square of the last diagonal entry.
                let s = if k + 1 == d { a.mul_add(a, terms[q].0) } else { below[q] };
                starts[k][q] = s;
                let inverse = one.div(b.mul_add(b, s));
                factors[k][q] = zero.sub(left.mul(b).mul(inverse));
                below[q] = left.mul(left).mul(s.mul(inverse)).add(terms[q].0);
            }
        }
        // With pivots δ_k = a_k² + c + t_k from above, t_{k+1} = b_k² (c + t_k) / δ_k.
        let mut above = [zero; TERMS];
        for k in 0..d {
            for q in 0..TERMS {
                starts[k][q] = terms[q].1.div(above[q].add(starts[k][q]));
                let t = terms[q].0.add(above[q]);
                above[q] = off[k].mul(off[k]).mul(t).div(diagonal[k].mul_add(diagonal[k], t));
            }
        }
    }

    /// For each of the terms, `w` times the diagonal of `(T + c)^{-1}`, and the factors by which a row goes on from column
    /// `k − 1` to `k`: `−b_{k-1} / η_k` with the pivots `η` of the elimination from below.
    #[inline(always)]
    pub(super) fn inverses(&mut self, terms: usize) {
        let d = self.d;
        let terms = &self.terms[terms..terms + TERMS];
        let (diagonal, off) = (&self.work.diagonal[..d], &self.work.off[..d]);
        let (starts, factors) = (&mut self.starts[..d], &mut self.factors[..d]);
        let zero = W::splat(0.0);
        // What the rows below leave of a pivot, b_k² / η_{k+1}; kept where the row's start will be.
        let mut below = [zero; TERMS];
        for k in (0..d).rev() {
            let coupling = if k > 0 { off[k - 1] } else { zero };
            starts[k] = below;
            for q in 0..TERMS {
                let factor = coupling.div(diagonal[k].add(terms[q].0).sub(below[q]));
                factors[k][q] = zero.sub(factor);
                below[q] = factor.mul(coupling);
            }
        }
        let mut above = [zero; TERMS];
        for k in 0..d {
            for q in 0..TERMS {
                let rest = diagonal[k].add(terms[q].0).sub(above[q]);
                starts[k][q] = terms[q].1.div(rest.sub(starts[k][q]));
                above[q] = off[k].mul(off[k]).div(rest);
            }
        }
    }

    /// The upper triangle of `T^{-½}`, to `work.matrix`.
    #[inline(always)]
    pub(super) fn sum_inverses(&mut self, of: Of) {
        let d = self.d;
        let zero = W::splat(0.0);
        for terms in (0..self.terms.len()).step_by(TERMS) {
            match of {
                Of::Matrix | Of::MatrixRoughly => self.inverses(terms),
                Of::Gram => self.gram_inverses(terms),
            }
            for i in 0..d {
                let row = &mut self.work.matrix[i * d + i..(i + 1) * d];
                let mut x = self.starts[i];
                let before = if terms == 0 { zero } else { row[0] };
                row[0] = before.add(x[0].add(x[1]).add(x[2].add(x[3])));
                for (v, factors) in row[1..].iter_mut().zip(&self.factors[i + 1..]) {
                    for q in 0..TERMS {
                        x[q] = x[q].mul(factors[q]);
                    }
                    let before = if terms == 0 { zero } else { *v };
                    *v = before.add(x[0].add(x[1]).add(x[2].add(x[3])));
                }
            }
        }
    }

    /// `tr T^½ = Σ w_j tr (I − c_j (T + c_j)^{-1})` and `tr T^{-½}`.
    ///
    /// The same as `tr T T^{-½}`, but an inverse with a small pole, which is large and known to `ε` over the pole, counts by
    /// its product with the pole.
    #[inline(always)]
    pub(super) fn sum_traces(&mut self) -> [W; 2] {
        let (mut root, mut inverse_root) = (W::splat(0.0), W::splat(0.0));
        for terms in self.terms.as_chunks::<TERMS>().0 {
            for (trace, &(pole, weight)) in self.traces(terms).into_iter().zip(terms) {
                inverse_root = weight.mul_add(trace, inverse_root);
                let rest = pole.neg_mul_add(trace, W::splat(self.d as f64));
                root = weight.mul_add(rest, root);
            }
        }
        [root, inverse_root]
    }

    /// `tr (T + c)^{-1} = Σ δ'_k / δ_k` of each of the terms, the logarithmic derivative by `c` of the pivots
    /// `δ_{k+1} = a_{k+1} + c − b_k² / δ_k`: one quotient a pivot.
    #[inline(always)]
    fn traces(&self, terms: &[(W, W); TERMS]) -> [W; TERMS] {
        let d = self.d;
        let (zero, one) = (W::splat(0.0), W::splat(1.0));
        let (mut sums, mut below, mut slopes) = ([zero; TERMS], [zero; TERMS], [one; TERMS]);
        for (diagonal, off) in self.work.diagonal[..d].iter().zip(&self.work.off[..d]) {
            let square = off.mul(*off);
            for q in 0..TERMS {
                let inverse = one.div(diagonal.add(terms[q].0).sub(below[q]));
                let share = slopes[q].mul(inverse);
                sums[q] = sums[q].add(share);
                below[q] = square.mul(inverse);
                slopes[q] = below[q].mul_add(share, one);
            }
        }
        sums
    }

    /// Replaces the upper triangle of `S` in `work.matrix` by that of `Q S Qᵀ`.
    #[inline(always)]
    pub(super) fn expand(&mut self) {
        expand(&mut self.work, &mut self.vectors);
    }

    /// Writes the matrices of the lanes, both triangles.
    #[inline(always)]
    pub(super) fn store<'a>(&self, matrices: impl Iterator<Item = &'a mut [f64]>) {
        let d = self.d;
        let lanes = W::lanes(&self.work.matrix);
        for (lane, matrix) in matrices.enumerate() {
            for (i, row) in matrix.chunks_exact_mut(d).enumerate() {
                let from = lanes[(i * d + i) * W::LANES..(i + 1) * d * W::LANES].chunks_exact(W::LANES);
                row[i..].iter_mut().zip(from).for_each(|(v, from)| *v = from[lane]);
            }
            mirror(matrix, d);
        }
    }
}
