//! Decoded images: built once, shared by all trials, and never trusted when damaged.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{Place, Said, THREE_METHODS, TWO_DATASETS, suite};

/// The files of pixels in a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> =
        entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "pixels")).collect();
    files.sort();
    files
}

#[test]
fn trials_share_the_files_of_a_run_or_of_a_common_folder() {
    let place = Place::with_suite(&suite(1, THREE_METHODS, TWO_DATASETS));
    place.run("a", &[], 0);
    let own = files(&place.path("a/cache"));
    assert_eq!(own.len(), 4, "a file for each split of two datasets, for three methods");
    let common = place.path("common");
    for (out, first) in [("b", true), ("c", false)] {
        let mut command = place.command(out, &["--jobs", "2"]);
        Said::of(command.env("UFG_BENCH_CACHE", &common).output().unwrap(), 0);
        assert_eq!(place.results(out), place.results("a"));
        assert!(!place.path(out).join("cache").exists());
        let names = |files: &[PathBuf]| files.iter().map(|p| p.file_name().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&files(&common)), names(&own));
        for (one, two) in own.iter().zip(&files(&common)) {
            assert_eq!(fs::read(one).unwrap(), fs::read(two).unwrap());
        }
        if first {
            // The second run is given damaged files: one cut short, one foreign. Both are replaced.
            let files = files(&common);
            fs::write(&files[0], &fs::read(&files[0]).unwrap()[..1000]).unwrap();
            fs::write(&files[1], b"something else").unwrap();
        }
    }
}

#[test]
fn damaged_pixels_fail_the_trial_and_the_same_command_mends_it() {
    let place = Place::with_suite(&suite(1, "[methods.ce]\nce = {}\n", TWO_DATASETS));
    place.run("whole", &[], 0);
    place.run("run", &["--only", "dataset=cotton"], 0);
    let records = place.path("run/records.jsonl");
    fs::remove_file(&records).unwrap();
    let path = &files(&place.path("run/cache"))[0];
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
    place.run("run", &["--only", "dataset=cotton"], 10);
    let record = fs::read_to_string(&records).unwrap();
    assert!(record.contains("the pixels of image 11 have the checksum"), "{record}");
    place.run("run", &[], 0);
    assert_eq!(place.results("run"), place.results("whole"));
}

#[test]
fn a_folder_that_cannot_be_written_ends_the_run() {
    let place = Place::with_suite(&suite(1, "[methods.ce]\nce = {}\n", TWO_DATASETS));
    let file = place.path("tiny.toml");
    let mut command = place.command("run", &[]);
    let said = Said::of(command.env("UFG_BENCH_CACHE", file.join("sub")).output().unwrap(), 3);
    said.stderr_has(&["cannot write", "tiny.toml/sub"]);
}

/// Pictures that take a moment to decode.
const LARGE: &str =
    "[datasets.leaves]\ngenerated = { classes = 4, train_per_class = 20, test_per_class = 5, size = 256, seed = 1 }\n";

#[test]
fn a_pipe_gets_a_line_for_each_split_and_plan_and_status_tell_place_and_size() {
    let place = Place::with_suite(&suite(1, "[methods.ce]\nce = {}\n", LARGE));
    let bench = |arguments: &[&str]| Said::of(place.bench(arguments).output().unwrap(), 0).stdout;
    let plan = bench(&["plan", "--suite", "tiny.toml", "--out", "run"]);
    let said = place.run("run", &["--events", "events"], 0);
    decoding_is_told_in_json(&fs::read_to_string(place.path("events")).unwrap());
    let lines: Vec<&str> = said.stderr.lines().filter(|line| line.contains(" decoded in ")).collect();
    assert_eq!(lines.len(), 2, "{}", said.stderr);
    for (line, what) in lines.iter().zip([": 80 train images decoded in ", ": 20 test images decoded in "]) {
        assert!(line.starts_with("  ce.leaves.") && line.contains(what) && line.ends_with(" images/s"), "{line}");
    }
    // All pictures have the same sides, so the estimate is exact: 40 x 40 x 3 bytes each, an entry, two headers.
    let length: u64 = files(&place.path("run/cache")).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(length, 100 * (40 * 40 * 3 + 24) + 2 * 64);
    assert!(plan.contains("\n  decoded images: about 471.22 KiB to be made\n"), "{plan}");
    assert!(plan.contains("\ndecoded images, in run/cache: about 471.22 KiB to be made\n"), "{plan}");
    let plan = bench(&["plan", "--suite", "tiny.toml", "--out", "run"]);
    assert!(plan.contains("\n  decoded images: 471.22 KiB there\n"), "{plan}");
    let status = bench(&["status", "run"]);
    assert!(status.contains("decoded images: 471.22 KiB in run/cache, needed no more; may be deleted\n"), "{status}");
    // And so it is.
    let results = place.results("run");
    fs::remove_dir_all(place.path("run/cache")).unwrap();
    assert!(!bench(&["status", "run"]).contains("decoded"));
    fs::remove_file(place.path("run/records.jsonl")).unwrap();
    place.run("run", &[], 0);
    assert_eq!(place.results("run"), results);
}

/// Each split of the one trial is told from the first image to the last, before training begins.
fn decoding_is_told_in_json(text: &str) {
    let told: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(told.iter().all(|event| event["trial"].as_str().unwrap().starts_with("ce.leaves.")), "{text}");
    let at = |kind: &str| told.iter().position(|event| event["event"] == kind).unwrap();
    assert_eq!((at("started"), at("ended")), (0, told.len() - 1));
    for (split, total) in [("train", 80), ("test", 20)] {
        let decoding: Vec<_> =
            told[..at("training")].iter().filter(|e| e["event"] == "decoding" && e["split"] == split).collect();
        let (first, last) = (decoding[0], decoding[decoding.len() - 1]);
        assert!(first["done"] == 0 && last["done"] == total && last["total"] == total, "{text}");
        assert!(last["bytes"] == last["expected_bytes"] && last["seconds"].as_f64().unwrap() > 0.0, "{text}");
    }
    assert!(told[told.len() - 1]["status"] == "done" && told[told.len() - 1]["top1"].is_f64(), "{text}");
}

#[test]
fn a_kill_while_images_are_decoded_leaves_nothing_that_harms() {
    let place = Place::with_suite(&suite(1, "[methods.ce]\nce = {}\n", LARGE));
    place.run("whole", &[], 0);
    let cache = place.path("run/cache");
    let parts = || {
        let entries = fs::read_dir(&cache).into_iter().flatten().flatten();
        entries.filter(|e| e.path().extension().is_some_and(|x| x == "part")).count()
    };
    let mut killed = 0;
    for _ in 0..3 {
        let mut command = place.command("run", &[]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while parts() == 0 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        killed += usize::from(parts() > 0);
        let _ = child.kill();
        child.wait().unwrap();
    }
    assert!(killed > 0, "no build was interrupted");
    place.run("run", &[], 0);
    assert_eq!((parts(), files(&cache).len()), (0, 2));
    assert_eq!(place.results("run"), place.results("whole"));
}
