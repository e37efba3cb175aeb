//! Eigendecomposition of one symmetric matrix in float64: Householder tridiagonalisation, then implicit-shift QL
//! (Golub and Van Loan, *Matrix Computations*, 4th ed., sections 8.3.1 and 8.3.3).
//!
//! Eigenvectors are kept as rows, so that rotations and reflections act on contiguous memory.

use super::simd::{axpy, dispatched, dot};

/// QL iterations allowed for one eigenvalue; two or three are usual.
const ITERATIONS: usize = 60;

/// Iterations for one eigenvalue after which an error of `ε` times the largest entry is accepted.
const PATIENCE: usize = 10;

/// Iterations made when the QL iteration gave up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NoConvergence(pub(crate) usize);

/// Eigenvalues ascending; row `k` of `vectors` is the unit eigenvector of value `k`.
#[derive(Debug, Clone)]
pub(crate) struct Eigen {
    pub(crate) values: Vec<f64>,
    pub(crate) vectors: Vec<f64>,
    /// For a spectrum close to one value: that value, and by how much each eigenvalue differs from it.
    pub(crate) centre: Option<(f64, Vec<f64>)>,
}

impl Eigen {
    /// Decomposes the symmetric `d`×`d` matrix `a`.
    pub(crate) fn new(a: &[f64], d: usize) -> Result<Self, NoConvergence> {
        let (mut reduced, scale) = Tridiagonal::new(a, d);
        let stride = d.next_multiple_of(8);
        let mut rows = vec![0.0; d * stride];
        reduced.orthogonal(&mut rows, stride);
        ql(&mut reduced.diagonal, &mut reduced.off, &mut rows, stride)?;
        let vectors = rows.chunks_exact(stride).flat_map(|row| &row[..d]).copied().collect();
        let values = reduced.diagonal.iter().map(|v| v / scale).collect();
        let mut eigen = Self { values, vectors, centre: None };
        eigen.sort();
        Ok(eigen)
    }

    /// As [`Eigen::new`]; where the spectrum lies close to one value, the difference from that value is decomposed,
    /// so that what is close to 0 there (the logarithm near the identity) keeps its digits.
    pub(crate) fn centred(a: &[f64], d: usize) -> Result<Self, NoConvergence> {
        let centre = a.iter().step_by(d + 1).sum::<f64>() / d as f64;
        let mut difference = a.to_vec();
        difference.iter_mut().step_by(d + 1).for_each(|v| *v -= centre);
        let radius = difference.iter().map(|v| v * v).sum::<f64>().sqrt();
        if radius.is_nan() || radius >= 0.25 * centre {
            return Self::new(a, d);
        }
        // All eigenvalues and diagonal entries are within a factor of 2 of the centre: the subtraction was exact.
        let mut eigen = Self::new(&difference, d)?;
        let values = eigen.values.iter().map(|v| centre + v).collect();
        eigen.centre = Some((centre, std::mem::replace(&mut eigen.values, values)));
        Ok(eigen)
    }

    /// Puts the pairs in ascending order of the values.
    pub(crate) fn sort(&mut self) {
        if self.values.is_sorted() {
            return;
        }
        let d = self.values.len();
        let mut order: Vec<usize> = (0..d).collect();
        order.sort_by(|&i, &j| self.values[i].total_cmp(&self.values[j]));
        self.vectors = order.iter().flat_map(|&k| &self.vectors[k * d..(k + 1) * d]).copied().collect();
        self.values = order.iter().map(|&k| self.values[k]).collect();
    }
}

/// Ascending eigenvalues alone, at about a third of the cost.
pub(crate) fn eigenvalues(a: &[f64], d: usize) -> Result<Vec<f64>, NoConvergence> {
    let (mut reduced, scale) = Tridiagonal::new(a, d);
    ql(&mut reduced.diagonal, &mut reduced.off, &mut [], 0)?;
    let mut values: Vec<f64> = reduced.diagonal.iter().map(|v| v / scale).collect();
    values.sort_by(f64::total_cmp);
    Ok(values)
}

