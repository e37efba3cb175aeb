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

/// The parity files of the project.
fn parity() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ci/backbones/data")
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
    let oracles = fs::read_dir(data()).unwrap().count();
    let networks = fs::read_dir(parity()).unwrap().count() / 2;
    // A network has three rows a dtype.
    let files = oracles + 3 * networks;
    let both = ["--oracles", data().to_str().unwrap(), "--backbones", parity().to_str().unwrap()].map(str::to_owned);
    let folder = verify(&place, &both.each_ref().map(String::as_str), 0);
    assert_eq!(shipped.stdout, folder.stdout);
    assert!(
        shipped.stdout.contains(&format!("\n{} rows, 0 outside their tolerance\n", 2 * files)),
        "{}",
        shipped.stdout
    );
    let oracles_alone = verify(&place, &["--dtype", "f64", "--oracles", data().to_str().unwrap()], 0);
    assert!(oracles_alone.stdout.contains(&format!("\n{oracles} rows, 0 outside")), "{}", oracles_alone.stdout);
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
    verify(&place, &["--device", "cuda:99"], 3).stderr_has(&["device `cuda:99`", "hint: use `--device cpu`"]);
    verify(&place, &["--device", "tpu"], 2).stderr_has(&["unknown device `tpu`"]);
    verify(&place, &["--dtype", "f16"], 2).stderr_has(&["f16"]);
}

/// A folder with the parity files of one architecture, the JSON file changed.
fn parity_folder(place: &Place, name: &str, arch: &str, change: impl Fn(String) -> String) -> String {
    let path = place.path(name);
    fs::create_dir(&path).unwrap();
    let json = fs::read_to_string(parity().join(format!("{arch}.json"))).unwrap();
    fs::write(path.join(format!("{arch}.json")), change(json)).unwrap();
    let tensors = format!("{arch}.safetensors");
    fs::copy(parity().join(&tensors), path.join(&tensors)).unwrap();
    name.to_owned()
}

#[test]
fn backbones_of_a_folder_have_three_rows_a_dtype_and_a_breach_is_exit_30() {
    let place = Place::with_suite("");
    let right = parity_folder(&place, "right", "convnext_atto", |json| json);
    let said = verify(&place, &["--backbones", &right, "--csv", "out.csv"], 0);
    assert!(said.stdout.contains("\n6 rows, 0 outside their tolerance\n"), "{}", said.stdout);
    let mut table = csv::Reader::from_path(place.path("out.csv")).unwrap();
    let rows: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
    let bars = |row: &csv::StringRecord| (row[5].parse::<f64>().unwrap(), row[6].parse::<f64>().ok());
    let got: Vec<_> = rows.iter().map(|row| (row[0].to_owned(), row[2].to_owned(), bars(row))).collect();
    let want = [
        ("backbone_eval", "f32", (1e-5, None)),
        ("backbone_train", "f32", (1e-3, Some(5e-3))),
        ("backbone_worst", "f32", (1e-3, Some(0.2))),
        ("backbone_eval", "f64", (1e-9, None)),
        ("backbone_train", "f64", (1e-9, Some(1e-7))),
        ("backbone_worst", "f64", (1e-9, Some(1e-6))),
    ];
    assert_eq!(got, want.map(|(op, dtype, bars)| (op.to_owned(), dtype.to_owned(), bars)));
    assert!(rows.iter().all(|row| &row[1] == "convnext_atto" && &row[7] == "pass"));

    // One gradient's norm off by 1e-5 of itself: the worst gradient in float64 alone.
    let wrong = parity_folder(&place, "wrong", "convnext_atto", |json| {
        let start = json.find("\"stem.0.weight\": [").unwrap() + 18;
        let end = start + json[start..].find(',').unwrap();
        let norm: f64 = json[start..end].parse().unwrap();
        format!("{}{}{}", &json[..start], norm * (1.0 + 1e-5), &json[end..])
    });
    let said = verify(&place, &["--backbones", &wrong], 30);
    let breaches: Vec<&str> = said.stdout.lines().filter(|line| line.ends_with("BREACH")).collect();
    assert!(breaches.len() == 1 && breaches[0].starts_with("backbone_worst  convnext_atto  f64"), "{}", said.stdout);
}

#[test]
fn parity_files_that_cannot_be_used_are_exit_3_with_name_and_hint() {
    let place = Place::with_suite("");
    folder(&place, "empty", &[]);
    parity_folder(&place, "unknown", "resnet18", |json| json);
    for extension in ["json", "safetensors"] {
        let path = |name: &str| place.path("unknown").join(format!("{name}.{extension}"));
        fs::rename(path("resnet18"), path("resnet18d")).unwrap();
    }
    let json = place.path("unknown").join("resnet18d.json");
    fs::write(&json, fs::read_to_string(&json).unwrap().replace("\"resnet18\"", "\"resnet18d\"")).unwrap();
    parity_folder(&place, "lacking", "resnet18", |json| {
        json.replace("{\"name\": \"bn1.bias\", \"shape\": [64]},\n", "")
    });
    parity_folder(&place, "torn", "resnet18", |json| json[..json.len() / 2].to_owned());
    for (set, wanted) in [
        ("nowhere", ["cannot read nowhere", "hint: check the path"]),
        ("empty", ["empty holds no parity file", "hint: `--backbones` takes a folder"]),
        ("unknown", ["no architecture `resnet18d`; near it there are resnet18, ", "hint: `bench list backbones`"]),
        ("lacking", ["lacking/resnet18.json: names and shapes", "missing 1: bn1.bias [64]"]),
        ("torn", ["torn/resnet18.json: EOF", "hint: ci/backbones/README.md"]),
    ] {
        let said = verify(&place, &["--backbones", set], 3);
        said.stderr_has(&wanted);
        assert_eq!(said.stdout, "", "no half table");
    }
}
