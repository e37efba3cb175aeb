//! Parquet files of one's own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

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
    let mut dropped: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    table.images(&image, &mut |first, images| {
        let images: Vec<(Arc<[u8]>, String)> =
            images.par_iter().map(|image| (image.data().into(), sha256_hex(image.data()))).collect();
        for (row, (image, sha256)) in (first..).zip(images) {
            let part = parts[row];
            if let Part::Dropped(split) = part {
                dropped.entry(split).or_default().push(sha256);
                continue;
            }
            let place = table.place(row);
            let item = Item { image: ImageSource::Bytes(image), label: row_labels[row], place, sha256 };
            if part == Part::Train { found.train.push(item) } else { found.test.push(item) }
        }
        Ok(())
    })?;
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
