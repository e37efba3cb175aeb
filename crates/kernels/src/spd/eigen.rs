//! Eigendecompositions of symmetric matrices in float64: Householder tridiagonalisation, then the QL iteration with
//! implicit shifts, of up to eight matrices in lockstep.
//!
//! What a matrix gets does not depend on the matrices that it is decomposed with.

use std::any::Any;
use std::cell::RefCell;

use super::ql;
use super::sweeps::{PADDING, Sweeps, multiply_out};
use super::tridiagonal::Tridiagonal;
use super::wide::{Job, Pair, Wide, dispatch};

/// How many matrices a call of [`Eigen::several`] should be given at a time, at least.
pub(crate) const TOGETHER: usize = 8;

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
        only(Self::several(&[a], d))
    }

    /// Decomposes symmetric `d`×`d` matrices.
    pub(crate) fn several(all: &[&[f64]], d: usize) -> Vec<Result<Self, NoConvergence>> {
        let shifted: Vec<(&[f64], f64)> = all.iter().map(|&a| (a, 0.0)).collect();
        dispatch(Decompose { all: &shifted, d, vectors: true })
    }

    /// As [`Eigen::several`]; where a spectrum lies close to one value, the difference from that value is decomposed, so
    /// that what is close to 0 there (the logarithm near the identity) keeps its digits.
    pub(crate) fn centred(all: &[&[f64]], d: usize) -> Vec<Result<Self, NoConvergence>> {
        let shifted: Vec<(&[f64], f64)> = all.iter().map(|&a| (a, centre(a, d).unwrap_or(0.0))).collect();
        let mut out = dispatch(Decompose { all: &shifted, d, vectors: true });
        for (eigen, &(_, centre)) in out.iter_mut().zip(&shifted) {
            if let (Ok(eigen), true) = (eigen, centre != 0.0) {
                let values = eigen.values.iter().map(|v| centre + v).collect();
                eigen.centre = Some((centre, std::mem::replace(&mut eigen.values, values)));
            }
        }
        out
    }

    /// Puts the pairs in ascending order of the values.
    pub(crate) fn sort(&mut self) {
        if self.values.is_sorted() {
            return;
        }
        let d = self.values.len();
        let order = ascending(&self.values);
        self.vectors = order.iter().flat_map(|&k| &self.vectors[k * d..(k + 1) * d]).copied().collect();
        self.values = order.iter().map(|&k| self.values[k]).collect();
    }
}

/// Ascending eigenvalues alone of symmetric `d`×`d` matrices, at about a third of the cost.
pub(crate) fn eigenvalues_of(all: &[&[f64]], d: usize) -> Vec<Result<Vec<f64>, NoConvergence>> {
    let shifted: Vec<(&[f64], f64)> = all.iter().map(|&a| (a, 0.0)).collect();
    let out = dispatch(Decompose { all: &shifted, d, vectors: false });
    out.into_iter().map(|eigen| eigen.map(|e| e.values)).collect()
}

fn only<T>(mut all: Vec<T>) -> T {
    all.remove(0)
}

fn ascending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    order
}

/// The mean eigenvalue, if all lie within a factor of 2 of it: subtracting it from the diagonal is then exact.
pub(super) fn centre(a: &[f64], d: usize) -> Option<f64> {
    let centre = a.iter().step_by(d + 1).sum::<f64>() / d as f64;
    let spread: f64 = (0..d)
        .map(|i| {
            let row = &a[i * d..(i + 1) * d];
            let whole: f64 = row.iter().map(|v| v * v).sum();
            whole - row[i] * row[i] + (row[i] - centre) * (row[i] - centre)
        })
        .sum();
    // Not a number where the matrix is not finite.
    (spread.sqrt() < 0.25 * centre).then_some(centre)
}

/// Decomposes each matrix less a multiple of the identity.
struct Decompose<'a> {
    all: &'a [(&'a [f64], f64)],
    d: usize,
    vectors: bool,
}

/// Memory of one thread, used again for matrices of the same size.
struct Room<W> {
    d: usize,
    halves: [Tridiagonal<W>; 2],
    diagonal: Vec<Pair<W>>,
    off: Vec<Pair<W>>,
    sweeps: Vec<Sweeps>,
    /// Vectors of the reflections of one matrix, and its eigenvectors; rows of `stride` numbers.
    reflections: Vec<f64>,
    rows: Vec<f64>,
    stride: usize,
}

thread_local! {
    static ROOM: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

impl Job for Decompose<'_> {
    type Out = Vec<Result<Eigen, NoConvergence>>;

    #[inline(always)]
    fn run<W: Wide>(self) -> Self::Out {
        // No closure around the work: its body would be compiled without the vector instructions.
        let kept = ROOM.take().and_then(|room| room.downcast::<Room<W>>().ok()).filter(|room| room.d == self.d);
        let mut room = kept.unwrap_or_else(|| Box::new(Room::new(self.d)));
        let mut out = Vec::with_capacity(self.all.len());
        for group in self.all.chunks(2 * W::LANES) {
            room.decompose(group, self.vectors, &mut out);
        }
        ROOM.set(Some(room));
        out
    }
}

