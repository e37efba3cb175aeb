//! `bench.lock`: which content every file had when it was first fetched.
//!
//! A TOML file beside the suite file, so that whoever gets the one gets the other:
//!
//! ```toml
//! version = 1
//!
//! [[file]]
//! kind = "model"
//! repo = "timm/resnet50.a1_in1k"
//! file = "model.safetensors"
//! revision = "main"
//! commit = "…"       # 40 hexadecimal digits
//! sha256 = "…"       # 64 hexadecimal digits
//! size = 102469840
//! ```
//!
//! Entries are sorted by kind, repository, file and revision, so that the same pins are the same bytes. An entry is
//! written once; from then on the revision means that commit and that content, until the entry is removed by hand.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cache::write_whole;
use crate::names::{is_commit, is_hex};
use crate::{HubError, HubFile, Repo, RepoKind, Result};

/// The lock's file name.
pub const LOCK_NAME: &str = "bench.lock";

/// Version of the format.
const VERSION: u32 = 1;

const HEADER: &str = "# Written by `bench fetch`: what every file from the Hub was when it was first fetched. Keep it beside the suites.\n# To take a newer state of a revision, remove its entries and fetch again.\n";

/// What a file has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The commit of its repository, 40 hexadecimal digits.
    pub commit: String,
    /// SHA-256 of its content, 64 hexadecimal digits.
    pub sha256: String,
    /// Its bytes.
    pub size: u64,
}

/// The pins of a lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins(BTreeMap<Key, Pin>);

/// Kind, repository, file, revision asked for.
type Key = (RepoKind, String, String, String);

fn key(file: &HubFile) -> Key {
    (file.repo().kind(), file.repo().id().to_owned(), file.path().to_owned(), file.revision().to_owned())
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    version: u32,
    #[serde(default)]
    file: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    kind: RepoKind,
    repo: String,
    file: String,
    revision: String,
    commit: String,
    sha256: String,
    size: u64,
}

impl Entry {
    /// The file and its pin, or what is wrong with the entry.
    fn parse(self) -> std::result::Result<(Key, Pin), String> {
        let repo = Repo::new(self.kind, &self.repo).map_err(|error| error.to_string())?;
        let file = HubFile::new(repo, &self.revision, &self.file).map_err(|error| error.to_string())?;
        if !is_commit(&self.commit) {
            return Err(format!("{file}: `commit` is not 40 hexadecimal digits"));
        }
        if self.sha256.len() != 64 || !is_hex(&self.sha256) {
            return Err(format!("{file}: `sha256` is not 64 hexadecimal digits"));
        }
        Ok((key(&file), Pin { commit: self.commit, sha256: self.sha256, size: self.size }))
    }
}

