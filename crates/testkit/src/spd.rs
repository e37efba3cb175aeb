//! Random symmetric positive definite matrices with known spectra; the stream is always explicit.

use random::Stream;

/// A random orthogonal `d`×`d` matrix, row-major (Gram-Schmidt, twice, on a Gaussian matrix).
pub fn orthogonal(d: usize, stream: &mut Stream) -> Vec<f64> {
    let mut q: Vec<f64> = (0..d * d).map(|_| stream.normal()).collect();
    for i in 0..d {
        for _ in 0..2 {
            for j in 0..i {
                let dot: f64 = (0..d).map(|k| q[i * d + k] * q[j * d + k]).sum();
                (0..d).for_each(|k| q[i * d + k] -= dot * q[j * d + k]);
            }
        }
        let norm = (0..d).map(|k| q[i * d + k].powi(2)).sum::<f64>().sqrt();
        (0..d).for_each(|k| q[i * d + k] /= norm);
    }
    q
}

/// The symmetric matrix with these eigenvalues and random eigenvectors.
pub fn with_spectrum(eigenvalues: &[f64], stream: &mut Stream) -> Vec<f64> {
    let d = eigenvalues.len();
    let q = orthogonal(d, stream);
    let mut a = vec![0.0; d * d];
    for (k, &value) in eigenvalues.iter().enumerate() {
        for i in 0..d {
            for j in 0..d {
                a[i * d + j] += value * q[k * d + i] * q[k * d + j];
            }
        }
    }
    symmetrise(&mut a, d);
    a
}

/// A batch of `n` matrices with eigenvalues uniform in `[low, high)`.
pub fn batch(n: usize, d: usize, low: f64, high: f64, stream: &mut Stream) -> Vec<f64> {
    (0..n)
        .flat_map(|_| {
            let w: Vec<f64> = (0..d).map(|_| stream.range(low, high)).collect();
            with_spectrum(&w, stream)
        })
        .collect()
}

/// Replaces a square matrix by its symmetric part.
pub fn symmetrise(a: &mut [f64], d: usize) {
    for i in 0..d {
        for j in 0..i {
            let mean = 0.5 * (a[i * d + j] + a[j * d + i]);
            a[i * d + j] = mean;
            a[j * d + i] = mean;
        }
    }
}
