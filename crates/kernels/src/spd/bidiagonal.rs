//! Householder bidiagonalisation of several matrices in lockstep (Golub and Van Loan, *Matrix Computations*, 4th ed.,
//! section 5.4.8).
//!
//! The matrices in the lanes are larger than the nearest cache, so that what counts is how often they are read and written:
//! updates wait in [`Delayed`], and those of two steps are applied in one pass that multiplies as well.

use super::tridiagonal::{Tridiagonal, reflection};
use super::wide::{Wide, inner};

/// The update `F −= u wᵀ + y vᵀ` of a step, `u` and `v` being the vectors of its reflections from the left and the right.
#[derive(Debug)]
struct Step<W> {
    u: Vec<W>,
    w: Vec<W>,
    y: Vec<W>,
    v: Vec<W>,
}

/// Memory for up to two updates that are still to be applied, and the one in the making.
#[derive(Debug)]
pub(super) struct Delayed<W> {
    pending: [Step<W>; 2],
    fresh: Step<W>,
}

impl<W: Wide> Delayed<W> {
    /// For matrices of `d`×`d`.
    pub(super) fn new(d: usize) -> Self {
        Self { pending: [Step::new(d), Step::new(d)], fresh: Step::new(d) }
    }
}

impl<W: Wide> Step<W> {
    fn new(d: usize) -> Self {
        let zeros = || vec![W::splat(0.0); d];
        Self { u: zeros(), w: zeros(), y: zeros(), v: zeros() }
    }

    /// Subtracts what the update has in column `k` from the numbers `out`, row `k` first.
    #[inline(always)]
    fn take_column(&self, k: usize, out: &mut [W]) {
        subtract(out, (&self.u[k..], self.w[k]), (&self.y[k..], self.v[k]));
    }

    /// Subtracts what it has in row `k` from the numbers `out`, column `k + 1` first.
    #[inline(always)]
    fn take_row(&self, k: usize, out: &mut [W]) {
        subtract(out, (&self.w[k + 1..], self.u[k]), (&self.v[k + 1..], self.y[k]));
    }

    /// Subtracts its transpose times `x`, of which the first number is `x_k`, from `out`, which begins one column later.
    #[inline(always)]
    fn take_left(&self, k: usize, x: &[W], out: &mut [W]) {
        let (of_u, of_y) = (inner(&self.u[k..], x), inner(&self.y[k..], x));
        subtract(out, (&self.w[k + 1..], of_u), (&self.v[k + 1..], of_y));
    }

    /// Subtracts it times `x` from `out`, which both begin with number `start`.
    #[inline(always)]
    fn take_right(&self, start: usize, x: &[W], out: &mut [W]) {
        let (of_w, of_v) = (inner(&self.w[start..], x), inner(&self.v[start..], x));
        subtract(out, (&self.u[start..], of_w), (&self.y[start..], of_v));
    }
}

/// `out −= α a + β b`.
#[inline(always)]
fn subtract<W: Wide>(out: &mut [W], (a, alpha): (&[W], W), (b, beta): (&[W], W)) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = beta.neg_mul_add(*b, alpha.neg_mul_add(*a, *out));
    }
}

/// `Lᵀ F Q = B`, upper bidiagonal, of what `work.matrix` holds (destroyed): diagonal and superdiagonal of `B` to
/// `work.diagonal` and `work.off`, `Q` as the reflections of `work`. `L` is not kept. `FᵀF = Q BᵀB Qᵀ`.
#[inline(always)]
pub(super) fn bidiagonalise<W: Wide>(work: &mut Tridiagonal<W>, delayed: &mut Delayed<W>) {
    let Tridiagonal { matrix, diagonal, off, reflections, betas, .. } = work;
    let Delayed { pending, fresh } = delayed;
    let (d, zero) = (diagonal.len(), W::splat(0.0));
    let mut count = 0;
    for k in 0..d {
        let column = matrix[k * d + k..].iter().step_by(d);
        fresh.u[k..].iter_mut().zip(column).for_each(|(u, f)| *u = *f);
        pending[..count].iter().for_each(|step| step.take_column(k, &mut fresh.u[k..]));
        let (alpha, beta) = reflection(&mut fresh.u[k..]);
        diagonal[k] = alpha;
        if k + 1 == d {
            (off[k], betas[k]) = (zero, zero);
            break;
        }
        let start = k + 1;
        let Step { u, w, y, v } = &mut *fresh;
        let (u, w, y, v) = (&u[..d], &mut w[start..d], &mut y[start..d], &mut v[start..d]);
        w.fill(zero);
        if count == 2 {
            update_and_multiply_left(matrix, d, k, &*pending, u, w);
            count = 0;
        } else {
            multiply_left(matrix, d, k, u, w);
        }
        pending[..count].iter().for_each(|step| step.take_left(k, &u[k..], w));
        w.iter_mut().for_each(|w| *w = w.mul(beta));
        v.copy_from_slice(&matrix[k * d + start..start * d]);
        pending[..count].iter().for_each(|step| step.take_row(k, v));
        v.iter_mut().zip(&*w).for_each(|(v, w)| *v = u[k].neg_mul_add(*w, *v));
        (off[k], betas[k]) = reflection(v);
        reflections[k * d + start..start * d].copy_from_slice(v);
        multiply_right(matrix, d, start, v, y);
        pending[..count].iter().for_each(|step| step.take_right(start, v, y));
        let product = inner(w, v);
        for (y, u) in y.iter_mut().zip(&u[start..]) {
            *y = product.neg_mul_add(*u, *y).mul(betas[k]);
        }
        std::mem::swap(&mut pending[count], fresh);
        count += 1;
    }
}

