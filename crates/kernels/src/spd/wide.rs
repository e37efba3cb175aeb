//! Several float64 numbers that go through the same operations, one matrix a lane.
//!
//! Comparisons give masks, numbers whose bits are all set or all clear, as the vector instructions do.

/// Numbers in lockstep.
pub(super) trait Wide: Copy + Send + Sync + 'static {
    /// How many.
    const LANES: usize;
    /// `x` in every lane.
    fn splat(x: f64) -> Self;
    /// Lane `k` from `f(k)`.
    fn from_lanes(f: impl FnMut(usize) -> f64) -> Self;
    /// The first numbers of `from`.
    fn load(from: &[f64]) -> Self;
    /// Writes to the first numbers of `to`.
    fn store(self, to: &mut [f64]);
    /// `self + b`.
    fn add(self, b: Self) -> Self;
    /// `self − b`.
    fn sub(self, b: Self) -> Self;
    /// `self · b`.
    fn mul(self, b: Self) -> Self;
    /// `self / b`.
    fn div(self, b: Self) -> Self;
    /// `√self`.
    fn sqrt(self) -> Self;
    /// `self · b + c`.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// `c − self · b`.
    fn neg_mul_add(self, b: Self, c: Self) -> Self;
    /// `|self|`.
    fn abs(self) -> Self;
    /// `|self|` with the sign of `b`.
    fn with_sign(self, b: Self) -> Self;
    /// Mask of `self ≤ b`.
    fn at_most(self, b: Self) -> Self;
    /// Mask of `self < b`.
    fn below(self, b: Self) -> Self;
    /// `self` and `b`, of masks.
    fn and(self, b: Self) -> Self;
    /// `self` and not `b`, of masks.
    fn and_not(self, b: Self) -> Self;
    /// `self` or `b`, of masks.
    fn or(self, b: Self) -> Self;
    /// `a` where the mask `self` is set, else `b`.
    fn select(self, a: Self, b: Self) -> Self;
    /// Whether the mask is set in any lane.
    fn any(self) -> bool;
    /// All lanes of all numbers, one number's lanes after the other's.
    fn lanes(all: &[Self]) -> &[f64];
    /// As [`Wide::lanes`].
    fn lanes_mut(all: &mut [Self]) -> &mut [f64];
}

const fn mask(set: bool) -> f64 {
    f64::from_bits(if set { u64::MAX } else { 0 })
}

/// One lane, on any processor; two roundings in a multiply-add.
impl Wide for f64 {
    const LANES: usize = 1;

    #[inline(always)]
    fn splat(x: f64) -> Self {
        x
    }
    #[inline(always)]
    fn from_lanes(mut f: impl FnMut(usize) -> f64) -> Self {
        f(0)
    }
    #[inline(always)]
    fn load(from: &[f64]) -> Self {
        from[0]
    }
    #[inline(always)]
    fn store(self, to: &mut [f64]) {
        to[0] = self;
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        self + b
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        self - b
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        self * b
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        self / b
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        self * b + c
    }
    #[inline(always)]
    fn neg_mul_add(self, b: Self, c: Self) -> Self {
        c - self * b
    }
    #[inline(always)]
    fn abs(self) -> Self {
        f64::abs(self)
    }
    #[inline(always)]
    fn with_sign(self, b: Self) -> Self {
        self.copysign(b)
    }
    #[inline(always)]
    fn at_most(self, b: Self) -> Self {
        mask(self <= b)
    }
    #[inline(always)]
    fn below(self, b: Self) -> Self {
        mask(self < b)
    }
    #[inline(always)]
    fn and(self, b: Self) -> Self {
        f64::from_bits(self.to_bits() & b.to_bits())
    }
    #[inline(always)]
    fn and_not(self, b: Self) -> Self {
        f64::from_bits(self.to_bits() & !b.to_bits())
    }
    #[inline(always)]
    fn or(self, b: Self) -> Self {
        f64::from_bits(self.to_bits() | b.to_bits())
    }
    #[inline(always)]
    fn select(self, a: Self, b: Self) -> Self {
        if self.to_bits() == 0 { b } else { a }
    }
    #[inline(always)]
    fn any(self) -> bool {
        self.to_bits() != 0
    }
    #[inline(always)]
    fn lanes(all: &[Self]) -> &[f64] {
        all
    }
    #[inline(always)]
    fn lanes_mut(all: &mut [Self]) -> &mut [f64] {
        all
    }
}

/// Four lanes in an AVX register. To be used only where the processor has AVX2 and FMA: a value of this type is proof
/// that somebody has looked.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Four(std::arch::x86_64::__m256d);

