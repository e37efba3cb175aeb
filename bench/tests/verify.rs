//! `bench verify` from the outside: exit codes, table, CSV, and folders that must not go by.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Place, Said};

/// The oracle files of the project.
fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ci/oracles/data")
}

fn verify(place: &Place, arguments: &[&str], code: i32) -> Said {
    Said::of(place.bench(&[&["verify"], arguments].concat()).output().unwrap(), code)
}

/// A folder with copies of these files.
fn folder(place: &Place, name: &str, files: &[&str]) -> PathBuf {
    let path = place.path(name);
    fs::create_dir(&path).unwrap();
    for file in files {
        fs::copy(data().join(file), path.join(file)).unwrap();
    }
    path
}

#[test]
fn the_set_in_the_binary_passes_from_any_directory_and_is_the_one_of_the_project() {
    let place = Place::with_suite("");
    let shipped = verify(&place, &["--csv", "table.csv"], 0);
    let files = fs::read_dir(data()).unwrap().count();
    let folder = verify(&place, &["--oracles", data().to_str().unwrap()], 0);
    assert_eq!(shipped.stdout, folder.stdout);
    assert!(
        shipped.stdout.contains(&format!("\n{} rows, 0 outside their tolerance\n", 2 * files)),
        "{}",
        shipped.stdout
    );
    let mut table = csv::Reader::from_path(place.path("table.csv")).unwrap();
    let rows: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 2 * files);
    assert!(
        rows.iter().all(|row| &row[7] == "pass" && row[3].parse::<f64>().unwrap() <= row[5].parse::<f64>().unwrap())
    );
    let single = verify(&place, &["--dtype", "f64", "--device", "cpu"], 0);
    assert!(single.stdout.contains(&format!("\n{files} rows, 0 outside")) && !single.stdout.contains(" f32 "));
}

#[test]
fn a_wrong_expected_number_is_exit_30_and_its_row_says_so() {
    let place = Place::with_suite("");
    let path = folder(&place, "set", &["supcon.pairs8.safetensors", "triplet.mixed7.safetensors"]);
    let file = path.join("supcon.pairs8.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    // The last bytes belong to a gradient: another sign.
    let last = bytes.len() - 1;
    bytes[last] ^= 0x80;
    fs::write(&file, bytes).unwrap();
    let said = verify(&place, &["--oracles", "set", "--csv", "out.csv"], 30);
    let breaches: Vec<&str> = said.stdout.lines().filter(|line| line.ends_with("BREACH")).collect();
    assert_eq!(breaches.len(), 2, "{}", said.stdout);
    assert!(breaches.iter().all(|line| line.starts_with("supcon")));
    assert!(said.stdout.contains("4 rows, 2 outside their tolerance"));
    assert_eq!(fs::read_to_string(place.path("out.csv")).unwrap().matches(",breach,").count(), 2);
}

#[test]
fn files_that_cannot_be_used_are_exit_3_with_name_and_hint() {
    let place = Place::with_suite("");
    folder(&place, "empty", &[]);
    fs::write(place.path("empty/notes.txt"), "no oracle").unwrap();
    let torn = folder(&place, "torn", &["cotap.ties48.safetensors"]).join("cotap.ties48.safetensors");
    let bytes = fs::read(&torn).unwrap();
    fs::write(&torn, &bytes[..bytes.len() - 8]).unwrap();
    let unknown = folder(&place, "unknown", &["cotap.ties48.safetensors"]).join("cotap.ties48.safetensors");
    let at = bytes.windows(7).position(|w| w == b"\"cotap\"").unwrap();
    let mut renamed = bytes.clone();
    renamed[at + 1..at + 6].copy_from_slice(b"cotup");
    fs::write(&unknown, renamed).unwrap();
    let lacking = folder(&place, "lacking", &["cotap.ties48.safetensors"]).join("cotap.ties48.safetensors");
    let at = bytes.windows(4).position(|w| w == b"tau2").unwrap();
    let mut without = bytes.clone();
    without[at + 3] = b'9';
    fs::write(&lacking, without).unwrap();
    for (set, wanted) in [
        ("nowhere", ["cannot read nowhere", "hint: check the path"]),
        ("empty", ["empty holds no oracle file", "hint: `--oracles` takes a folder"]),
        ("torn", ["torn/cotap.ties48.safetensors: no", "hint: ci/oracles/FORMAT.md"]),
        ("unknown", ["unknown/cotap.ties48.safetensors: unknown op `cotup`", "hint: ops are spd_log, "]),
        ("lacking", ["lacking/cotap.ties48.safetensors: no attribute `tau2`", "hint: ci/oracles/FORMAT.md"]),
    ] {
        let said = verify(&place, &["--oracles", set], 3);
        said.stderr_has(&wanted);
        assert_eq!(said.stdout, "", "no half table");
    }
    verify(&place, &["--device", "cuda:0"], 3).stderr_has(&["device `cuda:0`", "hint: use `--device cpu`"]);
    verify(&place, &["--device", "tpu"], 2).stderr_has(&["unknown device `tpu`"]);
    verify(&place, &["--dtype", "f16"], 2).stderr_has(&["f16"]);
}
