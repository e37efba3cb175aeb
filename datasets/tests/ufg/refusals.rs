use datasets::{ErrorKind, Subset};
use tables::{Column, Layout, MIRROR, images, ints, texts, write};

use super::*;

/// The rows of a stand-in's parquet file, to be changed and written without its mark.
struct Rows {
    images: Vec<Vec<u8>>,
    labels: Vec<i64>,
    classes: Vec<String>,
    splits: Vec<String>,
}

impl Rows {
    /// The stand-in of a subset, read back through an import.
    fn of(subset: Subset, classes: usize, dir: &Path) -> Self {
        let (parquet, _) = stand_in(subset, &ExportOptions { validation: false, ..tiny(&dir.join("rows"), classes) });
        let set = import_stand_in(&parquet, &dir.join("rows/data"), subset).unwrap().dataset;
        let mut rows = Rows { images: vec![], labels: vec![], classes: vec![], splits: vec![] };
        for (split, items) in [("train", &set.train), ("test", &set.test)] {
            for item in items {
                rows.images.push(item.bytes().unwrap().into_owned());
                rows.labels.push(item.label.into());
                rows.classes.push(set.classes[item.label as usize].clone());
                rows.splits.push(split.to_owned());
            }
        }
        rows
    }

    fn write(&self, path: &Path) {
        let text = |values: &[String]| texts(&values.iter().map(String::as_str).collect::<Vec<_>>());
        let columns = [images(self.images.clone()), ints(&self.labels), text(&self.classes), text(&self.splits)];
        write(path, &MIRROR, &columns);
    }

    /// A picture without the mark, in the place of each.
    fn unmark(&mut self) {
        for image in &mut self.images {
            *image = reencoded(image);
        }
    }
}

/// The same picture in another encoding, without anything that was said about it.
fn reencoded(png: &[u8]) -> Vec<u8> {
    let image = image::load_from_memory(png).unwrap();
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn import_real(path: &Path, data: &Path, subset: Subset) -> Result<Imported, DatasetError> {
    import_with(path, subset, ImportOptions { data, stand_in: false, replace: false })
}

#[test]
fn stand_ins_never_pass_as_the_subset() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    // All 80 classes: the counts alone are those of the subset.
    let (parquet, archive) = stand_in(Subset::Cotton80, &ExportOptions { classes: None, ..tiny(dir.path(), 0) });
    for path in [&parquet, &archive] {
        let error = import_real(path, &data, Subset::Cotton80).unwrap_err();
        assert!(error.to_string().ends_with("these are generated stand-ins of `cotton80`, not its images"), "{error}");
        assert!(error.hint().contains("--stand-in"));
    }
    // Without what the file says of itself, the pictures still say it.
    let mut rows = Rows::of(Subset::Cotton80, 80, dir.path());
    let stripped = dir.path().join("cotton80_dataset.parquet");
    rows.write(&stripped);
    let error = import_real(&stripped, &data, Subset::Cotton80).unwrap_err().to_string();
    assert_eq!(error, "cotton80_dataset.parquet row 0: the image is a generated stand-in, not one of the subset");
    // Other pictures are not taken for stand-ins.
    rows.unmark();
    rows.write(&stripped);
    let error = import_stand_in(&stripped, &data, Subset::Cotton80).unwrap_err().to_string();
    assert!(error.ends_with("a stand-in of `cotton80` was asked for, and this is none"), "{error}");
    assert_eq!(files(&data).iter().filter(|f| f.extension().is_none_or(|e| e != "lock")).count(), 0);
    // With the counts, the classes and pictures of its own, it is what the checks can know.
    let imported = import_real(&stripped, &data, Subset::Cotton80).unwrap();
    assert_eq!((imported.dataset.train.len(), imported.dataset.test.len()), (240, 240));
    assert_eq!(imported.dataset.notices, [""; 0]);
    // Stand-ins of one subset are none of another.
    let error = import_stand_in(&parquet, &data, Subset::SoyLocal).unwrap_err().to_string();
    assert!(error.ends_with("these are stand-ins of `cotton80`, not of `soylocal`"), "{error}");
}

