use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use random::Seeds;
use rayon::prelude::*;

use super::*;
use crate::augment::AugmentConfig;
use crate::decoded_set::DecodedSet;
use crate::error::ErrorKind;
use crate::model::{ImageSource, sha256_hex};
use crate::views::{Normalise, TrainPlan, WantViews, train_views};

/// Images of three sizes, as PNG.
fn items(n: usize) -> Vec<Item> {
    let item = |k: usize| {
        let (width, height) = [(40, 30), (30, 44), (50, 50)][k % 3];
        let picture = image::RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 5) as u8, (y * 5) as u8, (x * y + k as u32 * 17) as u8])
        });
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let bytes = bytes.into_inner();
        let sha256 = sha256_hex(&bytes);
        Item { image: ImageSource::Bytes(bytes.into()), label: k as u32 % 2, place: format!("row {k}"), sha256 }
    };
    (0..n).map(item).collect()
}

const WORKING: Resize = Resize { size: 24, fit: Fit::ShortSide, filter: Filter::Bilinear };

fn cached(items: &[Item], folder: &Path) -> (Result<DecodedSet, DatasetError>, Vec<CacheEvent>) {
    let mut events = Vec::new();
    let set = DecodedSet::cached(items, WORKING, folder, &mut |event| events.push(event));
    (set, events)
}

fn built(events: &[CacheEvent]) -> bool {
    events.iter().any(|event| matches!(event, CacheEvent::Building { .. }))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The pixels of all images, or the first error.
fn pixels(set: &DecodedSet) -> Result<Vec<(usize, usize, Vec<u8>)>, DatasetError> {
    (0..set.len()).map(|k| set.image(k).map(|image| (image.width, image.height, image.data.to_vec()))).collect()
}

#[test]
fn a_mapped_set_holds_the_bytes_of_one_in_memory_and_gives_the_same_views() {
    let dir = tempfile::tempdir().unwrap();
    let items = items(7);
    let memory = DecodedSet::new(&items, WORKING).unwrap();
    let plan = TrainPlan {
        augment: AugmentConfig { hue: 0.1, contrast: 0.2, rotation: 5.0, ..AugmentConfig::default() },
        size: 16,
        norm: Normalise::default(),
        seeds: Seeds::new(3),
        epoch: 2,
        want: WantViews { positive: true, teacher: true },
    };
    for expect_built in [true, false] {
        let (mapped, events) = cached(&items, dir.path());
        let mapped = mapped.unwrap();
        assert_eq!(built(&events), expect_built);
        assert_eq!((mapped.len(), mapped.labels(), mapped.memory()), (7, memory.labels(), 0));
        assert_eq!(pixels(&mapped).unwrap(), pixels(&memory).unwrap());
        for index in 0..7 {
            let views = |set: &DecodedSet| train_views(set.image(index).unwrap(), &plan, index as u64);
            assert_eq!(views(&mapped), views(&memory));
        }
        assert_eq!(names(dir.path()).len(), 2, "the file and its lock");
    }
}

#[test]
fn what_is_told_while_it_is_built() {
    let dir = tempfile::tempdir().unwrap();
    let items = items(200);
    let path = cache_path(&items, WORKING, dir.path());
    let (_, events) = cached(&items, dir.path());
    let length = fs::metadata(&path).unwrap().len();
    let done: Vec<usize> = events
        .iter()
        .filter_map(|event| if let CacheEvent::Building { done, total: 200, .. } = event { Some(*done) } else { None })
        .collect();
    assert_eq!(done, [0, 64, 128, 192, 200]);
    let CacheEvent::Building { bytes, expected, .. } = events[4] else { panic!("{events:?}") };
    assert_eq!(bytes, length);
    assert!(expected.abs_diff(length) < length / 10, "{expected} expected, {length} came");
    assert_eq!(events.last(), Some(&CacheEvent::Open { path, bytes: length }));
}

#[test]
fn an_estimate_is_exact_where_all_images_have_the_same_size() {
    let dir = tempfile::tempdir().unwrap();
    for n in [1, 5, 40] {
        let items: Vec<Item> = items(3 * n).into_iter().step_by(3).collect();
        cached(&items, dir.path()).0.unwrap();
        let length = fs::metadata(cache_path(&items, WORKING, dir.path())).unwrap().len();
        assert_eq!(estimate_cache(&items, WORKING).unwrap(), length);
    }
    assert_eq!(estimate_cache(&[], WORKING).unwrap(), 64);
    assert!(cached(&[], dir.path()).0.unwrap().is_empty());
}

#[test]
fn a_file_belongs_to_contents_order_and_working_size_alone() {
    let (items, folder) = (items(4), Path::new("f"));
    let path = cache_path(&items, WORKING, folder);
    let elsewhere: Vec<Item> =
        items.iter().map(|item| Item { place: "moved".into(), label: 9, ..item.clone() }).collect();
    assert_eq!(cache_path(&elsewhere, WORKING, folder), path);
    let mut paths = vec![path];
    paths.push(cache_path(&items[1..], WORKING, folder));
    paths.push(cache_path(&items.iter().rev().cloned().collect::<Vec<_>>(), WORKING, folder));
    paths.push(cache_path(&items, Resize { size: 25, ..WORKING }, folder));
    paths.push(cache_path(&items, Resize { fit: Fit::Square, ..WORKING }, folder));
    paths.push(cache_path(&items, Resize { filter: Filter::Bicubic, ..WORKING }, folder));
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 6);
}

