//! Ranking distillation of patch correspondences (CoTAP).

mod items;
mod sums;

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use self::items::{Item, by_q};
use self::sums::{PrefixSums, difference};
use crate::spd::saved;
use crate::{Error, Result, host};

const OP: &str = "cotap";

/// Ranking losses `[K]` of student similarities `p` `[K, n]` against teacher similarities `q` `[K, n]`.
/// Differentiable in `p`; `q` gets no gradient.
///
/// With `ℓ(x) = 1 − 2x/τ2` for `x < 0` and `max(0, 1 − x/τ2)²` for `x ≥ 0`,
///
/// `s_i = Σ_{q_j < q_i} ℓ(p_i − p_j) / #{j : q_j ≥ q_i and p_j ≥ p_i}`,
/// `loss = mean_i max(0, q_i − τ1) · s_i / (1 + s_i)`
///
/// (the CoTAP paper's equation 12; its equation 11 has a misprint in the second branch). The count is a constant for
/// the gradient. `ℓ` is piecewise quadratic, so that each `s_i` is a two-dimensional dominance sum of `1`, `p_j` and
/// `p_j²`: sorting and Fenwick trees give values and gradients in O(n log n) instead of O(n²), without approximation.
///
/// # Errors
/// Shapes that do not fit, `n = 0`, different dtypes, values that are not finite, `τ2 ≤ 0`, or a `τ` that is not finite.
pub fn cotap(p: &Tensor, q: &Tensor, tau1: f64, tau2: f64) -> Result<Tensor> {
    let &[k, n] = p.dims() else {
        return Err(Error::Shape { op: OP, name: "p", got: p.dims().to_vec(), expected: "[K, n]".into() });
    };
    if n == 0 {
        return Err(Error::Shape { op: OP, name: "p", got: p.dims().to_vec(), expected: "[K, n] with n >= 1".into() });
    }
    if q.dims() != [k, n] {
        let expected = format!("[{k}, {n}], as `p`");
        return Err(Error::Shape { op: OP, name: "q", got: q.dims().to_vec(), expected });
    }
    if q.dtype() != p.dtype() {
        return Err(Error::DtypeMismatch { op: OP, left: p.dtype(), right: q.dtype() });
    }
    if !(tau2 > 0.0 && tau2.is_finite()) {
        return Err(Error::Attribute { op: OP, name: "tau2", value: tau2, expected: "a finite number > 0" });
    }
    if !tau1.is_finite() {
        return Err(Error::Attribute { op: OP, name: "tau1", value: tau1, expected: "a finite number" });
    }
    #[cfg(feature = "cuda")]
    if p.device().is_cuda() {
        return crate::cuda::tensors::cotap(OP, p, q, (tau1, tau2));
    }
    let (student, teacher) = (finite("p", p, n)?, finite("q", q, n)?);
    let lists = student.par_chunks_exact(n).zip(teacher.par_chunks_exact(n));
    let solved: Vec<(f64, Vec<f64>)> = lists.map(|(p, q)| loss_and_gradient(p, q, tau1, tau2)).collect();
    let (losses, gradients): (Vec<f64>, Vec<Vec<f64>>) = solved.into_iter().unzip();
    let gradients = Arc::new(gradients);
    saved::unary(OP, p, losses, k, move |_, grad| {
        Ok(gradients.iter().zip(grad).flat_map(|(own, g)| own.iter().map(move |v| g * v)).collect())
    })
}

fn finite(name: &'static str, tensor: &Tensor, n: usize) -> Result<Vec<f64>> {
    let values = host::to_f64(OP, tensor)?;
    match values.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(Error::NonFinite { op: OP, name, batch: at / n }),
        None => Ok(values),
    }
}

/// The loss of one list and its gradient in `p`.
fn loss_and_gradient(p: &[f64], q: &[f64], tau1: f64, tau2: f64) -> (f64, Vec<f64>) {
    let n = p.len();
    let items = by_q(p, q, tau2);
    let (mut loss, mut gradient, mut weights) = (0.0, vec![0.0; n], vec![0.0; n]);
    let mut sums = PrefixSums::<4>::new(n);
    let mut start = 0;
    for group in items.chunk_by(|a, b| a.q == b.q) {
        for (item, weight) in group.iter().zip(&mut weights[start..]) {
            let height = (item.q - tau1).max(0.0) / n as f64;
            if height > 0.0 {
                let below = Below::new(item, &sums, n, tau2);
                let s = below.sum / below.count;
                loss += height * s / (1.0 + s);
                *weight = height / ((1.0 + s) * (1.0 + s) * below.count);
                gradient[item.index as usize] = *weight * below.slope;
            }
        }
        group.iter().for_each(|item| sums.add(item.place, [1.0, item.x, item.x * item.x, 0.0]));
        start += group.len();
    }
    add_from_above(&items, &weights, tau2, &mut gradient);
    (loss, gradient)
}

/// What the items of a lower q give an item.
struct Below {
    /// `Σ_{q_j < q_i} ℓ(p_i − p_j)`.
    sum: f64,
    /// Its derivative in `p_i`.
    slope: f64,
    /// `#{j : q_j ≥ q_i and p_j ≥ p_i}`, the item itself among them.
    count: f64,
}

impl Below {
    /// `sums` holds 1, p and p² of the items of a lower q.
    fn new(item: &Item, sums: &PrefixSums<4>, n: usize, tau2: f64) -> Self {
        // Those above p_i (x < 0) and those in (p_i − τ2, p_i].
        let x = item.x;
        let up_to = sums.below(item.after);
        let above = difference(sums.total(), up_to);
        let near = difference(up_to, sums.below(item.reach_down));
        let c = tau2 - x; // ℓ = ((c + p_j) / τ2)²
        let linear = above[0] - 2.0 * (x * above[0] - above[1]) / tau2;
        let quadratic = (c * c * near[0] + 2.0 * c * near[1] + near[2]) / (tau2 * tau2);
        let slope = -2.0 / tau2 * (above[0] + (c * near[0] + near[1]) / tau2);
        // Where no other item has the same p, none of those up to p_i is at p_i: the item itself is not in the sums yet.
        let alone = item.after - item.before == 1;
        let less = if alone { up_to[0] } else { sums.below(item.before)[0] };
        let count = (n as f64 - f64::from(item.before)) - (sums.total()[0] - less);
        Self { sum: linear + quadratic.max(0.0), slope, count }
    }
}

/// Adds what each item contributes as the lower one of its pairs: `−Σ_{q_i > q_j} weight_i ℓ'(p_i − p_j)`.
fn add_from_above(items: &[Item], weights: &[f64], tau2: f64, gradient: &mut [f64]) {
    let mut sums = PrefixSums::<2>::new(items.len());
    let mut end = items.len();
    for group in items.chunk_by(|a, b| a.q == b.q).rev() {
        for item in group {
            // Items of a higher q: those below p_j (x < 0) and those in [p_j, p_j + τ2).
            let under = sums.below(item.before);
            let near = difference(sums.below(item.reach_up), under);
            gradient[item.index as usize] += 2.0 / tau2 * (under[0] + ((tau2 + item.x) * near[0] - near[1]) / tau2);
        }
        end -= group.len();
        for (item, weight) in group.iter().zip(&weights[end..]) {
            if *weight > 0.0 {
                sums.add(item.place, [*weight, *weight * item.x]);
            }
        }
    }
}