#[test]
fn wrong_counts_are_refused_with_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = Rows::of(Subset::Cotton80, 80, dir.path());
    rows.unmark();
    // One train image becomes a test image of the same class, and a test image is of another class.
    rows.splits[0] = "test".into();
    rows.classes[479] = "79".into();
    let path = dir.path().join("cotton80_dataset.parquet");
    rows.write(&path);
    let error = import_real(&path, &dir.path().join("data"), Subset::Cotton80).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Content);
    insta::assert_snapshot!(message(&error, dir.path()), @r"
    DIR/cotton80_dataset.parquet is not `cotton80`:
                                     expected    found
      classes                              80       80
      train images                        240      239  differs
      test images                         240      241  differs
      classes with 2 train images           0        1  differs
      classes with 3 train images          80       79  differs
      classes with 2 test images            0        1  differs
      classes with 3 test images           80       77  differs
      classes with 4 test images            0        2  differs
      class `1` has 2 train and 4 test images, class `79` has 3 train and 4 test images, class `80` has 3 train and 2 test images
    ");
    assert!(!dir.path().join("data/cotton80").exists());
    // A validation part that was taken from train shows in the table.
    rows.splits[1] = "val".into();
    rows.write(&path);
    let text = import_real(&path, &dir.path().join("data"), Subset::Cotton80).unwrap_err().to_string();
    assert!(text.contains("\n  validation images, left out         any        1\n"), "{text}");
}

#[test]
fn ids_come_from_names_and_never_from_the_label_column() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cotton80_dataset.parquet");
    let mut rows = Rows::of(Subset::Cotton80, 80, dir.path());
    rows.unmark();
    let digest = |rows: &Rows, name: &str| {
        rows.write(&path);
        let set = import_real(&path, &dir.path().join(name), Subset::Cotton80).unwrap().dataset;
        (set.digest.clone(), set.classes[9].clone(), set.notices)
    };
    let (expected, tenth, notices) = digest(&rows, "a");
    assert_eq!((tenth.as_str(), notices), ("10", vec![]));
    // Another numbering, such as that of names sorted as text.
    rows.labels = rows.labels.iter().map(|label| 79 - label).collect();
    assert_eq!(digest(&rows, "b"), (expected.clone(), "10".into(), vec![]));
    rows.labels[5] = 44;
    let (found, _, notices) = digest(&rows, "c");
    assert_eq!(found, expected);
    assert!(notices[0].starts_with("the label disagrees with the class, which is used: class `"), "{notices:?}");
    // Names that count from 0 are the same classes.
    rows.labels = vec![0; 480];
    rows.classes = rows.classes.iter().map(|name| (name.parse::<u32>().unwrap() - 1).to_string()).collect();
    let (found, tenth, notices) = digest(&rows, "d");
    assert_eq!((found, tenth.as_str()), (expected, "10"));
    assert!(notices[0].starts_with("class names count from 0"), "{notices:?}");
}

#[test]
fn images_in_both_splits_are_told_whatever_their_encoding() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cotton80_dataset.parquet");
    let mut rows = Rows::of(Subset::Cotton80, 80, dir.path());
    rows.unmark();
    // Rows 240 and later are test images; row 300 becomes train image 7, row 301 train image 8 in another encoding.
    rows.images[300] = rows.images[7].clone();
    let other = image::load_from_memory(&rows.images[8]).unwrap();
    let mut bytes = std::io::Cursor::new(Vec::new());
    other.write_to(&mut bytes, image::ImageFormat::Bmp).unwrap();
    rows.images[301] = bytes.into_inner();
    rows.images[22] = rows.images[21].clone();
    rows.write(&path);
    let set = import_real(&path, &dir.path().join("data"), Subset::Cotton80).unwrap().dataset;
    let notices = set.notices.join("\n");
    assert!(
        notices.contains(
            "1 pictures occur twice in different encodings, 1 of them in train and in test: \
             cotton80_dataset.parquet row 301 is cotton80_dataset.parquet row 8"
        ),
        "{notices}"
    );
    let row = "cotton80_dataset.parquet row";
    assert!(notices.contains(&format!("1 train images repeat another one: {row} 22 is {row} 21")), "{notices}");
    assert!(notices.contains("1 of 240 test images are also train images: "), "{notices}");
    assert!(notices.contains("1 images occur under two classes: "), "{notices}");
}

