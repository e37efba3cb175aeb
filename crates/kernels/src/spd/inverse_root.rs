//! Inverse square roots of several SPD matrices in lockstep, without an eigendecomposition.
//!
//! `A = Q T Qᵀ` with a tridiagonal `T`; `T^{-½} = Σ w_j (T + c_j)^{-1}` by [`super::rational`]. The inverse of a
//! tridiagonal matrix has in each row, from the diagonal on, numbers in the ratios of a two-term recurrence, so that a
//! term costs `O(d²)`; then the reflections that made `T` are applied in reverse.

use std::any::Any;
use std::cell::RefCell;

use super::bidiagonal::bidiagonalise;
use super::linalg::mirror;
use super::rational::{self, Fractions};
use super::tridiagonal::{Tridiagonal, update, update_and_multiply};
use super::wide::{Job, Wide, dispatch};

/// How many matrices a call should be given at a time.
pub(crate) const TOGETHER: usize = 4;

/// Terms of the sum that are added in one pass.
const TERMS: usize = 4;

/// Rows that share the loads of a reflection.
const ROWS: usize = 4;

/// A matrix that `scale` brings to known bounds: for an SPD matrix, by its upper triangle, the eigenvalues to
/// `[ratio², 1]`, for any other the singular values to `[ratio, 1]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scaled<'a> {
    pub(crate) matrix: &'a [f64],
    pub(crate) scale: f64,
    pub(crate) ratio: f64,
}

/// `tr A^½` and `tr A^{-½}`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traces {
    pub(crate) root: f64,
    pub(crate) inverse_root: f64,
}

/// Whether a matrix with this ratio can be given to [`inverse_roots`] and [`traces`].
pub(crate) fn covers(ratio: f64) -> bool {
    rational::inverse_root(ratio).is_some()
}

/// `A^{-½}` of scaled SPD `d`×`d` matrices, exactly symmetric. An error of a few `ε / ratio²` is left, that of `A` itself.
///
/// What a matrix gets does not depend on its neighbours.
///
/// # Panics
/// If a ratio is not covered.
pub(crate) fn inverse_roots(all: &[Scaled], d: usize) -> Vec<Vec<f64>> {
    dispatch(Roots { all, d, of: Of::Matrix })
}

/// `(FᵀF)^{-½}` of scaled `d`×`d` matrices, with an error of a few `ε / ratio`: from a bidiagonal matrix `B`, in pivots of
/// `BᵀB + c I` that are sums and quotients of positive numbers.
///
/// # Panics
/// If a ratio is not covered.
pub(crate) fn gram_inverse_roots(all: &[Scaled], d: usize) -> Vec<Vec<f64>> {
    dispatch(Roots { all, d, of: Of::Gram })
}

/// The traces alone of the square roots and of the inverse square roots of scaled SPD matrices, at less than half the
/// cost.
///
/// # Panics
/// If a ratio is not covered.
pub(crate) fn traces(all: &[Scaled], d: usize) -> Vec<Traces> {
    dispatch(Sums { all, d })
}

/// What the inverse root is of.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Of {
    Matrix,
    Gram,
}

struct Roots<'a> {
    all: &'a [Scaled<'a>],
    d: usize,
    of: Of,
}

struct Sums<'a> {
    all: &'a [Scaled<'a>],
    d: usize,
}

impl Job for Roots<'_> {
    type Out = Vec<Vec<f64>>;

    #[inline(always)]
    fn run<W: Wide>(self) -> Self::Out {
        let mut room = Room::<W>::take(self.d);
        let mut out = Vec::with_capacity(self.all.len());
        for group in self.all.chunks(W::LANES) {
            room.reduce(group, self.of);
            room.sum_inverses(self.of);
            room.expand();
            room.store(group.len(), &mut out);
        }
        room.keep();
        out
    }
}