impl<W: Wide> Room<W> {
    fn new(d: usize) -> Self {
        let stride = d.next_multiple_of(PADDING);
        Self {
            d,
            halves: [Tridiagonal::new(d), Tridiagonal::new(d)],
            diagonal: vec![Pair::splat(0.0); d],
            off: vec![Pair::splat(0.0); d],
            sweeps: (0..2 * W::LANES).map(|_| Sweeps::default()).collect(),
            reflections: vec![0.0; d * stride],
            rows: vec![0.0; d * stride],
            stride,
        }
    }

    #[inline(always)]
    fn decompose(&mut self, group: &[(&[f64], f64)], vectors: bool, out: &mut Vec<Result<Eigen, NoConvergence>>) {
        let scales: Vec<f64> = group.iter().map(|&(a, shift)| scale(a, self.d, shift)).collect();
        for (at, half) in self.halves.iter_mut().enumerate() {
            let from = (at * W::LANES).min(group.len());
            let to = (from + W::LANES).min(group.len());
            if from < to {
                half.load(&group[from..to], &scales[from..to]);
                half.reduce();
            }
        }
        let [first, second] = &self.halves;
        for i in 0..self.d {
            self.diagonal[i] = Pair::new(first.diagonal[i], second.diagonal[i]);
            self.off[i] = Pair::new(first.off[i], second.off[i]);
        }
        let sweeps = if vectors { &mut self.sweeps[..] } else { &mut [] };
        sweeps.iter_mut().for_each(Sweeps::clear);
        let failures = ql::eigenvalues(&mut self.diagonal, &mut self.off, group.len(), sweeps);
        for (lane, scale) in scales.iter().enumerate() {
            out.push(match failures[lane] {
                Some(steps) => Err(NoConvergence(steps)),
                None => Ok(self.finish(lane, *scale, vectors)),
            });
        }
    }

    /// Values and vectors of one lane in ascending order.
    #[inline(always)]
    fn finish(&mut self, lane: usize, scale: f64, vectors: bool) -> Eigen {
        let (d, stride) = (self.d, self.stride);
        let lanes = Pair::<W>::lanes(&self.diagonal);
        let mut values: Vec<f64> = (0..d).map(|i| lanes[i * 2 * W::LANES + lane] / scale).collect();
        if !vectors {
            values.sort_unstable_by(f64::total_cmp);
            return Eigen { values, vectors: Vec::new(), centre: None };
        }
        let (half, lane_of_half) = (&self.halves[lane / W::LANES], lane % W::LANES);
        let betas: Vec<f64> = (0..d).map(|k| W::lanes(&half.betas[k..k + 1])[lane_of_half]).collect();
        let from = W::lanes(&half.reflections);
        for k in 0..d {
            let from = from[(k * d + k) * W::LANES..(k + 1) * d * W::LANES].chunks_exact(W::LANES);
            let row = &mut self.reflections[k * stride + k..k * stride + d];
            for (v, lanes) in row.iter_mut().zip(from) {
                *v = lanes[lane_of_half];
            }
            // The vector begins beside the diagonal.
            row[0] = 0.0;
        }
        multiply_out::<W>(&betas, &self.reflections, &mut self.rows, stride);
        self.sweeps[lane].apply::<W>(&mut self.rows, stride);
        let order = ascending(&values);
        values.sort_unstable_by(f64::total_cmp);
        let mut vectors = Vec::with_capacity(d * d);
        order.iter().for_each(|&k| vectors.extend_from_slice(&self.rows[k * stride..k * stride + d]));
        Eigen { values, vectors, centre: None }
    }
}

/// A power of two that brings the largest entry near 1: it changes no digit, and keeps squares away from overflow and
/// underflow.
#[inline(always)]
fn scale(a: &[f64], d: usize, shift: f64) -> f64 {
    let mut largest = 0.0f64;
    for (i, row) in a.chunks_exact(d).enumerate() {
        let most = |m: f64, v: &f64| m.max(v.abs());
        largest = row[..i].iter().fold(largest, most).max((row[i] - shift).abs());
    }
    if largest == 0.0 { 1.0 } else { 2.0f64.powi(-(largest.log2().floor().clamp(-1000.0, 1000.0) as i32)) }
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
            assert_close("values alone", &only(eigenvalues_of(&[&a], d)).unwrap(), &want, d, IDENTITY_F64);
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
            let got: Vec<f64> = only(eigenvalues_of(&[&a], 3)).unwrap().iter().map(|v| v / scale).collect();
            let root = 2.0f64.sqrt();
            assert_close("scaled", &got, &[2.0 - root, 2.0, 2.0 + root], 3, IDENTITY_F64);
        }
    }
}
