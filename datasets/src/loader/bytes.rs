//! Batches of bytes with recipes, for a device that makes the views.

use rayon::prelude::*;

use super::Made;
use crate::decoded_set::DecodedSet;
use crate::error::DatasetError;
use crate::views::{Recipe, TrainPlan, train_recipes};

/// Where the pixels of an image lie among those of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The first byte.
    pub offset: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// A batch of `B` images: their pixels, each image's once, and how to make the views of a [`super::ViewBatch`] of them.
#[derive(Debug, Clone, PartialEq)]
pub struct ByteBatch {
    /// Indices into the [`DecodedSet`].
    pub indices: Vec<usize>,
    /// Labels of the images.
    pub labels: Vec<u32>,
    /// RGB bytes at the working size, row by row, image after image.
    pub pixels: Vec<u8>,
    /// Where each image lies in `pixels`.
    pub places: Vec<Place>,
    /// A recipe for each image.
    pub anchor: Vec<Recipe>,
    /// Those of the positive views, if wanted.
    pub positive: Option<Vec<Recipe>>,
    /// Those of the teacher's views, if wanted.
    pub teacher: Option<Vec<Recipe>>,
}

pub(super) fn byte_batch(set: &DecodedSet, indices: Vec<usize>, plan: &TrainPlan) -> Made<ByteBatch> {
    let images: Vec<_> = indices.par_iter().map(|&index| set.image(index)).collect();
    let images = images.into_iter().collect::<Result<Vec<_>, DatasetError>>()?;
    let mut length = 0;
    let places: Vec<Place> = images
        .iter()
        .map(|image| {
            let offset = length;
            length += image.data.len();
            Place { offset, width: image.width, height: image.height }
        })
        .collect();
    let mut pixels = vec![0u8; length];
    let mut rest = &mut pixels[..];
    let targets: Vec<&mut [u8]> = images.iter().map(|image| take(&mut rest, image.data.len())).collect();
    let work = images.par_iter().zip(targets).zip(&indices);
    let drawn: Vec<_> = work
        .map(|((image, target), &index)| {
            target.copy_from_slice(image.data);
            train_recipes(image.width, image.height, plan, index as u64)
        })
        .collect();
    let labels = indices.iter().map(|&index| set.labels()[index]).collect();
    let (mut anchor, mut positive, mut teacher) = (Vec::with_capacity(drawn.len()), Vec::new(), Vec::new());
    for recipes in drawn {
        anchor.push(recipes.anchor);
        positive.extend(recipes.positive);
        teacher.extend(recipes.teacher);
    }
    let want = plan.want;
    let (positive, teacher) = (want.positive.then_some(positive), want.teacher.then_some(teacher));
    Ok(ByteBatch { indices, labels, pixels, places, anchor, positive, teacher })
}

/// Cuts the first `length` bytes off.
fn take<'a>(rest: &mut &'a mut [u8], length: usize) -> &'a mut [u8] {
    let (first, others) = std::mem::take(rest).split_at_mut(length);
    *rest = others;
    first
}
