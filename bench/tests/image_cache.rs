//! Decoded images: built once, shared by all trials, and never trusted when damaged.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

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
