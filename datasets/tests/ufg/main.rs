//! The UFG subsets: from generated stand-ins of the mirror and of the archives to verified imports.

mod damage;
mod imports;
mod refusals;
mod stores;
#[path = "../sources/tables.rs"]
#[allow(dead_code, reason = "shared with the tests of parquet files")]
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

use datasets::{Dataset, DatasetError, ExportOptions, ImportOptions, Imported, Item, Subset, UfgId, find_imports};

/// Options of tiny stand-ins.
pub(crate) fn tiny(out: &Path, classes: usize) -> ExportOptions {
    ExportOptions {
        out: out.to_owned(),
        classes: Some(classes),
        size: 16,
        seed: 1,
        parquet: true,
        archive: true,
        validation: true,
        paths: false,
    }
}

/// Exports a stand-in and returns its parquet file and its archive.
pub(crate) fn stand_in(subset: Subset, options: &ExportOptions) -> (PathBuf, PathBuf) {
    let files = datasets::export(subset, options, &mut |_, _| {}).expect("an export");
    (files[0].clone(), files[1].clone())
}

/// Imports the one subset that `path` holds, as a stand-in.
pub(crate) fn import_stand_in(path: &Path, data: &Path, subset: Subset) -> Result<Imported, DatasetError> {
    import_with(path, subset, ImportOptions { data, stand_in: true, replace: false })
}

pub(crate) fn import_with(path: &Path, subset: Subset, options: ImportOptions<'_>) -> Result<Imported, DatasetError> {
    let (imports, _) = find_imports(path, Some(UfgId::One(subset)))?;
    assert_eq!(imports.len(), 1);
    datasets::import(&imports[0], options, &mut |_| {})
}

/// Split, label and content of every item, in order.
pub(crate) fn contents(set: &Dataset) -> Vec<(&'static str, u32, String)> {
    let of = |split: &'static str, items: &[Item]| -> Vec<(&'static str, u32, String)> {
        items.iter().map(|item| (split, item.label, item.sha256.clone())).collect()
    };
    [of("train", &set.train), of("test", &set.test)].concat()
}

/// Unpacks an archive of the project's own making (stored entries) into a folder.
pub(crate) fn unpack(archive: &Path, out: &Path) {
    let bytes = fs::read(archive).expect("an archive");
    let half = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let mut at = 0;
    while bytes[at..].starts_with(b"PK\x03\x04") {
        let size = u32::from_le_bytes(bytes[at + 18..at + 22].try_into().expect("4 bytes")) as usize;
        let start = at + 30 + half(at + 26);
        let path = out.join(std::str::from_utf8(&bytes[at + 30..start]).expect("a name"));
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, &bytes[start..start + size]).expect("a file");
        at = start + size;
    }
}

/// All files below a folder, sorted.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// A message with the folder's name taken out.
pub(crate) fn message(error: &DatasetError, folder: &Path) -> String {
    error.to_string().replace(&folder.display().to_string(), "DIR")
}