/// `Qᵀ (scale · A) Q = T`, `Q` as a product of reflections `I − β v vᵀ`.
struct Tridiagonal {
    d: usize,
    diagonal: Vec<f64>,
    /// `off[i]` couples `i` and `i + 1`; one unused entry at the end.
    off: Vec<f64>,
    /// Row `k` holds the vector of reflection `k` in its columns `k + 1..`.
    reflections: Vec<f64>,
    betas: Vec<f64>,
}

impl Tridiagonal {
    fn new(a: &[f64], d: usize) -> (Self, f64) {
        let largest = a.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        // A power of two changes no digit and keeps squares away from overflow and underflow.
        let scale =
            if largest == 0.0 { 1.0 } else { 2.0f64.powi(-(largest.log2().floor().clamp(-1000.0, 1000.0) as i32)) };
        let mut work: Vec<f64> = a.iter().map(|v| v * scale).collect();
        let mut out =
            Self { d, diagonal: vec![0.0; d], off: vec![0.0; d], reflections: vec![0.0; d * d], betas: vec![0.0; d] };
        reduce(&mut work, d, &mut out);
        (out, scale)
    }

    /// Writes `Qᵀ` to the rows of `rows`.
    fn orthogonal(&self, rows: &mut [f64], stride: usize) {
        accumulate(self.d, &self.reflections, &self.betas, rows, stride);
    }
}

dispatched! {
    fn reduce(a: &mut [f64], d: usize, out: &mut Tridiagonal) {
        let mut p = vec![0.0; d];
        for k in 0..d.saturating_sub(2) {
            let n = d - k - 1;
            let v = &mut out.reflections[k * d + k + 1..(k + 1) * d];
            v.copy_from_slice(&a[k * d + k + 1..(k + 1) * d]);
            out.diagonal[k] = a[k * d + k];
            let tail = dot(&v[1..], &v[1..]);
            if tail == 0.0 {
                out.off[k] = v[0];
                continue;
            }
            let norm = (v[0] * v[0] + tail).sqrt();
            let alpha = if v[0] > 0.0 { -norm } else { norm };
            v[0] -= alpha;
            out.off[k] = alpha;
            let beta = 2.0 / (v[0] * v[0] + tail);
            out.betas[k] = beta;
            let p = &mut p[..n];
            for (i, p) in p.iter_mut().enumerate() {
                let start = (k + 1 + i) * d + k + 1;
                *p = beta * dot(&a[start..start + n], v);
            }
            let half = 0.5 * beta * dot(p, v);
            axpy(p, -half, v);
            for i in 0..n {
                let start = (k + 1 + i) * d + k + 1;
                let (vi, pi) = (v[i], p[i]);
                for ((a, v), p) in a[start..start + n].iter_mut().zip(v.iter()).zip(p.iter()) {
                    *a -= vi * p + pi * v;
                }
            }
        }
        if d >= 2 {
            out.diagonal[d - 2] = a[(d - 2) * d + d - 2];
            out.off[d - 2] = a[(d - 2) * d + d - 1];
        }
        out.diagonal[d - 1] = a[d * d - 1];
    }
}

dispatched! {
    fn accumulate(d: usize, reflections: &[f64], betas: &[f64], rows: &mut [f64], stride: usize) {
        for i in 0..d {
            rows[i * stride + i] = 1.0;
        }
        for k in (0..d.saturating_sub(2)).rev() {
            if betas[k] == 0.0 {
                continue;
            }
            let v = &reflections[k * d + k + 1..(k + 1) * d];
            for r in k + 1..d {
                let row = &mut rows[r * stride + k + 1..r * stride + d];
                let projection = betas[k] * dot(row, v);
                axpy(row, -projection, v);
            }
        }
    }
}

/// Implicit-shift QL; the rotations act on `rows` too, unless `stride` is 0.
fn ql(diagonal: &mut [f64], off: &mut [f64], rows: &mut [f64], stride: usize) -> Result<(), NoConvergence> {
    let mut sweeps = Sweeps::default();
    match ql_steps(diagonal, off, &mut sweeps, stride > 0) {
        0 => {
            sweeps.apply(rows, stride);
            Ok(())
        }
        steps => Err(NoConvergence(steps)),
    }
}

