//! `bench export` and `bench import`: stand-ins through archives and files of one's own, to a run.

mod common;

use std::path::Path;

use common::{Place, Said, suite};

const STAND_IN: &str = "[datasets.cotton]\nufg = { id = \"cotton80\", stand_in = true, data = \"data\" }\n";
const REAL: &str = "[datasets.cotton]\nufg = { id = \"cotton80\", data = \"data\" }\n";
const ONE_METHOD: &str = "[methods.ce]\nce = {}\n";

fn bench(place: &Place, arguments: &[&str], code: i32) -> Said {
    let mut command = place.bench(arguments);
    command.env("UFG_BENCH_DATA", place.path("elsewhere"));
    Said::of(command.output().unwrap(), code)
}

/// All files below a folder.
fn count(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
}

#[test]
fn an_official_archive_is_imported_and_trained_on() {
    let place = Place::with_suite(&suite(1, ONE_METHOD, STAND_IN));
    let export = ["export", "--out", "out", "--dataset", "cotton80", "--classes", "3", "--size", "40"];
    let said = bench(&place, &export, 0);
    assert_eq!(said.stdout, "out/datasets/ufgvc/cotton80_dataset.parquet\nout/archives/Cotton80.zip\n");

    // Before it is imported, and where only the real subset would do.
    place.run("run", &[], 3).stderr_has(&["`cotton80` has not been imported as a stand-in", "bench export"]);
    let said = bench(&place, &["import", "out/archives/Cotton80.zip", "--data", "data"], 3);
    said.stderr_has(&[
        "Cotton80.zip: these are generated stand-ins of `cotton80`, not its images",
        "hint: ",
        "--stand-in",
    ]);

    let import = ["import", "out/archives/Cotton80.zip", "--data", "data", "--stand-in"];
    let said = bench(&place, &import, 0);
    assert!(said.stdout.starts_with("cotton80: 3 classes, 9 train, 9 test, digest "), "{}", said.stdout);
    assert!(said.stdout.contains(", imported to ") && said.stdout.ends_with("data/stand-ins/cotton80/manifest.json\n"));
    said.stderr_has(&["9 images of split `val` dropped; 9 of them are test images", "results say nothing about it"]);
    let digest = said.stdout.split("digest ").nth(1).unwrap()[..10].to_owned();

    // The mirror's file holds the same.
    let tables = ["import", "out/datasets/ufgvc", "--data", "data", "--stand-in"];
    let said = bench(&place, &tables, 0);
    assert!(said.stdout.contains(&format!("digest {digest}, was there before: ")), "{}", said.stdout);
    assert!(!place.path("elsewhere").exists(), "`--data` goes before the environment");

    place.run("run", &[], 0);
    let results = place.results("run");
    assert_eq!((results.len(), results[0]["status"].as_str()), (1, "done"));

    // The stand-in never is the subset.
    std::fs::write(place.path("tiny.toml"), suite(1, ONE_METHOD, REAL)).unwrap();
    place.run("real", &[], 3).stderr_has(&["`cotton80` has not been imported: ", "bench import PATH"]);
}

#[test]
fn the_environment_names_the_data_directory() {
    let place = Place::with_suite(&suite(1, ONE_METHOD, STAND_IN));
    bench(&place, &["export", "--out", "out", "--dataset", "soyageing", "--scale", "0.01", "--format", "archive"], 0);
    let said = bench(&place, &["import", "out/archives/SoyAgeing-R4.zip", "--stand-in"], 0);
    assert!(said.stdout.contains("soyageing-r4: 2 classes, 10 train, 10 test"), "{}", said.stdout);
    assert!(place.path("elsewhere/stand-ins/soyageing-r4/manifest.json").exists());
    // Archives are told by their names, or by what is asked for.
    let as_r5 =
        bench(&place, &["import", "out/archives/SoyAgeing-R4.zip", "--stand-in", "--dataset", "soyageing-r5"], 3);
    as_r5.stderr_has(&["these are stand-ins of `soyageing-r4`, not of `soyageing-r5`"]);
}

#[test]
fn what_is_no_subset_is_refused_and_nothing_is_kept() {
    let place = Place::with_suite(&suite(1, ONE_METHOD, REAL));
    for (arguments, code, words) in [
        (vec!["import", "gone.zip"], 3, vec!["cannot read gone.zip", "hint: "]),
        (vec!["import", "tiny.toml"], 3, vec!["tiny.toml: it is neither parquet nor a zip archive", "hint: "]),
        (vec!["import", "."], 3, vec!["there is no folder with images/ and anno/train.txt in it", "hint: "]),
        (vec!["import", ".", "--dataset", "cotton"], 2, vec!["unknown dataset id `cotton`", "`soyglobal`"]),
        (
            vec!["export", "--out", "out", "--classes", "81", "--dataset", "cotton80"],
            2,
            vec!["`--classes` = 81", "2 to 80"],
        ),
        (vec!["export", "--out", "out", "--scale", "1.5"], 2, vec!["--scale 1.5", "hint: "]),
        (vec!["export", "--out", "out", "--scale", "0.1", "--classes", "3"], 2, vec!["cannot be used with"]),
        (vec!["export", "--out", "tiny.toml/x", "--classes", "2"], 3, vec!["cannot write tiny.toml/x", "hint: "]),
    ] {
        bench(&place, &arguments, code).stderr_has(&words);
    }
    assert_eq!(count(place.dir.path()), 1, "only the suite file is there");
}

