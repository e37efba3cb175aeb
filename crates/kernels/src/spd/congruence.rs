//! Products with the orthogonal matrix of a tridiagonalisation from both sides, several matrices in lockstep.
//!
//! Symmetric matrices are held by their upper triangles. A reflection changes the block beyond its own number from both
//! sides, and the rows above the block from the right alone. The update of one reflection is applied in the pass that
//! multiplies with the next.

use super::tridiagonal::{Tridiagonal, update, update_and_multiply};
use super::wide::{Wide, inner};

/// The order of reflections, of which the first is that of row 0.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Order {
    Rising,
    Falling,
}

impl Order {
    /// Number `at` of `count`, that start with `first`.
    #[inline(always)]
    fn number(self, at: usize, first: usize, count: usize) -> usize {
        match self {
            Self::Rising => first + at,
            Self::Falling => first + count - 1 - at,
        }
    }
}

/// Replaces the upper triangle of `S` in `work.matrix` by that of `Q S Qᵀ`.
#[inline(always)]
pub(super) fn expand<W: Wide>(work: &mut Tridiagonal<W>, vectors: &mut [Vec<W>; 3]) {
    above(work, Order::Falling, &mut vectors[0]);
    blocks(work, Order::Falling, vectors);
}

/// Replaces the upper triangle of `S` in `work.matrix` by that of `Qᵀ S Q`.
#[inline(always)]
pub(super) fn contract<W: Wide>(work: &mut Tridiagonal<W>, vectors: &mut [Vec<W>; 3]) {
    blocks(work, Order::Rising, vectors);
    above(work, Order::Rising, &mut vectors[0]);
}

/// Reflects every row from the right by the reflections from its own number on.
#[inline(always)]
fn above<W: Wide>(work: &mut Tridiagonal<W>, order: Order, products: &mut [W]) {
    let Tridiagonal { matrix, reflections: all, betas, diagonal, .. } = work;
    let d = diagonal.len();
    let count = d.saturating_sub(2);
    for k in 0..count {
        let (v, w) = (&all[k * d + k + 2..(k + 1) * d], &all[(k + 1) * d + k + 2..(k + 2) * d]);
        products[k] = inner(v, w);
    }
    let reflections = Reflections { all, betas, products, d, order };
    let mut row = 0;
    while row + 4 <= count {
        let (ab, ce) = matrix[row * d..(row + 4) * d].split_at_mut(2 * d);
        let ((a, b), (c, e)) = (ab.split_at_mut(d), ce.split_at_mut(d));
        reflections.four(row, a, b, c, e);
        row += 4;
    }
    for row in row..count {
        reflections.one(row, &mut matrix[row * d..(row + 1) * d]);
    }
}

/// Reflects the block of every reflection from both sides.
#[inline(always)]
fn blocks<W: Wide>(work: &mut Tridiagonal<W>, order: Order, [old_v, old_w, p]: &mut [Vec<W>; 3]) {
    let Tridiagonal { matrix, reflections: all, betas, diagonal, .. } = work;
    let d = diagonal.len();
    let zero = W::splat(0.0);
    old_v.fill(zero);
    old_w.fill(zero);
    let count = d.saturating_sub(2);
    for at in 0..count {
        let k = order.number(at, 0, count);
        let start = k + 1;
        if order == Order::Rising {
            // The row leaves the blocks.
            update(&mut matrix[k * d + k..start * d], &old_v[k..], &old_w[k..]);
        }
        let v = &all[k * d + start..start * d];
        let p = &mut p[start..];
        p.fill(zero);
        update_and_multiply(&mut matrix[start * d..], d, start, (&old_v[start..], &old_w[start..]), v, p);
        let beta = betas[k];
        let half = W::splat(0.5).mul(beta).mul(beta).mul(inner(v, p));
        for ((v, p), (old_v, old_w)) in v.iter().zip(p).zip(old_v[start..].iter_mut().zip(&mut old_w[start..])) {
            *old_v = *v;
            *old_w = v.neg_mul_add(half, beta.mul(*p));
        }
    }
    let first = match order {
        Order::Rising => count,
        Order::Falling => 1,
    };
    for i in first..d {
        update(&mut matrix[i * d + i..(i + 1) * d], &old_v[i..], &old_w[i..]);
    }
}

/// The reflections, in the order in which rows get them, two a pass.
struct Reflections<'a, W> {
    all: &'a [W],
    betas: &'a [W],
    /// Of the vectors of each reflection and the next; behind the last comes one with `β = 0`.
    products: &'a [W],
    d: usize,
    order: Order,
}

/// A method that reflects rows, each a slice with a name: in an array of slices, every access would be checked.
macro_rules! reflect {
    ($name:ident, $(($row:ident, $of_v:ident, $of_w:ident, $offset:literal)),+) => {
        /// Reflects rows, of which the first is row `first`.
        #[inline(always)]
        fn $name(&self, first: usize, $($row: &mut [W]),+) {
            let (d, zero) = (self.d, W::splat(0.0));
            let pairs = (d - 2 - first).div_ceil(2);
            for at in 0..pairs {
                let k = first + 2 * self.order.number(at, 0, pairs);
                // The second vector begins one column later.
                let (lead, v) = (self.all[k * d + k + 1], &self.all[k * d + k + 2..(k + 1) * d]);
                let n = v.len();
                let w = &self.all[(k + 1) * d + k + 2..][..n];
                $(
                    let (head, tail) = $row[k + 1..].split_at_mut(1);
                    let mut $of_v = head[0].mul(lead);
                    let mut $of_w = zero;
                    let $row = (&mut tail[..n], &mut head[0], $offset);
                )+
                for j in 0..n {
                    let (v, w) = (v[j], w[j]);
                    $(
                        $of_v = $row.0[j].mul_add(v, $of_v);
                        $of_w = $row.0[j].mul_add(w, $of_w);
                    )+
                }
                let product = self.products[k];
                $(
                    // A row takes part in the reflections from its own number on.
                    let beta_v = if first + $row.2 <= k { self.betas[k] } else { zero };
                    let beta_w = if first + $row.2 <= k + 1 { self.betas[k + 1] } else { zero };
                    if self.order == Order::Rising {
                        $of_v = beta_v.mul($of_v);
                        $of_w = beta_w.mul($of_v.neg_mul_add(product, $of_w));
                    } else {
                        $of_w = beta_w.mul($of_w);
                        $of_v = beta_v.mul($of_w.neg_mul_add(product, $of_v));
                    }
                )+
                for j in 0..n {
                    let (v, w) = (v[j], w[j]);
                    $($row.0[j] = $of_w.neg_mul_add(w, $of_v.neg_mul_add(v, $row.0[j]));)+
                }
                $(*$row.1 = $of_v.neg_mul_add(lead, *$row.1);)+
            }
        }
    };
}

impl<W: Wide> Reflections<'_, W> {
    reflect!(one, (a, av, aw, 0));
    reflect!(four, (a, av, aw, 0), (b, bv, bw, 1), (c, cv, cw, 2), (e, ev, ew, 3));
}
