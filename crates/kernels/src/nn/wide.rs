//! Loops that the compiler turns into SIMD code, compiled for the baseline, for AVX2 and for AVX-512 and chosen at run time.
//!
//! Only the width differs, never the order of the operations, and nothing is contracted: all give the same bits.

/// A loop. `run` is to be `#[inline(always)]`, so that it is compiled for the instructions that [`wide`] chose.
pub(crate) trait Loop {
    /// What it gives.
    type Out;

    /// Runs it.
    fn run(self) -> Self::Out;
}

/// Runs a loop with the widest instructions that it was compiled for.
#[inline]
pub(crate) fn wide<L: Loop>(l: L) -> L::Out {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2<L: Loop>(l: L) -> L::Out {
            l.run()
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn avx512<L: Loop>(l: L) -> L::Out {
            l.run()
        }
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
            // SAFETY: the processor has them, as detected just above.
            return unsafe { avx512(l) };
        }
        if has!("avx2") {
            // SAFETY: the processor has AVX2, as detected just above.
            return unsafe { avx2(l) };
        }
    }
    l.run()
}
