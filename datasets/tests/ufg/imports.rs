use datasets::{DatasetConfig, Manifest, Stage, Subset, UfgConfig, UfgId, find_imports};

use super::*;

/// What every source of a subset must give: the same classes, ids, items and digest.
#[test]
fn all_sources_of_a_subset_give_the_same_items() {
    for (subset, classes) in [
        (Subset::Cotton80, 11),
        (Subset::SoyLocal, 4),
        (Subset::SoyGene, 6),
        (Subset::SoyAgeing(Stage::R4), 3),
        (Subset::SoyGlobal, 5),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (parquet, archive) = stand_in(subset, &tiny(&dir.path().join("a"), classes));
        let with_paths =
            ExportOptions { paths: true, archive: false, validation: false, ..tiny(&dir.path().join("b"), classes) };
        let with_paths = datasets::export(subset, &with_paths, &mut |_, _| {}).unwrap().remove(0);
        unpack(&archive, &dir.path().join("c"));
        let sources = [parquet, archive, with_paths, dir.path().join("c")];
        let sets: Vec<Dataset> = sources
            .iter()
            .enumerate()
            .map(|(n, path)| {
                let imported = import_stand_in(path, &dir.path().join(format!("data{n}")), subset);
                imported.unwrap_or_else(|e| panic!("{}: {e}", path.display())).dataset
            })
            .collect();
        let facts = subset.stand_in_facts(classes);
        for set in &sets {
            assert_eq!((set.classes.len(), set.train.len(), set.test.len()), (facts.classes, facts.train, facts.test));
            assert_eq!((&set.digest, &set.classes), (&sets[0].digest, &sets[0].classes), "{subset}");
            assert_eq!(contents(set), contents(&sets[0]), "{subset}");
            for item in set.train.iter().chain(&set.test) {
                assert!(item.bytes().is_ok_and(|bytes| bytes.starts_with(b"\x89PNG")), "{}", item.place);
            }
        }
    }
}

#[test]
fn class_ids_are_in_the_documented_order() {
    let dir = tempfile::tempdir().unwrap();
    let classes = |subset: Subset, n: usize| {
        let out = dir.path().join(subset.id());
        let (parquet, _) = stand_in(subset, &tiny(&out, n));
        import_stand_in(&parquet, &out.join("data"), subset).unwrap().dataset.classes
    };
    // As numbers.
    assert_eq!(classes(Subset::Cotton80, 11)[..3], ["1", "2", "3"]);
    // As text: GDC1117 is the last by number.
    assert_eq!(classes(Subset::SoyGene, 6), ["GDC008", "GDC1117", "GDC229", "GDC451", "GDC673", "GDC895"]);
    assert_eq!(classes(Subset::SoyAgeing(Stage::R6), 3), ["yd012", "yd013", "yd014"]);
}

#[test]
fn val_that_is_test_is_found_by_content_and_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (parquet, archive) = stand_in(Subset::SoyLocal, &tiny(dir.path(), 4));
    for (n, path) in [parquet, archive].iter().enumerate() {
        let set = import_stand_in(path, &dir.path().join(format!("data{n}")), Subset::SoyLocal).unwrap().dataset;
        assert_eq!(
            set.notices,
            [
                "generated stand-ins in place of `soylocal`: results say nothing about it",
                "12 images of split `val` dropped; 12 of them are test images"
            ]
        );
    }
}

#[test]
fn the_manifest_says_what_was_imported() {
    let dir = tempfile::tempdir().unwrap();
    let (parquet, _) = stand_in(Subset::Cotton80, &tiny(dir.path(), 3));
    let data = dir.path().join("data");
    let imported = import_stand_in(&parquet, &data, Subset::Cotton80).unwrap();
    assert!(imported.new);
    assert_eq!(imported.manifest, data.join("stand-ins/cotton80/manifest.json"));
    let manifest = Manifest::read(&data, Subset::Cotton80, true).unwrap();
    assert_eq!(manifest.digest, imported.dataset.digest);
    assert_eq!(manifest.stand_in.map(|s| s.classes), Some(3));
    assert_eq!(manifest.origin.name, "cotton80_dataset.parquet");
    let mut keys: Vec<(u32, &str)> = manifest.train.iter().map(|i| (i.label, i.sha256.as_str())).collect();
    keys.sort_unstable();
    assert_eq!(keys, manifest.train.iter().map(|i| (i.label, i.sha256.as_str())).collect::<Vec<_>>());
    // The same source gives the same bytes.
    let again = dir.path().join("again");
    import_stand_in(&parquet, &again, Subset::Cotton80).unwrap();
    let read = |data: &Path| fs::read(data.join("stand-ins/cotton80/manifest.json")).unwrap();
    assert_eq!(read(&data), read(&again));
}

