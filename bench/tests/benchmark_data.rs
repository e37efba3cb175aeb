//! The whole way of `ufg-full`, with generated stand-ins of its subsets and small weights, all from a Hub on loopback:
//! export, fetch, import, plan, train, report; and the same again without a network.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Place, Said};
use testkit::hub_server::{Host, HubServer, ServedRepo};

const MIRROR: &str = "hibana2077/CV-dataset-all-in-parquet";
const IDS: [&str; 9] = [
    "cotton80",
    "soylocal",
    "soygene",
    "soyageing-r1",
    "soyageing-r3",
    "soyageing-r4",
    "soyageing-r5",
    "soyageing-r6",
    "soyglobal",
];

/// `ufg-full` with its datasets as stand-ins, a tiny network, one method, one seed, one epoch.
fn small_full() -> String {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../suites/ufg-full.toml");
    let text = std::fs::read_to_string(full).unwrap();
    let datasets = &text[text.find("[datasets.cotton80]").unwrap()..];
    let stand_ins = datasets.replace(" }\n", ", stand_in = true }\n");
    assert_eq!(stand_ins.matches("stand_in").count(), 5);
    common::suite(1, "[methods.ce]\nce = {}\n", &stand_ins)
}

/// Files below a folder, with their paths from it.
fn files(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            out.extend(files(&path).into_iter().map(|(rest, path)| (format!("{name}/{rest}"), path)));
        } else {
            out.push((name, path));
        }
    }
    out
}

/// The reports show the mean of the five stages under its name, and count it once in the mean over datasets.
fn soyageing_is_the_mean_of_its_stages(place: &Place, results: &[BTreeMap<String, String>]) {
    let top1 = |row: &BTreeMap<String, String>, column: &str| row[column].parse::<f64>().unwrap();
    let of = |is_stage: bool| -> Vec<f64> {
        let rows = results.iter().filter(|row| row["dataset"].starts_with("soyageing-") == is_stage);
        rows.map(|row| top1(row, "top1")).collect()
    };
    let (stages, others) = (of(true), of(false));
    assert_eq!((stages.len(), others.len()), (5, 4));
    let soyageing = stages.iter().sum::<f64>() / 5.0;
    let all = (others.iter().sum::<f64>() + soyageing) / 5.0;
    let summary: Vec<BTreeMap<String, String>> =
        csv::Reader::from_path(place.path("run/summary.csv")).unwrap().deserialize().map(Result::unwrap).collect();
    for (name, expected) in [("soyageing (mean of 5 stages)", soyageing), ("(mean over datasets)", all)] {
        let row = summary.iter().find(|row| row["dataset"] == name).unwrap_or_else(|| panic!("no row {name}"));
        assert!((top1(row, "top1_mean") - expected).abs() < 1e-12, "{name}: {row:?}, not {expected}");
        assert_eq!(row["n"], "1");
    }
    let report = std::fs::read_to_string(place.path("run/report.md")).unwrap();
    assert!(report.contains(" soyageing (mean of 5 stages) |"), "{report}");
}

#[test]
fn stand_ins_of_the_whole_benchmark_come_from_the_hub_and_run() {
    let place = Place::with_suite(&small_full());
    let server = HubServer::start().unwrap();
    let bench = |arguments: &[&str], code: i32| {
        let mut command = place.bench(arguments);
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(name);
        }
        command.env("HF_HOME", place.path("hf")).env("HF_ENDPOINT", server.endpoint());
        command.env("UFG_BENCH_DATA", place.path("data")).env_remove("HTTPS_PROXY").env_remove("ALL_PROXY");
        Said::of(command.output().unwrap(), code)
    };
    bench(&["export", "--out", "mirror", "--classes", "2", "--size", "40", "--format", "parquet"], 0);
    let mut repo = ServedRepo::dataset(MIRROR);
    let exported = files(&place.path("mirror"));
    assert_eq!(exported.len(), 9, "{exported:?}");
    for (path, file) in &exported {
        repo = repo.large(path, &std::fs::read(file).unwrap());
    }
    server.add(repo);

    // Nothing is there: a plan says so, a run refuses and says what to do.
    let plan = bench(&["plan", "--suite", "tiny.toml"], 0).stdout;
    IDS.iter().for_each(|id| assert!(plan.contains(&format!("dataset {id}: to fetch or import")), "{plan}"));
    assert!(plan.contains("9 more trials wait"), "{plan}");
    bench(&["--suite", "tiny.toml"], 3).stderr_has(&["`cotton80` has not been imported", "hint:"]);
    bench(&["fetch", "--suite", "tiny.toml", "--offline"], 3).stderr_has(&["not in the cache", "bench fetch"]);
    assert!(server.seen().is_empty());

    // Only what is selected comes.
    bench(&["fetch", "--suite", "tiny.toml", "--only", "dataset=cotton80"], 0);
    assert_eq!(server.bodies().len(), 1);
    let fetched = bench(&["fetch", "--suite", "tiny.toml"], 0);
    assert!(fetched.stdout.contains("cotton80: was there before"), "{}", fetched.stdout);
    assert_eq!(server.bodies().iter().filter(|body| body.host == Host::Other).count(), 9);
    let lock = std::fs::read_to_string(place.path("bench.lock")).unwrap();
    assert_eq!(lock.matches("kind = \"dataset\"").count(), 9, "{lock}");

    // Offline from here on.
    let requests = server.seen().len();
    let plan = bench(&["plan", "--suite", "tiny.toml", "--out", "run"], 0).stdout;
    assert_eq!(plan.matches("  decoded images: about ").count(), 9, "{plan}");
    bench(&["--suite", "tiny.toml", "--offline", "--out", "run"], 0);
    let results = place.results("run");
    let datasets: Vec<&str> = results.iter().map(|row| row["dataset"].as_str()).collect();
    assert_eq!(datasets, IDS);
    assert!(results.iter().all(|row| row["status"] == "done"));
    soyageing_is_the_mean_of_its_stages(&place, &results);
    // A part of the stages makes no mean.
    bench(&["--suite", "tiny.toml", "--offline", "--out", "part", "--only", "dataset=soyageing-r[13]"], 4);
    bench(&["--suite", "tiny.toml", "--offline", "--out", "part", "--only", "dataset=soyageing-r1|soyageing-r3"], 0);
    let report = std::fs::read_to_string(place.path("part/report.md")).unwrap();
    assert!(report.contains(" 2 of 5 stages |"), "{report}");
    // The cache of the Hub is not needed any more; another data directory is filled from it.
    std::fs::remove_dir_all(place.path("data")).unwrap();
    bench(&["fetch", "--suite", "tiny.toml", "--offline"], 0);
    let again = bench(&["--suite", "tiny.toml", "--offline", "--out", "run"], 0);
    again.stderr_has(&["all 9 selected trials are finished"]);
    assert_eq!(server.seen().len(), requests);
}
