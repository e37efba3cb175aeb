//! Sinkhorn's updates on the logarithms of the scalings: for costs whose kernel leaves the range of float64.

use super::sinkhorn::{Path, SinkhornConfig, first_step_back};

/// The plan and the potentials of all iterations. Every row and column holds a finite cost.
pub(super) fn solve(cost: &[f64], n: usize, config: SinkhornConfig) -> (Vec<f64>, Path) {
    let kernel: Vec<f64> = cost.iter().map(|c| -c / config.eps).collect();
    let marginal = -(n as f64).ln();
    let mut rows = vec![0.0; config.iterations * n];
    let mut columns = vec![0.0; (config.iterations + 1) * n];
    for (t, u) in rows.chunks_exact_mut(n).enumerate() {
        let (before, after) = columns.split_at_mut((t + 1) * n);
        let previous = &before[t * n..];
        for (row, u) in kernel.chunks_exact(n).zip(u.iter_mut()) {
            *u = marginal - log_sum_exp(row, previous);
        }
        column_update(&kernel, n, u, &mut after[..n], marginal);
    }
    let (u, v) = (&rows[rows.len() - n..], &columns[columns.len() - n..]);
    let plan = weights(&kernel, n, u, v, 1.0).collect();
    (plan, Path { rows, columns })
}

/// `log Σ_j exp(row_j + shift_j)`.
fn log_sum_exp(row: &[f64], shift: &[f64]) -> f64 {
    let largest = row.iter().zip(shift).fold(f64::NEG_INFINITY, |m, (r, s)| m.max(r + s));
    largest + row.iter().zip(shift).map(|(r, s)| (r + s - largest).exp()).sum::<f64>().ln()
}

/// `v_j = marginal − log Σ_i exp(kernel_ij + u_i)`, over contiguous rows.
fn column_update(kernel: &[f64], n: usize, u: &[f64], v: &mut [f64], marginal: f64) {
    let mut largest = vec![f64::NEG_INFINITY; n];
    for (row, u) in kernel.chunks_exact(n).zip(u) {
        largest.iter_mut().zip(row).for_each(|(m, k)| *m = m.max(k + u));
    }
    let mut sums = vec![0.0; n];
    for (row, u) in kernel.chunks_exact(n).zip(u) {
        for ((s, k), m) in sums.iter_mut().zip(row).zip(&largest) {
            *s += (k + u - m).exp();
        }
    }
    v.iter_mut().zip(largest.iter().zip(&sums)).for_each(|(v, (m, s))| *v = marginal - (m + s.ln()));
}

/// `scale · exp(u_i + kernel_ij + v_j)`, row-major.
fn weights<'a>(kernel: &'a [f64], n: usize, u: &'a [f64], v: &'a [f64], scale: f64) -> impl Iterator<Item = f64> + 'a {
    let rows = kernel.chunks_exact(n).zip(u);
    rows.flat_map(move |(row, u)| row.iter().zip(v).map(move |(k, v)| scale * (u + k + v).exp()))
}

