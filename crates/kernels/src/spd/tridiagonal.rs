//! Householder tridiagonalisation of several symmetric matrices in lockstep (Golub and Van Loan, *Matrix Computations*,
//! 4th ed., section 8.3.1).
//!
//! Only the upper triangle is read and updated. The rank-2 update of a step is applied in the pass that multiplies the
//! updated matrix with the next reflection's vector, so that the matrix is read and written once a step.

use super::linalg::symmetrise;
use super::wide::{Wide, inner};

/// `Qᵀ A Q = T` of the matrices in the lanes, `Q` as a product of reflections `I − β v vᵀ`.
#[derive(Debug, Default)]
pub(super) struct Tridiagonal<W> {
    /// The matrices, of which the upper triangle counts; destroyed.
    pub(super) matrix: Vec<W>,
    pub(super) diagonal: Vec<W>,
    /// `off[i]` couples `i` and `i + 1`; one unused entry at the end.
    pub(super) off: Vec<W>,
    /// Row `k` holds the vector of reflection `k` in its columns `k + 1..`.
    pub(super) reflections: Vec<W>,
    pub(super) betas: Vec<W>,
}

impl<W: Wide> Tridiagonal<W> {
    /// Room for matrices of `d`×`d`.
    pub(super) fn new(d: usize) -> Self {
        let zeros = |n: usize| vec![W::splat(0.0); n];
        Self { matrix: zeros(d * d), diagonal: zeros(d), off: zeros(d), reflections: zeros(d * d), betas: zeros(d) }
    }

    /// Puts the matrices' upper triangles in the lanes, each less a multiple of the identity, then scaled.
    #[inline(always)]
    pub(super) fn load(&mut self, group: &[(&[f64], f64)], scales: &[f64]) {
        let d = self.diagonal.len();
        // Lanes without a matrix repeat the first.
        let of = |k: usize| if k < group.len() { k } else { 0 };
        let (factors, shifts) = (W::from_lanes(|k| scales[of(k)]), W::from_lanes(|k| group[of(k)].1));
        let sources: [&[f64]; 8] = std::array::from_fn(|k| group[of(k)].0);
        for i in 0..d {
            let rows: [&[f64]; 8] = std::array::from_fn(|k| &sources[k][i * d + i..(i + 1) * d]);
            let target = &mut self.matrix[i * d + i..(i + 1) * d];
            for (j, v) in target.iter_mut().enumerate() {
                *v = W::from_lanes(|k| rows[k][j]).mul(factors);
            }
            target[0] = W::from_lanes(|k| rows[k][0]).sub(shifts).mul(factors);
        }
    }

    /// Puts symmetric matrices, one after the other, in the lanes: each the mean of itself and its transpose.
    #[inline(always)]
    pub(super) fn load_symmetric(&mut self, group: &mut [f64]) {
        let d = self.diagonal.len();
        group.chunks_exact_mut(d * d).for_each(|matrix| symmetrise(matrix, d));
        let matrices: [(&[f64], f64); 8] = std::array::from_fn(|k| {
            let first = if (k + 1) * d * d <= group.len() { k * d * d } else { 0 };
            (&group[first..first + d * d], 0.0)
        });
        self.load(&matrices, &[1.0; 8]);
    }

    /// Puts whole matrices in the lanes, scaled.
    #[inline(always)]
    pub(super) fn load_whole(&mut self, group: &[&[f64]], scales: &[f64]) {
        let of = |k: usize| if k < group.len() { k } else { 0 };
        let factors = W::from_lanes(|k| scales[of(k)]);
        let n = self.matrix.len();
        let sources: [&[f64]; 8] = std::array::from_fn(|k| &group[of(k)][..n]);
        for (at, v) in self.matrix.iter_mut().enumerate() {
            *v = W::from_lanes(|k| sources[k][at]).mul(factors);
        }
    }

