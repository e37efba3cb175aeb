//! Views of images, made on a card of their bytes.
//!
//! `datasets` draws a recipe for every view; on the CPU it also carries it out. Here the same is done on a card, to the same
//! bits: resampling in the same 22-bit weights, the same float32 steps in the same order.
//!
//! # Recipes
//! [`RECIPE_WORDS`] words of 32 bits a view, and after the last view the orders of their tiles:
//!
//! | word | what |
//! |---|---|
//! | 0, 1 | byte at which the image begins, low and high half |
//! | 2, 3 | width and height of the image |
//! | 4 to 7 | left, top, width and height of the crop |
//! | 8, 9 | low and high half of the rotation's sine, float64 |
//! | 10, 11 | of its cosine |
//! | 12 | 1 if there is a rotation |
//! | 13 | 1 if mirrored |
//! | 14 | steps of the jitter, 0 to 4 |
//! | 15 to 18 | part of each step: 0 brightness, 1 contrast (once at most), 2 saturation, 3 hue |
//! | 19 to 22 | factor of each step, float32 |
//! | 23 to 26 | left, top, width and height of what is erased; 0 wide if nothing is |
//! | 27 | tiles on a side, 1 if they stay |
//! | 28 | word, counted from the first view on, at which the tiles' order begins |
//! | 29 | 0 |

#[cfg(feature = "cuda")]
pub use crate::cuda::augment_stage::{Copying, Stage};

use crate::{Error, Result};

/// Words of a recipe, without the order of its tiles.
pub const RECIPE_WORDS: usize = 30;

pub(crate) const OP: &str = "augment";
const PARTS: u32 = 4;
const CONTRAST: u32 = 1;

/// Recipes of the views of a batch, checked: nothing that they name lies outside the batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipes {
    words: Vec<u32>,
    views: usize,
    size: usize,
    mean: [f32; 3],
    deviation: [f32; 3],
    pixels: usize,
    most_rows: usize,
    most_side: usize,
    any_contrast: bool,
}

/// What a view's recipe must keep to.
struct Check<'a> {
    view: usize,
    recipe: &'a [u32],
    words: &'a [u32],
}

impl Check<'_> {
    fn that(&self, holds: bool, what: &str) -> Result<()> {
        if holds {
            return Ok(());
        }
        Err(Error::Device { op: OP, reason: format!("the recipe of view {}: {what}", self.view) })
    }

    /// Four words from `at` on are a rectangle inside `width`×`height`.
    fn rectangle(&self, at: usize, [width, height]: [u64; 2], what: &str) -> Result<()> {
        let [left, top, wide, high] = [0, 1, 2, 3].map(|k| u64::from(self.recipe[at + k]));
        self.that(left + wide <= width && top + high <= height, what)
    }

    fn all(&self, size: usize, pixels: usize) -> Result<()> {
        let r = self.recipe;
        let (begin, sides) = (u64::from(r[0]) | u64::from(r[1]) << 32, [u64::from(r[2]), u64::from(r[3])]);
        let length = u128::from(sides[0]) * u128::from(sides[1]) * 3;
        self.that(u128::from(begin) + length <= pixels as u128, "its image leaves the bytes of the batch")?;
        self.rectangle(4, sides, "its crop leaves the image")?;
        self.that(r[6] > 0 && r[7] > 0, "its crop is empty")?;
        let steps = r[14] as usize;
        self.that(steps <= PARTS as usize, "more than four steps of jitter")?;
        let parts = &r[15..][..steps];
        self.that(parts.iter().all(|&part| part < PARTS), "a step of jitter that is none")?;
        self.that(parts.iter().filter(|&&part| part == CONTRAST).count() <= 1, "two changes of contrast")?;
        self.rectangle(23, [size as u64; 2], "what it erases leaves the view")?;
        let (grid, order) = (r[27] as usize, r[28] as usize);
        self.that((1..=size).contains(&grid), "tiles without pixels")?;
        if grid > 1 {
            let tiles = self.words.get(order..).and_then(|words| words.get(..grid * grid));
            let known = tiles.is_some_and(|tiles| tiles.iter().all(|&tile| (tile as usize) < grid * grid));
            self.that(known, "the order of its tiles")?;
        }
        Ok(())
    }
}

impl Recipes {
    /// Recipes of `views` views of `size`×`size` pixels, laid out as the module says, of images in a batch of `pixels` bytes:
    /// RGB, row by row, image after image. Channels become `(level/255 − mean) / deviation`.
    ///
    /// # Errors
    /// [`Error::Device`] where a recipe names what is not there; [`Error::Attribute`] for a size of 0.
    pub fn new(
        words: Vec<u32>,
        views: usize,
        size: usize,
        (mean, deviation): ([f32; 3], [f32; 3]),
        pixels: usize,
    ) -> Result<Self> {
        // A view has fewer than 2³¹ pixels.
        if !(1..=46_340).contains(&size) {
            return Err(Error::Attribute { op: OP, name: "size", value: size as f64, expected: "1 to 46340" });
        }
        if words.len() < views * RECIPE_WORDS {
            let reason = format!("{} words for {views} views of {RECIPE_WORDS}", words.len());
            return Err(Error::Device { op: OP, reason });
        }
        let mut out = Self {
            words: Vec::new(),
            views,
            size,
            mean,
            deviation,
            pixels,
            most_rows: 0,
            most_side: 0,
            any_contrast: false,
        };
        for (view, recipe) in words.chunks_exact(RECIPE_WORDS).take(views).enumerate() {
            Check { view, recipe, words: &words }.all(size, pixels)?;
            let (width, height) = (recipe[6] as usize, recipe[7] as usize);
            out.most_rows = out.most_rows.max(height);
            out.most_side = out.most_side.max(width).max(height);
            out.any_contrast |= recipe[15..][..recipe[14] as usize].contains(&CONTRAST);
        }
        Ok(Self { words, ..out })
    }

    /// The words.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// How many views.
    pub fn views(&self) -> usize {
        self.views
    }

    /// Pixels on a side of a view.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes of the batch.
    pub fn pixels(&self) -> usize {
        self.pixels
    }

    pub(crate) fn mean(&self) -> [f32; 3] {
        self.mean
    }

    pub(crate) fn deviation(&self) -> [f32; 3] {
        self.deviation
    }

    /// Rows of the highest crop, and pixels of the longest side of one.
    pub(crate) fn most_rows(&self) -> usize {
        self.most_rows
    }

    pub(crate) fn most_side(&self) -> usize {
        self.most_side
    }

    pub(crate) fn any_contrast(&self) -> bool {
        self.any_contrast
    }
}

#[cfg(test)]
mod tests;
