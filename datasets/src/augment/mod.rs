//! Augmentations: one a file, each as "draw parameters" and "apply given parameters".
//!
//! Cutting works on 8-bit pixels; the rest on planes `[3, S, S]` of `f32`: flip and jitter on levels in `[0, 1]`,
//! rotation, erasing and tile shuffling on normalised values, where 0 is the mean colour. Each is what torchvision does
//! with float tensors, tested against values made by it.

pub mod erase;
pub mod flip;
pub mod jitter;
pub mod random_resized_crop;
pub mod rotate;
pub mod shuffle;

use serde::{Deserialize, Serialize};

use crate::error::DatasetError;
pub use erase::EraseParams;
pub use jitter::{JitterParams, JitterPart};
pub use random_resized_crop::CropParams;
pub use rotate::RotateParams;
pub use shuffle::ShuffleParams;

/// Settings of the training views. The defaults are those of CLE-ViT's released code, without rotation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Share of the image's area that the random crop takes, lowest and highest; `[1, 1]` with `crop_ratio` wide
    /// enough takes the whole image.
    pub crop_scale: [f64; 2],
    /// Width over height of the random crop, lowest and highest.
    pub crop_ratio: [f64; 2],
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// Greatest rotation in degrees, either way; 0 is off.
    pub rotation: f64,
    /// Brightness factor is drawn from `[1 − b, 1 + b]`, not below 0; 0 is off.
    pub brightness: f64,
    /// Contrast factor, likewise.
    pub contrast: f64,
    /// Saturation factor, likewise.
    pub saturation: f64,
    /// Hue is turned by a share of the colour circle from `[−h, h]`, at most 0.5; 0 is off.
    #[serde(skip_serializing_if = "is_off")]
    pub hue: f64,
    /// Share of the positive view's area that is erased, lowest and highest; `[0, 0]` is off.
    pub erase_area: [f64; 2],
    /// Height over width of the erased rectangle, lowest and highest.
    pub erase_aspect: [f64; 2],
    /// Tiles on a side that the positive view is shuffled in; 1 is off.
    pub shuffle_grid: usize,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self {
            crop_scale: [0.67, 1.0],
            crop_ratio: [3.0 / 4.0, 4.0 / 3.0],
            flip: 0.5,
            rotation: 0.0,
            brightness: 0.3,
            contrast: 0.0,
            saturation: 0.0,
            hue: 0.0,
            erase_area: [0.15, 0.45],
            erase_aspect: [0.3, 3.3],
            shuffle_grid: 2,
        }
    }
}

/// A setting that came later and is off is not written, so that the identity of cells without it stays the same.
fn is_off(value: &f64) -> bool {
    *value == 0.0
}

impl AugmentConfig {
    /// Views without any randomness: the whole image, nothing else.
    pub fn none() -> Self {
        Self {
            crop_scale: [1.0, 1.0],
            crop_ratio: [1.0, 1.0],
            flip: 0.0,
            brightness: 0.0,
            erase_area: [0.0, 0.0],
            shuffle_grid: 1,
            ..Self::default()
        }
    }

    /// Checks the ranges; `size` is the side of the views.
    ///
    /// # Errors
    /// [`DatasetError::Setting`] for the first value out of range.
    pub fn validate(&self, size: usize) -> Result<(), DatasetError> {
        let setting =
            |key, value: String, reason: &str| DatasetError::Setting { key, value, reason: reason.to_owned() };
        let ordered = |key, [low, high]: [f64; 2], from: f64, to: f64, reason: &str| {
            let ok = low <= high && low >= from && high <= to;
            if ok { Ok(()) } else { Err(setting(key, format!("[{low}, {high}]"), reason)) }
        };
        ordered("crop_scale", self.crop_scale, 1e-4, 1.0, "needs 0.0001 ≤ low ≤ high ≤ 1")?;
        ordered("crop_ratio", self.crop_ratio, 0.01, 100.0, "needs 0.01 ≤ low ≤ high ≤ 100")?;
        ordered("erase_area", self.erase_area, 0.0, 0.95, "needs 0 ≤ low ≤ high ≤ 0.95")?;
        ordered("erase_aspect", self.erase_aspect, 0.01, 100.0, "needs 0.01 ≤ low ≤ high ≤ 100")?;
        let factors = [("brightness", self.brightness), ("contrast", self.contrast), ("saturation", self.saturation)];
        for (key, value) in factors {
            if !(0.0..=10.0).contains(&value) {
                return Err(setting(key, value.to_string(), "must be 0 to 10"));
            }
        }
        if !(0.0..=0.5).contains(&self.hue) {
            return Err(setting("hue", self.hue.to_string(), "must be 0 to 0.5"));
        }
        if !(0.0..=1.0).contains(&self.flip) {
            return Err(setting("flip", self.flip.to_string(), "is a probability, 0 to 1"));
        }
        if !(0.0..=180.0).contains(&self.rotation) {
            return Err(setting("rotation", self.rotation.to_string(), "must be 0 to 180 degrees"));
        }
        if !(1..=size).contains(&self.shuffle_grid) {
            let reason = format!("must be 1 to the size of the views, {size}");
            return Err(setting("shuffle_grid", self.shuffle_grid.to_string(), &reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