#[test]
fn several_builders_build_once() {
    let dir = tempfile::tempdir().unwrap();
    let items = items(30);
    let builds = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (set, events) = cached(&items, dir.path());
                assert_eq!(pixels(&set.unwrap()).unwrap().len(), 30);
                builds.fetch_add(usize::from(built(&events)), Ordering::SeqCst);
            });
        }
    });
    assert_eq!(builds.load(Ordering::SeqCst), 1);
}

#[test]
fn files_that_are_torn_foreign_or_of_another_version_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let items = items(5);
    let want = pixels(&cached(&items, dir.path()).0.unwrap()).unwrap();
    let path = cache_path(&items, WORKING, dir.path());
    let whole = fs::read(&path).unwrap();
    let n = whole.len();
    let changed = |at: usize, value: u8| [&whole[..at], &[value], &whole[at + 1..]].concat();
    let cases: Vec<(Vec<u8>, String)> = vec![
        (vec![], "it is empty".into()),
        (whole[..40].to_vec(), "it has 40 bytes, a file of pixels at least 64".into()),
        (whole[..100].to_vec(), format!("it has 100 bytes, its header says {n}: it was cut or added to")),
        (whole[..n - 1].to_vec(), format!("it has {} bytes, its header says {n}: it was cut or added to", n - 1)),
        ([&whole[..], &[0]].concat(), format!("it has {} bytes, its header says {n}: it was cut or added to", n + 1)),
        (vec![7; n], "it is no file of pixels".into()),
        (changed(8, 9), "its layout has version 9, this program's 1".into()),
        (changed(20, !whole[20]), "it holds other images, or another working size".into()),
        (changed(70, 3), "the checksum of its index is wrong".into()),
        (changed(12, !whole[12]), "the checksum of its index is wrong".into()),
    ];
    for (bytes, expected) in cases {
        fs::write(&path, bytes).unwrap();
        let (set, events) = cached(&items, dir.path());
        let reasons: Vec<&str> = events
            .iter()
            .filter_map(|event| if let CacheEvent::Replacing { reason, .. } = event { Some(&**reason) } else { None })
            .collect();
        assert_eq!(reasons, [expected]);
        assert_eq!(pixels(&set.unwrap()).unwrap(), want);
    }
}

#[test]
fn damaged_pixels_are_refused_and_the_next_to_want_them_builds_them_anew() {
    let dir = tempfile::tempdir().unwrap();
    let items = items(5);
    let want = pixels(&cached(&items, dir.path()).0.unwrap()).unwrap();
    let path = cache_path(&items, WORKING, dir.path());
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 4;
    fs::write(&path, &bytes).unwrap();
    let (set, events) = cached(&items, dir.path());
    assert!(!built(&events), "pixels are not read when a file is opened");
    let set = set.unwrap();
    assert!(set.image(0).is_ok());
    let error = set.image(4).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()) && text.contains("pixels of image 4"), "{text}");
    assert!(error.kind() == ErrorKind::Missing && error.hint().starts_with("run again"), "{}", error.hint());
    assert!(!path.exists());
    let (set, events) = cached(&items, dir.path());
    assert!(built(&events));
    assert_eq!(pixels(&set.unwrap()).unwrap(), want);
}