    /// Reduces what is in `matrix`.
    #[inline(always)]
    pub(super) fn reduce(&mut self) {
        let d = self.diagonal.len();
        let zero = W::splat(0.0);
        // Vectors of the update that is still to be applied: A − v wᵀ − w vᵀ.
        let (mut old_v, mut old_w, mut next) = (vec![zero; d], vec![zero; d], vec![zero; d]);
        for k in 0..d.saturating_sub(2) {
            let row = &mut self.matrix[k * d + k..(k + 1) * d];
            update(row, &old_v[k..], &old_w[k..]);
            self.diagonal[k] = row[0];
            let v = &mut self.reflections[k * d + k + 1..(k + 1) * d];
            v.copy_from_slice(&row[1..]);
            (self.off[k], self.betas[k]) = reflection(v);
            let p = &mut next[k + 1..];
            p.fill(zero);
            update_and_multiply(&mut self.matrix[(k + 1) * d..], d, k + 1, (&old_v[k + 1..], &old_w[k + 1..]), v, p);
            let beta = self.betas[k];
            let half = W::splat(0.5).mul(beta).mul(beta).mul(inner(v, p));
            for ((v, p), (old_v, old_w)) in v.iter().zip(p).zip(old_v[k + 1..].iter_mut().zip(&mut old_w[k + 1..])) {
                *old_v = *v;
                *old_w = v.neg_mul_add(half, beta.mul(*p));
            }
        }
        for k in d.saturating_sub(2)..d {
            let row = &mut self.matrix[k * d + k..(k + 1) * d];
            update(row, &old_v[k..], &old_w[k..]);
            self.diagonal[k] = row[0];
            self.off[k] = row.get(1).copied().unwrap_or(zero);
        }
    }
}

/// `row −= v₀ w + w₀ v`.
#[inline(always)]
pub(super) fn update<W: Wide>(row: &mut [W], v: &[W], w: &[W]) {
    let (v0, w0) = (v[0], w[0]);
    for ((a, v), w) in row.iter_mut().zip(v).zip(w) {
        *a = w0.neg_mul_add(*v, v0.neg_mul_add(*w, *a));
    }
}

/// Makes of the row `v` the vector of the reflection that leaves its first entry alone; what that entry becomes, and `β`.
#[inline(always)]
pub(super) fn reflection<W: Wide>(v: &mut [W]) -> (W, W) {
    let zero = W::splat(0.0);
    let tail = inner(&v[1..], &v[1..]);
    let first = v[0];
    let norm = first.mul_add(first, tail).sqrt();
    let alpha = zero.below(first).select(zero.sub(norm), norm);
    let lead = first.sub(alpha);
    let done = tail.at_most(zero);
    let beta = W::splat(2.0).div(lead.mul_add(lead, tail));
    v[0] = lead;
    (done.select(first, alpha), done.select(zero, beta))
}

/// `A −= v wᵀ + w vᵀ` of the upper triangle of the block from row and column `start` on, and `p += A x`; `rows` begins
/// with row `start`, the vectors with entry `start`.
#[inline(always)]
pub(super) fn update_and_multiply<W: Wide>(
    rows: &mut [W],
    d: usize,
    start: usize,
    (v, w): (&[W], &[W]),
    x: &[W],
    p: &mut [W],
) {
    let n = d - start;
    let (v, w, x, p) = (&v[..n], &w[..n], &x[..n], &mut p[..n]);
    let mut i = 0;
    while i + 1 < n {
        let (upper, lower) = rows[i * d..].split_at_mut(d);
        let (upper, lower) = (&mut upper[start + i..d], &mut lower[start + i + 1..d]);
        let (v0, w0, v1, w1, x0, x1) = (v[i], w[i], v[i + 1], w[i + 1], x[i], x[i + 1]);
        update(&mut upper[..2], &v[i..i + 2], &w[i..i + 2]);
        update(&mut lower[..1], &v[i + 1..i + 2], &w[i + 1..i + 2]);
        let mut sum0 = upper[0].mul_add(x0, upper[1].mul(x1));
        let mut sum1 = upper[1].mul_add(x0, lower[0].mul(x1));
        let m = n - i - 2;
        let (a, b) = (&mut upper[2..][..m], &mut lower[1..][..m]);
        let (v, w, x, p_rest) = (&v[i + 2..][..m], &w[i + 2..][..m], &x[i + 2..][..m], &mut p[i + 2..][..m]);
        for j in 0..m {
            let (vj, wj, xj) = (v[j], w[j], x[j]);
            let aj = w0.neg_mul_add(vj, v0.neg_mul_add(wj, a[j]));
            let bj = w1.neg_mul_add(vj, v1.neg_mul_add(wj, b[j]));
            a[j] = aj;
            b[j] = bj;
            sum0 = aj.mul_add(xj, sum0);
            sum1 = bj.mul_add(xj, sum1);
            p_rest[j] = bj.mul_add(x1, aj.mul_add(x0, p_rest[j]));
        }
        p[i] = p[i].add(sum0);
        p[i + 1] = p[i + 1].add(sum1);
        i += 2;
    }
    if i < n {
        let last = &mut rows[i * d + d - 1..i * d + d];
        update(last, &v[i..], &w[i..]);
        p[i] = last[0].mul_add(x[i], p[i]);
    }
}
