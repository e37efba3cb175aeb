//! Householder bidiagonalisation of several matrices in lockstep (Golub and Van Loan, *Matrix Computations*, 4th ed.,
//! section 5.4.8).
//!
//! The update of one reflection is applied in the pass that multiplies with the next.

use super::tridiagonal::{Tridiagonal, reflection};
use super::wide::Wide;

/// `Lᵀ F Q = B`, upper bidiagonal, of what `work.matrix` holds (destroyed): diagonal and superdiagonal of `B` to
/// `work.diagonal` and `work.off`, `Q` as the reflections of `work`. `L` is not kept. `FᵀF = Q BᵀB Qᵀ`.
#[inline(always)]
pub(super) fn bidiagonalise<W: Wide>(work: &mut Tridiagonal<W>, [u, w, y]: &mut [Vec<W>; 3]) {
    let Tridiagonal { matrix, diagonal, off, reflections, betas } = work;
    let d = diagonal.len();
    let zero = W::splat(0.0);
    // The update F − y vᵀ that is still to be applied; `v` is the last reflection's vector.
    y.fill(zero);
    for k in 0..d {
        let (done, rest) = reflections.split_at_mut(k * d);
        let (lead, old) = match k {
            0 => (zero, &y[1..]), // Multiplied by the zeros in `y`.
            _ => (done[(k - 1) * d + k], &done[(k - 1) * d + k + 1..k * d]),
        };
        for i in k..d {
            u[i] = y[i].neg_mul_add(lead, matrix[i * d + k]);
        }
        let (alpha, beta) = reflection(&mut u[k..d]);
        diagonal[k] = alpha;
        if k + 1 == d {
            (off[k], betas[k]) = (zero, zero);
            break;
        }
        let start = k + 1;
        let (u, w) = (&u[..d], &mut w[start..d]);
        w.fill(zero);
        update_and_multiply_left(matrix, d, (k, start), (&y[..d], old), u, w);
        w.iter_mut().for_each(|w| *w = w.mul(beta));
        let v = &mut rest[start..d];
        for ((v, row), w) in v.iter_mut().zip(&matrix[k * d + start..start * d]).zip(w.iter()) {
            *v = u[k].neg_mul_add(*w, *row);
        }
        (off[k], betas[k]) = reflection(v);
        update_and_multiply_right(matrix, d, start, (u, w), v, y);
        y[start..].iter_mut().for_each(|y| *y = y.mul(betas[k]));
    }
}

/// `F −= y vᵀ` of the block from row `first` and column `start` on, and `w += Fᵀ u`; `v` and `w` begin with that column.
#[inline(always)]
fn update_and_multiply_left<W: Wide>(
    matrix: &mut [W],
    d: usize,
    (first, start): (usize, usize),
    (y, v): (&[W], &[W]),
    u: &[W],
    w: &mut [W],
) {
    let n = d - start;
    let (v, w) = (&v[..n], &mut w[..n]);
    let mut i = first;
    while i + 1 < d {
        let (upper, lower) = matrix[i * d..(i + 2) * d].split_at_mut(d);
        let (upper, lower) = (&mut upper[start..][..n], &mut lower[start..][..n]);
        let (y0, y1, u0, u1) = (y[i], y[i + 1], u[i], u[i + 1]);
        for j in 0..n {
            let a = y0.neg_mul_add(v[j], upper[j]);
            let b = y1.neg_mul_add(v[j], lower[j]);
            upper[j] = a;
            lower[j] = b;
            w[j] = b.mul_add(u1, a.mul_add(u0, w[j]));
        }
        i += 2;
    }
    if i < d {
        let row = &mut matrix[i * d + start..][..n];
        for j in 0..n {
            row[j] = y[i].neg_mul_add(v[j], row[j]);
            w[j] = row[j].mul_add(u[i], w[j]);
        }
    }
}

/// `F −= u wᵀ` of the block from row and column `start` on, and `y = F v`; `w` and `v` begin with that column.
#[inline(always)]
fn update_and_multiply_right<W: Wide>(
    matrix: &mut [W],
    d: usize,
    start: usize,
    (u, w): (&[W], &[W]),
    v: &[W],
    y: &mut [W],
) {
    let n = d - start;
    let zero = W::splat(0.0);
    let (w, v) = (&w[..n], &v[..n]);
    let mut i = start;
    while i + 3 < d {
        let mut rows = matrix[i * d..(i + 4) * d].chunks_exact_mut(d);
        let rows: [&mut [W]; 4] = std::array::from_fn(|_| &mut rows.next().unwrap_or_default()[start..][..n]);
        let u = [u[i], u[i + 1], u[i + 2], u[i + 3]];
        let mut sums = [zero; 4];
        for j in 0..n {
            for r in 0..4 {
                let a = u[r].neg_mul_add(w[j], rows[r][j]);
                rows[r][j] = a;
                sums[r] = a.mul_add(v[j], sums[r]);
            }
        }
        y[i..i + 4].copy_from_slice(&sums);
        i += 4;
    }
    for i in i..d {
        let row = &mut matrix[i * d + start..][..n];
        let mut sum = zero;
        for j in 0..n {
            row[j] = u[i].neg_mul_add(w[j], row[j]);
            sum = row[j].mul_add(v[j], sum);
        }
        y[i] = sum;
    }
}
