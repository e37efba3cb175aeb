//! Views: from an 8-bit image to the numbers that a backbone sees.

mod flat;
mod light;
mod recipe;

use random::Seeds;
use serde::{Deserialize, Serialize};

use crate::augment::AugmentConfig;
use crate::augment::jitter::Each;
use crate::decode::RgbRef;
use crate::error::DatasetError;
use crate::math::wide::wide;
use crate::resize::{Filter, Fit, Resize};
pub use flat::{RECIPE_WORDS, recipe_words};
pub(crate) use recipe::Scratch;
pub use recipe::{Recipe, Recipes, train_recipes};

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

    /// A level in `[0, 1]` of one channel, normalised.
    #[inline(always)]
    fn value(&self, level: f32, channel: usize) -> f32 {
        (level - self.mean[channel]) / self.std[channel]
    }

    /// Normalises `[3, S, S]` levels in `[0, 1]` in place.
    pub fn apply(&self, planes: &mut [f32]) {
        let area = planes.len() / 3;
        for (channel, planes) in planes.chunks_exact_mut(area.max(1)).enumerate() {
            wide(Each { planes, f: |v: f32| self.value(v, channel) });
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

/// What training views are made with.
#[derive(Debug, Clone)]
pub struct TrainPlan {
    /// Augmentation.
    pub augment: AugmentConfig,
    /// Side of the views.
    pub size: usize,
    /// Normalisation.
    pub norm: Normalise,
    /// Root of the streams.
    pub seeds: Seeds,
    /// The epoch, which enters the streams.
    pub epoch: u64,
    /// Which views to make.
    pub want: WantViews,
}

/// Where the views of an image go, each `[3, S, S]`; those that the plan wants.
pub(crate) struct Targets<'a> {
    pub(crate) anchor: &'a mut [f32],
    pub(crate) positive: Option<&'a mut [f32]>,
    pub(crate) teacher: Option<&'a mut [f32]>,
}

/// Makes the training views of one image.
pub(crate) fn write_train_views(
    image: RgbRef<'_>,
    plan: &TrainPlan,
    item: u64,
    targets: Targets<'_>,
    scratch: &mut Scratch,
) {
    let recipes = train_recipes(image.width, image.height, plan, item);
    recipes.anchor.cut(image, plan.size, scratch);
    recipes.anchor.finish(plan.size, &plan.norm, scratch, targets.anchor);
    if let (Some(recipe), Some(teacher)) = (&recipes.teacher, targets.teacher) {
        // The pixels that were cut for the anchor.
        recipe.finish(plan.size, &plan.norm, scratch, teacher);
    }
    if let (Some(recipe), Some(positive)) = (&recipes.positive, targets.positive) {
        recipe.cut(image, plan.size, scratch);
        recipe.finish(plan.size, &plan.norm, scratch, positive);
    }
}

/// Makes the training views of one image.
///
/// Every view has a stream of its own, keyed by (epoch, item, view): which views are wanted changes nothing in the
/// others, and the same seed gives every method the same anchors. `item` is the index of the image in its split.
///
/// # Panics
/// If the image or `plan.size` is 0 pixels.
pub fn train_views(image: RgbRef<'_>, plan: &TrainPlan, item: u64) -> Views {
    let room = || vec![0.0f32; 3 * plan.size * plan.size];
    let mut views =
        Views { anchor: room(), positive: plan.want.positive.then(room), teacher: plan.want.teacher.then(room) };
    let targets = Targets {
        anchor: &mut views.anchor,
        positive: views.positive.as_deref_mut(),
        teacher: views.teacher.as_deref_mut(),
    };
    write_train_views(image, plan, item, targets, &mut Scratch::default());
    views
}

/// The view that an image is judged by: short side to `eval.resize` (antialiased), `size`×`size` from the centre,
/// normalised. `[3, S, S]`. The centre is torchvision's, halves rounded to even.
///
/// # Panics
/// If `eval.resize < size`; [`EvalConfig::validate`] says so beforehand.
pub fn eval_view(image: RgbRef<'_>, eval: &EvalConfig, size: usize, norm: &Normalise) -> Vec<f32> {
    let mut planes = vec![0.0f32; 3 * size * size];
    write_eval_view(image, eval, size, norm, &mut planes);
    planes
}

/// [`eval_view`], into `planes`.
pub(crate) fn write_eval_view(image: RgbRef<'_>, eval: &EvalConfig, size: usize, norm: &Normalise, planes: &mut [f32]) {
    assert!(eval.resize >= size, "eval_view: a view of {size} pixels from a short side of {}", eval.resize);
    let resize = Resize { size: eval.resize, fit: Fit::ShortSide, filter: eval.filter };
    let resized = resize.apply(image);
    let start = |side: usize| ((side - size) as f64 / 2.0).round_ties_even() as usize;
    let part = (start(resized.width), start(resized.height), size, size);
    light::render(resized.as_ref(), part, false, &[], norm, planes);
}

#[cfg(test)]
mod tests;
