use datasets::augment::{CropParams, random_resized_crop};
use datasets::{Filter, Rgb, RgbRef, resize};
use sha2::{Digest, Sha256};

use super::{number, rows};

/// The picture that `generate.py` makes too.
fn pattern(width: usize, height: usize) -> Rgb {
    let level = |x: usize, y: usize, c: usize| ((37 * x + 101 * y + 59 * c + (x * y) % 7 * 13) % 256) as u8;
    let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| level(x, y, c))));
    Rgb { width, height, data: pixels.collect() }
}

fn cut(image: RgbRef<'_>, (left, top, width, height): (usize, usize, usize, usize)) -> Rgb {
    let row = |y: usize| image.data[(y * image.width + left) * 3..][..width * 3].to_vec();
    Rgb { width, height, data: (top..top + height).flat_map(row).collect() }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// To the last bit: whole images, boxes, enlarged, reduced up to 33-fold, one axis alone, nothing to do.
#[test]
fn bytes_are_those_of_pillow() {
    let mut crops = 0;
    for row in rows("resized.csv") {
        let n: Vec<usize> = row[..8].iter().map(|text| number(text)).collect();
        let filter = match row[8].as_str() {
            "bilinear" => Filter::Bilinear,
            "bicubic" => Filter::Bicubic,
            other => panic!("{other}"),
        };
        let (image, part) = (pattern(n[0], n[1]), (n[2], n[3], n[4], n[5]));
        let got = resize(cut(image.as_ref(), part).as_ref(), n[6], n[7], filter);
        assert_eq!((got.width, got.height, sha256(&got.data)), (n[6], n[7], row[9].clone()), "{row:?}");
        if filter == Filter::Bilinear && n[6] == n[7] {
            let crop = CropParams { left: n[2], top: n[3], width: n[4], height: n[5] };
            assert_eq!(random_resized_crop::apply(image.as_ref(), crop, n[6]), got, "{row:?}");
            crops += 1;
        }
    }
    assert_eq!(crops, 5);
}
