use datasets::{DatasetConfig, Manifest, Subset, UfgConfig, UfgId};

use super::*;

const SUBSET: Subset = Subset::Cotton80;

fn load(data: &Path) -> Result<Dataset, DatasetError> {
    let config = UfgConfig { id: UfgId::One(SUBSET), stand_in: true, data: Some(data.to_owned()) };
    datasets::load("cotton", &DatasetConfig::Ufg(config), Path::new(""))
}

/// Names of the files in the folder of the import.
fn names(data: &Path) -> Vec<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    files(&data.join("stand-ins/cotton80")).into_iter().map(name).collect()
}

#[test]
fn the_same_again_is_no_second_import_and_another_replaces_it_only_if_told() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (parquet, archive) = stand_in(SUBSET, &tiny(&dir.path().join("one"), 3));
    let first = import_stand_in(&parquet, &data, SUBSET).unwrap();
    let before = names(&data);
    assert_eq!(before.len(), 2, "{before:?}");
    for path in [&parquet, &archive] {
        let again = import_stand_in(path, &data, SUBSET).unwrap();
        assert!(!again.new);
        assert_eq!((again.dataset.digest, names(&data)), (first.dataset.digest.clone(), before.clone()));
    }
    let (_, other) = stand_in(SUBSET, &ExportOptions { seed: 2, ..tiny(&dir.path().join("two"), 3) });
    let error = import_stand_in(&other, &data, SUBSET).unwrap_err();
    assert!(message(&error, dir.path()).starts_with("DIR/data/stand-ins/cotton80 was imported from other images: "));
    assert!(error.hint().contains("--replace"));
    assert_eq!(load(&data).unwrap().digest, first.dataset.digest);
    let options = ImportOptions { data: &data, stand_in: true, replace: true };
    let second = import_with(&other, SUBSET, options).unwrap();
    assert!(second.new && second.dataset.digest != first.dataset.digest);
    assert_eq!(names(&data).len(), 2, "the old images are gone");
    assert_eq!(load(&data).unwrap().digest, second.dataset.digest);
    // An unpacked folder has no digest of its own to be recognised by.
    unpack(&other, &dir.path().join("u"));
    assert!(!import_stand_in(&dir.path().join("u"), &data, SUBSET).unwrap().new);
}

#[test]
fn importers_at_the_same_time_make_one_import() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (parquet, archive) = stand_in(SUBSET, &tiny(dir.path(), 6));
    let results: Vec<Imported> = std::thread::scope(|scope| {
        let threads: Vec<_> = [&parquet, &archive, &parquet, &archive]
            .map(|path| scope.spawn(|| import_stand_in(path, &data, SUBSET).unwrap()))
            .into();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|imported| imported.new).count(), 1);
    assert!(results.iter().all(|imported| imported.dataset.digest == results[0].dataset.digest));
    assert_eq!(names(&data).len(), 2);
}

#[test]
fn what_a_killed_importer_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let folder = data.join("stand-ins/cotton80");
    fs::create_dir_all(&folder).unwrap();
    for name in ["images.part", "manifest.json.part", "images-0123456789abcdef.pack"] {
        fs::write(folder.join(name), "torn").unwrap();
    }
    assert!(matches!(load(&data), Err(DatasetError::NotImported { .. })), "leftovers are no import");
    let (parquet, _) = stand_in(SUBSET, &tiny(dir.path(), 3));
    assert!(import_stand_in(&parquet, &data, SUBSET).unwrap().new);
    let kept = names(&data);
    assert_eq!(kept.len(), 2, "{kept:?}");
    // A second one killed beside a good import.
    fs::write(folder.join("images.part"), "torn").unwrap();
    assert!(!import_stand_in(&parquet, &data, SUBSET).unwrap().new);
    assert_eq!(names(&data), kept);
}

#[test]
fn damage_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (parquet, _) = stand_in(SUBSET, &tiny(dir.path(), 3));
    import_stand_in(&parquet, &data, SUBSET).unwrap();
    let manifest = data.join("stand-ins/cotton80/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let pack = files(manifest.parent().unwrap()).into_iter().find(|f| f != &manifest).unwrap();
    let bytes = fs::read(&pack).unwrap();
    let error = || load(&data).map(|_| ()).unwrap_err().to_string();
    // A bit of an image.
    let mut bad = bytes.clone();
    bad[40] ^= 1;
    fs::write(&pack, &bad).unwrap();
    let set = load(&data).unwrap();
    let broken: Vec<String> =
        set.train.iter().chain(&set.test).filter_map(|item| item.bytes().err()).map(|e| e.to_string()).collect();
    assert!(
        matches!(broken.as_slice(), [one] if one.contains("has changed since the dataset was loaded")),
        "{broken:?}"
    );
    fs::write(&pack, &bytes[..bytes.len() - 1]).unwrap();
    assert!(error().contains(&format!("has {} bytes, not {}", bytes.len() - 1, bytes.len())), "{}", error());
    // An import that is damaged is replaced if told.
    let refused = import_stand_in(&parquet, &data, SUBSET).unwrap_err();
    assert!(refused.hint().contains("--replace"), "{refused}");
    import_with(&parquet, SUBSET, ImportOptions { data: &data, stand_in: true, replace: true }).unwrap();
    assert!(load(&data).is_ok());
    for (from, to, reason) in [
        ("\"label\": 1", "\"label\": 2", "its items are not those of its digest"),
        ("\"label\": 1", "\"label\": 9", "has a label or an offset that cannot be"),
        ("\"format\": 1", "\"format\": 2", "its format is 2, this version reads 1"),
        ("\"subset\": \"cotton80\"", "\"subset\": \"soylocal\"", "it is of a stand-in of `soylocal`"),
        ("\"file\": \"images-", "\"file\": \"../images-", "is no name of a pack file"),
        ("{", "[", "it is damaged"),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(&manifest, text.replacen(from, to, 1)).unwrap();
        assert!(error().contains(reason), "{}", error());
    }
    // A stand-in's manifest in the place of the subset's.
    fs::create_dir_all(data.join("cotton80")).unwrap();
    fs::write(data.join("cotton80/manifest.json"), &text).unwrap();
    let error = Manifest::read(&data, SUBSET, false).unwrap_err().to_string();
    assert!(error.contains("it is of a stand-in of `cotton80`"), "{error}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_data_directory_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (parquet, _) = stand_in(SUBSET, &tiny(dir.path(), 3));
    let error = import_stand_in(&parquet, Path::new("/proc/data"), SUBSET).unwrap_err();
    assert!(error.to_string().starts_with("cannot write /proc/data"), "{error}");
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = import_stand_in(&parquet, &file, SUBSET).unwrap_err();
    assert!(error.is_environment(), "{error}");
}

#[test]
fn imports_do_not_depend_on_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let (parquet, archive) = stand_in(SUBSET, &tiny(dir.path(), 20));
    for path in [parquet, archive] {
        let packs: Vec<Vec<Vec<u8>>> = [1, 3]
            .into_iter()
            .map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let data = tempfile::tempdir_in(dir.path()).unwrap();
                pool.install(|| import_stand_in(&path, data.path(), SUBSET)).unwrap();
                files(&data.path().join("stand-ins/cotton80")).iter().map(|f| fs::read(f).unwrap()).collect()
            })
            .collect();
        assert_eq!(packs[0], packs[1]);
    }
}
