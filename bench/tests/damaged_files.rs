//! Files that make the parquet library panic: the user sees what is wrong with the file, and nothing of the panic.

mod common;

use std::path::Path;

use common::{Place, Said, suite};
use datasets::{DatasetConfig, ParquetConfig};
use random::{Axis, Seeds};

const OWN: &str = "[datasets.own]\nparquet = { path = \"damaged/soybean_dataset.parquet\" }\n";

/// Changes a good file until reading it makes the library panic, which the message tells.
fn panicking(whole: &[u8], path: &Path) {
    for number in 0..5000 {
        let mut stream = Seeds::new(number).named_stream(Axis::Test, "damage");
        let mut bytes = whole.to_vec();
        for _ in 0..=stream.below(3) {
            let at = bytes.len() - 1 - stream.below(1500);
            bytes[at] = stream.below(256) as u8;
        }
        std::fs::write(path, &bytes).unwrap();
        let config = DatasetConfig::Parquet(ParquetConfig { path: path.to_owned() });
        if datasets::load("own", &config, Path::new("")).is_err_and(|e| e.to_string().contains("it is damaged (")) {
            return;
        }
    }
    panic!("no change makes the library panic: the test shows nothing");
}

#[test]
fn a_panic_of_the_parquet_library_is_not_seen() {
    let place = Place::with_suite(&suite(1, "[methods.ce]\nce = {}\n", OWN));
    let bench = |arguments: &[&str], code| Said::of(place.bench(arguments).output().unwrap(), code);
    let export = ["export", "--out", "out", "--dataset", "soylocal", "--classes", "3", "--format", "parquet"];
    let whole = bench(&export, 0).stdout;
    let whole = std::fs::read(place.path(whole.trim())).unwrap();
    std::fs::create_dir(place.path("damaged")).unwrap();
    panicking(&whole, &place.path("damaged/soybean_dataset.parquet"));
    let import = ["import", "damaged/soybean_dataset.parquet", "--data", "data", "--stand-in"];
    for arguments in [&["plan", "--suite", "tiny.toml"][..], &["--suite", "tiny.toml", "--out", "run"], &import] {
        let said = bench(arguments, 3);
        said.stderr_has(&[
            "error: ",
            "soybean_dataset.parquet: not a readable parquet file: ",
            "\nhint: download the file",
        ]);
        assert!(!said.stderr.contains("panicked") && !said.stderr.contains("RUST_BACKTRACE"), "{}", said.stderr);
    }
    assert!(!place.path("data/stand-ins/soylocal").exists() && !place.path("run").exists());
}