/// Gradient of the cost for the gradient `grad` of the plan: the updates backwards, one after another.
pub(super) fn gradient(cost: &[f64], n: usize, eps: f64, path: &Path, grad: &[f64]) -> Vec<f64> {
    let kernel: Vec<f64> = cost.iter().map(|c| -c / eps).collect();
    let iterations = path.rows.len() / n;
    let row = |t: usize| &path.rows[t * n..(t + 1) * n];
    let column = |t: usize| &path.columns[t * n..(t + 1) * n];
    let plan: Vec<f64> = weights(&kernel, n, row(iterations - 1), column(iterations), 1.0).collect();
    let mut out = first_step_back(&plan, n, grad);
    let mut from_rows: Vec<f64> = out.chunks_exact(n).map(|row| row.iter().sum()).collect();
    let mut from_columns = vec![0.0; n];
    for t in (0..iterations).rev() {
        if t + 1 < iterations {
            for (k, q) in weights(&kernel, n, row(t), column(t + 1), n as f64).enumerate() {
                let (i, j) = (k / n, k % n);
                out[k] -= q * from_columns[j];
                from_rows[i] -= q * from_columns[j];
            }
        }
        from_columns.fill(0.0);
        for (k, p) in weights(&kernel, n, row(t), column(t), n as f64).enumerate() {
            let (i, j) = (k / n, k % n);
            out[k] -= p * from_rows[i];
            from_columns[j] -= p * from_rows[i];
        }
        from_rows.fill(0.0);
    }
    out.iter_mut().for_each(|v| *v *= -1.0 / eps);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::sinkhorn::by_scalings;
    use random::{Axis, Seeds};
    use testkit::tolerance::{ORACLE_F64, assert_close};

    #[test]
    fn both_arithmetics_agree() {
        let mut stream = Seeds::new(8).stream(Axis::Test, &[]);
        for (n, eps, iterations) in [(1, 0.1, 3), (7, 0.5, 20), (12, 0.05, 11), (18, 0.1, 2)] {
            let mut cost: Vec<f64> = (0..n * n).map(|_| stream.uniform()).collect();
            if n > 1 {
                cost[1] = f64::INFINITY;
            }
            let grad: Vec<f64> = (0..n * n).map(|_| stream.normal()).collect();
            let config = SinkhornConfig { eps, iterations };
            let (fast, got) = by_scalings(&cost, n, config, &grad).expect("a narrow cost");
            let (slow, slow_path) = solve(&cost, n, config);
            assert_close("plan", &fast, &slow, n * n, ORACLE_F64.value);
            let want = gradient(&cost, n, eps, &slow_path, &grad);
            assert_close("gradient", &got, &want, n * n, ORACLE_F64.gradient);
        }
    }

    /// Plan and gradient of a sharp problem (3×3, ε = 1/16, 4 iterations), computed in 50 digits; the gradient is
    /// smaller than the terms that it is the sum of by up to ten powers of ten.
    #[test]
    fn a_sharp_plan_keeps_the_digits_of_its_gradient() {
        let cost = [0.0, 1.0, 1.5, 0.75, 0.125, 1.25, 1.75, 0.5, 0.0625];
        let grad = [1.0, -2.0, 0.5, 0.25, 3.0, -1.0, -0.5, 0.75, 2.0];
        #[rustfmt::skip]
        let plan = [
            0.333318164200895, 3.73875508416762e-8, 1.26313371729540e-11,
            1.51691318142655e-5, 0.33303148207266, 5.10813989362607e-9,
            6.24122464415716e-13, 0.000301813873122355, 0.333333328212562,
        ];
        #[rustfmt::skip]
        let want = [
            -2.98658221485438e-6, 2.98627780722515e-6, 3.04407629228279e-10,
            0.000183932404716772, -0.000184178741638934, 2.46336922162403e-7,
            1.48963851959004e-11, 0.0107870916146773, -0.0107870916295737,
        ];
        let config = SinkhornConfig { eps: 0.0625, iterations: 4 };
        let (fast, gradient_of_fast) = by_scalings(&cost, 3, config, &grad).expect("a narrow cost");
        assert_close("plan by scalings", &fast, &plan, 3, ORACLE_F64.value);
        assert_close("gradient by scalings", &gradient_of_fast, &want, 3, ORACLE_F64.gradient);
        let (slow, path) = solve(&cost, 3, config);
        assert_close("plan by logarithms", &slow, &plan, 3, ORACLE_F64.value);
        assert_close(
            "gradient by logarithms",
            &gradient(&cost, 3, 0.0625, &path, &grad),
            &want,
            3,
            ORACLE_F64.gradient,
        );
    }

    #[test]
    fn a_wide_cost_is_left_to_the_logarithms() {
        let cost = [0.0, 50.0, 50.0, 0.0];
        assert!(by_scalings(&cost, 2, SinkhornConfig { eps: 0.1, iterations: 5 }, &[1.0; 4]).is_none());
        let (plan, _) = solve(&cost, 2, SinkhornConfig { eps: 0.1, iterations: 5 });
        assert_close("plan", &plan, &[0.5, 0.0, 0.0, 0.5], 4, ORACLE_F64.value);
    }
}
