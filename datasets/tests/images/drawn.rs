use datasets::augment::{CropParams, erase, random_resized_crop};

use super::{number, rows};

/// Given the same share and ratio, the rectangle is torchvision's, and so is whether it fits.
#[test]
fn rectangles_are_those_of_torchvision() {
    let mut fits = [0; 2];
    for row in rows("drawn.csv") {
        let (width, height) = (number(&row[1]), number(&row[2]));
        let (share, log_ratio): (f64, f64) = (row[3].parse().unwrap(), row[4].parse().unwrap());
        let fitted = number(&row[5]) == 1;
        fits[usize::from(fitted)] += 1;
        let [left, top, w, h] = [6, 7, 8, 9].map(|k: usize| number(&row[k]));
        if row[0] == "erase" {
            let want = fitted.then_some((w, h));
            assert_eq!(erase::shape(width, share, log_ratio), want, "{row:?}");
        } else if fitted {
            assert_eq!(random_resized_crop::shape(width, height, share, log_ratio), Some((w, h)), "{row:?}");
        } else {
            assert_eq!(random_resized_crop::shape(width, height, share, log_ratio), None, "{row:?}");
            let centred = random_resized_crop::centred(width, height, [0.75, 4.0 / 3.0]);
            assert_eq!(centred, CropParams { left, top, width: w, height: h }, "{row:?}");
        }
    }
    assert!(fits[0] > 20 && fits[1] > 100, "{fits:?}");
}
