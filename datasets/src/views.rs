//! Views: from an 8-bit image to the numbers that a backbone sees.

use random::{Axis, Seeds, Stream};
use serde::{Deserialize, Serialize};

use crate::augment::{
    AugmentConfig, CropParams, JitterParams, RotateParams, erase, flip, jitter, random_resized_crop, rotate, shuffle,
};
use crate::decode::Rgb;
use crate::error::DatasetError;
use crate::resize::{Filter, Fit, Resize};

/// Normalisation of a channel: `(level/255 − mean) / std`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Normalise {
    /// Mean of red, green and blue, of levels in `[0, 1]`.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue.
    pub std: [f32; 3],
}

impl Default for Normalise {
    /// The statistics of ImageNet.
    fn default() -> Self {
        Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }
    }
}

impl Normalise {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`DatasetError::Setting`] if a standard deviation is not above 0 or a value not finite.
    pub fn validate(&self) -> Result<(), DatasetError> {
        let error = |key, value: [f32; 3], reason: &str| DatasetError::Setting {
            key,
            value: format!("{value:?}"),
            reason: reason.to_owned(),
        };
        if !self.mean.iter().all(|v| v.is_finite()) {
            return Err(error("mean", self.mean, "must be finite"));
        }
        if !self.std.iter().all(|&v| v.is_finite() && v > 0.0) {
            return Err(error("std", self.std, "must be above 0"));
        }
        Ok(())
    }

    /// Normalises `[3, S, S]` levels in `[0, 1]` in place.
    pub fn apply(&self, planes: &mut [f32]) {
        let area = planes.len() / 3;
        for (plane, (mean, std)) in planes.chunks_exact_mut(area.max(1)).zip(self.mean.iter().zip(&self.std)) {
            plane.iter_mut().for_each(|v| *v = (*v - mean) / std);
        }
    }
}

/// How test images are brought to the size of the backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// The short side becomes this many pixels, then the centre is cut.
    pub resize: usize,
    /// The kernel of that resize.
    pub filter: Filter,
}

impl EvalConfig {
    /// Checks that a view of `size` can be cut.
    ///
    /// # Errors
    /// [`DatasetError::Setting`] if `resize` is smaller than `size`.
    pub fn validate(&self, size: usize) -> Result<(), DatasetError> {
        if self.resize < size {
            let reason = format!("must be at least the size of the views, {size}");
            return Err(DatasetError::Setting { key: "resize", value: self.resize.to_string(), reason });
        }
        Ok(())
    }
}

/// Which views are wanted besides the anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WantViews {
    /// The second, erased and shuffled view.
    pub positive: bool,
    /// The anchor's crop and flip with another photometric draw.
    pub teacher: bool,
}

/// The views of one image, each `[3, S, S]`, normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct Views {
    /// Crop, flip, jitter, rotation.
    pub anchor: Vec<f32>,
    /// An independent draw of the same, then erased, then its tiles shuffled.
    pub positive: Option<Vec<f32>>,
    /// The anchor's crop, flip and rotation with a photometric draw of its own: its tokens correspond to the anchor's.
    pub teacher: Option<Vec<f32>>,
}

/// The streams of an (epoch, item).
#[derive(Clone, Copy)]
enum View {
    Anchor = 0,
    Positive = 1,
    Teacher = 2,
}

/// Where the pixels of a view come from.
#[derive(Clone, Copy)]
struct Geometry {
    crop: CropParams,
    flip: bool,
    rotate: RotateParams,
}

impl Geometry {
    fn draw(image: &Rgb, augment: &AugmentConfig, stream: &mut Stream) -> Self {
        Self {
            crop: random_resized_crop::draw(image.width, image.height, augment.crop_scale, augment.crop_ratio, stream),
            flip: flip::draw(augment.flip, stream),
            rotate: rotate::draw(augment.rotation, stream),
        }
    }

    fn cut(&self, image: &Rgb, size: usize) -> Rgb {
        let mut cut = random_resized_crop::apply(image, self.crop, size);
        if self.flip {
            flip::apply(&mut cut);
        }
        cut
    }
}

