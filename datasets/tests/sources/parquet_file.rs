use std::path::Path;

use datasets::{DatasetConfig, DatasetError, ErrorKind, ImageSource, ParquetConfig, decode};
use parquet::basic::Compression;

use super::tables::{Column, Layout, MIRROR, images, ints, texts, write};
use super::{load_parquet, message, png};

/// Eight rows, classes `10` and `9`, two of split val that are copies of test rows.
fn rows() -> [Column; 4] {
    [
        images(vec![png(1), png(2), png(3), png(4), png(5), png(6), png(5), png(6)]),
        ints(&[1, 0, 1, 0, 1, 0, 1, 0]),
        texts(&["10", "9", "10", "9", "10", "9", "10", "9"]),
        texts(&["train", "train", "train", "train", "test", "test", "val", "val"]),
    ]
}

fn with(
    columns: impl IntoIterator<Item = Column>,
    layout: &Layout,
) -> (tempfile::TempDir, Result<datasets::Dataset, DatasetError>) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("set.parquet");
    write(&path, layout, &columns.into_iter().collect::<Vec<_>>());
    let result = load_parquet(&path);
    (dir, result)
}

fn error(columns: impl IntoIterator<Item = Column>, layout: &Layout) -> (String, DatasetError) {
    let (dir, result) = with(columns, layout);
    let error = result.expect_err("a refused table");
    (message(&error, dir.path()), error)
}

#[test]
fn rows_become_items() {
    let (_dir, set) = with(rows(), &MIRROR);
    let set = set.expect("a dataset");
    assert_eq!(set.classes, ["9", "10"], "numeric order over the whole table");
    assert_eq!((set.train.len(), set.test.len()), (4, 2));
    let row = |place: &str| set.train.iter().chain(&set.test).find(|item| item.place == place).expect("an item");
    assert_eq!(row("set.parquet row 0").label, 1);
    assert_eq!(row("set.parquet row 5").label, 0);
    let in_file = |item: &datasets::Item| matches!(item.image, ImageSource::Row { .. });
    assert!(set.train.iter().chain(&set.test).all(in_file), "no image is held in memory");
    assert_eq!(row("set.parquet row 4").bytes().expect("bytes").as_ref(), png(5));
    assert_eq!(decode(row("set.parquet row 4")).expect("an image").data[0], 5);
    assert_eq!(set.notices, ["2 images of split `val` dropped; 2 of them are test images"]);
}

#[test]
fn storage_does_not_matter() {
    let digest = with(rows(), &MIRROR).1.expect("a dataset").digest;
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::ZSTD(Default::default()),
        Compression::GZIP(Default::default()),
        Compression::LZ4_RAW,
    ] {
        for (group, dictionary) in [(3, false), (1, true), (100, true)] {
            let layout = Layout { compression, group, dictionary, ..MIRROR };
            assert_eq!(
                with(rows(), &layout).1.expect("a dataset").digest,
                digest,
                "{compression:?} {group} {dictionary}"
            );
        }
    }
    let int32 =
        "optional binary image; optional int32 label; optional binary class_name (UTF8); optional binary split (UTF8);";
    assert_eq!(with(rows(), &Layout { fields: int32, ..MIRROR }).1.expect("a dataset").digest, digest);
}

#[test]
fn many_rows_keep_their_numbers() {
    // More than one batch of rows and several row groups of odd size.
    let n = 700usize;
    let bytes: Vec<Vec<u8>> = (0..n).map(|i| format!("no image, row {i}").into_bytes()).collect();
    let names: Vec<String> = (0..n).map(|i| format!("class {}", i % 3)).collect();
    let splits: Vec<&str> = (0..n).map(|i| if i % 5 == 0 { "test" } else { "train" }).collect();
    let labels: Vec<i64> = (0..n as i64).map(|i| i % 3).collect();
    let columns =
        [images(bytes), ints(&labels), texts(&names.iter().map(String::as_str).collect::<Vec<_>>()), texts(&splits)];
    let set = with(columns, &Layout { group: 301, ..MIRROR }).1.expect("a dataset");
    assert_eq!((set.train.len(), set.test.len()), (560, 140));
    for item in set.train.iter().chain(&set.test) {
        let row: usize = item.place.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a row");
        assert_eq!(item.bytes().expect("bytes").as_ref(), format!("no image, row {row}").as_bytes());
        assert_eq!(item.label as usize, row % 3);
    }
    assert_eq!(set.notices, [""; 0]);
}

