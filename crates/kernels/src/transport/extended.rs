//! Floating-point numbers with a mantissa of `64 L` bits and an exponent that does not run out.
//!
//! Results are cut off, not rounded: a product is right to `2^(2 − 64 L)` of itself, a sum to that part of its larger
//! term.

/// `± mantissa · 2^exponent` with the mantissa in `[½, 1)`, or 0. The least significant limb comes first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Extended<const L: usize> {
    negative: bool,
    exponent: i64,
    limbs: [u64; L],
}

impl<const L: usize> Extended<L> {
    pub(super) const ZERO: Self = Self { negative: false, exponent: 0, limbs: [0; L] };

    /// Exactly this number, which is finite.
    pub(super) fn new(value: f64) -> Self {
        let bits = value.to_bits();
        let (field, fraction) = (((bits >> 52) & 0x7ff) as i64, bits & ((1 << 52) - 1));
        let mut limbs = [0; L];
        // Numbers below the normal ones have no hidden bit, and the exponent of the least normal one.
        limbs[L - 1] = if field == 0 { fraction } else { fraction | 1 << 52 };
        Self { negative: value < 0.0, exponent: field.max(1) - 1075 + 64, limbs }.normalised()
    }

    /// This number in float64: 0 or infinite where it is out of range.
    pub(super) fn to_f64(self) -> f64 {
        let mantissa = self.limbs[L - 1] as f64 / 2f64.powi(64);
        // In two steps: the power may lie outside the range where the product does not.
        let exponent = self.exponent.clamp(-2100, 2100) as i32;
        let value = mantissa * 2f64.powi(exponent / 2) * 2f64.powi(exponent - exponent / 2);
        if self.negative { -value } else { value }
    }

    pub(super) fn is_zero(self) -> bool {
        self.limbs[L - 1] == 0
    }

    /// The `s` of `2^(s−1) ≤ |x| < 2^s`; the least number there is for 0.
    pub(super) fn size(self) -> i64 {
        if self.is_zero() { i64::MIN } else { self.exponent }
    }

    /// `|self| > |other|`.
    pub(super) fn exceeds(self, other: Self) -> bool {
        self.size() > other.size()
            || (self.size() == other.size() && self.limbs.iter().rev().gt(other.limbs.iter().rev()))
    }

    /// `self · 2^k`.
    pub(super) fn shifted(self, k: i64) -> Self {
        if self.is_zero() { self } else { Self { exponent: self.exponent + k, ..self } }
    }

    fn normalised(mut self) -> Self {
        let Some(top) = self.limbs.iter().rposition(|&limb| limb != 0) else { return Self::ZERO };
        let bits = self.limbs[top].leading_zeros();
        let whole = L - 1 - top;
        self.exponent -= 64 * whole as i64 + i64::from(bits);
        self.limbs.copy_within(0..=top, whole);
        self.limbs[..whole].fill(0);
        if bits > 0 {
            for i in (0..L).rev() {
                let below = if i > 0 { self.limbs[i - 1] >> (64 - bits) } else { 0 };
                self.limbs[i] = self.limbs[i] << bits | below;
            }
        }
        self
    }

    /// The mantissa divided by `2^distance`.
    #[inline(always)]
    fn lowered(&self, distance: i64) -> [u64; L] {
        let (whole, bits) = ((distance / 64) as usize, (distance % 64) as u32);
        let limb = |i: usize| if i < L { self.limbs[i] } else { 0 };
        std::array::from_fn(|i| {
            let (low, high) = (limb(i + whole), limb(i + whole + 1));
            if bits == 0 { low } else { low >> bits | high << (64 - bits) }
        })
    }

    /// The reciprocal of a number other than 0, by Newton's iteration `y ← y (2 − x y)`, which doubles the digits.
    pub(super) fn reciprocal(self) -> Self {
        let two = Self::new(2.0);
        let unit = Self { exponent: 1, ..self };
        let mut y = Self::new(1.0 / unit.to_f64());
        let mut digits = 50;
        while digits < 64 * L {
            y = y * (two - unit * y);
            digits *= 2;
        }
        y.shifted(1 - self.exponent)
    }
}

