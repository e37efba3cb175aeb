//! The operations as one would first write them: float64, one matrix, pair or list at a time, no tricks. Each returns
//! the checksum that the kernel's value and gradient are compared with.

/// Eigenvalues and eigenvectors (rows) by cyclic Jacobi rotations.
fn eigen(a: &[f64], d: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut a, mut v) = (a.to_vec(), vec![0.0; d * d]);
    (0..d).for_each(|i| v[i * d + i] = 1.0);
    let size: f64 = a.iter().map(|x| x * x).sum();
    for _ in 0..60 {
        let off: f64 = (0..d * d).filter(|k| k / d != k % d).map(|k| a[k] * a[k]).sum();
        if off <= 1e-30 * size {
            break;
        }
        for p in 0..d {
            for q in p + 1..d {
                rotate(&mut a, &mut v, d, p, q);
            }
        }
    }
    ((0..d).map(|i| a[i * d + i]).collect(), v)
}

/// Makes `a[p, q]` zero.
fn rotate(a: &mut [f64], v: &mut [f64], d: usize, p: usize, q: usize) {
    let apq = a[p * d + q];
    if apq == 0.0 {
        return;
    }
    let theta = (a[q * d + q] - a[p * d + p]) / (2.0 * apq);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let t = if theta == 0.0 { 1.0 } else { t };
    let c = 1.0 / t.hypot(1.0);
    let s = t * c;
    for k in 0..d {
        let (x, y) = (a[k * d + p], a[k * d + q]);
        a[k * d + p] = c * x - s * y;
        a[k * d + q] = s * x + c * y;
    }
    for k in 0..d {
        let (x, y) = (a[p * d + k], a[q * d + k]);
        a[p * d + k] = c * x - s * y;
        a[q * d + k] = s * x + c * y;
        let (x, y) = (v[p * d + k], v[q * d + k]);
        v[p * d + k] = c * x - s * y;
        v[q * d + k] = s * x + c * y;
    }
}

fn product(a: &[f64], b: &[f64], d: usize) -> Vec<f64> {
    let mut out = vec![0.0; d * d];
    for i in 0..d {
        for k in 0..d {
            for j in 0..d {
                out[i * d + j] += a[i * d + k] * b[k * d + j];
            }
        }
    }
    out
}

fn transposed(a: &[f64], d: usize) -> Vec<f64> {
    (0..d * d).map(|k| a[k % d * d + k / d]).collect()
}

/// `Vᵀ diag(f(w)) V` for eigenvectors in rows.
fn function(w: &[f64], v: &[f64], d: usize, f: impl Fn(f64) -> f64) -> Vec<f64> {
    let scaled: Vec<f64> = (0..d * d).map(|k| f(w[k / d]) * v[k]).collect();
    product(&transposed(v, d), &scaled, d)
}

/// Gradient of `⟨g, log A⟩`: divided differences in the eigenbasis.
fn log_gradient(w: &[f64], v: &[f64], g: &[f64], d: usize) -> Vec<f64> {
    let mut inner = product(&product(v, g, d), &transposed(v, d), d);
    for (k, value) in inner.iter_mut().enumerate() {
        let (x, y) = (w[k / d], w[k % d]);
        *value *= if (x - y).abs() > 1e-8 * x { (x.ln() - y.ln()) / (x - y) } else { 2.0 / (x + y) };
    }
    product(&product(&transposed(v, d), &inner, d), v, d)
}

/// `Σ log A` and the sum of its gradient.
pub(crate) fn log(a: &[f64], d: usize) -> f64 {
    let (w, v) = eigen(a, d);
    let y = function(&w, &v, d, f64::ln);
    y.iter().sum::<f64>() + log_gradient(&w, &v, &vec![1.0; d * d], d).iter().sum::<f64>()
}

/// `‖log A − log B‖` and the sum of both gradients.
pub(crate) fn log_euclidean(a: &[f64], b: &[f64], d: usize) -> f64 {
    let ((wa, va), (wb, vb)) = (eigen(a, d), eigen(b, d));
    let (la, lb) = (function(&wa, &va, d, f64::ln), function(&wb, &vb, d, f64::ln));
    let difference: Vec<f64> = la.iter().zip(&lb).map(|(x, y)| x - y).collect();
    let distance = difference.iter().map(|x| x * x).sum::<f64>().sqrt();
    let unit: Vec<f64> = difference.iter().map(|x| x / distance).collect();
    let total = |w: &[f64], v: &[f64]| log_gradient(w, v, &unit, d).iter().sum::<f64>();
    distance + total(&wa, &va) - total(&wb, &vb)
}