/// The rotations of all sweeps, in order.
#[derive(Debug, Default)]
struct Sweeps {
    /// Of rows `(i, i + 1)`, `i` falling from `top − 1` within a sweep: cosine and sine.
    rotations: Vec<[f64; 2]>,
    /// `top` and the end in `rotations` of each sweep.
    ends: Vec<(usize, usize)>,
}

dispatched! {
    /// 0, or the number of iterations after which an eigenvalue had not converged.
    fn ql_steps(diagonal: &mut [f64], off: &mut [f64], sweeps: &mut Sweeps, keep: bool) -> usize {
        let d = diagonal.len();
        for l in 0..d {
            let mut step = 0;
            loop {
                let mut m = l;
                while m + 1 < d && !negligible(off[m], diagonal[m], diagonal[m + 1], step) {
                    m += 1;
                }
                if m == l {
                    break;
                }
                if step == ITERATIONS {
                    return step;
                }
                step += 1;
                if keep {
                    sweep::<true>(diagonal, off, l, m, &mut sweeps.rotations);
                    sweeps.ends.push((m, sweeps.rotations.len()));
                } else {
                    sweep::<false>(diagonal, off, l, m, &mut sweeps.rotations);
                }
            }
        }
        0
    }
}

#[inline(always)]
fn negligible(off: f64, left: f64, right: f64, step: usize) -> bool {
    // The absolute bar is for a block of zeros, and after some iterations for a block far below the largest entry,
    // whose rounding errors are no smaller; the matrix was scaled to a largest entry of about 1.
    let bar = if step < PATIENCE { 1e-300 } else { f64::EPSILON };
    let off = off.abs();
    off <= f64::EPSILON * (left.abs() + right.abs()) || off < bar
}

/// One QL sweep over the block `l..=m`; records `(c, s)` of the rotations of rows `(i, i + 1)`, `i = m − 1, m − 2, …`.
#[inline(always)]
fn sweep<const KEEP: bool>(diagonal: &mut [f64], off: &mut [f64], l: usize, m: usize, rotations: &mut Vec<[f64; 2]>) {
    let half = (diagonal[l + 1] - diagonal[l]) / (2.0 * off[l]);
    let root = half.hypot(1.0);
    let mut g = diagonal[m] - diagonal[l] + off[l] / (half + root.copysign(half));
    let (mut c, mut s, mut p) = (1.0, 1.0, 0.0);
    for i in (l..m).rev() {
        let (f, b) = (s * off[i], c * off[i]);
        let r = (f * f + g * g).sqrt();
        off[i + 1] = r;
        if r == 0.0 {
            diagonal[i + 1] -= p;
            off[m] = 0.0;
            return;
        }
        let inverse = 1.0 / r;
        s = f * inverse;
        c = g * inverse;
        let shifted = diagonal[i + 1] - p;
        let t = (diagonal[i] - shifted) * s + 2.0 * c * b;
        p = s * t;
        diagonal[i + 1] = shifted + p;
        g = c * t - b;
        if KEEP {
            rotations.push([c, s]);
        }
    }
    diagonal[l] -= p;
    off[l] = g;
    off[m] = 0.0;
}

