//! Runs from end to end: repeatable, resumable, and one bad image spoils one trial's dataset, not the grid.

mod common;

use std::fs;
use std::process::Stdio;

use common::{Place, Said, THREE_METHODS, TWO_DATASETS, suite};

fn predictions(place: &Place, out: &str) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = fs::read_dir(place.path(out).join("predictions"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&p).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn the_same_run_twice_is_the_same_whatever_the_threads_and_jobs() {
    let place = Place::with_suite(&suite(3, THREE_METHODS, TWO_DATASETS));
    place.run("a", &[], 0);
    let mut single = place.command("b", &[]);
    Said::of(single.env("RAYON_NUM_THREADS", "1").output().unwrap(), 0);
    place.run("c", &["--jobs", "2"], 0);
    assert_eq!(place.results("a").len(), 6);
    for other in ["b", "c"] {
        assert_eq!(predictions(&place, "a"), predictions(&place, other));
        assert_eq!(place.results("a"), place.results(other), "weights' digests included");
    }
}

#[test]
fn a_finished_run_has_nothing_to_do_and_its_report_is_rebuilt_from_records_alone() {
    let place = Place::with_suite(&suite(1, THREE_METHODS, TWO_DATASETS));
    place.run("run", &["--only", "method=ce"], 0);
    place.run("run", &["--only", "method=ce"], 0).stderr_has(&["nothing to run"]);
    let names = ["results.csv", "summary.csv", "report.md"];
    let read = || names.map(|n| fs::read_to_string(place.path("run").join(n)).unwrap());
    let before = read();
    names.iter().for_each(|n| fs::remove_file(place.path("run").join(n)).unwrap());
    Said::of(place.bench(&["report", "run"]).output().unwrap(), 0);
    assert_eq!(read(), before);
    // What was not selected is outstanding.
    let status = Said::of(place.bench(&["status", "run"]).output().unwrap(), 5);
    assert!(status.stdout.ends_with("tiny: 6 trials: 2 done, 0 failed, 4 outstanding\n"), "{}", status.stdout);
    let plan = Said::of(place.bench(&["plan", "--suite", "tiny.toml", "--out", "run"]).output().unwrap(), 0);
    assert!(plan.stdout.contains("6 cells, 6 trials, 4 outstanding, about "), "{}", plan.stdout);
    // A changed protocol makes the records stale, and the plan says why.
    fs::write(place.path("tiny.toml"), suite(2, THREE_METHODS, TWO_DATASETS)).unwrap();
    let plan = Said::of(place.bench(&["plan", "--suite", "tiny.toml", "--out", "run"]).output().unwrap(), 0);
    assert!(plan.stdout.contains("protocol.epochs: 1 became 2"), "{}", plan.stdout);
}

#[test]
fn a_dataset_that_is_not_there_stops_only_what_needs_it() {
    let datasets = format!("{TWO_DATASETS}[datasets.gone]\nparquet = {{ path = \"gone.parquet\" }}\n");
    let place = Place::with_suite(&suite(1, "[methods.ce]\nce = {}\n", &datasets));
    place.run("run", &[], 3).stderr_has(&["gone.parquet"]);
    let said = place.run("run", &["--only", "dataset=soy|soi"], 0);
    said.stderr_has(&["note: dataset `gone`", "`dataset=soi` matches nothing"]);
    assert_eq!(place.results("run").len(), 1);
}

#[test]
#[cfg(target_os = "linux")]
fn nobody_listening_to_stderr_is_no_reason_to_stop() {
    let place = Place::with_suite(&suite(1, "[methods.ce]\nce = {}\n", TWO_DATASETS));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = place.command("run", &[]).stdout(Stdio::null()).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(place.results("run").len(), 2);
}

#[test]
fn a_network_that_overflows_is_diverged_and_final() {
    for (epochs, batch) in [(3, "batch_size = 6"), (1, "batch_size = 100")] {
        let text = suite(epochs, THREE_METHODS, TWO_DATASETS)
            .replace("adamw = { learning_rate = 2e-3 }", "sgd = { learning_rate = 1e30 }")
            .replace("batch_size = 6", batch);
        let place = Place::with_suite(&text);
        place.run("run", &["--only", "dataset=soy"], 10);
        assert!(place.results("run").iter().all(|row| row["status"] == "diverged"), "{:?}", place.results("run"));
        place.run("run", &["--only", "dataset=soy"], 10).stderr_has(&["nothing to run"]);
    }
}

#[test]
fn changed_or_missing_predictions_are_noticed() {
    let place = Place::with_suite(&suite(1, "[methods.ce]\nce = {}\n", TWO_DATASETS));
    place.run("run", &[], 0);
    let files: Vec<_> = fs::read_dir(place.path("run/predictions")).unwrap().map(|e| e.unwrap().path()).collect();
    fs::remove_file(&files[0]).unwrap();
    fs::write(&files[1], "image").unwrap();
    let status = Said::of(place.bench(&["status", "run"]).output().unwrap(), 0);
    assert!(status.stdout.contains("is missing") && status.stdout.contains("digest differs"), "{}", status.stdout);
    Said::of(place.bench(&["report", "run"]).output().unwrap(), 0);
    assert!(fs::read_to_string(place.path("run/report.md")).unwrap().contains("is missing"));
}

/// The bytes of a small PNG whose pixels depend on two numbers.
fn png(class: u8, k: u8) -> Vec<u8> {
    let mut image = image::RgbImage::new(40, 40);
    for (x, y, pixel) in image.enumerate_pixels_mut() {
        let stripe = if class == 0 { x } else { y };
        let value = if (stripe / 4) % 2 == 0 { 200 } else { 40 };
        *pixel = image::Rgb([value, 20 + k * 7, (x * y % 251) as u8]);
    }
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn write_folder(place: &Place) {
    for (split, offset) in [("train", 0u8), ("test", 10)] {
        for (class, name) in ["across", "along"].iter().enumerate() {
            let dir = place.path("leaves").join(split).join(name);
            fs::create_dir_all(&dir).unwrap();
            for k in 0..4 {
                fs::write(dir.join(format!("{k}.png")), png(class as u8, offset + k)).unwrap();
            }
        }
    }
}

#[test]
fn ones_own_folder_runs_and_one_corrupt_image_is_named_while_the_grid_goes_on() {
    let datasets = format!("{TWO_DATASETS}[datasets.mine]\nfolder = {{ path = \"leaves\" }}\n");
    let methods = "[methods.ce]\nce = {}\n[methods.triplet]\ntriplet = {}\n";
    let place = Place::with_suite(&suite(2, methods, &datasets));
    write_folder(&place);
    place.run("good", &["--only", "dataset=mine"], 0);
    assert!(place.results("good").iter().all(|row| row["status"] == "done" && row["test_images"] == "8"));

    let victim = place.path("leaves/train/along/2.png");
    let bytes = fs::read(&victim).unwrap();
    fs::write(&victim, &bytes[..bytes.len() / 2]).unwrap();
    let said = place.run("bad", &[], 10);
    said.stderr_has(&["train/along/2.png", "2 of 6 trials failed"]);
    let rows = place.results("bad");
    let failed: Vec<_> = rows.iter().filter(|row| row["status"] == "failed").collect();
    assert_eq!(failed.len(), 2);
    assert!(failed.iter().all(|row| row["dataset"] == "mine" && row["detail"].contains("train/along/2.png")));
    assert_eq!(rows.iter().filter(|row| row["status"] == "done").count(), 4);
    let report = fs::read_to_string(place.path("bad/report.md")).unwrap();
    assert!(report.contains("train/along/2.png"));
    // Mended, the dataset is another one and the whole run is clean.
    fs::write(&victim, &bytes).unwrap();
    place.run("bad", &[], 0);
}

#[test]
fn a_timm_backbone_with_stochastic_depth_trains_and_repeats() {
    let text =
        suite(1, "[methods.triplet]\ntriplet = {}\n", TWO_DATASETS)
            .replace("[backbones.tiny]", "[backbones.atto]")
            .lines()
            .map(|line| {
                if line.starts_with("resnet = ") {
                    "timm = { name = \"convnext_atto\", drop_path = 0.2 }"
                } else {
                    line
                }
            })
            .collect::<Vec<_>>()
            .join("\n");
    let place = Place::with_suite(&text);
    place.run("a", &["--only", "dataset=soy"], 0);
    place.run("b", &["--only", "dataset=soy"], 0);
    assert_eq!(place.results("a"), place.results("b"));
    assert_eq!(place.results("a")[0]["status"], "done");
}
