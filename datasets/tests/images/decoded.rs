use std::path::Path;

use datasets::decode_bytes;
use testkit::tolerance::{CMYK_TIFF_LEVELS, JPEG_LEVELS, JPEG_MEAN_LEVELS, JPEG_WHOLE_CHROMA_LEVELS};

use super::{data, number, rows};

/// What the decoder of TIFF has no words for.
const REFUSED: [&str; 2] = ["palette.tif", "grey-alpha.tif"];

/// Most levels that one value may differ, and most levels in the mean.
fn tolerance(name: &str) -> (u8, f64) {
    match Path::new(name).extension().and_then(|e| e.to_str()) {
        Some("jpg") if name.contains("420") || name.contains("422") || name == "restarts.jpg" => {
            (JPEG_LEVELS, JPEG_MEAN_LEVELS)
        }
        Some("jpg") => (JPEG_WHOLE_CHROMA_LEVELS, JPEG_MEAN_LEVELS),
        Some("tif") if name == "cmyk.tif" => (CMYK_TIFF_LEVELS, f64::from(CMYK_TIFF_LEVELS)),
        _ => (0, 0.0),
    }
}

#[test]
fn levels_are_those_of_pillow() {
    let pixels = std::fs::read(data("decoded.bin")).unwrap();
    let (mut compared, mut failures) = (0, Vec::new());
    for row in rows("decoded.csv") {
        let (name, size, offset) = (row[0].as_str(), (number(&row[1]), number(&row[2])), number(&row[3]));
        if REFUSED.contains(&name) {
            continue;
        }
        let got = decode_bytes(&std::fs::read(data("files").join(name)).unwrap(), name).unwrap();
        assert_eq!((got.width, got.height), size, "{name}");
        let want = &pixels[offset..][..size.0 * size.1 * 3];
        let apart: Vec<u8> = got.data.iter().zip(want).map(|(a, b)| a.abs_diff(*b)).collect();
        let worst = apart.iter().copied().max().unwrap();
        let mean = apart.iter().map(|&n| f64::from(n)).sum::<f64>() / apart.len() as f64;
        let (most, most_mean) = tolerance(name);
        if worst > most || mean > most_mean {
            failures.push(format!("{name}: {worst} levels, {mean:.3} in the mean"));
        }
        compared += 1;
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(compared, 56);
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    for name in REFUSED {
        let error = decode_bytes(&std::fs::read(data("files").join(name)).unwrap(), name).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}: ")) && error.contains("not support"), "{error}");
    }
}
