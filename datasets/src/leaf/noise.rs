//! Noise on a lattice, from an integer hash.

/// 64 mixed bits of a seed and two lattice coordinates (the finaliser of SplitMix64, applied twice).
pub(super) fn hash(seed: u64, x: i64, y: i64) -> u64 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let first = mix(seed.wrapping_add((x as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    mix(first.wrapping_add((y as u64).wrapping_mul(0xd1b5_4a32_d192_ed03)))
}

/// The `k`-th of four uniform numbers in `[0, 1)` in 64 bits, with 16 bits each.
pub(super) fn uniform(bits: u64, k: u32) -> f64 {
    f64::from((bits >> (16 * k)) as u16) * (1.0 / 65536.0)
}

/// Smooth noise in `[−1, 1]`: values at integer points, cubic fade between them.
pub(super) fn value(seed: u64, x: f64, y: f64) -> f64 {
    let (fx, fy) = (x.floor(), y.floor());
    let (ix, iy) = (fx as i64, fy as i64);
    let fade = |t: f64| t * t * (3.0 - 2.0 * t);
    let (tx, ty) = (fade(x - fx), fade(y - fy));
    let at = |dx: i64, dy: i64| uniform(hash(seed, ix + dx, iy + dy), 0);
    let top = at(0, 0) + (at(1, 0) - at(0, 0)) * tx;
    let bottom = at(0, 1) + (at(1, 1) - at(0, 1)) * tx;
    2.0 * (top + (bottom - top) * ty) - 1.0
}
