//! Folders in the ImageFolder layout.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::notice_dropped;
use crate::error::DatasetError;
use crate::model::{Found, ImageSource, Item, sha256_hex, sort_classes};

const EXTENSIONS: [&str; 8] = ["bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"];

/// The images of one split by class, in sorted order, and what is no image.
#[derive(Default)]
struct Listing {
    classes: BTreeMap<String, Vec<PathBuf>>,
    other: Vec<PathBuf>,
}

pub(super) fn read(path: &Path) -> Result<Found, DatasetError> {
    let entries = entries(path)?;
    let folder = |name: &str| entries.iter().find(|(n, p)| n == name && p.is_dir()).map(|(_, p)| p.as_path());
    let required = |name: &str| {
        folder(name).ok_or_else(|| DatasetError::MissingFolder {
            path: path.to_owned(),
            folder: name.to_owned(),
            found: entries.iter().filter(|(_, p)| p.is_dir()).map(|(n, _)| n.clone()).collect(),
        })
    };
    let (train, test) = (list(required("train")?)?, list(required("test")?)?);
    let classes = sort_classes(train.classes.keys().chain(test.classes.keys()).cloned().collect());
    let mut found =
        Found { train: items(&train, &classes)?, test: items(&test, &classes)?, classes, ..Found::default() };
    let mut other: Vec<PathBuf> = train.other.into_iter().chain(test.other).collect();
    for (name, path) in &entries {
        match name.as_str() {
            "train" | "test" if path.is_dir() => {}
            "val" | "validation" if path.is_dir() => {
                let hashes: Vec<String> = dropped(&list(path)?)?;
                notice_dropped(&mut found, name, &hashes);
            }
            _ => other.push(path.clone()),
        }
    }
    if let Some(first) = other.first() {
        found.notices.push(format!(
            "{} files or folders that are no images ignored, such as {}",
            other.len(),
            first.display()
        ));
    }
    Ok(found)
}

/// Names and paths in a folder, sorted by name; hidden ones left out.
fn entries(path: &Path) -> Result<Vec<(String, PathBuf)>, DatasetError> {
    let error = |path: &Path, source: io::Error| DatasetError::Read { path: path.to_owned(), source };
    if path.is_file() {
        return Err(error(path, io::Error::new(io::ErrorKind::NotADirectory, "it is a file, not a folder of images")));
    }
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| error(path, e))? {
        let entry = entry.map_err(|e| error(path, e))?;
        let name = entry.file_name().into_string().map_err(|_| {
            error(&entry.path(), io::Error::new(io::ErrorKind::InvalidData, "its name is not valid Unicode; rename it"))
        })?;
        if !name.starts_with('.') {
            entries.push((name, entry.path()));
        }
    }
    entries.sort();
    Ok(entries)
}

fn list(split: &Path) -> Result<Listing, DatasetError> {
    let mut listing = Listing::default();
    for (class, folder) in entries(split)? {
        if !folder.is_dir() {
            listing.other.push(folder);
            continue;
        }
        let images = listing.classes.entry(class).or_default();
        for (_, path) in entries(&folder)? {
            if is_image(&path) { images.push(path) } else { listing.other.push(path) }
        }
    }
    Ok(listing)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str())) && !path.is_dir()
}

fn items(listing: &Listing, classes: &[String]) -> Result<Vec<Item>, DatasetError> {
    let mut paths: Vec<(u32, &PathBuf)> = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let images = listing.classes.get(class).into_iter().flatten();
        paths.extend(images.map(|path| (label as u32, path)));
    }
    let items: Vec<Result<Item, DatasetError>> = paths
        .par_iter()
        .map(|&(label, path)| {
            let sha256 = hash_file(path)?;
            Ok(Item { image: ImageSource::Path(path.clone()), label, place: path.display().to_string(), sha256 })
        })
        .collect();
    items.into_iter().collect()
}

fn dropped(listing: &Listing) -> Result<Vec<String>, DatasetError> {
    listing.classes.values().flatten().map(|path| hash_file(path)).collect()
}

pub(super) fn hash_file(path: &Path) -> Result<String, DatasetError> {
    regular(path)?;
    let bytes = std::fs::read(path).map_err(|source| DatasetError::Read { path: path.to_owned(), source })?;
    Ok(sha256_hex(&bytes))
}

/// Refuses what is no file: a pipe would be waited for without end.
pub(crate) fn regular(path: &Path) -> Result<(), DatasetError> {
    let error = |source| DatasetError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(error)?.is_file() {
        return Ok(());
    }
    Err(error(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")))
}
