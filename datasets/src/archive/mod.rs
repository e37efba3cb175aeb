//! Archives in the layout of the official ones, packed or unpacked: `<root>/images/*` and `<root>/anno/{train,test}.txt`.

mod zip;
mod zip_entry;
mod zip_write;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::DatasetError;
use zip::ZipArchive;

pub(crate) use zip_write::ZipWriter;

/// Largest encoded image, in bytes.
pub(crate) const MAX_IMAGE: u64 = 1 << 28;
/// Largest list of images, in bytes.
const MAX_LIST: u64 = 1 << 26;
/// How deep below the given folder a root may lie.
const DEPTH: usize = 6;

/// A zip file or a folder.
#[derive(Debug)]
pub(crate) enum Archive {
    Zip(ZipArchive),
    Folder(PathBuf),
}

/// One line of a list: `filename label`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Counted from 1.
    pub(crate) number: usize,
    /// A plain file name.
    pub(crate) file: String,
    /// At least 1.
    pub(crate) label: u32,
}

impl Archive {
    /// A folder, or a file that is a zip archive.
    pub(crate) fn open(path: &Path) -> Result<Self, DatasetError> {
        if path.is_dir() { Ok(Self::Folder(path.to_owned())) } else { Ok(Self::Zip(ZipArchive::open(path)?)) }
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Archive::Zip(zip) => zip.path(),
            Archive::Folder(path) => path,
        }
    }

    /// Folders inside that hold `images` and `anno/train.txt`, sorted; the archive itself is the empty name.
    pub(crate) fn roots(&self) -> Result<Vec<String>, DatasetError> {
        let mut roots = BTreeSet::new();
        match self {
            Archive::Zip(zip) => {
                let with_images: HashSet<&str> = zip
                    .names()
                    .filter_map(|name| name.rsplit_once('/')?.0.strip_suffix("images"))
                    .filter(|parent| parent.is_empty() || parent.ends_with('/'))
                    .collect();
                for name in zip.names().filter(|name| !is_resource_fork(name)) {
                    let Some(parent) = name.strip_suffix("anno/train.txt") else { continue };
                    if with_images.contains(parent) {
                        roots.insert(parent.trim_end_matches('/').to_owned());
                    }
                }
            }
            Archive::Folder(path) => walk(path, "", DEPTH, &mut roots)?,
        }
        Ok(roots.into_iter().collect())
    }

    /// True if there is a file of this name (`/` between folders).
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Archive::Zip(zip) => zip.has(name),
            Archive::Folder(path) => path.join(name).is_file(),
        }
    }

    /// Content of a file, at most `limit` bytes.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, DatasetError> {
        let path = match self {
            Archive::Zip(zip) => return zip.read(name, limit),
            Archive::Folder(path) => path.join(name),
        };
        let read = |source| DatasetError::Read { path: path.clone(), source };
        let mut bytes = Vec::new();
        fs::File::open(&path).map_err(read)?.take(limit + 1).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() as u64 > limit {
            let reason = format!("it has more than {limit} bytes, which is the limit");
            return Err(DatasetError::Entry { path: self.path().to_owned(), place: format!("`{name}`"), reason });
        }
        Ok(bytes)
    }

    /// Names of the files in a folder, sorted; hidden ones left out.
    pub(crate) fn list(&self, folder: &str) -> Result<Vec<String>, DatasetError> {
        let hidden = |name: &str| name.starts_with('.');
        match self {
            Archive::Zip(zip) => {
                let prefix = format!("{folder}/");
                let inside = zip.names().filter_map(|name| name.strip_prefix(&prefix));
                Ok(inside.filter(|name| !hidden(name) && !name.contains('/')).map(str::to_owned).collect())
            }
            Archive::Folder(path) => {
                let folder = path.join(folder);
                let read = |source| DatasetError::Read { path: folder.clone(), source };
                let mut names = Vec::new();
                for entry in fs::read_dir(&folder).map_err(read)? {
                    let entry = entry.map_err(read)?;
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if !hidden(&name) && entry.path().is_file() {
                        names.push(name);
                    }
                }
                names.sort();
                Ok(names)
            }
        }
    }

    /// The lines of `anno/<list>.txt` below a root; None if there is no such file.
    pub(crate) fn lines(&self, root: &str, list: &str) -> Result<Option<Vec<Line>>, DatasetError> {
        let name = join(root, &format!("anno/{list}.txt"));
        if !self.has(&name) {
            return Ok(None);
        }
        let bytes = self.read(&name, MAX_LIST)?;
        let error = |number: usize, reason: String| DatasetError::Entry {
            path: self.path().to_owned(),
            place: format!("{name} line {number}"),
            reason,
        };
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let mut lines = Vec::new();
        let mut seen = HashSet::new();
        for (number, line) in (1..).zip(bytes.split(|&b| b == b'\n')) {
            let text = std::str::from_utf8(line).map_err(|_| error(number, "it is not UTF-8 text".into()))?.trim();
            if text.is_empty() {
                continue;
            }
            let line = parse(number, text).map_err(|reason| error(number, reason))?;
            if !seen.insert(line.file.clone()) {
                return Err(error(number, format!("`{}` is listed a second time", line.file)));
            }
            lines.push(line);
        }
        Ok(Some(lines))
    }
}

/// macOS stores copies of attributes in archives, under names that mirror the files'.
fn is_resource_fork(name: &str) -> bool {
    name.starts_with("__MACOSX/")
}

/// `parent/name`, or `name` if the parent is the archive itself.
pub(crate) fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

fn parse(number: usize, text: &str) -> Result<Line, String> {
    let (file, label) =
        text.rsplit_once(char::is_whitespace).ok_or_else(|| format!("`{text}` is not of the form `filename label`"))?;
    let file = file.trim_end().to_owned();
    let label: u32 = label.parse().map_err(|_| format!("the label `{label}` is not a whole number from 1"))?;
    if label == 0 {
        return Err("the label is 0; labels count from 1".into());
    }
    if file.contains(['/', '\\', '\0']) || file == ".." || file == "." || file.is_empty() {
        return Err(format!("`{file}` is not a plain file name"));
    }
    Ok(Line { number, file, label })
}

fn walk(base: &Path, relative: &str, depth: usize, roots: &mut BTreeSet<String>) -> Result<(), DatasetError> {
    let folder = base.join(relative);
    if folder.join("anno/train.txt").is_file() && folder.join("images").is_dir() {
        roots.insert(relative.to_owned());
        return Ok(());
    }
    if depth == 0 {
        return Ok(());
    }
    let read = |source| DatasetError::Read { path: folder.clone(), source };
    for entry in fs::read_dir(&folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        // A folder whose name is no text is none of the known ones, and hidden ones are nobody's data.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with('.') && entry.path().is_dir() {
            walk(base, &join(relative, &name), depth - 1, roots)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
