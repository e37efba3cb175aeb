//! Bad input ends with its exit code and a message that names the place and what to do; nothing is half-written.

mod common;

use std::io::Write;
use std::process::Stdio;

use common::{Place, Said, THREE_METHODS, TWO_DATASETS, suite};

fn tiny() -> String {
    suite(1, THREE_METHODS, TWO_DATASETS)
}

#[test]
fn misspelt_names_are_exit_2_with_file_line_column_and_the_accepted_names() {
    for (from, to, wanted) in [
        ("epochs = 1", "epoch = 1", ["tiny.toml:8:1:", "unknown field `epoch`", "`batch_size`"]),
        ("pac-mcl-bw = {", "pac-mcl = {", ["tiny.toml:21:1:", "unknown variant `pac-mcl`", "`pac-mcl-bw`"]),
        ("generated = {", "generatd = {", ["tiny.toml:27:1:", "unknown variant `generatd`", "`parquet`"]),
        ("parts = 2", "part = 2", ["tiny.toml:21:16:", "unknown field `part`", "`parts`"]),
        ("resnet = {", "resnett = {", ["tiny.toml:15:1:", "unknown field `resnett`", "`resnet`"]),
        ("classes = 4", "classes = \"4\"", ["tiny.toml:27:25:", "invalid type: string", "expected"]),
        ("seeds = [7]", "seeds = [7, 7]", ["tiny.toml:2:9:", "`seeds`", "twice"]),
        ("epochs = 1", "epochs = 0", ["tiny.toml:8:1:", "`protocol.epochs`", "1 to 100000"]),
    ] {
        let text = tiny().replacen(from, to, 1);
        assert_ne!(text, tiny(), "`{from}` is in the suite");
        let place = Place::with_suite(&text);
        let said = place.run("run", &[], 2);
        said.stderr_has(&wanted);
        said.stderr_has(&["\nhint: "]);
        assert!(!place.path("run").exists(), "nothing is written for a suite that is refused");
    }
}

#[test]
fn numbers_that_are_none_are_exit_2_and_not_a_cell() {
    for (from, to, wanted) in [
        ("learning_rate = 2e-3", "learning_rate = inf", "`learning_rate` = inf"),
        ("learning_rate = 2e-3", "learning_rate = 1e-3, weight_decay = nan", "`weight_decay` = NaN"),
        ("learning_rate = 2e-3", "learning_rate = 1e-3, weight_decay = -5", "`weight_decay` = -5"),
        ("adamw = { learning_rate = 2e-3", "sgd = { learning_rate = 1, momentum = 1.5", "`momentum` = 1.5"),
        ("warmup_epochs = 0", "min_learning_rate = nan", "`min_learning_rate` = NaN"),
        ("warmup_epochs = 0", "warmup_epochs = 1", "`warmup_epochs` = 1"),
        ("ce = {}", "ce = { label_smoothing = nan }", "label_smoothing"),
    ] {
        let text = tiny().replacen(from, to, 1);
        assert_ne!(text, tiny(), "`{from}` is in the suite");
        Place::with_suite(&text).run("run", &[], 2).stderr_has(&["tiny.toml:", wanted]);
    }
}

#[test]
fn a_kind_without_settings_is_told_how_it_is_written() {
    let text = tiny().replacen("ce = {}", "", 1);
    Place::with_suite(&text).run("run", &[], 2).stderr_has(&["tiny.toml:", "such as `triplet = {}`", "bench list"]);
}

#[test]
fn a_folder_with_other_things_in_it_is_not_written_to() {
    let place = Place::with_suite(&tiny());
    std::fs::create_dir(place.path("mine")).unwrap();
    std::fs::write(place.path("mine/results.csv"), "my own").unwrap();
    place.run("mine", &["--only", "method=ce"], 3).stderr_has(&["mine", "is not empty and holds no run", "--out"]);
    place.run(".", &["--only", "method=ce"], 3);
    assert_eq!(std::fs::read_to_string(place.path("mine/results.csv")).unwrap(), "my own");
    assert_eq!(std::fs::read_dir(place.path("mine")).unwrap().count(), 1);
}