#[test]
fn the_hub_stores_images_in_a_struct() {
    let fields = "optional group image { optional binary bytes; optional binary path (UTF8); } \
                  optional binary class_name (UTF8); optional binary split (UTF8);";
    let [image, _, class, split] = rows();
    let path = Column::Bytes(vec![None; 8]);
    let layout = Layout { fields, level: 2, ..MIRROR };
    let set = with([image, path, class, split], &layout).1.expect("a dataset");
    assert_eq!(set.digest, with(rows(), &MIRROR).1.expect("a dataset").digest);
}

#[test]
fn without_names_the_labels_are_the_classes() {
    let fields = "optional binary image; optional int64 label; optional binary split (UTF8);";
    let [image, _, _, split] = rows();
    let labels = ints(&[12, 7, 12, 7, 12, 7, 12, 7]);
    let set = with([image, labels, split], &Layout { fields, ..MIRROR }).1.expect("a dataset");
    assert_eq!(set.classes, ["7", "12"]);
    let [image, _, _, split] = rows();
    let labels = Column::Int(vec![Some(1), Some(0), None, Some(0), Some(1), Some(0), Some(1), Some(0)]);
    let (text, _) = error([image, labels, split], &Layout { fields, ..MIRROR });
    assert_eq!(text, "DIR/set.parquet row 2: column `label` is null");
}

#[test]
fn labels_that_disagree_with_names_are_noticed() {
    let [image, _, class, split] = rows();
    let set = with([image, ints(&[1, 0, 1, 0, 1, 0, 1, 1]), class, split], &MIRROR).1.expect("a dataset");
    assert_eq!(
        set.notices[0],
        "column `label` disagrees with `class_name`, which is used: class `9` has labels 0 and 1"
    );
}

#[test]
fn missing_and_wrong_columns_are_named() {
    let [image, label, class, _] = rows();
    let fields = "optional binary image; optional int64 label; optional binary class_name (UTF8);";
    let (text, e) = error([image, label, class], &Layout { fields, ..MIRROR });
    assert_eq!(text, "DIR/set.parquet has no column `split`; its columns are: image, label, class_name");
    assert_eq!((e.kind(), e.is_environment()), (ErrorKind::Content, true));
    assert!(e.hint().contains("`split`"));

    let [image, _, _, split] = rows();
    let fields = "optional binary image; optional binary split (UTF8);";
    let (text, _) = error([image, split], &Layout { fields, ..MIRROR });
    assert_eq!(text, "DIR/set.parquet has no column `class_name`; its columns are: image, split");

    let [image, label, _, split] = rows();
    let fields = "optional binary image; optional int64 class_name; optional binary split (UTF8);";
    let (text, _) = error([image, label, split], &Layout { fields, ..MIRROR });
    assert_eq!(text, "DIR/set.parquet: column `class_name` is INT64, expected text");

    let [image, _, class, split] = rows();
    let fields = "optional binary image; optional binary class_name (UTF8); optional binary class_name (UTF8); \
                  optional binary split (UTF8);";
    let again = texts(&["10", "9", "10", "9", "10", "9", "10", "10"]);
    let (text, _) = error([image, class, again, split], &Layout { fields, ..MIRROR });
    assert_eq!(text, "DIR/set.parquet: column `class_name` is there twice, expected text");

    let [image, _, class, split] = rows();
    let fields = "optional group image { optional binary data; } optional binary class_name (UTF8); optional binary split (UTF8);";
    let (text, _) = error([image, class, split], &Layout { fields, level: 2, ..MIRROR });
    let expected = "encoded bytes, or a struct with a field `bytes`";
    assert_eq!(text, format!("DIR/set.parquet: column `image` is a group (image.data), expected {expected}"));
}

