//! The one model that every source ends in.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::DatasetError;
use crate::source::ParquetImages;

/// The two parts of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// Learned from.
    Train,
    /// Judged on.
    Test,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Split::Train => "train",
            Split::Test => "test",
        })
    }
}

/// Where the encoded bytes of an image are.
#[derive(Debug, Clone)]
pub enum ImageSource {
    /// In memory.
    Bytes(Arc<[u8]>),
    /// In a file of their own.
    Path(PathBuf),
    /// A part of a file.
    Slice {
        /// The file.
        path: Arc<Path>,
        /// Where the bytes begin.
        offset: u64,
        /// How many there are.
        length: u64,
    },
    /// A row of a parquet file.
    Row {
        /// The file.
        images: Arc<ParquetImages>,
        /// The row, from 0.
        row: usize,
    },
}

/// One image of a dataset.
#[derive(Debug, Clone)]
pub struct Item {
    /// The encoded image.
    pub image: ImageSource,
    /// Index into [`Dataset::classes`].
    pub label: u32,
    /// Where it comes from, for messages: `tomato.parquet row 17`, or a path.
    pub place: String,
    /// SHA-256 of the encoded bytes, in hex.
    pub sha256: String,
}

impl Item {
    /// The encoded bytes, read now if they lie in a file.
    ///
    /// # Errors
    /// [`DatasetError::Read`] or [`DatasetError::Parquet`], and [`DatasetError::Changed`] if the file's content is not
    /// what was loaded.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>, DatasetError> {
        let (path, read) = match &self.image {
            ImageSource::Bytes(bytes) => return Ok(Cow::Borrowed(bytes)),
            ImageSource::Path(path) => (path.as_path(), std::fs::read(path)),
            ImageSource::Slice { path, offset, length } => (path.as_ref(), read_slice(path, *offset, *length)),
            ImageSource::Row { images, row } => return self.unchanged(images.read(*row)?).map(Cow::Owned),
        };
        let bytes = read.map_err(|source| DatasetError::Read { path: path.to_owned(), source })?;
        self.unchanged(bytes).map(Cow::Owned)
    }

    /// The bytes, if they are those that were loaded.
    pub(crate) fn unchanged(&self, bytes: Vec<u8>) -> Result<Vec<u8>, DatasetError> {
        let found = sha256_hex(&bytes);
        if found == self.sha256 {
            return Ok(bytes);
        }
        Err(DatasetError::Changed { place: self.place.clone(), expected: self.sha256.clone(), found })
    }
}

fn read_slice(path: &Path, offset: u64, length: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let end = offset.checked_add(length).filter(|&end| file.metadata().is_ok_and(|m| end <= m.len()));
    if end.is_none() {
        let reason = format!("it ends before byte {offset} + {length}");
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, reason));
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A dataset: classes, and the images of both splits.
///
/// The items of a split are sorted by label, then content hash. Two sources with the same content therefore give the
/// same items at the same indices, the same digest, and the same training, wherever they lie and however they are
/// stored.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The name under which the suite file lists it.
    pub name: String,
    /// Class names; a label is an index into them.
    pub classes: Vec<String>,
    /// Train images.
    pub train: Vec<Item>,
    /// Test images.
    pub test: Vec<Item>,
    /// SHA-256, in hex, over class names, splits, labels and content hashes; not over name, place or storage.
    pub digest: String,
    /// What the user should know: dropped splits, shared images, ignored files.
    pub notices: Vec<String>,
}

/// What a source found, before the checks that all sources share.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) classes: Vec<String>,
    pub(crate) train: Vec<Item>,
    pub(crate) test: Vec<Item>,
    pub(crate) notices: Vec<String>,
}

impl Found {
    /// Digest of sorted items.
    pub(crate) fn digest(&self) -> String {
        digest(&self.classes, &self.train, &self.test)
    }

    /// Checks and sorts what was found.
    pub(crate) fn finish(mut self, name: &str) -> Result<Dataset, DatasetError> {
        for (split, items) in [(Split::Train, &self.train), (Split::Test, &self.test)] {
            if items.is_empty() {
                return Err(DatasetError::EmptySplit { name: name.to_owned(), split });
            }
        }
        if let [class] = self.classes.as_slice() {
            return Err(DatasetError::OneClass { name: name.to_owned(), class: class.clone() });
        }
        self.check_classes(name)?;
        self.notices.extend(similar_names(&self.classes));
        self.notice_repeats();
        for items in [&mut self.train, &mut self.test] {
            items.sort_by(|a, b| (a.label, &a.sha256).cmp(&(b.label, &b.sha256)));
        }
        let digest = self.digest();
        let Found { classes, train, test, notices } = self;
        Ok(Dataset { name: name.to_owned(), classes, train, test, digest, notices })
    }

