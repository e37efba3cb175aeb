//! Parquet files of one's own. Their images are hashed a few at a time and read again when they are decoded.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::rows::ParquetImages;
use super::table::Table;
use super::{Part, notice_dropped};
use crate::error::DatasetError;
use crate::model::{Found, ImageSource, Item, sha256_hex, sort_classes};

pub(super) fn read(path: &Path) -> Result<Found, DatasetError> {
    let table = Table::open(path)?;
    let image = table.image_column()?;
    let parts = table.splits()?;
    let class = table.text_column("class_name")?;
    let labels = table.integer_column("label")?.map(|column| table.integers(&column)).transpose()?;
    let mut found = Found::default();
    let names = match (class, &labels) {
        (Some(column), _) => table.texts(&column)?,
        (None, Some(labels)) => {
            let name = |(row, label): (usize, &Option<i64>)| {
                label.map(|l| l.to_string()).ok_or_else(|| table.null(row, "label"))
            };
            labels.iter().enumerate().map(name).collect::<Result<_, _>>()?
        }
        (None, None) => return Err(table.missing("class_name")),
    };
    if let Some(labels) = labels {
        let labelled = names.iter().map(String::as_str).zip(labels.iter().copied());
        found.notices.extend(disagreement("column `label`", "`class_name`, which is used", labelled));
    }
    found.classes = sort_classes(names.clone());
    let ids: BTreeMap<&str, u32> = found.classes.iter().zip(0u32..).map(|(name, id)| (name.as_str(), id)).collect();
    let row_labels: Vec<u32> = names.iter().map(|name| ids[name.as_str()]).collect();
    let mut hashes = Vec::with_capacity(names.len());
    table.images(&image, &mut |_, images| {
        hashes.par_extend(images.par_iter().map(|image| sha256_hex(image.data())));
        Ok(())
    })?;
    let mut dropped: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let places: Vec<String> = (0..hashes.len()).map(|row| table.place(row)).collect();
    let images = Arc::new(ParquetImages::new(table, image));
    for (row, (sha256, place)) in hashes.into_iter().zip(places).enumerate() {
        let items = match parts[row] {
            Part::Train => &mut found.train,
            Part::Test => &mut found.test,
            Part::Dropped(split) => {
                dropped.entry(split).or_default().push(sha256);
                continue;
            }
        };
        let image = ImageSource::Row { images: Arc::clone(&images), row };
        items.push(Item { image, label: row_labels[row], place, sha256 });
    }
    for (split, hashes) in dropped {
        notice_dropped(&mut found, split, &hashes);
    }
    Ok(found)
}

/// Says so if a label is not simply another name of the class.
pub(crate) fn disagreement<'a>(
    what: &str,
    with: &str,
    rows: impl Iterator<Item = (&'a str, Option<i64>)>,
) -> Option<String> {
    let mut label_of: BTreeMap<&str, i64> = BTreeMap::new();
    let mut name_of: BTreeMap<i64, &str> = BTreeMap::new();
    for (name, label) in rows {
        let Some(label) = label else { continue };
        let (known_label, known_name) = (*label_of.entry(name).or_insert(label), *name_of.entry(label).or_insert(name));
        if known_label != label {
            return Some(format!("{what} disagrees with {with}: class `{name}` has labels {known_label} and {label}"));
        }
        if known_name != name {
            return Some(format!("{what} disagrees with {with}: label {label} is class `{known_name}` and `{name}`"));
        }
    }
    None
}