#[test]
fn unknown_suites_and_arguments_are_exit_2_and_say_what_there_is() {
    let place = Place::with_suite(&tiny());
    Said::of(place.bench(&["--suite", "ufg-smok"]).output().unwrap(), 2).stderr_has(&["`ufg-smok`", "ufg-smoke"]);
    Said::of(place.bench(&["--suite", "no/such.toml"]).output().unwrap(), 2).stderr_has(&["no/such.toml"]);
    Said::of(place.bench(&[]).output().unwrap(), 2).stderr_has(&["no suite given", "--suite ufg-smoke"]);
    place.run("run", &["--only", "methd=ce"], 2).stderr_has(&["`methd`", "method, dataset"]);
    place.run("run", &["--device", "gpu"], 2).stderr_has(&["unknown device `gpu`", "cuda:N"]);
    place.run("run", &["--jobs", "0"], 2);
    place.run("run", &["--device", "cuda:99"], 3).stderr_has(&["cuda:99", "--device cpu"]);
}

#[test]
fn a_long_grid_is_not_begun_on_a_cpu_without_being_asked_for() {
    let datasets =
        "[datasets.soy]\ngenerated = { classes = 3, train_per_class = 3, test_per_class = 1, size = 40, seed = 2 }\n";
    let place = Place::with_suite(&suite(100_000, THREE_METHODS, datasets));
    let said = place.run("run", &[], 2);
    said.stderr_has(&["estimate: 3 trials", "million image passes", "hours", "hint: `--device cpu`"]);
    assert!(!place.path("run/results.csv").exists());
}

#[test]
fn an_empty_selection_is_exit_4_and_names_what_there_is() {
    let place = Place::with_suite(&tiny());
    place.run("run", &["--only", "method=triplet"], 4).stderr_has(&["method=triplet", "pac-mcl-bw", "cotton"]);
    assert!(!place.path("run").exists());
}

#[test]
fn missing_data_is_exit_3_with_path_and_hint() {
    for (kind, wanted) in [("parquet", "gone.parquet"), ("folder", "gone.parquet")] {
        let datasets = format!("[datasets.mine]\n{kind} = {{ path = \"gone.parquet\" }}\n");
        let place = Place::with_suite(&suite(1, THREE_METHODS, &datasets));
        place.run("run", &[], 3).stderr_has(&["dataset `mine`", wanted, "\nhint: "]);
    }
    // A file where a folder should be.
    let place = Place::with_suite(&suite(1, THREE_METHODS, "[datasets.mine]\nfolder = { path = \"tiny.toml\" }\n"));
    place.run("run", &[], 3).stderr_has(&["tiny.toml", "\nhint: "]);
    // A parquet file that is none.
    let place = Place::with_suite(&suite(1, THREE_METHODS, "[datasets.mine]\nparquet = { path = \"tiny.toml\" }\n"));
    place.run("run", &[], 3).stderr_has(&["tiny.toml", "\nhint: "]);
}

#[test]
fn an_output_directory_that_cannot_be_written_is_exit_3() {
    let place = Place::with_suite(&tiny());
    // A file in the place of the directory.
    std::fs::write(place.path("file"), "").unwrap();
    place.run("file/run", &["--only", "method=ce"], 3).stderr_has(&["file/run", "\nhint: "]);
    // Nobody may create a directory there.
    place.run("/proc/run", &["--only", "method=ce"], 3).stderr_has(&["/proc/run", "\nhint: "]);
}

/// `/dev/full` accepts every open and refuses every byte, as a full disk does.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_exit_3_and_loses_nothing() {
    let place = Place::with_suite(&tiny());
    std::fs::create_dir(place.path("run")).unwrap();
    std::os::unix::fs::symlink("/dev/full", place.path("run/records.jsonl")).unwrap();
    place.run("run", &["--only", "method=ce,dataset=soy"], 3).stderr_has(&["records.jsonl", "make room"]);
    std::fs::remove_file(place.path("run/records.jsonl")).unwrap();
    place.run("run", &["--only", "method=ce,dataset=soy"], 0);
    assert_eq!(place.results("run").len(), 1);
}