impl Pins {
    /// Reads a lock; one that does not exist is empty.
    ///
    /// # Errors
    /// [`HubError::Lock`] for a file that is no lock, [`HubError::Disk`] for one that cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(HubError::Disk { action: "read", path: path.to_owned(), source }),
        };
        Self::parse(&text).map_err(|reason| HubError::Lock { path: path.to_owned(), reason })
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let wire: Wire = toml::from_str(text).map_err(|error| error.to_string())?;
        if wire.version != VERSION {
            return Err(format!("version {} is unknown, expected {VERSION}", wire.version));
        }
        let mut pins = BTreeMap::new();
        for entry in wire.file {
            let (key, pin) = entry.parse()?;
            let name = format!("`{}` of `{}` at `{}`", key.2, key.1, key.3);
            if pins.insert(key, pin).is_some() {
                return Err(format!("{name} is there twice"));
            }
        }
        Ok(Self(pins))
    }

    /// The bytes of the lock.
    fn text(&self) -> std::result::Result<String, toml::ser::Error> {
        let entries = self.0.iter().map(|((kind, repo, file, revision), pin)| Entry {
            kind: *kind,
            repo: repo.clone(),
            file: file.clone(),
            revision: revision.clone(),
            commit: pin.commit.clone(),
            sha256: pin.sha256.clone(),
            size: pin.size,
        });
        let wire = Wire { version: VERSION, file: entries.collect() };
        Ok(format!("{HEADER}\n{}", toml::to_string(&wire)?))
    }

    /// The pin of a file at the revision that is asked for.
    pub fn get(&self, file: &HubFile) -> Option<&Pin> {
        self.0.get(&key(file))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds files to the lock at `path`, whole or not at all; what is pinned already stays as it is. Processes that add
    /// to the same lock take turns.
    ///
    /// # Errors
    /// [`HubError::PinMismatch`] if a file is pinned to another content by now, [`HubError::Lock`], [`HubError::Disk`].
    pub fn add(path: &Path, files: &[(HubFile, Pin)]) -> Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let disk = |action| move |source| HubError::Disk { action, path: folder.to_owned(), source };
        // The folder is what is locked: the file itself is replaced.
        let guard = File::open(folder).map_err(disk("open"))?;
        guard.lock().map_err(disk("lock"))?;
        let mut pins = Self::read(path)?;
        let before = pins.clone();
        for (file, pin) in files {
            let known = pins.0.entry(key(file)).or_insert_with(|| pin.clone());
            if known.sha256 != pin.sha256 {
                let (pinned, found) = (known.sha256.clone(), pin.sha256.clone());
                return Err(HubError::PinMismatch { file: file.clone(), pinned, found });
            }
        }
        if pins != before {
            let text = pins.text().map_err(|e| HubError::Lock { path: path.to_owned(), reason: e.to_string() })?;
            write_whole(path, text.as_bytes())?;
        }
        Ok(pins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(repo: &str, path: &str) -> HubFile {
        HubFile::new(Repo::model(repo).unwrap(), "main", path).unwrap()
    }

    fn pin(digit: char) -> Pin {
        let of = |n: usize| digit.to_string().repeat(n);
        Pin { commit: of(40), sha256: of(64), size: 7 }
    }

    #[test]
    fn the_order_of_adding_does_not_change_the_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let data = HubFile::new(Repo::dataset("o/n").unwrap(), "main", "a.parquet").unwrap();
        let mut files = vec![(file("b/x", "m"), pin('1')), (file("a/x", "m"), pin('2')), (data.clone(), pin('3'))];
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        let pins = Pins::add(&one, &files).unwrap();
        files.reverse();
        files.iter().for_each(|entry| drop(Pins::add(&other, std::slice::from_ref(entry)).unwrap()));
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&other).unwrap());
        assert_eq!(Pins::read(&one).unwrap(), pins);
        assert_eq!((pins.len(), pins.get(&data)), (3, Some(&pin('3'))));
        assert_eq!(pins.get(&data.at("v1").unwrap()), None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays");
        let text = std::fs::read_to_string(&one).unwrap();
        assert!(text.find("\"a/x\"") < text.find("\"b/x\"") && text.find("\"b/x\"") < text.find("\"o/n\""), "{text}");
    }

    #[test]
    fn what_is_pinned_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK_NAME);
        Pins::add(&path, &[(file("a/x", "m"), pin('1'))]).unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = Pins::add(&path, &[(file("a/y", "m"), pin('1')), (file("a/x", "m"), pin('2'))]).unwrap_err();
        assert!(matches!(&error, HubError::PinMismatch { pinned, found, .. }
            if *pinned == "1".repeat(64) && *found == "2".repeat(64)));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        // The same content of a later commit keeps the first commit.
        let later = Pin { commit: "9".repeat(40), ..pin('1') };
        let pins = Pins::add(&path, &[(file("a/x", "m"), later)]).unwrap();
        assert_eq!(pins.get(&file("a/x", "m")), Some(&pin('1')));
    }

    #[test]
    fn those_who_add_at_the_same_time_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK_NAME);
        let names: Vec<String> = (0..16).map(|i| format!("a/x{i}")).collect();
        std::thread::scope(|scope| {
            let add = |name: &String| drop(Pins::add(&path, &[(file(name, "m"), pin('1'))]).unwrap());
            names.iter().for_each(|name| drop(scope.spawn(move || add(name))));
        });
        let pins = Pins::read(&path).unwrap();
        assert_eq!(pins.len(), 16);
        assert!(names.iter().all(|name| pins.get(&file(name, "m")) == Some(&pin('1'))));
    }

    #[test]
    fn what_is_no_lock_is_refused_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK_NAME);
        assert!(Pins::read(&path).unwrap().is_empty());
        Pins::add(&path, &[(file("a/x", "m"), pin('1'))]).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        let entry = &good[good.find("[[file]]").unwrap()..];
        for (bad, word) in [
            (good.replace("version = 1", "version = 2"), "version 2"),
            (good.replace("\"a/x\"", "\"../x\""), "../x"),
            (good.replace(&"1".repeat(64), "1"), "sha256"),
            (good.replace(&"1".repeat(40), "main"), "commit"),
            (good.replace("size", "sizes"), "sizes"),
            (format!("{good}\n{entry}"), "twice"),
            (good.replace("\"m\"", "\"../../m\""), "../../m"),
            ("]".to_owned(), "line 1"),
        ] {
            std::fs::write(&path, &bad).unwrap();
            let error = Pins::read(&path).unwrap_err();
            assert!(matches!(&error, HubError::Lock { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(word) && text.contains(LOCK_NAME), "{word}: {text}");
        }
    }
}