#[test]
fn an_import_tells_how_far_it_is_in_a_few_lines_and_in_json() {
    let place = Place::with_suite(&suite(1, ONE_METHOD, STAND_IN));
    bench(&place, &["export", "--out", "out", "--dataset", "soylocal", "--format", "archive", "--no-val"], 0);
    let arguments = ["import", "out/archives/SoyLocal.zip", "--data", "data", "--stand-in", "--events", "events"];
    let said = bench(&place, &arguments, 0);
    let lines: Vec<&str> = said.stderr.lines().filter(|line| line.contains("verified")).collect();
    assert!(matches!(lines[..], [line] if line.starts_with("  soylocal: 1200 images verified in ")), "{}", said.stderr);
    let events = || -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(place.path("events")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let told = events();
    assert!(told.iter().all(|event| event["dataset"] == "soylocal"));
    let of = |kind: &str| told.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
    let length = std::fs::metadata(place.path("out/archives/SoyLocal.zip")).unwrap().len();
    let (hashing, verifying) = (of("hashing"), of("verifying"));
    for (kind, done, total) in [(&hashing, "done_bytes", "total_bytes"), (&verifying, "done", "total")] {
        let (first, last) = (kind[0], kind[kind.len() - 1]);
        assert!(first[done] == 0 && last[done] == last[total], "{kind:?}");
        assert!(kind.is_sorted_by_key(|event| event[done].as_u64().unwrap()) && kind.len() < 100, "{kind:?}");
    }
    assert_eq!((hashing[0]["total_bytes"].as_u64(), verifying[0]["total"].as_u64()), (Some(length), Some(1200)));
    let pack = kept(&place).into_iter().find(|name| name.ends_with(".pack")).unwrap();
    let pack = std::fs::metadata(place.path("data/stand-ins/soylocal").join(pack)).unwrap().len();
    assert_eq!(verifying[verifying.len() - 1]["bytes"].as_u64(), Some(pack), "no image is there twice");
    let last = &told[told.len() - 1];
    assert!(last["event"] == "imported" && last["new"] == true, "{last}");
    // Another import goes on in the same file.
    bench(&place, &["import", "out/archives/SoyLocal.zip", "--data", "data", "--events", "events"], 3);
    let more = events();
    assert_eq!((more[..told.len()] == told, more[more.len() - 1]["event"].as_str()), (true, Some("refused")));
    let said = bench(&place, &["import", "out", "--events", "no/such/folder"], 3);
    said.stderr_has(&["cannot write no/such/folder", "hint: "]);
}

/// Names of the files of an import.
fn kept(place: &Place) -> Vec<String> {
    let folder = place.path("data/stand-ins/soylocal");
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn importers_that_are_killed_or_two_at_once_leave_a_whole_import() {
    let place = Place::with_suite(&suite(1, ONE_METHOD, STAND_IN));
    bench(&place, &["export", "--out", "out", "--dataset", "soylocal"], 0);
    let archive = ["import", "out/archives/SoyLocal.zip", "--data", "data", "--stand-in"];
    let table = ["import", "out/datasets/ufgvc/soybean_dataset.parquet", "--data", "data", "--stand-in"];
    let start = |arguments: &[&str]| {
        let mut command = place.bench(arguments);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut killed = 0;
    for milliseconds in [5, 20, 40, 60, 90, 130] {
        let mut child = start(&archive);
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        let _ = child.kill();
        killed += usize::from(!child.wait().unwrap().success());
        // Either there is no import, or a whole one.
        if place.path("data/stand-ins/soylocal/manifest.json").exists() {
            let said = bench(&place, &archive, 0);
            assert!(said.stdout.contains("200 classes, 600 train, 600 test"), "{}", said.stdout);
            std::fs::remove_dir_all(place.path("data")).unwrap();
        }
    }
    assert!(killed > 0, "no import was interrupted");
    let children = [start(&archive), start(&table), start(&archive)];
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let names = kept(&place);
    assert!(
        matches!(names.as_slice(), [pack, manifest] if pack.ends_with(".pack") && manifest == "manifest.json"),
        "{names:?}"
    );
    let said = bench(&place, &archive, 0);
    assert!(said.stdout.contains("was there before"), "{}", said.stdout);
}

/// All 47,114 images of the benchmark, drawn small: memory does not grow with their number.
#[test]
#[cfg(target_os = "linux")]
fn the_whole_benchmark_is_imported_within_bounds_of_memory() {
    let place = Place::with_suite(&suite(1, ONE_METHOD, STAND_IN));
    bench(&place, &["export", "--out", "out", "--size", "16", "--format", "parquet", "--no-val"], 0);
    let mut command = place.bench(&["import", "out/datasets/ufgvc", "--data", "data", "--stand-in"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now: u64 = line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        peak_kib = peak_kib.max(now);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let said = Said::of(child.wait_with_output().unwrap(), 0);
    let number = |line: &str, word: &str| -> usize {
        let before = line.split(word).next().unwrap().trim().rsplit(' ').next().unwrap();
        before.parse().unwrap_or_else(|_| panic!("no number before `{word}` in {line}"))
    };
    let images: usize = said.stdout.lines().map(|line| number(line, "train,") + number(line, "test,")).sum();
    assert_eq!((said.stdout.lines().count(), images), (9, 47_114));
    assert!(peak_kib > 0 && peak_kib < 256 * 1024, "{peak_kib} KiB at most");
}