/// A vector instruction.
#[cfg(target_arch = "x86_64")]
macro_rules! instruction {
    ($name:ident($($argument:expr),*)) => {
        // SAFETY: values of the type exist only where the processor has AVX2 and FMA.
        unsafe { std::arch::x86_64::$name($($argument),*) }
    };
}

#[cfg(target_arch = "x86_64")]
impl Wide for Four {
    const LANES: usize = 4;

    #[inline(always)]
    fn splat(x: f64) -> Self {
        Self(instruction!(_mm256_set1_pd(x)))
    }
    #[inline(always)]
    fn from_lanes(mut f: impl FnMut(usize) -> f64) -> Self {
        let [a, b, c, d] = [f(0), f(1), f(2), f(3)];
        Self(instruction!(_mm256_setr_pd(a, b, c, d)))
    }
    #[inline(always)]
    fn load(from: &[f64]) -> Self {
        let Some(four) = from.first_chunk::<4>() else { panic!("a register needs four numbers") };
        // SAFETY: both types are four float64 numbers.
        Self(unsafe { std::mem::transmute::<[f64; 4], std::arch::x86_64::__m256d>(*four) })
    }
    #[inline(always)]
    fn store(self, to: &mut [f64]) {
        let Some(four) = to.first_chunk_mut::<4>() else { panic!("a register has four numbers") };
        // SAFETY: as in `load`.
        *four = unsafe { std::mem::transmute::<std::arch::x86_64::__m256d, [f64; 4]>(self.0) };
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        Self(instruction!(_mm256_add_pd(self.0, b.0)))
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        Self(instruction!(_mm256_sub_pd(self.0, b.0)))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        Self(instruction!(_mm256_mul_pd(self.0, b.0)))
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        Self(instruction!(_mm256_div_pd(self.0, b.0)))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(instruction!(_mm256_sqrt_pd(self.0)))
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self(instruction!(_mm256_fmadd_pd(self.0, b.0, c.0)))
    }
    #[inline(always)]
    fn neg_mul_add(self, b: Self, c: Self) -> Self {
        Self(instruction!(_mm256_fnmadd_pd(self.0, b.0, c.0)))
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Self(instruction!(_mm256_andnot_pd(Self::splat(-0.0).0, self.0)))
    }
    #[inline(always)]
    fn with_sign(self, b: Self) -> Self {
        let sign = Self::splat(-0.0);
        self.abs().or(b.and(sign))
    }
    #[inline(always)]
    fn at_most(self, b: Self) -> Self {
        use std::arch::x86_64::_CMP_LE_OQ;
        // SAFETY: as in `instruction`.
        Self(unsafe { std::arch::x86_64::_mm256_cmp_pd::<_CMP_LE_OQ>(self.0, b.0) })
    }
    #[inline(always)]
    fn below(self, b: Self) -> Self {
        use std::arch::x86_64::_CMP_LT_OQ;
        // SAFETY: as in `instruction`.
        Self(unsafe { std::arch::x86_64::_mm256_cmp_pd::<_CMP_LT_OQ>(self.0, b.0) })
    }
    #[inline(always)]
    fn and(self, b: Self) -> Self {
        Self(instruction!(_mm256_and_pd(self.0, b.0)))
    }
    #[inline(always)]
    fn and_not(self, b: Self) -> Self {
        Self(instruction!(_mm256_andnot_pd(b.0, self.0)))
    }
    #[inline(always)]
    fn or(self, b: Self) -> Self {
        Self(instruction!(_mm256_or_pd(self.0, b.0)))
    }
    #[inline(always)]
    fn select(self, a: Self, b: Self) -> Self {
        Self(instruction!(_mm256_blendv_pd(b.0, a.0, self.0)))
    }
    #[inline(always)]
    fn any(self) -> bool {
        instruction!(_mm256_movemask_pd(self.0)) != 0
    }
    #[inline(always)]
    fn lanes(all: &[Self]) -> &[f64] {
        // SAFETY: each value is four float64 numbers, and its alignment is no smaller than theirs.
        unsafe { std::slice::from_raw_parts(all.as_ptr().cast(), 4 * all.len()) }
    }
    #[inline(always)]
    fn lanes_mut(all: &mut [Self]) -> &mut [f64] {
        // SAFETY: as in `lanes`; every four numbers are a value.
        unsafe { std::slice::from_raw_parts_mut(all.as_mut_ptr().cast(), 4 * all.len()) }
    }
}

/// Two of them side by side: independent chains of operations that hide each other's latency.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Pair<W>(W, W);

impl<W: Wide> Wide for Pair<W> {
    const LANES: usize = 2 * W::LANES;

