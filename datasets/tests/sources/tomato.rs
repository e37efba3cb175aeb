use std::collections::BTreeSet;

use datasets::{DecodedSet, Filter, Fit, Resize, RgbRef};
use testkit::oracle::shared_dir;

use super::load_parquet;

/// Real photographs in the columns of the UFG mirror.
#[test]
fn real_leaves_are_read_and_decoded() {
    let path = shared_dir().join("data/tomato10.parquet");
    let set = load_parquet(&path).unwrap_or_else(|e| panic!("{e}; hint: {}", e.hint()));
    assert_eq!(set.classes.len(), 10);
    assert_eq!((set.classes[0].as_str(), set.classes[9].as_str()), ("Bacterial_spot", "healthy"));
    assert_eq!((set.train.len(), set.test.len()), (300, 200));
    for label in 0..10 {
        assert_eq!(set.train.iter().filter(|item| item.label == label).count(), 30);
        assert_eq!(set.test.iter().filter(|item| item.label == label).count(), 20);
    }
    assert_eq!(set.notices, ["100 images of split `val` dropped"]);
    let hashes: BTreeSet<&str> = set.train.iter().chain(&set.test).map(|item| item.sha256.as_str()).collect();
    assert_eq!(hashes.len(), 500, "distinct files");
    let working = Resize { size: 64, fit: Fit::ShortSide, filter: Filter::Bilinear };
    let decoded = DecodedSet::new(&set.train[..20], working).unwrap_or_else(|e| panic!("{e}"));
    let images: Vec<RgbRef<'_>> = (0..decoded.len()).map(|k| decoded.image(k).expect("an image")).collect();
    assert!(images.iter().all(|image| (image.width, image.height) == (64, 64)));
    // Photographs, not a constant.
    assert!(images.iter().all(|image| image.data.iter().collect::<BTreeSet<_>>().len() > 40));
}