impl Sweeps {
    /// Applies all rotations to `rows`, block of columns by block of columns, which then stays in the nearest cache.
    fn apply(&self, rows: &mut [f64], stride: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            /// # Safety
            /// AVX2 and FMA.
            #[target_feature(enable = "avx2,fma")]
            fn fused(sweeps: &Sweeps, rows: &mut [f64], stride: usize) {
                sweeps.apply_with(rows, stride, |a, b, c| a.mul_add(b, c));
            }
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                // SAFETY: the processor has AVX2 and FMA, as detected just above.
                return unsafe { fused(self, rows, stride) };
            }
        }
        self.apply_with(rows, stride, |a, b, c| a * b + c);
    }

    #[inline(always)]
    fn apply_with(&self, rows: &mut [f64], stride: usize, fused: impl Fn(f64, f64, f64) -> f64 + Copy) {
        let mut column = 0;
        while column + 32 <= stride {
            self.apply_block::<32>(rows, stride, column, fused);
            column += 32;
        }
        while column < stride {
            self.apply_block::<8>(rows, stride, column, fused);
            column += 8;
        }
    }

    /// Rotates `W` columns; the row that two rotations share stays in registers.
    #[inline(always)]
    fn apply_block<const W: usize>(
        &self,
        rows: &mut [f64],
        stride: usize,
        column: usize,
        fused: impl Fn(f64, f64, f64) -> f64 + Copy,
    ) {
        // The block in contiguous memory.
        let mut block: Vec<[f64; W]> = rows.chunks_exact(stride).map(|row| copy(&row[column..])).collect();
        let mut start = 0;
        for &(top, end) in &self.ends {
            let rotations = &self.rotations[start..end];
            start = end;
            let window = &mut block[top - rotations.len()..=top];
            let mut carry = window[rotations.len()];
            let mut upper = window.len() - 1;
            for &[c, s] in rotations {
                let low = window[upper - 1];
                let high = &mut window[upper];
                for k in 0..W {
                    high[k] = fused(s, low[k], c * carry[k]);
                    carry[k] = fused(c, low[k], -s * carry[k]);
                }
                upper -= 1;
            }
            window[upper] = carry;
        }
        for (row, block) in rows.chunks_exact_mut(stride).zip(&block) {
            row[column..column + W].copy_from_slice(block);
        }
    }
}

#[inline(always)]
fn copy<const W: usize>(row: &[f64]) -> [f64; W] {
    std::array::from_fn(|k| row[k])
}

#[cfg(test)]
mod tests {
    use super::*;
    use random::{Axis, Seeds};
    use testkit::tolerance::{IDENTITY_F64, assert_close};

    fn rebuild(eigen: &Eigen, d: usize) -> Vec<f64> {
        let mut a = vec![0.0; d * d];
        for (k, value) in eigen.values.iter().enumerate() {
            for i in 0..d {
                for j in 0..d {
                    a[i * d + j] += value * eigen.vectors[k * d + i] * eigen.vectors[k * d + j];
                }
            }
        }
        a
    }

    #[test]
    fn finds_the_spectrum_it_was_given() {
        let mut stream = Seeds::new(3).stream(Axis::Test, &[]);
        for d in [1, 2, 3, 5, 8, 9, 33, 64] {
            let want: Vec<f64> = (0..d).map(|k| k as f64 - 2.5).collect();
            let a = testkit::spd::with_spectrum(&want, &mut stream);
            let eigen = Eigen::new(&a, d).unwrap();
            assert_close("values", &eigen.values, &want, d, IDENTITY_F64);
            assert_close("values alone", &eigenvalues(&a, d).unwrap(), &want, d, IDENTITY_F64);
            assert_close("V diag V^T", &rebuild(&eigen, d), &a, d * d, IDENTITY_F64);
            let identity: Vec<f64> = (0..d * d).map(|k| f64::from(u8::from(k % (d + 1) == 0))).collect();
            let unit = Eigen { values: vec![1.0; d], vectors: eigen.vectors, centre: None };
            assert_close("V V^T", &rebuild(&unit, d), &identity, d * d, IDENTITY_F64);
        }
    }

    #[test]
    fn extreme_scales_and_zero() {
        assert_eq!(Eigen::new(&[0.0; 9], 3).unwrap().values, [0.0; 3]);
        for scale in [1e-280, 1e280] {
            let a = [2.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0, 1.0, 2.0].map(|v| v * scale);
            let got: Vec<f64> = eigenvalues(&a, 3).unwrap().iter().map(|v| v / scale).collect();
            let root = 2.0f64.sqrt();
            assert_close("scaled", &got, &[2.0 - root, 2.0, 2.0 + root], 3, IDENTITY_F64);
        }
    }
}