#[test]
fn names_that_contradict_a_list_are_refused_with_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let (_, archive) = stand_in(Subset::SoyLocal, &tiny(dir.path(), 3));
    unpack(&archive, &dir.path().join("u"));
    let root = dir.path().join("u/soybean200");
    let import = || import_stand_in(&root, &dir.path().join("data"), Subset::SoyLocal);
    let train = fs::read_to_string(root.join("anno/train.txt")).unwrap();
    let error = |from: &str, to: &str| {
        assert!(train.contains(from));
        fs::write(root.join("anno/train.txt"), train.replacen(from, to, 1)).unwrap();
        message(&import().unwrap_err(), dir.path())
    };
    let place = "DIR/u/soybean200: anno/train.txt line";
    assert_eq!(error("1_3_train.png 1", "1_4_train.png 1"), format!("{place} 2: there is no images/1_4_train.png"));
    assert_eq!(
        error("1_3_train.png 1", "1_2_test.png 1"),
        format!("{place} 2: `1_2_test.png`: it is listed as a train image, but its name says test")
    );
    fs::copy(root.join("images/1_3_train.png"), root.join("images/1_4_train.png")).unwrap();
    assert_eq!(
        error("1_3_train.png 1", "1_4_train.png 1"),
        format!("{place} 2: `1_4_train.png`: the name says train, but images with number 4 are test images")
    );
    assert_eq!(error("1_3_train.png 1", "1_3_train.png 0"), format!("{place} 2: the label is 0; labels count from 1"));
    assert_eq!(
        error("1_3_train.png 1", "../1_3_train.png 1"),
        format!("{place} 2: `../1_3_train.png` is not a plain file name")
    );
    fs::write(root.join("anno/train.txt"), &train).unwrap();
    let set = import().unwrap().dataset;
    assert!(
        set.notices.iter().any(|n| n == "1 files in images are in no list, such as 1_4_train.png"),
        "{:?}",
        set.notices
    );
    fs::remove_file(root.join("anno/test.txt")).unwrap();
    let error = message(&import_stand_in(&root, &dir.path().join("d"), Subset::SoyLocal).unwrap_err(), dir.path());
    assert_eq!(error, "DIR/u/soybean200: anno/test.txt: there is no such file");
}

#[test]
fn images_that_cannot_be_are_refused_and_small_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cotton80_dataset.parquet");
    let mut rows = Rows::of(Subset::Cotton80, 80, dir.path());
    rows.unmark();
    let good = rows.images[10].clone();
    let mut with = |image: Vec<u8>, name: &str| {
        rows.images[10] = image;
        rows.write(&path);
        import_real(&path, &dir.path().join(name), Subset::Cotton80).map(|i| i.dataset.train.len())
    };
    // A PNG whose header claims a size, with a checksum that is right.
    let sized = |side: u32| {
        let mut bytes = good.clone();
        bytes[16..20].copy_from_slice(&side.to_be_bytes());
        bytes[20..24].copy_from_slice(&side.to_be_bytes());
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        bytes
    };
    let limits = "pixels; the limits are 16384 a side and 67108864 in all";
    let row = "cotton80_dataset.parquet row 10:";
    assert_eq!(with(sized(20_000), "a").unwrap_err().to_string(), format!("{row} 20000×20000 {limits}"));
    assert_eq!(with(sized(9_000), "a").unwrap_err().to_string(), format!("{row} 9000×9000 {limits}"));
    for (bytes, reason) in
        [(vec![], "the image is empty (0 bytes)"), (b"hello".to_vec(), "not an image in a known format")]
    {
        let text = with(bytes, "a").unwrap_err().to_string();
        assert!(text.starts_with(&format!("{row} {reason}")), "{text}");
    }
    let mut cut = good.clone();
    cut.truncate(good.len() / 2);
    assert!(with(cut, "a").unwrap_err().to_string().starts_with(row));
    let mut pixel = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(1, 1, image::Rgb([1, 2, 3])).write_to(&mut pixel, image::ImageFormat::Png).unwrap();
    assert_eq!(with(pixel.into_inner(), "b").unwrap(), 240);
}