#[test]
fn bad_values_are_named_with_their_row() {
    let change = |column: usize, values: Vec<Option<Vec<u8>>>| {
        let mut columns = rows();
        columns[column] = Column::Bytes(values);
        error(columns, &Layout { group: 3, ..MIRROR }).0
    };
    let splits = |odd: Option<&str>| -> Vec<Option<Vec<u8>>> {
        let mut all = vec![Some(b"train".to_vec()); 8];
        all[4] = odd.map(|text| text.as_bytes().to_vec());
        all
    };
    assert_eq!(change(3, splits(None)), "DIR/set.parquet row 4: column `split` is null");
    assert_eq!(change(3, splits(Some("tests"))), "DIR/set.parquet row 4: unknown split `tests`");
    assert_eq!(change(3, splits(Some("train"))), "dataset `set`: it has no test images");
    let mut pictures: Vec<Option<Vec<u8>>> = (0..8).map(|i| Some(png(i))).collect();
    pictures[7] = None;
    assert_eq!(change(0, pictures), "DIR/set.parquet row 7: column `image` is null");
    let mut names = vec![Some(b"a".to_vec()); 8];
    assert_eq!(change(2, names.clone()), "dataset `set`: it has only the class `a`");
    names[3] = Some(vec![0xff, 0xfe]);
    assert_eq!(change(2, names.clone()), "DIR/set.parquet row 3: column `class_name` is not UTF-8 text");
    names[3] = Some(b"a".to_vec());
    names[5] = Some(b"b".to_vec());
    assert_eq!(change(2, names), "dataset `set`: class `b` has test images (set.parquet row 5) but no train images");
}

#[test]
fn a_corrupt_image_is_named_with_its_row() {
    let mut bad = png(3);
    bad.truncate(40);
    let mut columns = rows();
    columns[0] = images(vec![png(1), png(2), bad, png(4), png(5), png(6), png(7), png(8)]);
    let (_dir, set) = with(columns, &Layout { group: 3, ..MIRROR });
    let set = set.expect("loading decodes nothing");
    let item = set.train.iter().find(|item| item.place == "set.parquet row 2").expect("row 2");
    let error = decode(item).expect_err("a broken image");
    assert_eq!(error.kind(), ErrorKind::Image);
    assert!(!error.is_environment() && error.to_string().starts_with("set.parquet row 2: "), "{error}");
}

#[test]
fn files_that_are_no_parquet_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("set.parquet");
    let kind = |path: &Path| load_parquet(path).map(|_| ()).expect_err("refused");
    let missing = kind(&path);
    assert_eq!(missing.kind(), ErrorKind::Missing);
    assert!(message(&missing, dir.path()).starts_with("dataset `set`: DIR/set.parquet does not exist"), "{missing}");
    std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\n").expect("written");
    let pointer = kind(&path);
    assert_eq!(pointer.kind(), ErrorKind::Content);
    assert!(message(&pointer, dir.path()).starts_with("DIR/set.parquet: not a readable parquet file"), "{pointer}");
    write(&path, &MIRROR, &rows());
    let whole = std::fs::read(&path).expect("read");
    for length in [0, 4, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).expect("written");
        assert_eq!(kind(&path).kind(), ErrorKind::Content, "{length} bytes of {}", whole.len());
    }
    assert_eq!(kind(dir.path()).kind(), ErrorKind::Missing);
    assert!(kind(dir.path()).to_string().contains("folder = { path = "));
}

#[test]
fn relative_paths_lie_beside_the_suite_file() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write(&dir.path().join("set.parquet"), &MIRROR, &rows());
    let config = |path: &str| DatasetConfig::Parquet(ParquetConfig { path: path.into() });
    assert!(datasets::load("set", &config("set.parquet"), dir.path()).is_ok());
    let error = datasets::load("set", &config("other.parquet"), dir.path()).expect_err("not there");
    assert_eq!(
        message(&error, dir.path()),
        "dataset `set`: other.parquet does not exist (looked at: DIR/other.parquet, other.parquet)"
    );
    let error = datasets::load("set", &config(""), dir.path()).expect_err("no path");
    assert!(error.is_configuration());
    assert_eq!(error.to_string(), "`parquet.path` = \"\": a path is needed");
}