/// `w += Fᵀ u` of the block from row `k` and column `k + 1` on; `w` begins with that column.
#[inline(always)]
fn multiply_left<W: Wide>(matrix: &[W], d: usize, k: usize, u: &[W], w: &mut [W]) {
    let start = k + 1;
    let n = d - start;
    let w = &mut w[..n];
    let mut i = k;
    while i + 3 < d {
        let row = |r: usize| &matrix[(i + r) * d + start..][..n];
        let (a, b, c, e) = (row(0), row(1), row(2), row(3));
        let (u0, u1, u2, u3) = (u[i], u[i + 1], u[i + 2], u[i + 3]);
        for j in 0..n {
            w[j] = b[j].mul_add(u1, a[j].mul_add(u0, w[j])).add(e[j].mul_add(u3, c[j].mul(u2)));
        }
        i += 4;
    }
    for i in i..d {
        for (w, f) in w.iter_mut().zip(&matrix[i * d + start..][..n]) {
            *w = f.mul_add(u[i], *w);
        }
    }
}

/// As [`multiply_left`], of what `F` is after two updates, which are applied.
#[inline(always)]
fn update_and_multiply_left<W: Wide>(
    matrix: &mut [W],
    d: usize,
    k: usize,
    [first, second]: &[Step<W>; 2],
    u: &[W],
    w: &mut [W],
) {
    let start = k + 1;
    let n = d - start;
    let w = &mut w[..n];
    let (w0, v0) = (&first.w[start..][..n], &first.v[start..][..n]);
    let (w1, v1) = (&second.w[start..][..n], &second.v[start..][..n]);
    let factors = |i: usize| [first.u[i], first.y[i], second.u[i], second.y[i]];
    let mut i = k;
    while i + 1 < d {
        let (upper, lower) = matrix[i * d..(i + 2) * d].split_at_mut(d);
        let (upper, lower) = (&mut upper[start..][..n], &mut lower[start..][..n]);
        let ([a, b, c, e], [f, g, h, l], x0, x1) = (factors(i), factors(i + 1), u[i], u[i + 1]);
        for j in 0..n {
            let (w0, v0, w1, v1) = (w0[j], v0[j], w1[j], v1[j]);
            let above = e.neg_mul_add(v1, c.neg_mul_add(w1, b.neg_mul_add(v0, a.neg_mul_add(w0, upper[j]))));
            let below = l.neg_mul_add(v1, h.neg_mul_add(w1, g.neg_mul_add(v0, f.neg_mul_add(w0, lower[j]))));
            upper[j] = above;
            lower[j] = below;
            w[j] = below.mul_add(x1, above.mul_add(x0, w[j]));
        }
        i += 2;
    }
    if i < d {
        let row = &mut matrix[i * d + start..][..n];
        let [a, b, c, e] = factors(i);
        for j in 0..n {
            let first = b.neg_mul_add(v0[j], a.neg_mul_add(w0[j], row[j]));
            row[j] = e.neg_mul_add(v1[j], c.neg_mul_add(w1[j], first));
            w[j] = row[j].mul_add(u[i], w[j]);
        }
    }
}

/// `y = F v` of the block from row and column `start` on, with which `v` and `y` begin.
#[inline(always)]
fn multiply_right<W: Wide>(matrix: &[W], d: usize, start: usize, v: &[W], y: &mut [W]) {
    let n = d - start;
    let (zero, v) = (W::splat(0.0), &v[..n]);
    let mut i = start;
    while i + 7 < d {
        // As many sums as hide the time that one takes.
        let row = |r: usize| &matrix[(i + r) * d + start..][..n];
        let (a, b, c, e) = (row(0), row(1), row(2), row(3));
        let (f, g, h, l) = (row(4), row(5), row(6), row(7));
        let mut sums = [zero; 8];
        for j in 0..n {
            let v = v[j];
            sums[0] = a[j].mul_add(v, sums[0]);
            sums[1] = b[j].mul_add(v, sums[1]);
            sums[2] = c[j].mul_add(v, sums[2]);
            sums[3] = e[j].mul_add(v, sums[3]);
            sums[4] = f[j].mul_add(v, sums[4]);
            sums[5] = g[j].mul_add(v, sums[5]);
            sums[6] = h[j].mul_add(v, sums[6]);
            sums[7] = l[j].mul_add(v, sums[7]);
        }
        y[i - start..i - start + 8].copy_from_slice(&sums);
        i += 8;
    }
    for i in i..d {
        y[i - start] = inner(&matrix[i * d + start..][..n], v);
    }
}