    fn check_classes(&mut self, name: &str) -> Result<(), DatasetError> {
        let trained = counts(&self.train, self.classes.len());
        if let Some(item) = self.test.iter().find(|item| trained[item.label as usize] == 0) {
            return Err(DatasetError::UntrainedClass {
                name: name.to_owned(),
                class: self.classes[item.label as usize].clone(),
                place: item.place.clone(),
            });
        }
        for (items, split) in [(&self.train, "train"), (&self.test, "test")] {
            let counts = counts(items, self.classes.len());
            let absent: Vec<&str> =
                self.classes.iter().zip(&counts).filter(|&(_, &n)| n == 0).map(|(c, _)| c.as_str()).collect();
            if let Some(first) = absent.first() {
                self.notices.push(format!(
                    "{} of {} classes have no {split} images, `{first}` for one",
                    absent.len(),
                    self.classes.len()
                ));
            }
        }
        Ok(())
    }

    /// Images that are in both splits, or twice in one of them under different labels, spoil what is measured.
    fn notice_repeats(&mut self) {
        let mut first: HashMap<&str, &Item> = HashMap::new();
        for item in &self.train {
            first.entry(&item.sha256).or_insert(item);
        }
        let shared: Vec<(&Item, &Item)> =
            self.test.iter().filter_map(|item| first.get(item.sha256.as_str()).map(|t| (*t, item))).collect();
        let mut notices = Vec::new();
        if let Some((train, test)) = shared.first() {
            notices.push(format!(
                "{} of {} test images are also train images: {} is {}",
                shared.len(),
                self.test.len(),
                test.place,
                train.place
            ));
        }
        let mut labels: BTreeMap<&str, &Item> = BTreeMap::new();
        let mut conflicts = Vec::new();
        for item in self.train.iter().chain(&self.test) {
            let known = *labels.entry(&item.sha256).or_insert(item);
            if known.label != item.label {
                conflicts.push((known, item));
            }
        }
        if let Some((a, b)) = conflicts.first() {
            notices.push(format!(
                "{} images occur under two classes: {} (`{}`) is {} (`{}`)",
                conflicts.len(),
                b.place,
                self.classes[b.label as usize],
                a.place,
                self.classes[a.label as usize]
            ));
        }
        self.notices.extend(notices);
    }
}

fn counts(items: &[Item], classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    items.iter().for_each(|item| counts[item.label as usize] += 1);
    counts
}

fn digest(classes: &[String], train: &[Item], test: &[Item]) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(b"ufg-bench dataset 1");
    classes.iter().for_each(|class| part(class.as_bytes()));
    for (split, items) in [(Split::Train, train), (Split::Test, test)] {
        part(split.to_string().as_bytes());
        for item in items {
            part(&item.label.to_le_bytes());
            part(item.sha256.as_bytes());
        }
    }
    hex(&hash.finalize())
}

/// Says so where class names differ in case, in spaces around them or in leading zeros alone: most likely one class.
fn similar_names(classes: &[String]) -> Option<String> {
    let mut first: HashMap<String, &String> = HashMap::new();
    let mut pairs = Vec::new();
    for class in classes {
        let plain = class.trim().to_lowercase();
        let plain = plain.parse::<i128>().map_or(plain, |number| number.to_string());
        if let Some(known) = first.get(&plain) {
            pairs.push((*known, class));
        } else {
            first.insert(plain, class);
        }
    }
    let (one, other) = pairs.first()?;
    Some(format!(
        "{} class names differ from another one in case, spaces or zeros alone, and are classes of their own: `{other}` \
         beside `{one}`",
        pairs.len()
    ))
}

/// Class ids by name: numeric order if every name is a whole number, else lexicographic (by bytes).
pub(crate) fn sort_classes(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names.dedup();
    let numbers: Option<Vec<i128>> = names.iter().map(|name| name.parse().ok()).collect();
    if let Some(numbers) = numbers {
        let mut pairs: Vec<(i128, String)> = numbers.into_iter().zip(names).collect();
        pairs.sort();
        return pairs.into_iter().map(|(_, name)| name).collect();
    }
    names
}

pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|n| char::from_digit(u32::from(n), 16).unwrap_or('?')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(content: &str, label: u32, place: &str) -> Item {
        Item {
            image: ImageSource::Bytes(content.as_bytes().into()),
            label,
            place: place.into(),
            sha256: sha256_hex(content.as_bytes()),
        }
    }

    fn found(train: Vec<Item>, test: Vec<Item>) -> Found {
        Found { classes: vec!["a".into(), "b".into()], train, test, notices: Vec::new() }
    }

    #[test]
    fn hashes_are_those_of_the_standard() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_hex(b""), empty);
    }

    #[test]
    fn classes_sort_as_numbers_only_if_all_are() {
        let names = |list: &[&str]| sort_classes(list.iter().map(|s| s.to_string()).collect());
        assert_eq!(names(&["10", "9", "1", "9"]), ["1", "9", "10"]);
        assert_eq!(names(&["10", "9", "a"]), ["10", "9", "a"]);
        assert_eq!(names(&["GDC100", "GDC008"]), ["GDC008", "GDC100"]);
    }

    #[test]
    fn order_and_digest_depend_on_content_alone() {
        let (x, y, z) = (item("x", 0, "p 0"), item("y", 0, "p 1"), item("z", 1, "p 2"));
        let one = found(vec![x.clone(), y.clone(), z.clone()], vec![item("t", 1, "p")]).finish("n").unwrap();
        let two = found(vec![z, item("y", 0, "q"), x], vec![item("t", 1, "q")]).finish("m").unwrap();
        assert_eq!(one.digest, two.digest);
        let hashes = |d: &Dataset| d.train.iter().map(|i| i.sha256.clone()).collect::<Vec<_>>();
        assert_eq!(hashes(&one), hashes(&two));
        let relabelled =
            found(vec![item("x", 1, ""), y, item("z", 1, "")], vec![item("t", 1, "")]).finish("n").unwrap();
        assert_ne!(one.digest, relabelled.digest);
    }

    #[test]
    fn shared_images_and_conflicting_labels_are_noticed() {
        let set = found(
            vec![item("x", 0, "row 0"), item("y", 1, "row 1"), item("x", 1, "row 2")],
            vec![item("x", 0, "row 3"), item("w", 0, "row 4")],
        )
        .finish("n")
        .unwrap();
        assert_eq!(
            set.notices,
            [
                "1 of 2 classes have no test images, `b` for one",
                "1 of 2 test images are also train images: row 3 is row 0",
                "1 images occur under two classes: row 2 (`b`) is row 0 (`a`)",
            ]
        );
    }

    #[test]
    fn class_names_that_hardly_differ_are_noticed() {
        let similar = |names: &[&str]| similar_names(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(similar(&["oak", "elm", "oaks", "1", "10", "Ä", "a"]), None);
        for (one, other) in [("Oak", "oak"), ("oak", "oak "), ("ÄHRE", "ähre"), ("1", "01")] {
            let end = format!("of their own: `{other}` beside `{one}`");
            let notice = similar(&["elm", one, "ash", other]).unwrap();
            assert!(notice.starts_with("1 class names differ") && notice.ends_with(&end), "{notice}");
        }
        let two = similar(&["A", "B", "a", "b"]).unwrap();
        assert!(two.starts_with("2 class names"), "{two}");
    }

    #[test]
    fn what_cannot_be_learned_is_refused() {
        let message = |f: Found| f.finish("n").unwrap_err().to_string();
        assert_eq!(message(found(vec![], vec![item("x", 0, "")])), "dataset `n`: it has no train images");
        assert_eq!(message(found(vec![item("x", 0, "")], vec![])), "dataset `n`: it has no test images");
        assert_eq!(
            message(found(vec![item("x", 0, "")], vec![item("y", 1, "row 9")])),
            "dataset `n`: class `b` has test images (row 9) but no train images"
        );
        let one = Found { classes: vec!["a".into()], ..found(vec![item("x", 0, "")], vec![item("y", 0, "")]) };
        assert_eq!(message(one), "dataset `n`: it has only the class `a`");
    }

    #[test]
    fn a_changed_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.png");
        std::fs::write(&path, b"new").unwrap();
        let item = Item { image: ImageSource::Path(path), ..item("old", 0, "x.png") };
        let error = item.bytes().unwrap_err();
        assert!(error.is_environment() && error.to_string().starts_with("x.png has changed"), "{error}");
    }
}
