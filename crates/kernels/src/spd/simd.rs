//! Loops that the compiler turns into SIMD code, compiled for the baseline and for AVX2 and chosen at run time.
//!
//! Only the width differs, never the order of the operations, and nothing is contracted: both give the same bits.

/// Declares a function whose body is compiled for the baseline and, on x86-64, for AVX2 too.
macro_rules! dispatched {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has AVX2, as detected just above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use dispatched;

/// Inner product in eight interleaved partial sums, added in a fixed order.
#[inline(always)]
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut sums = [0.0; 8];
    let (left, right) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = left.remainder().iter().zip(right.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in left.zip(right) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7] = sums;
    ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7)) + tail
}

/// `y += factor · x`.
#[inline(always)]
pub(crate) fn axpy(y: &mut [f64], factor: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += factor * x;
    }
}

dispatched! {
    /// `‖a − b‖²`.
    pub(crate) fn squared_difference(a: &[f64], b: &[f64]) -> f64 {
        let n = a.len().min(b.len());
        let mut sums = [0.0; 8];
        let (left, right) = (a[..n].chunks_exact(8), b[..n].chunks_exact(8));
        let tail: f64 = left.remainder().iter().zip(right.remainder()).map(|(x, y)| (x - y) * (x - y)).sum();
        for (x, y) in left.zip(right) {
            for lane in 0..8 {
                let difference = x[lane] - y[lane];
                sums[lane] += difference * difference;
            }
        }
        let [s0, s1, s2, s3, s4, s5, s6, s7] = sums;
        ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7)) + tail
    }
}
