//! Decoding, resizing and augmenting against Pillow and torchvision. The folder `data` is what `ci/images/generate.py`
//! makes (here with Pillow 12.0.0 and torchvision 0.29.2).

mod augmented;
mod decoded;
mod drawn;
mod resized;

use std::path::PathBuf;

/// A file of the reference values.
fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/images/data").join(name)
}

/// The rows of a CSV file without quotes, less its header.
fn rows(name: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(data(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let rows: Vec<Vec<String>> =
        text.lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect()).collect();
    assert!(!rows.is_empty(), "{name} has no rows");
    rows
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|e| panic!("`{text}`: {e}"))
}