impl Job for Sums<'_> {
    type Out = Vec<Traces>;

    #[inline(always)]
    fn run<W: Wide>(self) -> Self::Out {
        let mut room = Room::<W>::take(self.d);
        let mut out = Vec::with_capacity(self.all.len());
        for group in self.all.chunks(W::LANES) {
            room.reduce(group, Of::Matrix);
            let [root, inverse_root] = room.sum_traces();
            let (root, inverse_root) = ([root], [inverse_root]);
            let lanes = W::lanes(&root).iter().zip(W::lanes(&inverse_root));
            out.extend(lanes.take(group.len()).map(|(&root, &inverse_root)| Traces { root, inverse_root }));
        }
        room.keep();
        out
    }
}

/// Memory of one thread, used again for matrices of the same size.
struct Room<W> {
    d: usize,
    work: Tridiagonal<W>,
    /// Poles and weights of each term; a lane that needs fewer terms has weights of 0.
    terms: Vec<(W, W)>,
    /// First number of a row of the inverse, and the factors from column to column, of [`TERMS`] terms at a time.
    starts: Vec<[W; TERMS]>,
    factors: Vec<[W; TERMS]>,
    vectors: [Vec<W>; 3],
}

thread_local! {
    static ROOM: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

impl<W: Wide> Room<W> {
    #[inline(always)]
    fn take(d: usize) -> Box<Self> {
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
            })
        })
    }

    #[inline(always)]
    fn keep(self: Box<Self>) {
        ROOM.set(Some(self));
    }

    /// Reduces the matrices of a group and looks up the terms of their sums.
    #[inline(always)]
    fn reduce(&mut self, group: &[Scaled], of: Of) {
        let one: [Scaled; 8] = std::array::from_fn(|k| group[k.min(group.len() - 1)]);
        let scales = one.map(|scaled| scaled.scale);
        match of {
            Of::Matrix => {
                self.work.load(&one.map(|scaled| (scaled.matrix, 0.0)), &scales);
                self.work.reduce();
            }
            Of::Gram => {
                self.work.load_whole(&one.map(|scaled| scaled.matrix), &scales);
                bidiagonalise(&mut self.work, &mut self.vectors);
            }
        }
        let fractions: [&Fractions; 8] = std::array::from_fn(|k| {
            let ratio = one[k].ratio;
            rational::inverse_root(ratio).unwrap_or_else(|| panic!("a ratio of {ratio} is not covered"))
        });
        let n = fractions.iter().map(|f| f.poles.len()).max().unwrap_or(0).next_multiple_of(TERMS);
        self.terms.clear();
        let of = |from: &[f64], j: usize, other: f64| from.get(j).copied().unwrap_or(other);
        self.terms.extend((0..n).map(|j| {
            let pole = W::from_lanes(|k| of(&fractions[k].poles, j, 1.0));
            (pole, W::from_lanes(|k| of(&fractions[k].weights, j, 0.0)))
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
    fn inverses(&mut self, terms: usize) {
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
    fn sum_inverses(&mut self, of: Of) {
        let d = self.d;
        let zero = W::splat(0.0);
        for terms in (0..self.terms.len()).step_by(TERMS) {
            match of {
                Of::Matrix => self.inverses(terms),
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
    fn sum_traces(&mut self) -> [W; 2] {
        let (mut root, mut inverse_root) = (W::splat(0.0), W::splat(0.0));
        for first in (0..self.terms.len()).step_by(TERMS) {
            self.inverses(first);
            for starts in &self.starts[..self.d] {
                for (&start, &(pole, weight)) in starts.iter().zip(&self.terms[first..]) {
                    inverse_root = inverse_root.add(start);
                    root = root.add(pole.neg_mul_add(start, weight));
                }
            }
        }
        [root, inverse_root]
    }

    /// Replaces the upper triangle of `S` in `work.matrix` by that of `Q S Qᵀ`.
    #[inline(always)]
    fn expand(&mut self) {
        let d = self.d;
        let reflections = d.saturating_sub(2);
        let Self { work: Tridiagonal { matrix, reflections: all, betas, .. }, vectors: [old_v, old_w, p], .. } = self;
        // A row above the block of a reflection is reflected from the right alone.
        let mut row = 0;
        while row + ROWS <= reflections {
            reflect_rows::<W, ROWS>(&mut matrix[row * d..(row + ROWS) * d], d, row, all, betas);
            row += ROWS;
        }
        for row in row..reflections {
            reflect_rows::<W, 1>(&mut matrix[row * d..(row + 1) * d], d, row, all, betas);
        }
        // Blocks from both sides; the update of one is applied in the pass that multiplies the next.
        let zero = W::splat(0.0);
        old_v.fill(zero);
        old_w.fill(zero);
        for k in (0..reflections).rev() {
            let start = k + 1;
            let v = &all[k * d + start..(k + 1) * d];
            let p = &mut p[start..];
            p.fill(zero);
            update_and_multiply(&mut matrix[start * d..], d, start, (&old_v[start..], &old_w[start..]), v, p);
            let beta = betas[k];
            let product = v.iter().zip(p.iter()).fold(zero, |sum, (v, p)| v.mul_add(*p, sum));
            let half = W::splat(0.5).mul(beta).mul(beta).mul(product);
            for ((v, p), (old_v, old_w)) in v.iter().zip(p).zip(old_v[start..].iter_mut().zip(&mut old_w[start..])) {
                *old_v = *v;
                *old_w = v.neg_mul_add(half, beta.mul(*p));
            }
        }
        for i in 1..d {
            update(&mut matrix[i * d + i..(i + 1) * d], &old_v[i..], &old_w[i..]);
        }
    }

    /// The matrices of the first `used` lanes, both triangles.
    #[inline(always)]
    fn store(&self, used: usize, out: &mut Vec<Vec<f64>>) {
        let d = self.d;
        let first = out.len();
        out.extend((0..used).map(|_| vec![0.0; d * d]));
        let lanes = W::lanes(&self.work.matrix);
        for (lane, matrix) in out[first..].iter_mut().enumerate() {
            for (i, row) in matrix.chunks_exact_mut(d).enumerate() {
                let from = lanes[(i * d + i) * W::LANES..(i + 1) * d * W::LANES].chunks_exact(W::LANES);
                row[i..].iter_mut().zip(from).for_each(|(v, from)| *v = from[lane]);
            }
            mirror(matrix, d);
        }
    }
}

/// Reflects `R` rows from the right by all reflections from the last down to their own number; `rows` begins with row
/// `first`.
#[inline(always)]
fn reflect_rows<W: Wide, const R: usize>(rows: &mut [W], d: usize, first: usize, all: &[W], betas: &[W]) {
    let zero = W::splat(0.0);
    let mut parts = rows.chunks_exact_mut(d);
    let mut rows: [&mut [W]; R] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    for k in (first..d - 2).rev() {
        let v = &all[k * d + k + 1..(k + 1) * d];
        let n = v.len();
        let tails = rows.each_mut().map(|row| &mut row[k + 1..][..n]);
        let mut sums = [zero; R];
        for (j, v) in v.iter().enumerate() {
            for r in 0..R {
                sums[r] = tails[r][j].mul_add(*v, sums[r]);
            }
        }
        // A row takes part in the reflections from its own number on.
        let factors: [W; R] = std::array::from_fn(|r| if first + r <= k { betas[k].mul(sums[r]) } else { zero });
        for (j, v) in v.iter().enumerate() {
            for r in 0..R {
                tails[r][j] = factors[r].neg_mul_add(*v, tails[r][j]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spd::linalg::{Form, square};
    use random::{Axis, Seeds};
    use testkit::tolerance::assert_close;

    #[test]
    fn inverse_roots_and_traces_of_known_spectra() {
        let mut stream = Seeds::new(21).stream(Axis::Test, &[]);
        for d in [1, 2, 3, 4, 5, 7, 8, 17, 33, 64] {
            for count in [1, 3, 4, 6] {
                // One matrix by ratio; the smallest have bars of their own.
                let ratios: Vec<f64> = (0..count).map(|k| [0.5, 1.0, 0.03, 1e-3, 0.2, 1e-5][k]).collect();
                let spectra: Vec<Vec<f64>> = ratios
                    .iter()
                    .map(|ratio| (0..d).map(|_| ratio.powf(2.0 * stream.range(0.0, 1.0))).collect())
                    .collect();
                let rotations: Vec<Vec<f64>> = (0..count).map(|_| testkit::spd::orthogonal(d, &mut stream)).collect();
                let of = |q: &[f64], values: &[f64]| {
                    let scaled: Vec<f64> = q.iter().enumerate().map(|(at, v)| v * values[at / d]).collect();
                    square((q, Form::Transposed), (&scaled, Form::Plain), d)
                };
                let all: Vec<Vec<f64>> = rotations.iter().zip(&spectra).map(|(q, s)| of(q, s)).collect();
                let views: Vec<Scaled> =
                    all.iter().zip(&ratios).map(|(matrix, &ratio)| Scaled { matrix, scale: 1.0, ratio }).collect();
                let (roots, sums) = (inverse_roots(&views, d), traces(&views, d));
                for k in 0..count {
                    let values: Vec<f64> = spectra[k].iter().map(|v| 1.0 / v.sqrt()).collect();
                    // Of a matrix with rounding errors, 1 / √λ is known up to ε / 2 λ^(3/2).
                    let bar = 4e-15 / ratios[k].powi(2) * d as f64;
                    let name = format!("d {d}, matrix {k} of {count}");
                    assert_close(&name, &roots[k], &of(&rotations[k], &values), d * d, bar);
                    let root: f64 = spectra[k].iter().map(|v| v.sqrt()).sum();
                    assert!((sums[k].root / root - 1.0).abs() < bar, "{name}: {} for {root}", sums[k].root);
                    let inverse: f64 = values.iter().sum();
                    assert!((sums[k].inverse_root / inverse - 1.0).abs() < bar, "{name}: inverse root");
                    let alone = inverse_roots(&views[k..=k], d);
                    assert_eq!(alone[0], roots[k], "{name} beside others");
                }
            }
        }
    }

    #[test]
    fn gram_inverse_roots_of_known_singular_values() {
        let mut stream = Seeds::new(22).stream(Axis::Test, &[]);
        for d in [1, 2, 3, 5, 6, 8, 17, 64] {
            let ratios = [0.5, 1.0, 0.03, 1e-3, 1e-5];
            let (mut all, mut want) = (Vec::new(), Vec::new());
            for ratio in ratios {
                let values: Vec<f64> = (0..d).map(|_| f64::powf(ratio, stream.range(0.0, 1.0))).collect();
                let (left, right) =
                    (testkit::spd::orthogonal(d, &mut stream), testkit::spd::orthogonal(d, &mut stream));
                let times = |f: &dyn Fn(f64) -> f64| -> Vec<f64> {
                    right.iter().enumerate().map(|(at, v)| v * f(values[at / d])).collect()
                };
                all.push(square((&left, Form::Transposed), (&times(&|v| 3.0 * v), Form::Plain), d));
                want.push(square((&right, Form::Transposed), (&times(&|v| 1.0 / v), Form::Plain), d));
            }
            let views: Vec<Scaled> =
                all.iter().zip(ratios).map(|(matrix, ratio)| Scaled { matrix, scale: 1.0 / 3.0, ratio }).collect();
            let got = gram_inverse_roots(&views, d);
            for (k, ratio) in ratios.into_iter().enumerate() {
                let bar = 4e-15 / ratio * d as f64;
                assert_close(&format!("d {d}, ratio {ratio}"), &got[k], &want[k], d * d, bar);
            }
        }
    }
}