#[test]
fn soyageing_pooled_is_the_five_stages_together() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut items = 0;
    for stage in Stage::ALL {
        let subset = Subset::SoyAgeing(stage);
        let (_, archive) = stand_in(subset, &tiny(dir.path(), 3));
        let set = import_stand_in(&archive, &data, subset).unwrap().dataset;
        assert_eq!((set.train.len(), set.test.len()), (15, 15));
        items += 30;
    }
    let config = |id| DatasetConfig::Ufg(UfgConfig { id, stand_in: true, data: Some(data.clone()) });
    let pooled = datasets::load("pooled", &config(UfgId::SoyAgeingPooled), Path::new("")).unwrap();
    assert_eq!((pooled.classes.len(), pooled.train.len() + pooled.test.len()), (3, items));
    let expanded = config(UfgId::SoyAgeing).expanded();
    assert_eq!(expanded.len(), 5);
    for (suffix, one) in &expanded {
        let set = datasets::load("one", one, Path::new("")).unwrap();
        assert_eq!((set.train.len(), one.group().map(|member| member.group)), (15, Some("soyageing")), "{suffix}");
    }
    // One stage with other cultivars is not pooled.
    let (_, archive) = stand_in(Subset::SoyAgeing(Stage::R5), &tiny(dir.path(), 4));
    let options = ImportOptions { data: &data, stand_in: true, replace: true };
    import_with(&archive, Subset::SoyAgeing(Stage::R5), options).unwrap();
    let error = datasets::load("pooled", &config(UfgId::SoyAgeingPooled), Path::new("")).unwrap_err().to_string();
    assert!(error.ends_with("soyageing-r5/manifest.json: its classes are not those of the other stages"), "{error}");
}

#[test]
fn folders_and_archives_are_recognised_by_their_names() {
    let dir = tempfile::tempdir().unwrap();
    for subset in [Subset::Cotton80, Subset::SoyAgeing(Stage::R1), Subset::SoyAgeing(Stage::R3)] {
        let (_, archive) = stand_in(subset, &tiny(&dir.path().join("out"), 2));
        unpack(&archive, &dir.path().join("all/UFG"));
    }
    let found = |path: &Path, id| {
        find_imports(path, id).map(|(imports, skipped)| {
            (imports.into_iter().map(|i| (i.subset.id(), i.root)).collect::<Vec<_>>(), skipped)
        })
    };
    let all = dir.path().join("all");
    let (imports, skipped) = found(&all, None).unwrap();
    let expected = [
        ("cotton80", "UFG/COTTON".to_owned()),
        ("soyageing-r1", "UFG/SoyAgeing-R1/R1".to_owned()),
        ("soyageing-r3", "UFG/SoyAgeing-R3/R3".to_owned()),
    ];
    assert_eq!((imports, skipped), (expected.to_vec(), vec![]));
    let (imports, skipped) = found(&all, Some(UfgId::SoyAgeing)).unwrap();
    assert_eq!((imports, skipped), (expected[1..].to_vec(), vec!["COTTON".to_owned()]));
    // The folder of a subset itself, and one of another name.
    assert_eq!(found(&all.join("UFG/COTTON"), None).unwrap().0, [("cotton80", String::new())]);
    fs::rename(all.join("UFG/COTTON"), dir.path().join("mine")).unwrap();
    assert_eq!(found(&dir.path().join("mine"), Some(UfgId::One(Subset::Cotton80))).unwrap().0.len(), 1);
    let error = found(&dir.path().join("mine"), None).unwrap_err();
    assert_eq!(
        message(&error, dir.path()),
        "DIR/mine: nothing in it has the name of a subset that is known; there is: mine"
    );
    assert!(error.hint().contains("--dataset"));
    // The mirror's files in a folder.
    let tables = dir.path().join("out/datasets/ufgvc");
    let names: Vec<&str> = found(&tables, None).unwrap().0.into_iter().map(|(id, _)| id).collect();
    assert_eq!(names, ["cotton80", "soyageing-r1", "soyageing-r3"]);
    let archives = dir.path().join("out/archives");
    let names: Vec<&str> = found(&archives, None).unwrap().0.into_iter().map(|(id, _)| id).collect();
    assert_eq!(names, ["cotton80", "soyageing-r1", "soyageing-r3"]);
    fs::copy(archives.join("Cotton80.zip"), archives.join("Copy.zip")).unwrap();
    let text = message(&found(&archives, None).unwrap_err(), dir.path());
    assert_eq!(text, "DIR/out/archives: it holds `cotton80` twice; give one of the two");
    for (name, content) in [("empty", ""), ("page.parquet", "<!doctype html>")] {
        fs::write(dir.path().join(name), content).unwrap();
        let text = message(&found(&dir.path().join(name), None).unwrap_err(), dir.path());
        assert_eq!(text, format!("DIR/{name}: it is neither parquet nor a zip archive"));
    }
    let text = message(&found(&dir.path().join("out/datasets"), None).unwrap_err(), dir.path());
    assert_eq!(text, "DIR/out/datasets: there is no folder with images/ and anno/train.txt in it");
    assert!(
        message(&found(&dir.path().join("gone"), None).unwrap_err(), dir.path()).starts_with("cannot read DIR/gone")
    );
}

#[test]
fn what_was_not_imported_is_told_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let load = |id, stand_in, data: Option<&Path>| {
        let config = DatasetConfig::Ufg(UfgConfig { id, stand_in, data: data.map(Path::to_owned) });
        datasets::load("cotton", &config, dir.path()).unwrap_err()
    };
    let id = UfgId::One(Subset::Cotton80);
    let error = load(id, false, Some(Path::new("data")));
    assert_eq!(
        message(&error, dir.path()),
        "`cotton80` has not been imported: there is no DIR/data/cotton80/manifest.json"
    );
    assert!(error.hint().contains("bench fetch") && error.is_environment());
    let error = load(id, true, Some(Path::new("data")));
    assert!(message(&error, dir.path()).starts_with("`cotton80` has not been imported as a stand-in: "));
    assert!(error.hint().contains("bench export"));
    let error = load(id, false, None);
    assert_eq!(error.to_string(), "there is no data directory in which to look for `cotton80`");
}