    #[inline(always)]
    fn splat(x: f64) -> Self {
        Self(W::splat(x), W::splat(x))
    }
    #[inline(always)]
    fn from_lanes(mut f: impl FnMut(usize) -> f64) -> Self {
        let first = W::from_lanes(&mut f);
        Self(first, W::from_lanes(|k| f(W::LANES + k)))
    }
    #[inline(always)]
    fn load(from: &[f64]) -> Self {
        Self(W::load(from), W::load(&from[W::LANES..]))
    }
    #[inline(always)]
    fn store(self, to: &mut [f64]) {
        self.0.store(to);
        self.1.store(&mut to[W::LANES..]);
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        Self(self.0.add(b.0), self.1.add(b.1))
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        Self(self.0.sub(b.0), self.1.sub(b.1))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        Self(self.0.mul(b.0), self.1.mul(b.1))
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        Self(self.0.div(b.0), self.1.div(b.1))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.sqrt(), self.1.sqrt())
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self(self.0.mul_add(b.0, c.0), self.1.mul_add(b.1, c.1))
    }
    #[inline(always)]
    fn neg_mul_add(self, b: Self, c: Self) -> Self {
        Self(self.0.neg_mul_add(b.0, c.0), self.1.neg_mul_add(b.1, c.1))
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.abs(), self.1.abs())
    }
    #[inline(always)]
    fn with_sign(self, b: Self) -> Self {
        Self(self.0.with_sign(b.0), self.1.with_sign(b.1))
    }
    #[inline(always)]
    fn at_most(self, b: Self) -> Self {
        Self(self.0.at_most(b.0), self.1.at_most(b.1))
    }
    #[inline(always)]
    fn below(self, b: Self) -> Self {
        Self(self.0.below(b.0), self.1.below(b.1))
    }
    #[inline(always)]
    fn and(self, b: Self) -> Self {
        Self(self.0.and(b.0), self.1.and(b.1))
    }
    #[inline(always)]
    fn and_not(self, b: Self) -> Self {
        Self(self.0.and_not(b.0), self.1.and_not(b.1))
    }
    #[inline(always)]
    fn or(self, b: Self) -> Self {
        Self(self.0.or(b.0), self.1.or(b.1))
    }
    #[inline(always)]
    fn select(self, a: Self, b: Self) -> Self {
        Self(self.0.select(a.0, b.0), self.1.select(a.1, b.1))
    }
    #[inline(always)]
    fn any(self) -> bool {
        self.0.any() || self.1.any()
    }
    #[inline(always)]
    fn lanes(all: &[Self]) -> &[f64] {
        // SAFETY: a pair is two values of `W` one after the other, with nothing between.
        W::lanes(unsafe { std::slice::from_raw_parts(all.as_ptr().cast(), 2 * all.len()) })
    }
    #[inline(always)]
    fn lanes_mut(all: &mut [Self]) -> &mut [f64] {
        // SAFETY: as in `lanes`.
        W::lanes_mut(unsafe { std::slice::from_raw_parts_mut(all.as_mut_ptr().cast(), 2 * all.len()) })
    }
}

impl<W> Pair<W> {
    /// Of two.
    pub(super) fn new(first: W, second: W) -> Self {
        Self(first, second)
    }
}

/// `Σ a_k b_k` in four chains.
#[inline(always)]
pub(super) fn inner<W: Wide>(a: &[W], b: &[W]) -> W {
    let zero = W::splat(0.0);
    let mut sums = [zero; 4];
    let ((a_fours, a_rest), (b_fours, b_rest)) = (a.as_chunks::<4>(), b.as_chunks::<4>());
    for (a, b) in a_fours.iter().zip(b_fours) {
        for k in 0..4 {
            sums[k] = a[k].mul_add(b[k], sums[k]);
        }
    }
    let rest = a_rest.iter().zip(b_rest).fold(zero, |sum, (a, b)| a.mul_add(*b, sum));
    sums[0].add(sums[1]).add(sums[2].add(sums[3])).add(rest)
}

/// Work that is done in the lanes that the processor offers.
pub(super) trait Job {
    /// What it gives.
    type Out;
    /// Does it in registers `W`.
    fn run<W: Wide>(self) -> Self::Out;
}

/// Runs `job` in registers of four lanes, or of one where the processor lacks AVX2 or FMA.
pub(super) fn dispatch<J: Job>(job: J) -> J::Out {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide<J: Job>(job: J) -> J::Out {
            job.run::<Four>()
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA, as just looked up.
            return unsafe { wide(job) };
        }
    }
    job.run::<f64>()
}
