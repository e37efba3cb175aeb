//! What is drawn for a view, apart from what is done with it.

use random::{Axis, Stream};

use super::{Normalise, TrainPlan, light};
use crate::augment::jitter::JitterParams;
use crate::augment::{CropParams, EraseParams, RotateParams, ShuffleParams};
use crate::augment::{erase, flip, jitter, random_resized_crop, rotate, shuffle};
use crate::decode::RgbRef;

/// Everything that was drawn for one view of one image. What it says is done in this order:
///
/// 1. the rectangle `crop` is cut out and resized to `[S, S]`, bilinear with antialiasing ([`crate::resize()`]), in 8-bit levels;
/// 2. levels are divided by 255, mirrored if `flip`, changed by the steps of `jitter` and normalised;
/// 3. turned by `rotate`, 4. a rectangle is erased, 5. tiles are shuffled.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// The rectangle of the image, in its pixels.
    pub crop: CropParams,
    /// Whether left and right change places.
    pub flip: bool,
    /// Changes of brightness, contrast, saturation and hue, in their order.
    pub jitter: JitterParams,
    /// The rotation about the centre.
    pub rotate: RotateParams,
    /// The rectangle of the view that becomes 0, the mean colour.
    pub erase: Option<EraseParams>,
    /// Where the tiles of the view go.
    pub shuffle: Option<ShuffleParams>,
}

/// The recipes of the views of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipes {
    /// Crop, flip, jitter, rotation.
    pub anchor: Recipe,
    /// An independent draw of the same, then erased, then its tiles shuffled.
    pub positive: Option<Recipe>,
    /// The anchor's crop, flip and rotation with a photometric draw of its own.
    pub teacher: Option<Recipe>,
}

/// Room for the work on a view, used again for the next.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    middle: Vec<u8>,
    cut: Vec<u8>,
}

impl Recipe {
    /// The view of `image` that this is the recipe of: `[3, S, S]`, normalised.
    ///
    /// # Panics
    /// If the image or `size` is 0 pixels, or a rectangle is not inside.
    pub fn apply(&self, image: RgbRef<'_>, size: usize, norm: &Normalise) -> Vec<f32> {
        let (mut planes, mut scratch) = (vec![0.0f32; 3 * size * size], Scratch::default());
        self.cut(image, size, &mut scratch);
        self.finish(size, norm, &scratch, &mut planes);
        planes
    }

    /// The crop alone, into `scratch`.
    pub(super) fn cut(&self, image: RgbRef<'_>, size: usize, scratch: &mut Scratch) {
        let Scratch { middle, cut } = scratch;
        random_resized_crop::apply_into(image, self.crop, size, middle, cut);
    }

    /// All that follows on the pixels that were cut.
    pub(super) fn finish(&self, size: usize, norm: &Normalise, scratch: &Scratch, planes: &mut [f32]) {
        let cut = RgbRef { width: size, height: size, data: &scratch.cut };
        light::render(cut, (0, 0, size, size), self.flip, &self.jitter.steps, norm, planes);
        rotate::apply(planes, size, self.rotate);
        if let Some(params) = self.erase {
            erase::apply(planes, size, params);
        }
        if let Some(params) = &self.shuffle {
            shuffle::apply(planes, size, params);
        }
    }
}

/// The streams of an (epoch, item).
#[derive(Clone, Copy)]
enum View {
    Anchor = 0,
    Positive = 1,
    Teacher = 2,
}

/// Draws the recipes of the views of one image of `width`×`height` pixels: those of the views that
/// [`crate::train_views`] makes.
///
/// # Panics
/// If the image has no pixels.
pub fn train_recipes(width: usize, height: usize, plan: &TrainPlan, item: u64) -> Recipes {
    let drawing = Drawing { width, height, plan, item };
    let anchor = drawing.light_and_place(View::Anchor, &mut drawing.stream(View::Anchor));
    let teacher = plan.want.teacher.then(|| {
        let jitter = drawing.jitter(View::Teacher, &mut drawing.stream(View::Teacher));
        Recipe { jitter, ..anchor.clone() }
    });
    let positive = plan.want.positive.then(|| drawing.positive());
    Recipes { anchor, positive, teacher }
}

/// The drawing of one image's recipes.
struct Drawing<'a> {
    width: usize,
    height: usize,
    plan: &'a TrainPlan,
    item: u64,
}

impl Drawing<'_> {
    fn stream(&self, view: View) -> Stream {
        self.plan.seeds.stream(Axis::Augment, &[self.plan.epoch, self.item, view as u64])
    }

    /// What came later than the other draws of a view has a stream beside theirs.
    fn hue_stream(&self, view: View) -> Stream {
        self.plan.seeds.stream(Axis::Augment, &[self.plan.epoch, self.item, view as u64, 1])
    }

    fn jitter(&self, view: View, draws: &mut Stream) -> JitterParams {
        jitter::draw(&self.plan.augment, draws, &mut self.hue_stream(view))
    }

    fn light_and_place(&self, view: View, draws: &mut Stream) -> Recipe {
        let augment = &self.plan.augment;
        let crop = random_resized_crop::draw(self.width, self.height, augment.crop_scale, augment.crop_ratio, draws);
        let flip = flip::draw(augment.flip, draws);
        let rotate = rotate::draw(augment.rotation, draws);
        let jitter = self.jitter(view, draws);
        Recipe { crop, flip, jitter, rotate, erase: None, shuffle: None }
    }

    fn positive(&self) -> Recipe {
        let augment = &self.plan.augment;
        let mut draws = self.stream(View::Positive);
        let recipe = self.light_and_place(View::Positive, &mut draws);
        let erase = erase::draw(self.plan.size, augment.erase_area, augment.erase_aspect, &mut draws);
        let shuffle = (augment.shuffle_grid > 1).then(|| shuffle::draw(augment.shuffle_grid, &mut draws));
        Recipe { erase, shuffle, ..recipe }
    }
}