/// `√(tr A + tr B − 2 tr (A^½ B A^½)^½)` and the sum of both gradients, `(I − T) / 2δ` with the optimal maps.
pub(crate) fn bures_wasserstein(a: &[f64], b: &[f64], d: usize) -> f64 {
    let trace = |m: &[f64]| (0..d).map(|i| m[i * d + i]).sum::<f64>();
    let map = |from: &[f64], to: &[f64]| {
        let (w, v) = eigen(from, d);
        let (root, inverse) = (function(&w, &v, d, f64::sqrt), function(&w, &v, d, |x| 1.0 / x.sqrt()));
        let (w, v) = eigen(&product(&product(&root, to, d), &root, d), d);
        let middle = function(&w, &v, d, f64::sqrt);
        (trace(&middle), product(&product(&inverse, &middle, d), &inverse, d))
    };
    let ((fidelity, forward), (_, back)) = (map(a, b), map(b, a));
    let distance = (trace(a) + trace(b) - 2.0 * fidelity).sqrt();
    let maps = forward.iter().sum::<f64>() + back.iter().sum::<f64>();
    distance + (2.0 * d as f64 - maps) / (2.0 * distance)
}

fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    largest + values.map(|x| (x - largest).exp()).sum::<f64>().ln()
}

/// `Σ g P` and the norm of its gradient, with potentials in the logarithmic domain, differentiated step by step.
pub(crate) fn sinkhorn(cost: &[f64], g: &[f64], n: usize, eps: f64, iterations: usize) -> f64 {
    let kernel: Vec<f64> = cost.iter().map(|c| -c / eps).collect();
    let marginal = -(n as f64).ln();
    let mut path = vec![(vec![0.0; n], vec![0.0; n])];
    for _ in 0..iterations {
        let v = &path[path.len() - 1].1;
        let u: Vec<f64> = (0..n).map(|i| marginal - log_sum_exp((0..n).map(|j| kernel[i * n + j] + v[j]))).collect();
        let v: Vec<f64> = (0..n).map(|j| marginal - log_sum_exp((0..n).map(|i| kernel[i * n + j] + u[i]))).collect();
        path.push((u, v));
    }
    let (u, v) = &path[iterations];
    let plan: Vec<f64> = (0..n * n).map(|k| (u[k / n] + kernel[k] + v[k % n]).exp()).collect();
    let loss: f64 = plan.iter().zip(g).map(|(p, g)| p * g).sum();
    let mut of_kernel: Vec<f64> = plan.iter().zip(g).map(|(p, g)| p * g).collect();
    let mut of_u: Vec<f64> = (0..n).map(|i| of_kernel[i * n..(i + 1) * n].iter().sum()).collect();
    let mut of_v: Vec<f64> = (0..n).map(|j| (0..n).map(|i| of_kernel[i * n + j]).sum()).collect();
    for t in (0..iterations).rev() {
        // v_j = marginal − LSE_i(K_ij + u_i): weights softmax over i; the same for u over j.
        let ((u, v), before) = (&path[t + 1], &path[t].1);
        for i in 0..n {
            for j in 0..n {
                let pull = (kernel[i * n + j] + u[i] + v[j] - marginal).exp() * of_v[j];
                of_kernel[i * n + j] -= pull;
                of_u[i] -= pull;
            }
        }
        of_v = vec![0.0; n];
        for i in 0..n {
            for j in 0..n {
                let pull = (kernel[i * n + j] + before[j] + u[i] - marginal).exp() * of_u[i];
                of_kernel[i * n + j] -= pull;
                of_v[j] -= pull;
            }
        }
        of_u = vec![0.0; n];
    }
    loss + of_kernel.iter().map(|x| (x / eps).powi(2)).sum::<f64>().sqrt()
}

/// The ranking loss by its double sum, and the sum of its gradient.
pub(crate) fn cotap(p: &[f64], q: &[f64], tau1: f64, tau2: f64) -> f64 {
    let n = p.len();
    let (mut loss, mut gradient) = (0.0, vec![0.0; n]);
    for i in 0..n {
        let (mut sum, mut count) = (0.0, 0.0);
        for j in 0..n {
            let x = p[i] - p[j];
            if q[j] < q[i] {
                sum += if x < 0.0 { 1.0 - 2.0 * x / tau2 } else { (1.0 - x / tau2).max(0.0).powi(2) };
            } else if p[j] >= p[i] {
                count += 1.0;
            }
        }
        let (s, height) = (sum / count, (q[i] - tau1).max(0.0) / n as f64);
        loss += height * s / (1.0 + s);
        let weight = height / ((1.0 + s) * (1.0 + s) * count);
        for j in 0..n {
            if q[j] < q[i] {
                let x = p[i] - p[j];
                let slope = -2.0 / tau2 * if x < 0.0 { 1.0 } else { (1.0 - x / tau2).max(0.0) };
                gradient[i] += weight * slope;
                gradient[j] -= weight * slope;
            }
        }
    }
    loss + gradient.iter().sum::<f64>()
}