impl<const L: usize> std::ops::Neg for Extended<L> {
    type Output = Self;

    fn neg(self) -> Self {
        Self { negative: !self.negative, ..self }
    }
}

impl<const L: usize> std::ops::Add for Extended<L> {
    type Output = Self;

    #[inline]
    fn add(self, other: Self) -> Self {
        let (large, small) = if other.exceeds(self) { (other, self) } else { (self, other) };
        if small.is_zero() || large.exponent - small.exponent >= 64 * L as i64 {
            return large;
        }
        let lowered = small.lowered(large.exponent - small.exponent);
        let mut out = large;
        if large.negative == small.negative {
            let mut carry = false;
            for (limb, low) in out.limbs.iter_mut().zip(lowered) {
                (*limb, carry) = limb.carrying_add(low, carry);
            }
            if carry {
                out.limbs = out.lowered(1);
                out.limbs[L - 1] |= 1 << 63;
                out.exponent += 1;
            }
            return out;
        }
        let mut borrow = false;
        for (limb, low) in out.limbs.iter_mut().zip(lowered) {
            (*limb, borrow) = limb.borrowing_sub(low, borrow);
        }
        if out.limbs[L - 1] >> 63 == 1 { out } else { out.normalised() }
    }
}

impl<const L: usize> std::ops::Sub for Extended<L> {
    type Output = Self;

    #[inline]
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl<const L: usize> std::ops::Mul for Extended<L> {
    type Output = Self;

    /// The upper half of the product, limb by limb, with one bit below it for the normalisation.
    #[inline]
    fn mul(self, other: Self) -> Self {
        if self.is_zero() || other.is_zero() {
            return Self::ZERO;
        }
        let (mut limbs, mut dropped) = ([0; L], 0);
        for factor in self.limbs {
            let (low, mut carry) = factor.carrying_mul(other.limbs[0], limbs[0]);
            dropped = low;
            for j in 1..L {
                (limbs[j - 1], carry) = factor.carrying_mul_add(other.limbs[j], limbs[j], carry);
            }
            limbs[L - 1] = carry;
        }
        let mut exponent = self.exponent + other.exponent;
        if limbs[L - 1] >> 63 == 0 {
            for i in (0..L).rev() {
                let below = if i > 0 { limbs[i - 1] } else { dropped };
                limbs[i] = limbs[i] << 1 | below >> 63;
            }
            exponent -= 1;
        }
        Self { negative: self.negative != other.negative, exponent, limbs }
    }
}

/// Exponentials, with the constants that they need.
pub(super) struct Exponential<const L: usize> {
    ln2: Extended<L>,
    /// `1/k` for `k = 1, 2, ..`, as many as the series has terms.
    inverses: Vec<Extended<L>>,
}

impl<const L: usize> Exponential<L> {
    /// The argument is halved this often before the series, and the result squared as often.
    const HALVINGS: i64 = 8;

    pub(super) fn new() -> Self {
        let inverse = |k: usize| Extended::new(k as f64).reciprocal();
        // ln 2 = 2 artanh(1/3) = Σ 2 / ((2k + 1) 3^(2k + 1)).
        let (third, mut ln2, mut k) = (inverse(3), Extended::ZERO, 0);
        let (ninth, mut power) = (third * third, third.shifted(1));
        while power.size() > -64 * L as i64 {
            ln2 = ln2 + power * inverse(2 * k + 1);
            power = power * ninth;
            k += 1;
        }
        // Terms rᵏ/k! with |r| < 2^(−1 − HALVINGS).
        let (mut bits, mut terms) = (0.0, 0);
        while bits < 64.0 * L as f64 {
            terms += 1;
            bits += (terms as f64).log2() + (1 + Self::HALVINGS) as f64;
        }
        Self { ln2, inverses: (1..=terms).map(inverse).collect() }
    }

