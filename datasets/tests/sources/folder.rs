use std::path::Path;

use datasets::{ErrorKind, ImageSource, decode};

use super::tables::{MIRROR, images, ints, texts, write};
use super::{load_folder, load_parquet, message, png};

fn put(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    std::fs::write(path, bytes).expect("a file");
}

/// Classes `b` and `a`, two train images and one test image each.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let files = [
        ("train/b/2.png", 1),
        ("train/b/1.PNG", 2),
        ("train/a/x.png", 3),
        ("train/a/y.png", 4),
        ("test/a/z.png", 5),
        ("test/b/z.png", 6),
    ];
    files.iter().for_each(|(name, tag)| put(dir.path(), name, &png(*tag)));
    dir
}

#[test]
fn files_become_items() {
    let dir = tree();
    let set = load_folder(dir.path()).expect("a dataset");
    assert_eq!(set.classes, ["a", "b"]);
    assert_eq!((set.train.len(), set.test.len()), (4, 2));
    assert_eq!(set.notices, [""; 0]);
    for item in &set.train {
        let ImageSource::Path(path) = &item.image else { panic!("read from its file when needed") };
        assert_eq!(item.place, path.display().to_string());
        let class = path.parent().and_then(|p| p.file_name()).and_then(|n| n.to_str());
        assert_eq!(class, Some(set.classes[item.label as usize].as_str()));
        assert_eq!(decode(item).expect("an image").width, 6);
    }
}

#[test]
fn a_folder_and_a_table_with_the_same_images_are_the_same_dataset() {
    let dir = tree();
    let path = dir.path().join("set.parquet");
    let columns = [
        images(vec![png(5), png(1), png(4), png(2), png(3), png(6)]),
        ints(&[0, 1, 0, 1, 0, 1]),
        texts(&["a", "b", "a", "b", "a", "b"]),
        texts(&["test", "train", "train", "train", "train", "test"]),
    ];
    write(&path, &MIRROR, &columns);
    let (folder, table) = (load_folder(dir.path()).expect("a dataset"), load_parquet(&path).expect("a dataset"));
    assert_eq!(folder.digest, table.digest);
    let hashes = |set: &datasets::Dataset| set.train.iter().map(|item| item.sha256.clone()).collect::<Vec<_>>();
    assert_eq!(hashes(&folder), hashes(&table));
}

#[test]
fn what_is_ignored_is_said() {
    let dir = tree();
    put(dir.path(), "train/a/notes.txt", b"x");
    put(dir.path(), "train/a/.hidden.png", b"x");
    put(dir.path(), "train/list.csv", b"x");
    put(dir.path(), ".cache/x", b"x");
    put(dir.path(), "README.md", b"x");
    put(dir.path(), "val/a/z.png", &png(5));
    put(dir.path(), "val/a/w.png", &png(99));
    put(dir.path(), "test/a/copy.png", &png(3));
    let set = load_folder(dir.path()).expect("a dataset");
    let notices: Vec<String> =
        set.notices.iter().map(|n| n.replace(&dir.path().display().to_string(), "DIR")).collect();
    assert_eq!(
        notices,
        [
            "2 images of split `val` dropped; 1 of them are test images",
            "3 files or folders that are no images ignored, such as DIR/train/a/notes.txt",
            "1 of 3 test images are also train images: DIR/test/a/copy.png is DIR/train/a/x.png",
        ]
    );
}

#[test]
fn folders_that_are_no_dataset_are_refused() {
    let dir = tree();
    put(dir.path(), "test/c/new.png", &png(7));
    let refuse = |path: &Path| load_folder(path).map(|_| ()).expect_err("refused");
    let error = refuse(dir.path());
    assert_eq!(
        message(&error, dir.path()),
        "dataset `set`: class `c` has test images (DIR/test/c/new.png) but no train images"
    );
    std::fs::remove_dir_all(dir.path().join("test")).expect("removed");
    let error = refuse(dir.path());
    assert_eq!(message(&error, dir.path()), "DIR has no folder `test`; it holds: train");
    assert!(error.hint().contains("<path>/test/<class>/"));
    std::fs::create_dir(dir.path().join("test")).expect("a folder");
    assert_eq!(refuse(dir.path()).to_string(), "dataset `set`: it has no test images");
    let file = dir.path().join("train/a/x.png");
    let error = refuse(&file);
    assert_eq!(error.kind(), ErrorKind::Missing);
    assert!(message(&error, dir.path()).starts_with("cannot read DIR/train/a/x.png: it is a file"), "{error}");
}

#[test]
fn a_file_changed_after_loading_is_refused() {
    let dir = tree();
    let set = load_folder(dir.path()).expect("a dataset");
    let item = set.test.iter().find(|item| item.label == 0).expect("class a");
    std::fs::write(dir.path().join("test/a/z.png"), png(77)).expect("written");
    let error = decode(item).expect_err("changed");
    assert!(error.is_environment() && error.to_string().contains("has changed since"), "{error}");
    std::fs::remove_file(dir.path().join("test/a/z.png")).expect("removed");
    assert!(message(&decode(item).expect_err("gone"), dir.path()).starts_with("cannot read DIR/test/a/z.png: "));
}

#[test]
#[cfg(unix)]
fn a_pipe_among_the_images_is_named_and_not_waited_for() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (split, class) in [("train", "a"), ("train", "b"), ("test", "a")] {
        let folder = dir.path().join(split).join(class);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("0.png"), super::png(1)).expect("a file");
    }
    let pipe = dir.path().join("train/b/pipe.png");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    let error = super::load_folder(dir.path()).expect_err("refused");
    assert_eq!(super::message(&error, dir.path()), "cannot read DIR/train/b/pipe.png: it is not a regular file");
    let error = super::load_parquet(&pipe).expect_err("refused");
    assert_eq!(super::message(&error, dir.path()), "cannot read DIR/train/b/pipe.png: it is not a regular file");
    let error = datasets::find_imports(&pipe, None).expect_err("refused");
    assert_eq!(super::message(&error, dir.path()), "cannot read DIR/train/b/pipe.png: it is not a regular file");
}
