//! The two passes of a resize. A sum has at most a few dozen terms of 22-bit weights that sum to one and 8-bit levels:
//! it fits into 32 bits, and is made with wrapping operations so that it becomes SIMD code.

use super::Filter;
use crate::math::wide::{Loop, wide};

const PRECISION: u32 = 22;
const HALF: i32 = 1 << (PRECISION - 1);

/// The weights of one axis: for each output index the first input index and `taps` weights, some of them 0.
pub(super) struct Weights {
    taps: usize,
    first: Vec<usize>,
    values: Vec<i32>,
}

impl Weights {
    pub(super) fn new(input: usize, output: usize, filter: Filter) -> Self {
        let scale = input as f64 / output as f64;
        let reduction = scale.max(1.0);
        let support = filter.support() * reduction;
        let range = |x: usize| {
            let center = (x as f64 + 0.5) * scale;
            let low = ((center - support + 0.5) as i64).max(0) as usize;
            (center, low, ((center + support + 0.5) as i64).clamp(0, input as i64) as usize)
        };
        let taps = (0..output).map(range).map(|(_, low, high)| high - low).max().unwrap_or(0);
        let mut weights = Self { taps, first: Vec::with_capacity(output), values: vec![0; taps * output] };
        let mut row = vec![0.0f64; taps];
        for (x, values) in weights.values.chunks_exact_mut(taps).enumerate() {
            let (center, low, high) = range(x);
            let mut sum = 0.0;
            for (k, value) in row[..high - low].iter_mut().enumerate() {
                *value = filter.weight(((k + low) as f64 - center + 0.5) * (1.0 / reduction));
                sum += *value;
            }
            // All windows are `taps` wide and inside: at the end of the axis they begin earlier, with weights of 0.
            let first = low.min(input - taps);
            for (value, fixed) in row[..high - low].iter().zip(&mut values[low - first..]) {
                let share = if sum == 0.0 { *value } else { *value * (1.0 / sum) };
                let scaled = share * f64::from(1u32 << PRECISION);
                *fixed = (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32;
            }
            weights.first.push(first);
        }
        weights
    }
}

#[inline(always)]
fn to_level(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Rows of another width: `rows` of RGB pixels in, rows of `width` RGB pixels out.
pub(super) fn across<'a>(rows: impl Iterator<Item = &'a [u8]>, weights: &Weights, out: &mut [u8]) {
    let width = weights.first.len();
    let mut padded = Vec::new();
    for (out, row) in out.chunks_exact_mut(width * 3).zip(rows) {
        padded.clear();
        padded.extend_from_slice(row);
        padded.push(0);
        across_row(&padded, weights, out);
    }
}

/// One row. `row` has one byte more than its pixels: a pixel is handled as four levels, of which the last is the next
/// pixel's or that byte, and is overwritten or left out.
fn across_row(row: &[u8], weights: &Weights, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as detected just above.
        return unsafe { across_row_avx2(row, weights, out) };
    }
    across_row_plain(row, weights, out);
}

fn across_row_plain(row: &[u8], weights: &Weights, out: &mut [u8]) {
    for_each_pixel(row, weights, out, |source, values| {
        let mut sum = [HALF; 4];
        for (levels, &weight) in source.windows(4).step_by(3).zip(values) {
            for (sum, &level) in sum.iter_mut().zip(levels) {
                *sum = sum.wrapping_add(i32::from(level).wrapping_mul(weight));
            }
        }
        sum.map(to_level)
    });
}

/// The same sums, four levels in a register.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn across_row_avx2(row: &[u8], weights: &Weights, out: &mut [u8]) {
    use std::arch::x86_64::{
        _mm_add_epi32, _mm_cvtepu8_epi32, _mm_cvtsi32_si128, _mm_cvtsi128_si32, _mm_mullo_epi32, _mm_packs_epi32,
        _mm_packus_epi16, _mm_set1_epi32, _mm_srai_epi32,
    };
    for_each_pixel(row, weights, out, |source, values| {
        let mut sum = _mm_set1_epi32(HALF);
        for (levels, &weight) in source.windows(4).step_by(3).zip(values) {
            let levels = i32::from_le_bytes([levels[0], levels[1], levels[2], levels[3]]);
            let levels = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(levels));
            sum = _mm_add_epi32(sum, _mm_mullo_epi32(levels, _mm_set1_epi32(weight)));
        }
        // Packing clamps: first to 16 bits with a sign, where these sums of at most 10 bits fit, then to levels.
        let words = _mm_packs_epi32(_mm_srai_epi32::<{ PRECISION as i32 }>(sum), _mm_set1_epi32(0));
        _mm_cvtsi128_si32(_mm_packus_epi16(words, words)).to_le_bytes()
    });
}

