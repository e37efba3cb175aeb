//! Tolerances belong to an algorithm class and a dtype; they live here and are never typed inline.

/// The error measure of the oracle files: the largest relative Frobenius error over the batch,
/// `max ‖got − want‖ / ‖want‖`, and `‖got‖` where `want` is 0. NaN and infinity give infinity.
///
/// # Panics
/// If the two differ in length, or the length is no multiple of `item`, the number of values in one batch entry.
pub fn relative_error(got: &[f64], want: &[f64], item: usize) -> f64 {
    assert_eq!(got.len(), want.len(), "lengths of got and want");
    assert!(item > 0 && want.len().is_multiple_of(item), "{} values are no batch of {item}", want.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let mut worst = 0.0f64;
    for (g, w) in got.chunks(item).zip(want.chunks(item)) {
        let difference = norm(&mut g.iter().zip(w).map(|(a, b)| a - b));
        let scale = norm(&mut w.iter().copied());
        let error = if scale == 0.0 { difference } else { difference / scale };
        if !error.is_finite() {
            return f64::INFINITY;
        }
        worst = worst.max(error);
    }
    worst
}

/// Bars for one dtype.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// For outputs.
    pub value: f64,
    /// For gradients.
    pub gradient: f64,
}

/// Kernels against the oracle files, run on float64 tensors.
pub const ORACLE_F64: Tolerance = Tolerance { value: 1e-10, gradient: 1e-8 };
/// Kernels against the oracle files, run on float32 tensors.
pub const ORACLE_F32: Tolerance = Tolerance { value: 1e-5, gradient: 1e-4 };
/// Relative error of a convolution's float32 sums of random numbers, for any number of products: about three roundings,
/// where sums are accurate.
pub const CLOSE_SUM_F32: f64 = 1.2e-7;
/// Relative error of float32 numbers that were computed in float64 or in pairs and rounded once: half a unit in the last
/// place, 2⁻²⁴.
pub const ROUNDED_F32: f64 = 6e-8;
/// The same of plain sums of up to a few thousand products.
pub const PLAIN_SUM_F32: f64 = 1e-6;
/// Training ops with bfloat16 activations and float32 sums against float64 on the same numbers: eight bits of the result,
/// and of what lies between two passes.
pub const ACTIVATIONS_BF16: Tolerance = Tolerance { value: 4e-3, gradient: 8e-3 };
/// Attention with bfloat16 activations: scores and weights are stored as well, three roundings instead of one.
pub const ATTENTION_BF16: Tolerance = Tolerance { value: 8e-3, gradient: 1.6e-2 };
/// Sums of products of float32 numbers that were rounded to TF32, which keeps eleven bits, before.
pub const PRODUCTS_TF32: Tolerance = Tolerance { value: 1e-3, gradient: 1e-3 };
/// What the parameters of a small network have moved by after a few steps, against the same steps in float64.
pub const TRAINED_F64: f64 = 1e-12;
/// The same in float32.
pub const TRAINED_F32: f64 = 1e-5;
/// The same with bfloat16 activations and float32 parameters, by gradient descent.
pub const TRAINED_BF16: f64 = 1e-2;
/// Central differences in float64 along a random direction, step 1e-5: truncation and rounding allow about 1e-7.
pub const FINITE_DIFFERENCE: f64 = 1e-6;
/// Identities in float64 (log∘exp, sqrt², …) at moderate condition numbers.
pub const IDENTITY_F64: f64 = 1e-10;

/// Optimisers, schedules and averages in float64 against plain loops, over tens of steps.
pub const OPTIMISER_F64: f64 = 1e-12;
/// Optimisers, schedules and averages in float64 against PyTorch's trajectories of 20 steps.
pub const TRAJECTORY_F64: f64 = 1e-10;
/// Loss of the first step of a small network with batch normalisation in float32, on two devices: they sum in different
/// orders, and the statistics of small maps magnify that.
pub const FIRST_LOSS_F32: f64 = 1e-4;
/// Bars of a backbone against the parity files.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackboneTolerance {
    /// Features and logits with given statistics.
    pub eval: f64,
    /// Features with the statistics of the batch.
    pub train: f64,
    /// Gradients, the median over parameters.
    pub median_gradient: f64,
    /// Gradients, the worst parameter.
    pub worst_gradient: f64,
}

/// Backbones in float64: the bars that prove the wiring.
pub const BACKBONE_F64: BackboneTolerance =
    BackboneTolerance { eval: 1e-9, train: 1e-9, median_gradient: 1e-7, worst_gradient: 1e-6 };
/// Backbones in float32.
pub const BACKBONE_F32: BackboneTolerance =
    BackboneTolerance { eval: 1e-5, train: 1e-3, median_gradient: 5e-3, worst_gradient: 0.2 };

/// Backbones with bfloat16 activations and running statistics against float32, untrained: features, and the gradients of all
/// parameters together. PyTorch's automatic bfloat16 is within 0.015 and 0.075 on the same architectures.
pub const BACKBONE_BF16: Tolerance = Tolerance { value: 3e-2, gradient: 0.15 };

/// Panics with the numbers unless `got` is within `bar` of `want` by [`relative_error`].
#[track_caller]
pub fn assert_close(what: &str, got: &[f64], want: &[f64], item: usize, bar: f64) {
    let error = relative_error(got, want, item);
    assert!(error <= bar, "{what}: relative error {error:.2e} is above {bar:.0e}");
}

/// Most levels (of 0 to 255) by which a decoded JPEG with subsampled chroma may differ from Pillow's: the decoders round
/// differently in the cosine transform and when they spread chroma out.
pub const JPEG_LEVELS: u8 = 3;
/// The same where chroma is not subsampled.
pub const JPEG_WHOLE_CHROMA_LEVELS: u8 = 2;
/// The same in the mean over an image.
pub const JPEG_MEAN_LEVELS: f64 = 0.5;
/// The same for TIFF in CMYK, whose product is rounded down where Pillow rounds to nearest.
pub const CMYK_TIFF_LEVELS: u8 = 1;
/// Augmentations on float32 levels and normalised values of magnitude up to 3: a few roundings.
pub const AUGMENT_F32: f32 = 2e-6;
/// Rotation in float32: torchvision makes its grid of coordinates in float32, and interpolation magnifies their rounding
/// by the difference of neighbours.
pub const ROTATE_F32: f32 = 1e-5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_never_passes_and_zero_is_absolute() {
        assert_eq!(relative_error(&[f64::NAN, 0.0], &[1.0, 0.0], 1), f64::INFINITY);
        assert_eq!(relative_error(&[0.25], &[0.0], 1), 0.25);
        assert_eq!(relative_error(&[1.0, 3.0], &[1.0, 2.0], 1), 0.5);
    }
}