#[test]
fn columns_and_values_that_are_wrong_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cotton80_dataset.parquet");
    let rows = Rows::of(Subset::Cotton80, 3, dir.path());
    let text = |values: &[String]| texts(&values.iter().map(String::as_str).collect::<Vec<_>>());
    let columns = || [images(rows.images.clone()), ints(&rows.labels), text(&rows.classes), text(&rows.splits)];
    let error = |layout: &Layout, columns: &[Column]| {
        write(&path, layout, columns);
        message(&import_real(&path, &dir.path().join("data"), Subset::Cotton80).unwrap_err(), dir.path())
    };
    let bytes =
        |values: &[String]| -> Vec<Option<Vec<u8>>> { values.iter().map(|v| Some(v.clone().into_bytes())).collect() };
    let file = "DIR/cotton80_dataset.parquet";
    let [image, label, class, _] = columns();
    let mut splits = bytes(&rows.splits);
    splits[4] = Some(b"tests".to_vec());
    assert_eq!(
        error(&MIRROR, &[image, label, class, Column::Bytes(splits)]),
        format!("{file} row 4: unknown split `tests`")
    );
    let [image, label, _, split] = columns();
    let mut names = bytes(&rows.classes);
    names[2] = Some(vec![0xff]);
    let text_error = format!("{file} row 2: column `class_name` is not UTF-8 text");
    assert_eq!(error(&MIRROR, &[image, label, Column::Bytes(names.clone()), split]), text_error);
    names[2] = None;
    let [image, label, _, split] = columns();
    let null_error = format!("{file} row 2: column `class_name` is null");
    assert_eq!(error(&MIRROR, &[image, label, Column::Bytes(names), split]), null_error);
    let fields =
        "optional binary image; optional int64 label; optional int64 class_name; optional binary split (UTF8);";
    let [image, label, _, split] = columns();
    let layout = Layout { fields, ..MIRROR };
    assert_eq!(
        error(&layout, &[image, label, ints(&rows.labels), split]),
        format!("{file}: column `class_name` is INT64, expected text")
    );
    let fields = "optional binary image; optional int64 label; optional binary split (UTF8);";
    let [image, label, _, split] = columns();
    let layout = Layout { fields, ..MIRROR };
    assert_eq!(
        error(&layout, &[image, label, split]),
        format!("{file} has no column `class_name`; its columns are: image, label, split")
    );
}

#[test]
fn a_bomb_in_a_parquet_file_is_refused_before_it_is_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cotton80_dataset.parquet");
    let mut rows = Rows::of(Subset::Cotton80, 80, dir.path());
    rows.images[0] = vec![0; 1 << 26];
    let text = |values: &[String]| texts(&values.iter().map(String::as_str).collect::<Vec<_>>());
    let layout = Layout { compression: parquet::basic::Compression::ZSTD(Default::default()), ..MIRROR };
    let columns = [images(rows.images.clone()), ints(&rows.labels), text(&rows.classes), text(&rows.splits)];
    write(&path, &layout, &columns);
    let error = import_real(&path, &dir.path().join("data"), Subset::Cotton80).unwrap_err();
    let text = message(&error, dir.path());
    assert!(text.starts_with("DIR/cotton80_dataset.parquet: ") && text.ends_with("a decompression bomb"), "{text}");
    assert!(text.contains("column `image` of row group 0: "), "{text}");
}
