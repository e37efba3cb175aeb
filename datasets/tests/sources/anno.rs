use std::fs;
use std::path::Path;

use datasets::{AnnoConfig, Dataset, DatasetConfig, DatasetError};

use super::{message, png};

fn load(dir: &Path) -> Result<Dataset, DatasetError> {
    datasets::load("mine", &DatasetConfig::Anno(AnnoConfig { path: dir.to_owned() }), Path::new(""))
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("images")).unwrap();
    fs::create_dir_all(dir.path().join("anno")).unwrap();
    for n in 0..6 {
        fs::write(dir.path().join(format!("images/leaf {n}.png")), png(n)).unwrap();
    }
    fs::write(dir.path().join("anno/train.txt"), "leaf 0.png 10\nleaf 1.png 9\n").unwrap();
    fs::write(dir.path().join("anno/test.txt"), "leaf 2.png 9\nleaf 3.png 10\n").unwrap();
    dir
}

#[test]
fn lists_are_read_and_labels_are_the_classes() {
    let dir = folder();
    let set = load(dir.path()).unwrap();
    assert_eq!(set.classes, ["9", "10"]);
    let place = |name: &str| dir.path().join("images").join(name).display().to_string();
    let of = |items: &[datasets::Item]| items.iter().map(|i| (i.label, i.place.clone())).collect::<Vec<_>>();
    assert_eq!(of(&set.train), [(0, place("leaf 1.png")), (1, place("leaf 0.png"))]);
    assert_eq!(of(&set.test), [(0, place("leaf 2.png")), (1, place("leaf 3.png"))]);
    assert_eq!(set.train[0].bytes().unwrap().as_ref(), png(1));
    assert_eq!(set.notices, ["2 files in images/ are in no list, such as leaf 4.png"]);
    fs::write(dir.path().join("anno/val.txt"), "leaf 2.png 9\nleaf 4.png 10\nleaf 5.png 1\n").unwrap();
    assert_eq!(load(dir.path()).unwrap().notices, ["3 images of split `val` dropped; 1 of them are test images"]);
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let dir = folder();
    let error = || message(&load(dir.path()).unwrap_err(), dir.path());
    fs::write(dir.path().join("anno/test.txt"), "leaf 2.png 9\nleaf 9.png 10\n").unwrap();
    assert!(error().starts_with("DIR: anno/test.txt line 2: cannot read images/leaf 9.png: "), "{}", error());
    fs::write(dir.path().join("anno/test.txt"), "leaf 2.png 0\n").unwrap();
    assert_eq!(error(), "DIR: anno/test.txt line 1: the label is 0; labels count from 1");
    fs::remove_file(dir.path().join("anno/test.txt")).unwrap();
    assert_eq!(error(), "DIR: anno/test.txt: there is no such file");
    let text = load(&dir.path().join("anno/train.txt")).unwrap_err().to_string();
    assert!(text.contains("it is not a folder with images and anno"), "{text}");
}
