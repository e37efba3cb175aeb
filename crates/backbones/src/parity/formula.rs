//! The fill formula.

/// `n` multiples of 2⁻²³ in [-1, 1): splitmix64's output function over FNV-1a of the name.
pub fn unit(name: &str, n: usize) -> Vec<f64> {
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
    (1..=n as u64)
        .map(|i| {
            let mut z = hash.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            (z >> 40) as f64 / f64::from(1u32 << 23) - 1.0
        })
        .collect()
}

/// The values of a parameter or buffer of this name and shape.
pub fn fill(name: &str, shape: &[usize]) -> Vec<f32> {
    let (center, width) = if name.ends_with("running_var") {
        (1.0, 0.5)
    } else if name.ends_with("running_mean") {
        (0.0, 0.1)
    } else if name.ends_with("gamma") {
        (0.5, 0.1)
    } else if ["pos_embed", "cls_token"].contains(&name) {
        (0.0, 0.2)
    } else if shape.len() >= 2 {
        (0.0, (3.0 / shape[1..].iter().product::<usize>() as f64).sqrt())
    } else if name.ends_with("weight") {
        (1.0, 0.1)
    } else {
        (0.0, 0.1)
    };
    unit(name, shape.iter().product()).into_iter().map(|u| (center + width * u) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_is_that_of_the_generator() {
        // What `generate.py` makes of these names.
        assert_eq!(unit("input", 2), [-6_747_489.0 / 8_388_608.0, 2_556_183.0 / 8_388_608.0]);
        let u = |name| unit(name, 1)[0];
        for (name, shape, want) in [
            ("a.running_var", vec![1], 1.0 + 0.5 * u("a.running_var")),
            ("a.running_mean", vec![1], 0.1 * u("a.running_mean")),
            ("a.gamma", vec![1], 0.5 + 0.1 * u("a.gamma")),
            ("pos_embed", vec![1, 1, 1], 0.2 * u("pos_embed")),
            ("a.weight", vec![1, 3, 2, 2], 0.5 * u("a.weight")),
            ("a.weight", vec![1], 1.0 + 0.1 * u("a.weight")),
            ("a.bias", vec![1], 0.1 * u("a.bias")),
        ] {
            assert_eq!(fill(name, &shape)[0], want as f32, "{name}");
        }
    }
}
