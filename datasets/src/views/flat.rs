//! Recipes as words, for a device that carries them out.

use super::Recipe;
use crate::augment::JitterPart;
use crate::loader::Place;

/// Words of 32 bits of a recipe, before the tiles' orders. The orders of all recipes follow after the last recipe.
///
/// | word | what |
/// |---|---|
/// | 0, 1 | byte at which the image begins, low and high half |
/// | 2, 3 | width and height of the image |
/// | 4 to 7 | left, top, width and height of the crop |
/// | 8, 9 | low and high half of the rotation's sine, float64 |
/// | 10, 11 | of its cosine |
/// | 12 | 1 if there is a rotation |
/// | 13 | 1 if mirrored |
/// | 14 | steps of the jitter, 0 to 4 |
/// | 15 to 18 | part of each step: 0 brightness, 1 contrast, 2 saturation, 3 hue |
/// | 19 to 22 | factor of each step, float32 |
/// | 23 to 26 | left, top, width and height of what is erased; 0 wide if nothing is |
/// | 27 | tiles on a side, 1 if they stay |
/// | 28 | word, counted from the first recipe on, at which the tiles' order begins |
/// | 29 | 0 |
pub const RECIPE_WORDS: usize = 30;

/// Steps that a recipe has room for: every part once.
const STEPS: usize = 4;

/// Recipes as plain words for a device, laid out as [`RECIPE_WORDS`] says; the image of each lies at its place.
///
/// # Panics
/// If there is not a place for each recipe.
pub fn recipe_words(recipes: &[Recipe], places: &[Place]) -> Vec<u32> {
    assert_eq!(recipes.len(), places.len(), "a place for each recipe");
    let mut words = Vec::with_capacity(recipes.len() * RECIPE_WORDS);
    let mut orders: Vec<u32> = Vec::new();
    for (recipe, place) in recipes.iter().zip(places) {
        let order = recipes.len() * RECIPE_WORDS + orders.len();
        words.extend(fixed(recipe, place, order));
        orders.extend(recipe.shuffle.iter().flat_map(|shuffle| &shuffle.order).map(|&tile| tile as u32));
    }
    words.extend(orders);
    words
}

/// The fixed words of one recipe. Sides of images and views are far below 2³².
fn fixed(recipe: &Recipe, place: &Place, order: usize) -> [u32; RECIPE_WORDS] {
    let halves = |bits: u64| [bits as u32, (bits >> 32) as u32];
    let (crop, steps) = (recipe.crop, &recipe.jitter.steps);
    assert!(steps.len() <= STEPS, "{} steps of a jitter", steps.len());
    let mut words = [0u32; RECIPE_WORDS];
    words[..2].copy_from_slice(&halves(place.offset as u64));
    words[2..8].copy_from_slice(
        &[place.width, place.height, crop.left, crop.top, crop.width, crop.height].map(|side| side as u32),
    );
    if let Some((sine, cosine)) = recipe.rotate.sine_cosine() {
        words[8..10].copy_from_slice(&halves(sine.to_bits()));
        words[10..12].copy_from_slice(&halves(cosine.to_bits()));
        words[12] = 1;
    }
    (words[13], words[14]) = (u32::from(recipe.flip), steps.len() as u32);
    for (k, &(part, factor)) in steps.iter().enumerate() {
        words[15 + k] = match part {
            JitterPart::Brightness => 0,
            JitterPart::Contrast => 1,
            JitterPart::Saturation => 2,
            JitterPart::Hue => 3,
        };
        words[19 + k] = factor.to_bits();
    }
    if let Some(erase) = recipe.erase {
        let sides = [erase.left, erase.top, erase.width, erase.height];
        words[23..27].copy_from_slice(&sides.map(|side| side as u32));
    }
    words[27] = recipe.shuffle.as_ref().map_or(1, |shuffle| shuffle.grid as u32);
    words[28] = order as u32;
    words
}
