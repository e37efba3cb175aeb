//! The files of decoded images that a run uses: how large they are or will be.

use std::path::Path;

use datasets::{Dataset, Resize, cache_path, estimate_cache};
use indicatif::HumanBytes;

/// What a dataset needs of decoded images.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    /// Bytes of the files that are there.
    pub(crate) there: u64,
    /// Bytes of those that the first trial will make, estimated from some of the images.
    pub(crate) to_make: u64,
    /// Why there is no estimate of some of them.
    pub(crate) unknown: Option<String>,
}

impl Need {
    /// Of both splits at each of these working sizes, which are different, in this folder.
    pub(crate) fn of(dataset: &Dataset, workings: &[Resize], folder: &Path) -> Self {
        let mut need = Self::default();
        for items in [&dataset.train, &dataset.test] {
            for &working in workings {
                match std::fs::metadata(cache_path(items, working, folder)) {
                    Ok(file) => need.there += file.len(),
                    Err(_) => match estimate_cache(items, working) {
                        Ok(bytes) => need.to_make += bytes,
                        Err(error) => need.unknown = need.unknown.or(Some(error.to_string())),
                    },
                }
            }
        }
        need
    }

    /// Of two datasets.
    pub(crate) fn and(self, other: &Self) -> Self {
        let (there, to_make) = (self.there + other.there, self.to_make + other.to_make);
        Self { there, to_make, unknown: self.unknown.or_else(|| other.unknown.clone()) }
    }

    /// In words, such as `12 MiB there, about 3 MiB to be made`.
    pub(crate) fn text(&self) -> String {
        let mut parts = Vec::new();
        if self.there > 0 {
            parts.push(format!("{} there", HumanBytes(self.there)));
        }
        match (&self.unknown, self.to_make) {
            (Some(why), _) => parts.push(format!("the size of what is to be made cannot be told: {why}")),
            (None, 0) => {}
            (None, bytes) => parts.push(format!("about {} to be made", HumanBytes(bytes))),
        }
        parts.join(", ")
    }
}

/// Bytes of the files of decoded images in a folder, unfinished ones included; 0 if there is no such folder.
pub(crate) fn bytes_in(folder: &Path) -> u64 {
    let is_ours = |path: &Path| path.extension().is_some_and(|e| e == "pixels" || e == "part");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| is_ours(&entry.path())).filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}