/// Makes the training views of one image.
///
/// Every view has a stream of its own, keyed by (epoch, item, view): which views are wanted changes nothing in the
/// others, and the same seed gives every method the same anchors. `item` is the index of the image in its split.
///
/// # Panics
/// If the image or `size` is 0 pixels.
#[expect(clippy::too_many_arguments, reason = "a pure function of what determines a view")]
pub fn train_views(
    image: &Rgb,
    augment: &AugmentConfig,
    size: usize,
    norm: &Normalise,
    seeds: Seeds,
    epoch: u64,
    item: u64,
    want: WantViews,
) -> Views {
    let stream = |view: View| seeds.stream(Axis::Augment, &[epoch, item, view as u64]);
    let mut draws = stream(View::Anchor);
    let geometry = Geometry::draw(image, augment, &mut draws);
    let cut = geometry.cut(image, size);
    let anchor = finish(&cut, &jitter::draw(augment, &mut draws), geometry.rotate, norm);
    let teacher =
        want.teacher.then(|| finish(&cut, &jitter::draw(augment, &mut stream(View::Teacher)), geometry.rotate, norm));
    let positive = want.positive.then(|| {
        let mut draws = stream(View::Positive);
        let geometry = Geometry::draw(image, augment, &mut draws);
        let cut = geometry.cut(image, size);
        let mut planes = finish(&cut, &jitter::draw(augment, &mut draws), geometry.rotate, norm);
        if let Some(params) = erase::draw(size, augment.erase_area, augment.erase_aspect, &mut draws) {
            erase::apply(&mut planes, size, params);
        }
        if augment.shuffle_grid > 1 {
            shuffle::apply(&mut planes, size, &shuffle::draw(augment.shuffle_grid, &mut draws));
        }
        planes
    });
    Views { anchor, positive, teacher }
}

fn finish(cut: &Rgb, jitter: &JitterParams, rotate: RotateParams, norm: &Normalise) -> Vec<f32> {
    let mut planes = to_planes(cut, (0, 0, cut.width, cut.height));
    jitter::apply(&mut planes, jitter);
    norm.apply(&mut planes);
    rotate::apply(&mut planes, cut.width, rotate);
    planes
}

/// A rectangle of the image as `[3, height, width]` levels in `[0, 1]`.
fn to_planes(image: &Rgb, (left, top, width, height): (usize, usize, usize, usize)) -> Vec<f32> {
    let area = width * height;
    let mut planes = vec![0.0f32; 3 * area];
    let (red, rest) = planes.split_at_mut(area);
    let (green, blue) = rest.split_at_mut(area);
    for y in 0..height {
        let row = &image.data[((top + y) * image.width + left) * 3..][..width * 3];
        let out = y * width..(y + 1) * width;
        let targets = red[out.clone()].iter_mut().zip(&mut green[out.clone()]).zip(&mut blue[out]);
        for (pixel, ((r, g), b)) in row.chunks_exact(3).zip(targets) {
            (*r, *g, *b) = (f32::from(pixel[0]) / 255.0, f32::from(pixel[1]) / 255.0, f32::from(pixel[2]) / 255.0);
        }
    }
    planes
}

/// The view that an image is judged by: short side to `eval.resize` (antialiased), `size`×`size` from the centre,
/// normalised. `[3, S, S]`. The centre is torchvision's, halves rounded to even.
///
/// # Panics
/// If `eval.resize < size`; [`EvalConfig::validate`] says so beforehand.
pub fn eval_view(image: &Rgb, eval: &EvalConfig, size: usize, norm: &Normalise) -> Vec<f32> {
    assert!(eval.resize >= size, "eval_view: a view of {size} pixels from a short side of {}", eval.resize);
    let resize = Resize { size: eval.resize, fit: Fit::ShortSide, filter: eval.filter };
    let resized = resize.apply(image);
    let start = |side: usize| ((side - size) as f64 / 2.0).round_ties_even() as usize;
    let mut planes = to_planes(&resized, (start(resized.width), start(resized.height), size, size));
    norm.apply(&mut planes);
    planes
}

#[cfg(test)]
mod tests;
