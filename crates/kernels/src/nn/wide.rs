//! Loops that the compiler turns into SIMD code, compiled for the baseline and for AVX2 and chosen at run time.
//!
//! Only the width differs, never the order of the operations, and nothing is contracted: both give the same bits.

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
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, as detected just above.
            return unsafe { avx2(l) };
        }
    }
    l.run()
}
