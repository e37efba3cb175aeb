//! Arithmetic of the transport loops, chosen once per call at run time: fused multiply-adds in AVX2 registers where the
//! processor has them, the same operations one by one where it does not.

/// Rows that one step of [`sweep`] takes together.
const ROWS: usize = 4;
/// Numbers in a row are padded to a multiple of this.
pub(super) const LANES: usize = 8;

/// Multiply-add, fused or not.
pub(super) trait Arithmetic {
    /// `a b + c`.
    fn mul_add(a: f64, b: f64, c: f64) -> f64;
    /// Inner products of four padded rows with one of the same length.
    fn inner4(rows: [&[f64]; ROWS], x: &[f64]) -> [f64; ROWS];
}

/// One rounding, in AVX2 registers. Used by [`dispatch`] alone, on processors that have AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
struct Fused;

#[cfg(target_arch = "x86_64")]
impl Arithmetic for Fused {
    #[inline(always)]
    fn mul_add(a: f64, b: f64, c: f64) -> f64 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn inner4(rows: [&[f64]; ROWS], x: &[f64]) -> [f64; ROWS] {
        // SAFETY: only `dispatch` uses this arithmetic, after it has found AVX2 and FMA.
        unsafe { inner4_fused(rows, x) }
    }
}

/// Two registers a row keep eight sums in flight, which hides the latency of the additions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn inner4_fused(rows: [&[f64]; ROWS], x: &[f64]) -> [f64; ROWS] {
    use std::arch::x86_64::*;
    // An unaligned load; the library's own checks its pointer at run time where debug assertions are on.
    // SAFETY: both types are four float64 numbers.
    let load = |four: &[f64; 4]| unsafe { std::mem::transmute::<[f64; 4], __m256d>(*four) };
    let [a, b, c, d] = rows.map(|row| row.as_chunks::<4>().0.as_chunks::<2>().0);
    let x = x.as_chunks::<4>().0.as_chunks::<2>().0;
    let mut sums = [[_mm256_setzero_pd(); 2]; ROWS];
    for ((((a, b), c), d), x) in a.iter().zip(b).zip(c).zip(d).zip(x) {
        for half in 0..2 {
            let x = load(&x[half]);
            sums[0][half] = _mm256_fmadd_pd(load(&a[half]), x, sums[0][half]);
            sums[1][half] = _mm256_fmadd_pd(load(&b[half]), x, sums[1][half]);
            sums[2][half] = _mm256_fmadd_pd(load(&c[half]), x, sums[2][half]);
            sums[3][half] = _mm256_fmadd_pd(load(&d[half]), x, sums[3][half]);
        }
    }
    let mut out = [0.0; ROWS];
    for r in 0..ROWS {
        let four = _mm256_add_pd(sums[r][0], sums[r][1]);
        let two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd::<1>(four));
        out[r] = _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
    }
    out
}

/// Two roundings, on any processor.
pub(super) struct Plain;

impl Arithmetic for Plain {
    #[inline(always)]
    fn mul_add(a: f64, b: f64, c: f64) -> f64 {
        a * b + c
    }

    #[inline(always)]
    fn inner4(rows: [&[f64]; ROWS], x: &[f64]) -> [f64; ROWS] {
        rows.map(|row| inner::<Self>(row, x))
    }
}

/// Work that is compiled once for each arithmetic.
pub(super) trait Job {
    type Out;
    /// Does the work. Implementations are `#[inline(always)]`, so that they are compiled for the caller's registers.
    fn run<A: Arithmetic>(self) -> Self::Out;
}

/// Does the work in the best arithmetic of this processor.
pub(super) fn dispatch<J: Job>(job: J) -> J::Out {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide<J: Job>(job: J) -> J::Out {
            job.run::<Fused>()
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA, as detected just above.
            return unsafe { wide(job) };
        }
    }
    job.run::<Plain>()
}

/// A number of the interface: float32 or float64.
pub(super) trait Real: Copy + Default + Send + Sync {
    /// Share of its terms that a sum computed in float64 must keep for its digits to be enough: a rounding of
    /// `2^-52` of the terms is then at most 1e-11 (float64) or 1e-8 (float32) of the sum.
    const RESIDUE: f64;
    /// Exactly this number.
    fn wide(self) -> f64;
    /// The nearest number.
    fn narrow(value: f64) -> Self;
}

impl Real for f32 {
    const RESIDUE: f64 = 2.3e-8;

    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn narrow(value: f64) -> Self {
        value as f32
    }
}

impl Real for f64 {
    const RESIDUE: f64 = 2.3e-5;

    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }

    #[inline(always)]
    fn narrow(value: f64) -> Self {
        value
    }
}

/// `exp(x)` for `x ≤ 700`, without a branch; 0 below −700. Relative error below 3e-16.
///
/// `x = k ln 2 + r` with `|r| ≤ ln 2 / 2`; `exp r` by its Taylor polynomial of degree 13 (truncation `r¹⁴/14! < 5e-18`),
/// `2^k` by the exponent bits.
#[inline(always)]
pub(super) fn exp<A: Arithmetic>(x: f64) -> f64 {
    /// Adding this rounds to a whole number, which stands in the lowest bits.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    /// `ln 2` in two parts; products of the first with small whole numbers are exact.
    const LN2: [f64; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10];
    let shifted = A::mul_add(x, std::f64::consts::LOG2_E, SHIFT);
    let k = shifted - SHIFT;
    let r = A::mul_add(k, -LN2[1], A::mul_add(k, -LN2[0], x));
    let mut p = 1.0 / 6_227_020_800.0;
    for factorial in
        [479_001_600.0, 39_916_800.0, 3_628_800.0, 362_880.0, 40_320.0, 5_040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0]
    {
        p = A::mul_add(p, r, 1.0 / factorial);
    }
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x < -700.0 { 0.0 } else { p * power }
}