#[test]
fn a_run_directory_of_another_suite_or_in_use_is_refused() {
    let place = Place::with_suite(&tiny());
    place.run("run", &["--only", "method=ce,dataset=soy"], 0);
    std::fs::rename(place.path("tiny.toml"), place.path("other.toml")).unwrap();
    let said = place.bench(&["--suite", "other.toml", "--out", "run"]).output().unwrap();
    Said::of(said, 3).stderr_has(&["suite `tiny`, not of `other`"]);
    let lock = std::fs::OpenOptions::new().append(true).open(place.path("run/lock")).unwrap();
    lock.lock().unwrap();
    let said = place.bench(&["--suite", "other.toml", "--out", "run"]).output().unwrap();
    Said::of(said, 3).stderr_has(&["in use", "--out"]);
}

#[test]
fn reports_of_what_is_no_run_are_refused() {
    let place = Place::with_suite(&tiny());
    for command in ["report", "status"] {
        let said = place.bench(&[command, "nowhere"]).output().unwrap();
        Said::of(said, 3).stderr_has(&["nowhere", "no run directory"]);
    }
}

#[test]
fn bfloat16_on_the_cpu_is_refused_with_file_and_key() {
    let text = tiny().replace("batch_size = 6", "batch_size = 6\nprecision = \"bfloat16\"");
    let place = Place::with_suite(&text);
    let said = place.run("run", &["--device", "cpu"], 2);
    said.stderr_has(&[
        "tiny.toml:10:1: `protocol.precision` = \"bfloat16\" is for CUDA cards, and cpu was chosen",
        "\nhint: ",
    ]);
    assert!(!place.path("run").exists());
    let plan = Said::of(place.bench(&["plan", "--suite", "tiny.toml"]).output().unwrap(), 0).stdout;
    let told = plan.contains("note: a run on this machine is refused: tiny.toml:10:1: `protocol.precision`");
    assert_eq!(told, candle_core::Device::new_cuda(0).is_err(), "{plan}");
    let asked = place.bench(&["plan", "--suite", "tiny.toml", "--device", "cpu"]).output().unwrap();
    Said::of(asked, 2).stderr_has(&["tiny.toml:10:1: `protocol.precision` = \"bfloat16\" is for CUDA cards"]);
    let place = Place::with_suite(&text.replace("bfloat16", "float16"));
    place.run("run", &["--device", "cpu"], 2).stderr_has(&["tiny.toml:10:13:", "`float16`", "`bfloat16`"]);
    let place = Place::with_suite(&text.replace("bfloat16", "float32"));
    place.run("run", &["--device", "cpu", "--only", "method=ce,dataset=soy"], 0);
    let plain = Place::with_suite(&tiny());
    plain.run("run", &["--device", "cpu", "--only", "method=ce,dataset=soy"], 0);
    assert_eq!(place.results("run"), plain.results("run"), "the default written out is the same trial");
}

#[test]
fn fast_algorithms_without_a_card_are_refused_with_file_and_key() {
    let text = tiny().replace("batch_size = 6", "batch_size = 6\nalgorithms = \"fast\"");
    let place = Place::with_suite(&text);
    let refused = "tiny.toml:10:1: `protocol.algorithms` = \"fast\" is for CUDA cards, and cpu was chosen";
    place.run("run", &["--device", "cpu"], 2).stderr_has(&[refused, "\nhint: `--device cuda:N` chooses a card"]);
    assert!(!place.path("run").exists());
    let planned = |device: &str| place.bench(&["plan", "--suite", "tiny.toml", "--device", device]).output().unwrap();
    Said::of(planned("cpu"), 2).stderr_has(&[refused]);
    let plan = Said::of(planned("auto"), 0).stdout;
    assert!(plan.contains("note: `protocol.algorithms` = \"fast\": these trials are not repeatable"), "{plan}");
    if candle_core::Device::new_cuda(0).is_err() {
        assert!(plan.contains(&format!("note: a run on this machine is refused: {refused}\n")), "{plan}");
    }
    let place = Place::with_suite(&text.replace("fast", "faster"));
    place.run("run", &["--device", "cpu"], 2).stderr_has(&["tiny.toml:10:14:", "`faster`", "`deterministic`"]);
    let place = Place::with_suite(&text.replace("fast", "deterministic"));
    place.run("run", &["--device", "cpu", "--only", "method=ce,dataset=soy"], 0);
    let plain = Place::with_suite(&tiny());
    plain.run("run", &["--device", "cpu", "--only", "method=ce,dataset=soy"], 0);
    assert_eq!(place.results("run"), plain.results("run"), "the default written out is the same trial");
}

