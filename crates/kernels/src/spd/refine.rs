//! Small eigenvalues to high relative accuracy.
//!
//! A normwise stable eigensolver leaves an absolute error of about `ε ‖A‖` in every eigenvalue, which is a relative
//! error of `ε κ(A)` in the smallest. The part of the spectrum far below the largest eigenvalue is therefore
//! projected out once more with products of twice the working precision (Ogita, Rump and Oishi, *Accurate sum and
//! dot product*, SIAM J. Sci. Comput. 26, 2005, algorithm 5.3), and decomposed at its own scale (Rayleigh-Ritz).

use super::eigen::{Eigen, NoConvergence};
use super::linalg::{Form, product};
use super::simd::dispatched;

/// Eigenvalues below this share of the largest of their block are refined.
const RATIO: f64 = 1e-3;

/// Refines the eigenpairs of the symmetric matrix `a` that lie far below its largest eigenvalue.
pub(crate) fn refine(a: &[f64], d: usize, eigen: &mut Eigen) -> Result<(), NoConvergence> {
    let largest = eigen.values[d - 1];
    let mut bar = largest * RATIO;
    while bar > largest * f64::EPSILON {
        let m = eigen.values.iter().take_while(|&&v| v < bar).count();
        if m == 0 {
            break;
        }
        let inner = Eigen::new(&project(a, d, &eigen.vectors[..m * d], m), m)?;
        let mut rotated = vec![0.0; m * d];
        product(&mut rotated, (&inner.vectors, Form::Plain), (&eigen.vectors[..m * d], Form::Plain), m, d, m);
        eigen.vectors[..m * d].copy_from_slice(&rotated);
        eigen.values[..m].copy_from_slice(&inner.values);
        eigen.sort();
        bar *= RATIO;
    }
    Ok(())
}

/// `X A Xᵀ` for the `m` rows of `X`, in twice the working precision, rounded once.
fn project(a: &[f64], d: usize, rows: &[f64], m: usize) -> Vec<f64> {
    let a = Split::new(a.to_vec());
    let transposed = Split::new((0..d * m).map(|k| rows[(k % m) * d + k / m]).collect());
    let mut out = vec![0.0; m * m];
    let (mut high, mut low) = (vec![0.0; d], vec![0.0; d]);
    let (mut sum, mut rest) = (vec![0.0; m], vec![0.0; m]);
    for i in 0..m {
        combine(&a, d, &rows[i * d..(i + 1) * d], &[], &mut high, &mut low);
        combine(&transposed, m, &high, &low, &mut sum, &mut rest);
        for j in 0..m {
            out[i * m + j] = sum[j] + rest[j];
        }
    }
    super::linalg::symmetrise(&mut out, m);
    out
}

/// Values with their upper and lower halves.
struct Split {
    value: Vec<f64>,
    high: Vec<f64>,
    low: Vec<f64>,
}

impl Split {
    fn new(value: Vec<f64>) -> Self {
        let high: Vec<f64> = value.iter().map(|&v| halves(v).0).collect();
        let low = value.iter().zip(&high).map(|(v, h)| v - h).collect();
        Self { value, high, low }
    }
}

/// Dekker's splitting: `x` as an unevaluated sum of two numbers of at most 26 bits.
#[inline(always)]
fn halves(x: f64) -> (f64, f64) {
    let c = 134_217_729.0 * x; // 2^27 + 1
    let high = c - (c - x);
    (high, x - high)
}

dispatched! {
    /// `sum + rest = Σ_k (factors_k + corrections_k) · row_k` over rows of length `n`.
    fn combine(
        rows: &Split,
        n: usize,
        factors: &[f64],
        corrections: &[f64],
        sum: &mut [f64],
        rest: &mut [f64],
    ) {
        let (sum, rest) = (&mut sum[..n], &mut rest[..n]);
        sum.fill(0.0);
        rest.fill(0.0);
        for (k, &x) in factors.iter().enumerate() {
            let (x_high, x_low) = halves(x);
            let correction = corrections.get(k).copied().unwrap_or(0.0);
            let row = &rows.value[k * n..(k + 1) * n];
            let high = &rows.high[k * n..(k + 1) * n];
            let low = &rows.low[k * n..(k + 1) * n];
            for j in 0..n {
                let p = x * row[j];
                let p_error = x_low * low[j] - (((p - x_high * high[j]) - x_low * high[j]) - x_high * low[j]);
                let s = sum[j] + p;
                let back = s - sum[j];
                let s_error = (sum[j] - (s - back)) + (p - back);
                sum[j] = s;
                rest[j] += p_error + s_error + correction * row[j];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_eigenvalues_of_a_graded_matrix() {
        // [[1, t], [t, t² + δ]] has determinant δ and trace 1 + t² + δ; with these powers of two all entries are exact.
        let (t, delta) = (0.5, 2.0f64.powi(-40));
        let a = [1.0, t, t, t * t + delta];
        let mut eigen = Eigen::new(&a, 2).unwrap();
        refine(&a, 2, &mut eigen).unwrap();
        let trace = 1.0 + t * t + delta;
        let want = 2.0 * delta / (trace + (trace * trace - 4.0 * delta).sqrt());
        assert!((eigen.values[0] / want - 1.0).abs() < 1e-14, "{:e} instead of {want:e}", eigen.values[0]);
    }

    #[test]
    fn projection_keeps_what_cancels() {
        // Rows x = (1, −1): xᵀ A x = a − 2b + c cancels 16 digits here.
        let (a, b, c) = (1.0 + f64::EPSILON, 1.0, 1.0);
        assert_eq!(project(&[a, b, b, c], 2, &[1.0, -1.0], 1), [f64::EPSILON]);
    }
}