    /// `exp(x)` for `|x| < 2^50`, up to `2^(12 − 64 L) (1 + |x|)` of itself.
    pub(super) fn of(&self, x: Extended<L>) -> Extended<L> {
        let k = (x.to_f64() * std::f64::consts::LOG2_E).round();
        let rest = (x - self.ln2 * Extended::new(k)).shifted(-Self::HALVINGS);
        let one = Extended::new(1.0);
        let mut sum = one;
        for inverse in self.inverses.iter().rev() {
            sum = one + sum * (rest * *inverse);
        }
        for _ in 0..Self::HALVINGS {
            sum = sum * sum;
        }
        sum.shifted(k as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use random::{Axis, Seeds};

    /// `|x − want| ≤ 2^-bits |want|`.
    fn close<const L: usize>(x: Extended<L>, want: Extended<L>, bits: i64) -> bool {
        (x - want).size() <= want.size() - bits || x == want
    }

    fn sums_and_products<const L: usize>() {
        let mut stream = Seeds::new(6).stream(Axis::Test, &[]);
        for _ in 0..500 {
            let mut draw = || Extended::<L>::new(stream.normal() * 10f64.powf(stream.range(-20.0, 20.0)));
            let (a, b, c) = (draw() * draw(), draw(), draw());
            let (sum, parts) = ((a + b) * c, [a * c, b * c]);
            let larger = parts[0].size().max(parts[1].size());
            assert!((sum - parts[0] - parts[1]).size() <= larger + 4 - 64 * L as i64, "{a:?} {b:?} {c:?}");
            let same = a;
            assert_eq!(a - same, Extended::ZERO);
            assert_eq!(a + b, b + a);
            assert!(close(a * a.reciprocal(), Extended::new(1.0), 64 * L as i64 - 4), "reciprocal of {a:?}");
        }
    }

    #[test]
    fn arithmetic_keeps_its_digits() {
        sums_and_products::<2>();
        sums_and_products::<4>();
        sums_and_products::<8>();
    }

    #[test]
    fn numbers_come_and_go_unchanged() {
        for x in [0.0, 1.0, -3.75, 0.1, 5e-324, -2.3e-310, 1.7976931348623157e308, -2.2250738585072014e-308] {
            assert_eq!(Extended::<2>::new(x).to_f64(), x);
            assert_eq!(Extended::<4>::new(x).to_f64(), x);
        }
        let tiny = Extended::<2>::new(1e-300);
        assert_eq!((tiny * tiny).to_f64(), 0.0);
        assert!(((tiny * tiny).reciprocal() * tiny * tiny - Extended::new(1.0)).to_f64().abs() < 1e-37);
    }

    /// 1 + 2^-100 − 1, which float64 does not see.
    #[test]
    fn a_small_difference_survives() {
        let one = Extended::<2>::new(1.0);
        assert_eq!((one + one.shifted(-100) - one).to_f64(), 2f64.powi(-100));
        assert_eq!(one + one.shifted(-200) - one, Extended::ZERO);
        let more = Extended::<4>::new(1.0);
        assert_eq!((more + more.shifted(-200) - more).to_f64(), 2f64.powi(-200));
    }

    #[test]
    fn exponentials_multiply() {
        let (exp, precise) = (Exponential::<2>::new(), Exponential::<4>::new());
        // e to 60 digits, in pieces of float64.
        let e = Extended::<4>::new(std::f64::consts::E)
            + Extended::new(1.4456468917292502e-16)
            + Extended::new(-2.1277171080381768e-33);
        assert!(close(precise.of(Extended::new(1.0)), e, 155));
        let mut stream = Seeds::new(7).stream(Axis::Test, &[]);
        for _ in 0..200 {
            let (x, y) = (stream.range(-2000.0, 2000.0), stream.range(-3.0, 3.0));
            let both = exp.of(Extended::new(x) + Extended::new(y));
            assert!(close(exp.of(Extended::new(x)) * exp.of(Extended::new(y)), both, 128 - 24), "{x} + {y}");
            assert!((exp.of(Extended::new(y)).to_f64() / y.exp() - 1.0).abs() < 5e-16);
        }
        assert_eq!(exp.of(Extended::ZERO), Extended::new(1.0));
    }
}