/// Calls `pixel` with the bytes and the weights of each pixel of the result, and keeps the first three levels. The
/// commonest numbers of taps are loops of fixed length.
#[inline(always)]
fn for_each_pixel(row: &[u8], weights: &Weights, out: &mut [u8], pixel: impl Fn(&[u8], &[i32]) -> [u8; 4]) {
    match weights.taps {
        2 => with_taps(2, row, weights, out, pixel),
        3 => with_taps(3, row, weights, out, pixel),
        4 => with_taps(4, row, weights, out, pixel),
        taps => with_taps(taps, row, weights, out, pixel),
    }
}

#[inline(always)]
fn with_taps(taps: usize, row: &[u8], weights: &Weights, out: &mut [u8], pixel: impl Fn(&[u8], &[i32]) -> [u8; 4]) {
    let length = out.len();
    let mut at = 0;
    for (&first, values) in weights.first.iter().zip(weights.values.chunks_exact(taps)) {
        let levels = pixel(&row[first * 3..][..taps * 3 + 1], values);
        if at + 3 < length {
            out[at..at + 4].copy_from_slice(&levels);
        } else {
            out[at..].copy_from_slice(&levels[..3]);
        }
        at += 3;
    }
}

/// Columns of another height: `image` has rows of `stride` bytes, `out` likewise.
pub(super) fn down(image: &[u8], stride: usize, weights: &Weights, out: &mut [u8]) {
    let mut sums = vec![0i32; if weights.taps > 4 { stride } else { 0 }];
    let rows = out.chunks_exact_mut(stride).zip(&weights.first).zip(weights.values.chunks_exact(weights.taps));
    for ((out, &first), values) in rows {
        let window = &image[first * stride..][..weights.taps * stride];
        match *values {
            [a] => wide(Down { window, stride, values: [a], out }),
            [a, b] => wide(Down { window, stride, values: [a, b], out }),
            [a, b, c] => wide(Down { window, stride, values: [a, b, c], out }),
            [a, b, c, d] => wide(Down { window, stride, values: [a, b, c, d], out }),
            _ => wide(DownMany { window, stride, values, sums: &mut sums, out }),
        }
    }
}

/// One row of the result from `N` rows.
struct Down<'a, const N: usize> {
    window: &'a [u8],
    stride: usize,
    values: [i32; N],
    out: &'a mut [u8],
}

impl<const N: usize> Loop for Down<'_, N> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let length = self.out.len();
        let rows: [&[u8]; N] = std::array::from_fn(|k| &self.window[k * self.stride..][..length]);
        for (x, level) in self.out.iter_mut().enumerate() {
            let mut sum = HALF;
            for (row, &weight) in rows.iter().zip(&self.values) {
                sum = sum.wrapping_add(i32::from(row[x]).wrapping_mul(weight));
            }
            *level = to_level(sum);
        }
    }
}

/// One row of the result from many rows.
struct DownMany<'a> {
    window: &'a [u8],
    stride: usize,
    values: &'a [i32],
    sums: &'a mut [i32],
    out: &'a mut [u8],
}

impl Loop for DownMany<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        self.sums.fill(HALF);
        for (row, &weight) in self.window.chunks_exact(self.stride).zip(self.values) {
            for (sum, &level) in self.sums.iter_mut().zip(row) {
                *sum = sum.wrapping_add(i32::from(level).wrapping_mul(weight));
            }
        }
        for (level, &sum) in self.out.iter_mut().zip(&*self.sums) {
            *level = to_level(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What runs on this machine against the plain form, with many taps and few, and at the ends of a row.
    #[test]
    fn wide_and_plain_rows_are_the_same() {
        for (input, output) in [(9, 5), (5, 9), (300, 7), (7, 300), (64, 63), (1, 4), (4, 1)] {
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                // Noise and full swings, at which the cubic kernel leaves the range.
                let row: Vec<u8> =
                    (0..input * 3 + 1).map(|k| if k / 12 % 2 == 0 { 255 } else { (k * 89 % 7) as u8 }).collect();
                let weights = Weights::new(input, output, filter);
                let (mut one, mut two) = (vec![1; output * 3], vec![2; output * 3]);
                across_row(&row, &weights, &mut one);
                across_row_plain(&row, &weights, &mut two);
                assert_eq!(one, two, "{input} to {output} {filter:?}");
            }
        }
    }
}
