//! Tells what a file or folder holds.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::archive::Archive;
use crate::error::DatasetError;
use crate::source::regular;
use crate::ufg::{Subset, UfgId};

/// A source of one subset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The subset.
    pub subset: Subset,
    /// A parquet file, an archive, or the folder that one unpacks to.
    pub path: PathBuf,
    /// Folder inside the archive that holds `images` and `anno`; empty for the archive itself and for parquet.
    pub root: String,
}

impl Import {
    /// A parquet file of the mirror.
    pub fn parquet(subset: Subset, path: &Path) -> Self {
        Self { subset, path: path.to_owned(), root: String::new() }
    }
}

const NAMES: &str = "give the subset with `--dataset`; `bench list datasets` shows the ids";
const WHAT: &str = "give a parquet file of the mirror, an official archive (zip), the folder it unpacks to, with images/ \
                    and anno/train.txt inside, or a folder of such files";

/// The subsets that a file or folder holds, in the order of [`Subset::ALL`], and the names of what looks like a subset
/// but is none that is known or asked for. Told by the names of folders and files ([`Subset::from_name`]); if `wanted` is
/// one subset and there is one candidate, by `wanted`. Only the outlines are read.
///
/// # Errors
/// [`DatasetError::Unrecognised`] if there is nothing to import, and what reading may bring.
pub fn find_imports(path: &Path, wanted: Option<UfgId>) -> Result<(Vec<Import>, Vec<String>), DatasetError> {
    let candidates = candidates(path)?;
    let wanted_subsets = wanted.map_or(Subset::ALL.to_vec(), UfgId::subsets);
    let (mut imports, mut skipped) = (Vec::new(), Vec::new());
    let alone = candidates.len() == 1;
    for (names, path, root) in candidates {
        let subset = match wanted {
            Some(UfgId::One(subset)) if alone => Some(subset),
            _ => names.iter().find_map(|name| Subset::from_name(name)).filter(|s| wanted_subsets.contains(s)),
        };
        match subset {
            Some(subset) => imports.push(Import { subset, path, root }),
            None => skipped.push(names.first().cloned().unwrap_or_default()),
        }
    }
    imports.sort_by_key(|import| import.subset);
    let unrecognised = |reason: String| DatasetError::Unrecognised { path: path.to_owned(), reason, hint: NAMES };
    if let Some(pair) = imports.windows(2).find(|pair| pair[0].subset == pair[1].subset) {
        return Err(unrecognised(format!("it holds `{}` twice; give one of the two", pair[0].subset)));
    }
    if imports.is_empty() {
        let what = wanted.map_or("a subset that is known".to_owned(), |id| format!("`{id}`"));
        return Err(unrecognised(format!("nothing in it has the name of {what}; there is: {}", skipped.join(", "))));
    }
    Ok((imports, skipped))
}

/// Names by which a candidate may be known (the likeliest first), its path and its root.
type Candidate = (Vec<String>, PathBuf, String);

fn candidates(path: &Path) -> Result<Vec<Candidate>, DatasetError> {
    let read = |source| DatasetError::Read { path: path.to_owned(), source };
    let unrecognised =
        |reason: &str| DatasetError::Unrecognised { path: path.to_owned(), reason: reason.to_owned(), hint: WHAT };
    let name =
        std::path::absolute(path).map_err(read)?.file_name().map_or(String::new(), |n| n.to_string_lossy().into());
    if !path.is_dir() {
        regular(path)?;
        let mut magic = [0; 4];
        let is_short = File::open(path).map_err(read)?.read_exact(&mut magic).is_err();
        if !is_short && &magic == b"PAR1" {
            return Ok(vec![(vec![stem(&name)], path.to_owned(), String::new())]);
        }
        if is_short || !magic.starts_with(b"PK") {
            return Err(unrecognised("it is neither parquet nor a zip archive"));
        }
    }
    let mut found: Vec<Candidate> = Vec::new();
    let roots = Archive::open(path)?.roots()?;
    let outer = name.strip_suffix(".zip").unwrap_or(&name).to_owned();
    let alone = roots.len() == 1;
    for root in roots {
        let mut names: Vec<String> = root.rsplit('/').take(1).filter(|n| !n.is_empty()).map(str::to_owned).collect();
        if alone {
            names.push(outer.clone());
        }
        found.push((names, path.to_owned(), root));
    }
    if found.is_empty() && path.is_dir() {
        found = downloads(path)?;
    }
    if found.is_empty() {
        Err(unrecognised("there is no folder with images/ and anno/train.txt in it"))
    } else {
        Ok(found)
    }
}

/// Parquet files and archives right in a folder, as they were downloaded.
fn downloads(folder: &Path) -> Result<Vec<Candidate>, DatasetError> {
    let read = |source| DatasetError::Read { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if ["parquet", "zip"].contains(&extension) && path.is_file() {
            found.extend(candidates(&path)?);
        }
    }
    found.sort();
    Ok(found)
}

/// `cotton80` of `cotton80_dataset.parquet`.
fn stem(name: &str) -> String {
    let stem = name.strip_suffix(".parquet").unwrap_or(name);
    stem.strip_suffix("_dataset").unwrap_or(stem).to_owned()
}
