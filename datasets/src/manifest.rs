//! What an import consists of: `manifest.json` in its folder.
//!
//! ```json
//! {
//!   "format": 1,
//!   "subset": "cotton80",
//!   "stand_in": { "classes": 8 },            // only of a generated stand-in
//!   "origin": { "kind": "parquet", "name": "cotton80_dataset.parquet", "sha256": "…" },
//!   "digest": "…",                            // over classes, splits, labels and content hashes
//!   "pack": { "file": "images-….pack", "bytes": 1234 },
//!   "classes": ["1", "2"],
//!   "notices": ["240 images of split `val` dropped; 240 of them are test images"],
//!   "train": [ { "label": 0, "sha256": "…", "offset": 0, "bytes": 700, "place": "…", "name": "1_1_train.png" } ],
//!   "test": [ … ]
//! }
//! ```
//!
//! Items are sorted by label, then content hash; `digest` is that of [`crate::Dataset`] and the same from every source
//! of the same images. The images lie one after the other in the pack file, each content once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::DatasetError;
use crate::model::{Found, ImageSource, Item};
use crate::ufg::{Facts, Subset};

/// Version of the layout.
const FORMAT: u32 = 1;
/// Name of the file.
const FILE: &str = "manifest.json";
/// Folder of the data directory that holds stand-ins, apart from the real subsets.
const STAND_INS: &str = "stand-ins";

/// What a file of stand-ins says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandIn {
    /// Number of classes it was made with.
    pub classes: usize,
}

/// What images were imported from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A parquet file of the mirror.
    Parquet,
    /// An archive in the official layout.
    Zip,
    /// Such an archive, unpacked.
    Folder,
}

/// Where images were imported from. For people; it enters no digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Its kind.
    pub kind: SourceKind,
    /// Name of the file or folder, without where it lay.
    pub name: String,
    /// SHA-256 of the file, in hex; none for a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// The file that holds the images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pack {
    pub(crate) file: String,
    pub(crate) bytes: u64,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestItem {
    /// Index into the classes.
    pub label: u32,
    /// SHA-256 of the encoded image, in hex.
    pub sha256: String,
    /// Where it begins in the pack file.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// Row or entry of the source.
    pub place: String,
    /// Its file name, where the source has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// An import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    subset: String,
    /// Set if these are generated stand-ins and not the subset's images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stand_in: Option<StandIn>,
    /// Where the images come from.
    pub origin: Origin,
    /// Digest of the dataset.
    pub digest: String,
    pub(crate) pack: Pack,
    /// Class names.
    pub classes: Vec<String>,
    /// What the user should know.
    pub notices: Vec<String>,
    /// Train images.
    pub train: Vec<ManifestItem>,
    /// Test images.
    pub test: Vec<ManifestItem>,
}

/// Folder of a subset's import in a data directory.
pub(crate) fn folder(data: &Path, subset: Subset, stand_in: bool) -> PathBuf {
    if stand_in { data.join(STAND_INS).join(subset.id()) } else { data.join(subset.id()) }
}

/// The manifest of a subset's import, or of its stand-in's, in a data directory. It exists exactly if there is one.
pub fn manifest_path(data: &Path, subset: Subset, stand_in: bool) -> PathBuf {
    folder(data, subset, stand_in).join(FILE)
}

/// What a subset must consist of, or its stand-in. None if there are no stand-ins of that size.
pub(crate) fn expected(subset: Subset, stand_in: Option<StandIn>) -> Option<Facts> {
    match stand_in {
        None => Some(subset.facts()),
        Some(StandIn { classes }) => (2..=subset.classes()).contains(&classes).then(|| subset.stand_in_facts(classes)),
    }
}

impl Manifest {
    /// The manifest of sorted items.
    pub(crate) fn new(
        subset: Subset,
        stand_in: Option<StandIn>,
        origin: Origin,
        pack: Pack,
        classes: Vec<String>,
        notices: Vec<String>,
        [train, test]: [Vec<ManifestItem>; 2],
    ) -> Self {
        let mut manifest = Self {
            format: FORMAT,
            subset: subset.id().to_owned(),
            stand_in,
            origin,
            digest: String::new(),
            pack,
            classes,
            notices,
            train,
            test,
        };
        let [train, test] = manifest.items(Path::new(""), "");
        let found = Found { classes: manifest.classes.clone(), train, test, notices: Vec::new() };
        manifest.digest = found.digest();
        manifest
    }

    /// Reads the manifest of an import and checks it against what it should be.
    ///
    /// # Errors
    /// [`DatasetError::NotImported`], [`DatasetError::Read`], and [`DatasetError::Store`] for a manifest that is
    /// damaged, of another version or subset, or whose pack file is not as long as it says.
    pub fn read(data: &Path, subset: Subset, stand_in: bool) -> Result<Self, DatasetError> {
        let path = manifest_path(data, subset, stand_in);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(DatasetError::NotImported { subset, stand_in, path });
            }
            Err(source) => return Err(DatasetError::Read { path, source }),
        };
        let broken = |reason: String| DatasetError::Store { path: path.clone(), reason };
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| broken(format!("it is damaged: {e}")))?;
        if manifest.format != FORMAT {
            return Err(broken(format!("its format is {}, this version reads {FORMAT}", manifest.format)));
        }
        if manifest.subset != subset.id() || manifest.stand_in.is_some() != stand_in {
            let what = if manifest.stand_in.is_some() { "a stand-in of" } else { "the subset" };
            return Err(broken(format!("it is of {what} `{}`", manifest.subset)));
        }
        manifest.check(&path)?;
        Ok(manifest)
    }

    fn check(&self, path: &Path) -> Result<(), DatasetError> {
        let broken = |reason: String| DatasetError::Store { path: path.to_owned(), reason };
        let classes = self.classes.len();
        let within = |item: &ManifestItem| {
            (item.label as usize) < classes && item.offset.checked_add(item.bytes).is_some_and(|e| e <= self.pack.bytes)
        };
        if let Some(item) = self.train.iter().chain(&self.test).find(|item| !within(item)) {
            return Err(broken(format!("the item {} has a label or an offset that cannot be", item.sha256)));
        }
        if Path::new(&self.pack.file).components().count() != 1 {
            return Err(broken(format!("`{}` is no name of a pack file", self.pack.file)));
        }
        let pack = path.with_file_name(&self.pack.file);
        let found = fs::metadata(&pack).map_err(|source| DatasetError::Read { path: pack.clone(), source })?.len();
        if found != self.pack.bytes {
            return Err(broken(format!("{} has {found} bytes, not {}", pack.display(), self.pack.bytes)));
        }
        Ok(())
    }

    /// Its bytes.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The items of both splits, the images in the pack file beside the manifest. `name` is what messages call them.
    pub(crate) fn items(&self, folder: &Path, name: &str) -> [Vec<Item>; 2] {
        let pack: Arc<Path> = folder.join(&self.pack.file).into();
        let item = |item: &ManifestItem| Item {
            image: ImageSource::Slice { path: Arc::clone(&pack), offset: item.offset, length: item.bytes },
            label: item.label,
            place: item.name.as_ref().map_or_else(|| item.place.clone(), |file| format!("{name} {file}")),
            sha256: item.sha256.clone(),
        };
        [&self.train, &self.test].map(|items| items.iter().map(item).collect())
    }
}
