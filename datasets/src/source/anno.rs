//! Folders in the layout of the official archives, with labels of one's own.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use rayon::prelude::*;

use super::folder::hash_file;
use super::notice_dropped;
use crate::archive::{Archive, Line};
use crate::error::DatasetError;
use crate::model::{Found, ImageSource, Item, sort_classes};

pub(super) fn read(path: &Path) -> Result<Found, DatasetError> {
    if !path.is_dir() {
        let reason = std::io::Error::new(std::io::ErrorKind::NotADirectory, "it is not a folder with images and anno");
        return Err(DatasetError::Read { path: path.to_owned(), source: reason });
    }
    let archive = Archive::open(path)?;
    let required = |list: &str| {
        archive.lines("", list)?.ok_or_else(|| DatasetError::Entry {
            path: path.to_owned(),
            place: format!("anno/{list}.txt"),
            reason: "there is no such file".into(),
        })
    };
    let (train, test) = (required("train")?, required("test")?);
    let classes = sort_classes(train.iter().chain(&test).map(|line| line.label.to_string()).collect());
    let ids: BTreeMap<u32, u32> =
        classes.iter().zip(0..).filter_map(|(name, id)| Some((name.parse().ok()?, id))).collect();
    let mut found = Found {
        train: items(path, "train", &train, &ids)?,
        test: items(path, "test", &test, &ids)?,
        classes,
        ..Found::default()
    };
    let val = archive.lines("", "val")?.unwrap_or_default();
    if !val.is_empty() {
        let all: BTreeMap<u32, u32> = val.iter().map(|line| (line.label, 0)).collect();
        let hashes: Vec<String> = items(path, "val", &val, &all)?.into_iter().map(|item| item.sha256).collect();
        notice_dropped(&mut found, "val", &hashes);
    }
    let listed: HashSet<&str> = [&train, &test, &val].into_iter().flatten().map(|line| line.file.as_str()).collect();
    let files = archive.list("images")?;
    let unlisted = files.iter().filter(|file| !listed.contains(file.as_str()));
    if let Some(first) = unlisted.clone().next() {
        let notice = format!("{} files in images/ are in no list, such as {first}", unlisted.count());
        found.notices.push(notice);
    }
    Ok(found)
}

fn items(path: &Path, list: &str, lines: &[Line], ids: &BTreeMap<u32, u32>) -> Result<Vec<Item>, DatasetError> {
    let items: Vec<Result<Item, DatasetError>> = lines
        .par_iter()
        .map(|line| {
            let image = path.join("images").join(&line.file);
            let sha256 = hash_file(&image).map_err(|error| match error {
                DatasetError::Read { source, .. } => DatasetError::Entry {
                    path: path.to_owned(),
                    place: format!("anno/{list}.txt line {}", line.number),
                    reason: format!("cannot read images/{}: {source}", line.file),
                },
                other => other,
            })?;
            let place = image.display().to_string();
            Ok(Item { image: ImageSource::Path(image), label: ids[&line.label], place, sha256 })
        })
        .collect();
    items.into_iter().collect()
}
