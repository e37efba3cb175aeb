//! One split of a dataset, decoded and at working size.

use std::path::Path;

use crate::cache::{CacheEvent, CacheFile};
use crate::decode::{Rgb, RgbRef};
use crate::error::DatasetError;
use crate::in_order::decode_in_order;
use crate::model::Item;
use crate::resize::Resize;

/// One split, decoded and at working size: held in memory, or in a mapped file that is made once and shared by all
/// who want the same pixels. Both hold the same bytes, so nothing that is made of them depends on which it is.
#[derive(Debug)]
pub struct DecodedSet {
    store: Store,
    labels: Vec<u32>,
}

#[derive(Debug)]
enum Store {
    Memory(Vec<Rgb>),
    Mapped(CacheFile),
}

impl DecodedSet {
    /// Decodes and resizes all items into memory, in parallel on rayon's current pool.
    ///
    /// # Errors
    /// That of the first item that cannot be decoded, whatever the number of threads: the first in the order of the
    /// file for images of a parquet file, else the one with the lowest index.
    pub fn new(items: &[Item], working: Resize) -> Result<Self, DatasetError> {
        let mut images: Vec<Option<Rgb>> = vec![None; items.len()];
        decode_in_order(
            items,
            (0..items.len()).collect(),
            working,
            usize::MAX,
            |image| image,
            |decoded| {
                decoded.into_iter().for_each(|(index, image)| images[index] = Some(image));
                Ok(())
            },
        )?;
        // Every index was among those to be decoded.
        let images = images.into_iter().flatten().collect();
        Ok(Self { store: Store::Memory(images), labels: labels(items) })
    }

    /// Maps the file of these items at this working size in `folder`; where it is missing, damaged or of another
    /// version, it is built first, in parallel on rayon's current pool. `tell` hears what happens.
    ///
    /// The file belongs to the contents (the SHA-256 of each encoded image, in order), the working size and the
    /// version of decoding and resizing, not to a name or a place. When several processes want it, one builds and the
    /// others wait. What a build leaves is the whole file or none.
    ///
    /// # Errors
    /// As [`DecodedSet::new`] for an image that cannot be decoded; [`DatasetError::Write`] or [`DatasetError::Read`]
    /// if the folder cannot be used.
    pub fn cached(
        items: &[Item],
        working: Resize,
        folder: &Path,
        tell: &mut dyn FnMut(CacheEvent),
    ) -> Result<Self, DatasetError> {
        let file = CacheFile::open_or_build(items, working, folder, tell)?;
        Ok(Self { store: Store::Mapped(file), labels: labels(items) })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// An image, in the order of the items.
    ///
    /// # Errors
    /// [`DatasetError::CacheDamaged`] when a mapped image is looked at for the first time and its checksum is wrong.
    ///
    /// # Panics
    /// If there is no image `index`.
    pub fn image(&self, index: usize) -> Result<RgbRef<'_>, DatasetError> {
        match &self.store {
            Store::Memory(images) => Ok(images[index].as_ref()),
            Store::Mapped(file) => file.image(index),
        }
    }

    /// The labels of the images.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Bytes of memory that the pixels take; 0 if they are in a mapped file, whose pages the system may drop.
    pub fn memory(&self) -> usize {
        match &self.store {
            Store::Memory(images) => images.iter().map(|image| image.data.len()).sum(),
            Store::Mapped(_) => 0,
        }
    }

    /// Bytes of the mapped file; 0 if there is none.
    pub fn mapped(&self) -> u64 {
        match &self.store {
            Store::Memory(_) => 0,
            Store::Mapped(file) => file.length(),
        }
    }
}

fn labels(items: &[Item]) -> Vec<u32> {
    items.iter().map(|item| item.label).collect()
}
