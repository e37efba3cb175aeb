//! Ranking distillation of patch correspondences (CoTAP).

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

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
    let order = Order::new(p, q, tau2);
    let counts = order.dominating();
    let mut tree = Fenwick::new(n);
    let (mut loss, mut gradient, mut weights) = (0.0, vec![0.0; n], vec![0.0; n]);
    for group in order.groups.iter() {
        for &i in group {
            // Items of a lower q: those above p_i (x < 0) and those in (p_i − τ2, p_i].
            let x = order.centred[i];
            let all = tree.total;
            let up_to = tree.below(order.after[i]);
            let far = tree.below(order.reach_down[i]);
            let above = difference(all, up_to);
            let near = difference(up_to, far);
            let linear = above[0] - 2.0 * (x * above[0] - above[1]) / tau2;
            let c = tau2 - x; // ℓ = ((c + p_j) / τ2)²
            let quadratic = (c * c * near[0] + 2.0 * c * near[1] + near[2]) / (tau2 * tau2);
            let s = (linear + quadratic.max(0.0)) / counts[i];
            let height = (q[i] - tau1).max(0.0) / n as f64;
            loss += height * s / (1.0 + s);
            weights[i] = height / ((1.0 + s) * (1.0 + s) * counts[i]);
            let slope = -2.0 / tau2 * (above[0] + (c * near[0] + near[1]) / tau2);
            gradient[i] = weights[i] * slope;
        }
        for &i in group {
            let x = order.centred[i];
            tree.add(order.rank[i], [1.0, x, x * x]);
        }
    }
    order.add_from_above(&weights, tau2, &mut gradient);
    (loss, gradient)
}

/// The items by p and by q.
struct Order {
    /// Items of equal q, ascending.
    groups: Vec<Vec<usize>>,
    /// Place of each item by p.
    rank: Vec<usize>,
    /// Places of the items with the same p or less: `0..after`.
    after: Vec<usize>,
    /// Places of the items with less p: `0..before`.
    before: Vec<usize>,
    /// Places of the items at or below p − τ2: `0..reach_down`.
    reach_down: Vec<usize>,
    /// Places of the items below p + τ2: `0..reach_up`.
    reach_up: Vec<usize>,
    /// p less its mean, for accuracy.
    centred: Vec<f64>,
}

impl Order {
    fn new(p: &[f64], q: &[f64], tau2: f64) -> Self {
        let n = p.len();
        let mut by_q: Vec<usize> = (0..n).collect();
        by_q.sort_by(|&i, &j| (q[i] + 0.0).total_cmp(&(q[j] + 0.0)).then(i.cmp(&j)));
        let groups = by_q.chunk_by(|&i, &j| q[i] == q[j]).map(<[usize]>::to_vec).collect();
        let mut by_p: Vec<usize> = (0..n).collect();
        by_p.sort_by(|&i, &j| (p[i] + 0.0).total_cmp(&(p[j] + 0.0)).then(i.cmp(&j)));
        let sorted: Vec<f64> = by_p.iter().map(|&i| p[i]).collect();
        let mut rank = vec![0; n];
        by_p.iter().enumerate().for_each(|(place, &i)| rank[i] = place);
        let places = |below: &dyn Fn(f64, f64) -> bool| -> Vec<usize> {
            p.iter().map(|&x| sorted.partition_point(|&y| below(x, y))).collect()
        };
        let mean = p.iter().sum::<f64>() / n as f64;
        Self {
            groups,
            rank,
            after: places(&|x, y| y <= x),
            before: places(&|x, y| y < x),
            reach_down: places(&|x, y| x - y >= tau2),
            reach_up: places(&|x, y| y - x < tau2),
            centred: p.iter().map(|v| v - mean).collect(),
        }
    }

    /// `#{j : q_j ≥ q_i and p_j ≥ p_i}`, the item itself among them.
    fn dominating(&self) -> Vec<f64> {
        let mut tree = Fenwick::new(self.rank.len());
        let mut out = vec![0.0; self.rank.len()];
        for group in self.groups.iter().rev() {
            group.iter().for_each(|&i| tree.add(self.rank[i], [1.0, 0.0, 0.0]));
            for &i in group {
                out[i] = tree.total[0] - tree.below(self.before[i])[0];
            }
        }
        out
    }

    /// Adds what each item contributes as the lower one of its pairs: `−Σ_{q_i > q_j} weight_i ℓ'(p_i − p_j)`.
    fn add_from_above(&self, weights: &[f64], tau2: f64, gradient: &mut [f64]) {
        let mut tree = Fenwick::new(weights.len());
        for group in self.groups.iter().rev() {
            for &j in group {
                // Items of a higher q: those below p_j (x < 0) and those in [p_j, p_j + τ2).
                let y = self.centred[j];
                let under = tree.below(self.before[j]);
                let near = difference(tree.below(self.reach_up[j]), under);
                gradient[j] += 2.0 / tau2 * (under[0] + ((tau2 + y) * near[0] - near[1]) / tau2);
            }
            for &i in group {
                tree.add(self.rank[i], [weights[i], weights[i] * self.centred[i], 0.0]);
            }
        }
    }
}

/// Prefix sums of three quantities under insertion (Fenwick, *A new data structure for cumulative frequency tables*,
/// Software: Practice and Experience 24, 1994).
struct Fenwick {
    nodes: Vec<[f64; 3]>,
    total: [f64; 3],
}

impl Fenwick {
    fn new(n: usize) -> Self {
        Self { nodes: vec![[0.0; 3]; n + 1], total: [0.0; 3] }
    }

    fn add(&mut self, place: usize, values: [f64; 3]) {
        let mut node = place + 1;
        while node < self.nodes.len() {
            self.nodes[node].iter_mut().zip(values).for_each(|(s, v)| *s += v);
            node += node & node.wrapping_neg();
        }
        self.total.iter_mut().zip(values).for_each(|(s, v)| *s += v);
    }

    /// Sums over the places `0..end`.
    fn below(&self, end: usize) -> [f64; 3] {
        let (mut node, mut out) = (end, [0.0; 3]);
        while node > 0 {
            out.iter_mut().zip(self.nodes[node]).for_each(|(s, v)| *s += v);
            node &= node - 1;
        }
        out
    }
}

fn difference(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}