#[test]
fn what_a_killed_builder_left_is_removed_and_what_is_not_ours_stays() {
    let dir = tempfile::tempdir().unwrap();
    let items = items(3);
    let path = cache_path(&items, WORKING, dir.path());
    fs::write(path.with_extension("4711.part"), b"torn").unwrap();
    fs::write(dir.path().join("other.4711.part"), b"somebody else's").unwrap();
    // Of two other files one is being built, by a builder that holds its lock; that of the other is gone.
    for name in ["busy", "gone"] {
        fs::write(dir.path().join(format!("{name}.4711.part")), b"torn").unwrap();
    }
    let busy = fs::File::create(dir.path().join("busy.lock")).unwrap();
    fs::write(dir.path().join("gone.lock"), b"").unwrap();
    busy.lock().unwrap();
    cached(&items, dir.path()).0.unwrap();
    let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
    let mut expected = vec![format!("{stem}.lock"), format!("{stem}.pixels")];
    expected.extend(["other.4711.part", "busy.4711.part", "busy.lock", "gone.lock"].map(String::from));
    expected.sort();
    assert_eq!(names(dir.path()), expected);
}

/// Pixels may lie in any order, but they fill the file.
#[test]
fn an_index_in_another_order_than_the_pixels_is_good_and_one_with_gaps_is_not() {
    let key = Key([7; 32]);
    let entry = |offset: u64, width| format::Entry { offset, width, height: 2, crc: 9 };
    let file = |entries: &[format::Entry], length: u64| {
        let mut bytes = format::head(key, entries, length);
        bytes.resize(length as usize, 0);
        format::parse(&bytes, key, entries.len())
    };
    let start = format::head_length(3);
    let good = [entry(start + 18, 1), entry(start, 3), entry(start + 24, 2)];
    assert_eq!(file(&good, start + 36), Ok(good.to_vec()));
    for (bad, length) in [
        ([entry(start + 18, 1), entry(start, 3), entry(start + 23, 2)], start + 36),
        ([entry(start + 18, 1), entry(start, 3), entry(start + 25, 2)], start + 37),
        ([entry(start, 3), entry(start, 3), entry(start + 24, 2)], start + 36),
        ([entry(start + 18, 1), entry(start, 3), entry(start + 24, 2)], start + 37),
        ([entry(start + 18, u32::MAX), entry(start, 3), entry(start + 24, u32::MAX)], start + 36),
    ] {
        assert_eq!(file(&bad, length), Err("its index does not fit its length".into()), "{bad:?}");
    }
}

#[test]
fn a_bad_image_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut items = items(100);
    items[90].image = ImageSource::Bytes(b"\x89PNG\r\n\x1a\nbroken".as_slice().into());
    let (set, _) = cached(&items, dir.path());
    let error = set.unwrap_err();
    assert!(error.kind() == ErrorKind::Image && error.to_string().starts_with("row 90: "), "{error}");
    assert!(names(dir.path()).iter().all(|name| name.ends_with(".lock")), "{:?}", names(dir.path()));
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = cached(&items(1), &file.join("sub")).0.unwrap_err();
    assert!(matches!(error, DatasetError::Write { .. }), "{error}");
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    fs::create_dir(cache_path(&items(1), WORKING, dir.path())).unwrap();
    let text = cached(&items(1), dir.path()).0.unwrap_err().to_string();
    assert!(text.contains("it is not a file"), "{text}");
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let items = items(70);
    let bytes = |threads| {
        let dir = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| cached(&items, dir.path()).0.unwrap());
        fs::read(cache_path(&items, WORKING, dir.path())).unwrap()
    };
    let one = bytes(1);
    assert!([2, 3].into_par_iter().all(|threads| bytes(threads) == one));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever one byte becomes, the pixels are right or refused.
    #[test]
    fn no_damage_goes_unnoticed(at in 0.0f64..1.0, in_head: bool, bit in 0u32..8, cut: bool) {
        let dir = tempfile::tempdir().unwrap();
        let items = items(2);
        let want = pixels(&cached(&items, dir.path()).0.unwrap()).unwrap();
        let path = cache_path(&items, WORKING, dir.path());
        let mut bytes = fs::read(&path).unwrap();
        let range = if in_head { format::head_length(2) as usize } else { bytes.len() };
        let at = (at * range as f64) as usize;
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        fs::write(&path, &bytes).unwrap();
        let (set, _) = cached(&items, dir.path());
        match pixels(&set.unwrap()) {
            Ok(got) => prop_assert_eq!(got, want),
            Err(error) => {
                let refused = matches!(error, DatasetError::CacheDamaged { .. });
                prop_assert!(refused, "{error}");
            }
        }
    }
}