#[test]
fn a_plan_names_the_device_and_refuses_what_a_run_would() {
    let place = Place::with_suite(&tiny());
    let planned = |device: &str, code: i32| {
        Said::of(place.bench(&["plan", "--suite", "tiny.toml", "--device", device]).output().unwrap(), code)
    };
    let plan = planned("cpu", 0).stdout;
    assert!(plan.contains("\n\ndevice cpu\ndataset cotton: "), "{plan}");
    planned("cuda:99", 3).stderr_has(&["device `cuda:99`", "--device cpu"]);
    planned("gpu", 2).stderr_has(&["unknown device `gpu`", "cuda:N"]);
    let long = Place::with_suite(
        &suite(100_000, "[methods.ce]\nce = {}\n", TWO_DATASETS).replace("seeds = [7]", "seeds = [7, 8]"),
    );
    let plan = |arguments: &[&str]| {
        Said::of(long.bench(&[&["plan", "--suite", "tiny.toml"], arguments].concat()).output().unwrap(), 0).stdout
    };
    let asked = plan(&["--device", "cpu"]);
    assert!(asked.contains("\nestimate: 4 trials with ") && asked.contains(" hours\n"), "{asked}");
    if candle_core::Device::new_cuda(0).is_err() {
        let automatic = plan(&[]);
        assert!(automatic.contains(" hours; a run has to be asked for by `--device cpu`\n"), "{automatic}");
    }
}

#[test]
fn a_limit_that_is_no_time_is_exit_2_and_says_how_it_is_written() {
    let place = Place::with_suite(&tiny());
    for time in ["6x", "0", "soon"] {
        let said = place.run("run", &["--trial-timeout", time], 2);
        said.stderr_has(&[&format!("`{time}` is no time; write 6h, 90m, 45s"), "--trial-timeout"]);
    }
    assert!(!place.path("run").exists());
}

#[test]
#[cfg(unix)]
fn a_run_of_hours_on_the_cpu_is_estimated_and_has_to_be_asked_for() {
    if candle_core::Device::new_cuda(0).is_ok() {
        // Past the harness, which shows the output of failing tests alone.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "a run of hours on the CPU: not refused here, where `auto` takes a card").unwrap();
        return;
    }
    let methods = "[methods.ce]\nce = {}\n[methods.triplet]\ntriplet = {}\n";
    let place = Place::with_suite(&suite(100_000, methods, TWO_DATASETS));
    let said = place.run("run", &[], 2);
    said.stderr_has(&["estimate: 4 trials with ", " million image passes of ", " ms each on this CPU", " hours\n"]);
    said.stderr_has(&["so long a run of `tiny.toml` on the CPU has to be asked for", "hint: `--device cpu` starts it"]);
    let begun = |out: &str| std::fs::read_dir(place.path(out).join("trials")).map_or(0, Iterator::count);
    assert_eq!(begun("run"), 0);
    assert_eq!(std::fs::read_to_string(place.path("run/records.jsonl")).unwrap(), "");
    // What was asked for begins.
    let run = place.command("asked", &["--device", "cpu"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!((0..3000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        begun("asked") > 0
    }));
    std::process::Command::new("kill").args(["-TERM", &run.id().to_string()]).status().unwrap();
    assert_eq!(run.wait_with_output().unwrap().status.code(), Some(5));
}