/// One pass over a matrix of padded rows: `out = Kᵀ w` for the weights `w_i = weight(i, (K x)_i)`, each row being read
/// once for its inner product and, while it is near, for its part of the sum.
#[inline(always)]
pub(super) fn sweep<A: Arithmetic>(
    matrix: &[f64],
    x: &[f64],
    out: &mut [f64],
    mut weight: impl FnMut(usize, f64) -> f64,
) {
    let stride = x.len();
    out.fill(0.0);
    let groups = matrix.chunks_exact(ROWS * stride);
    let first = groups.len() * ROWS;
    for (group, rows) in matrix.chunks_exact(ROWS * stride).enumerate() {
        let (top, bottom) = rows.split_at(2 * stride);
        let ((a, b), (c, d)) = (top.split_at(stride), bottom.split_at(stride));
        let sums = A::inner4([a, b, c, d], x);
        let mut weights = [0.0; ROWS];
        for (r, w) in weights.iter_mut().enumerate() {
            *w = weight(group * ROWS + r, sums[r]);
        }
        add4::<A>(out, weights, [a, b, c, d]);
    }
    for (r, row) in groups.remainder().chunks_exact(stride).enumerate() {
        let w = weight(first + r, inner::<A>(row, x));
        for (o, k) in out.iter_mut().zip(row) {
            *o = A::mul_add(w, *k, *o);
        }
    }
}

/// Inner product of two padded rows.
#[inline(always)]
pub(super) fn inner<A: Arithmetic>(row: &[f64], x: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    for (a, x) in row.as_chunks::<LANES>().0.iter().zip(x.as_chunks::<LANES>().0) {
        for l in 0..LANES {
            sums[l] = A::mul_add(a[l], x[l], sums[l]);
        }
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7] = sums;
    ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
}

/// `out += Σ_r w_r row_r`.
#[inline(always)]
fn add4<A: Arithmetic>(out: &mut [f64], w: [f64; ROWS], rows: [&[f64]; ROWS]) {
    let [a, b, c, d] = rows.map(|row| &row[..out.len()]);
    for k in 0..out.len() {
        let sum = A::mul_add(w[1], b[k], A::mul_add(w[0], a[k], out[k]));
        out[k] = A::mul_add(w[3], d[k], A::mul_add(w[2], c[k], sum));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use random::{Axis, Seeds};
    use testkit::tolerance::{IDENTITY_F64, assert_close};

    /// `exp` over a slice.
    struct Exp<'a>(&'a [f64]);

    impl Job for Exp<'_> {
        type Out = Vec<f64>;

        #[inline(always)]
        fn run<A: Arithmetic>(self) -> Vec<f64> {
            self.0.iter().map(|x| exp::<A>(*x)).collect()
        }
    }

    #[test]
    fn exponentials_are_as_exact_as_they_say() {
        let mut stream = Seeds::new(3).stream(Axis::Test, &[]);
        let mut x: Vec<f64> = (0..20_000).map(|_| stream.range(-700.0, 700.0)).collect();
        x.extend((0..20_000).map(|_| stream.range(-2.0, 2.0)));
        x.extend([0.0, -0.0, 1.0, -1.0, 0.5 * std::f64::consts::LN_2, -700.0, 700.0]);
        for got in [dispatch(Exp(&x)), Exp(&x).run::<Plain>()] {
            for (got, x) in got.iter().zip(&x) {
                // The library's own last bit comes on top of the bound.
                assert!((got / x.exp() - 1.0).abs() <= 5e-16, "exp({x}) = {got}");
            }
        }
        let far = [f64::NEG_INFINITY, -1e300, -701.0];
        assert_eq!(dispatch(Exp(&far)), [0.0; 3]);
        assert_eq!(Exp(&far).run::<Plain>(), [0.0; 3]);
    }

    struct Sweep<'a>(&'a [f64], &'a [f64]);

    impl Job for Sweep<'_> {
        type Out = (Vec<f64>, Vec<f64>);

        #[inline(always)]
        fn run<A: Arithmetic>(self) -> Self::Out {
            let mut out = vec![1.0; self.1.len()];
            let mut products = vec![0.0; self.0.len() / self.1.len()];
            sweep::<A>(self.0, self.1, &mut out, |i, sum| {
                products[i] = sum;
                sum + i as f64
            });
            (out, products)
        }
    }

    #[test]
    fn a_sweep_is_two_products() {
        let mut stream = Seeds::new(4).stream(Axis::Test, &[]);
        for (rows, stride) in [(1, 8), (4, 16), (7, 8), (21, 24)] {
            let matrix: Vec<f64> = (0..rows * stride).map(|_| stream.normal()).collect();
            let x: Vec<f64> = (0..stride).map(|_| stream.normal()).collect();
            let products: Vec<f64> =
                matrix.chunks(stride).map(|row| row.iter().zip(&x).map(|(a, b)| a * b).sum()).collect();
            let mut want = vec![0.0; stride];
            for (i, row) in matrix.chunks(stride).enumerate() {
                want.iter_mut().zip(row).for_each(|(o, k)| *o += (products[i] + i as f64) * k);
            }
            for (out, sums) in [dispatch(Sweep(&matrix, &x)), Sweep(&matrix, &x).run::<Plain>()] {
                assert_close("inner products", &sums, &products, rows, IDENTITY_F64);
                assert_close("sum of rows", &out, &want, stride, IDENTITY_F64);
            }
        }
    }
}
