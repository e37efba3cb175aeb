//! Compares a source with what its subset consists of.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::pack::Packed;
use super::source::{Listing, Row};
use crate::error::DatasetError;
use crate::model::Split;
use crate::source::{Part, disagreement};
use crate::ufg::{Classes, Facts, FileName, Histogram, Subset};

/// Classes that are named where their number of images is wrong.
const NAMED: usize = 5;

/// A listing that is what it should be.
pub(super) struct Verified {
    pub(super) classes: Vec<String>,
    /// For each row; 0 for those that are dropped.
    pub(super) labels: Vec<u32>,
    pub(super) notices: Vec<String>,
}

fn is_kept(row: &&Row) -> bool {
    !matches!(row.part, Part::Dropped(_))
}

/// Checks classes, counts, and the splits that file names tell.
pub(super) fn listing(path: &Path, subset: Subset, facts: &Facts, listing: &Listing) -> Result<Verified, DatasetError> {
    let kept = || listing.rows.iter().filter(is_kept);
    counts(path, subset, facts, &listing.rows)?;
    let names = kept().map(|row| row.class.clone()).collect();
    let Classes { names: classes, ids, notice } = Classes::new(subset, names)
        .map_err(|reason| DatasetError::Entry { path: path.to_owned(), place: "class names".into(), reason })?;
    for row in kept() {
        let Some(name) = &row.name else { continue };
        check_name(subset, row, name, &classes[ids[&row.class] as usize]).map_err(|reason| DatasetError::Entry {
            path: path.to_owned(),
            place: row.place.clone(),
            reason,
        })?;
    }
    let labelled = kept().map(|row| (row.class.as_str(), row.label));
    let notices = notice.into_iter().chain(disagreement("the label", "the class, which is used", labelled)).collect();
    let labels = listing.rows.iter().map(|row| ids.get(&row.class).copied().unwrap_or(0)).collect();
    Ok(Verified { classes, labels, notices })
}

/// Compares a file name with the split and the class under which it is listed.
fn check_name(subset: Subset, row: &Row, name: &str, class: &str) -> Result<(), String> {
    let parsed = FileName::parse(subset, name).map_err(|reason| format!("`{name}`: {reason}"))?;
    let listed = if row.part == Part::Train { Split::Train } else { Split::Test };
    if parsed.split != listed {
        return Err(format!("`{name}`: it is listed as a {listed} image, but its name says {}", parsed.split));
    }
    let same = parsed.class == class || same_number(parsed.class, class);
    // Class names that are mere numbers cannot be compared with cultivars.
    let numbered = class.parse::<u32>().is_ok() && parsed.class.parse::<u32>().is_err();
    if same || numbered {
        return Ok(());
    }
    Err(format!("`{name}`: it is listed under class `{class}`, but its name says `{}`", parsed.class))
}

fn same_number(a: &str, b: &str) -> bool {
    a.parse::<u32>().is_ok_and(|a| b.parse::<u32>() == Ok(a))
}

fn counts(path: &Path, subset: Subset, facts: &Facts, rows: &[Row]) -> Result<(), DatasetError> {
    let mut of_class: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for row in rows.iter().filter(is_kept) {
        let count = of_class.entry(&row.class).or_default();
        if row.part == Part::Train { count.0 += 1 } else { count.1 += 1 }
    }
    let mut found = Facts {
        classes: of_class.len(),
        train: of_class.values().map(|c| c.0).sum(),
        test: of_class.values().map(|c| c.1).sum(),
        train_per_class: Histogram::new(),
        test_per_class: Histogram::new(),
    };
    for &(train, test) in of_class.values() {
        *found.train_per_class.entry(train).or_default() += 1;
        *found.test_per_class.entry(test).or_default() += 1;
    }
    if found == *facts {
        return Ok(());
    }
    let dropped = rows.iter().filter(|row| !is_kept(row)).count();
    let left_out = format!("\n  {:<30} {:>8} {dropped:>8}", "validation images, left out", "any");
    let left_out = if dropped > 0 { left_out } else { String::new() };
    let table = table(facts, &found) + &left_out + &odd_classes(facts, &of_class);
    Err(DatasetError::Counts { path: path.to_owned(), subset, table })
}

/// Expected and found, a line each; what differs is marked.
fn table(expected: &Facts, found: &Facts) -> String {
    let mut rows = vec![
        ("classes".to_owned(), expected.classes, found.classes),
        ("train images".to_owned(), expected.train, found.train),
        ("test images".to_owned(), expected.test, found.test),
    ];
    let histograms = [
        ("train", &expected.train_per_class, &found.train_per_class),
        ("test", &expected.test_per_class, &found.test_per_class),
    ];
    for (split, expected, found) in histograms {
        let numbers: BTreeSet<usize> = expected.keys().chain(found.keys()).copied().collect();
        for images in numbers {
            let count = |histogram: &Histogram| histogram.get(&images).copied().unwrap_or(0);
            rows.push((format!("classes with {images} {split} images"), count(expected), count(found)));
        }
    }
    let mut text = format!("  {:<30} {:>8} {:>8}", "", "expected", "found");
    for (what, expected, found) in rows {
        let mark = if expected == found { "" } else { "  differs" };
        text += &format!("\n  {what:<30} {expected:>8} {found:>8}{mark}");
    }
    text
}

/// The first classes with another number of images than all should have.
fn odd_classes(facts: &Facts, of_class: &BTreeMap<&str, (usize, usize)>) -> String {
    let only = |histogram: &Histogram| (histogram.len() == 1).then(|| histogram.keys().next().copied()).flatten();
    let (Some(train), Some(test)) = (only(&facts.train_per_class), only(&facts.test_per_class)) else {
        return String::new();
    };
    let odd: Vec<String> = of_class
        .iter()
        .filter(|(_, counts)| **counts != (train, test))
        .map(|(class, (train, test))| format!("`{class}` has {train} train and {test} test images"))
        .collect();
    if odd.is_empty() {
        return String::new();
    }
    let more = odd.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("\n  class {}{more}", odd[..odd.len().min(NAMED)].join(", class "))
}

/// What the pictures say that the listing does not: files that occur twice in a split, pictures that occur twice in
/// different encodings, and a validation split that is a copy. (Files that train and test share, or two classes, are
/// found whenever a dataset is loaded.)
pub(super) fn contents(rows: &[Row], packed: &[Packed]) -> Vec<String> {
    let mut notices: Vec<String> =
        [("train", Part::Train), ("test", Part::Test)].into_iter().filter_map(|s| repeats(rows, packed, s)).collect();
    notices.extend(encodings(rows, packed));
    notices.extend(dropped(rows, packed));
    notices
}

fn repeats(rows: &[Row], packed: &[Packed], (name, part): (&str, Part)) -> Option<String> {
    let mut first: HashMap<&str, &Row> = HashMap::new();
    let mut again = Vec::new();
    for (row, image) in rows.iter().zip(packed).filter(|(row, _)| row.part == part) {
        if let Some(known) = first.insert(&image.sha256, row) {
            again.push((known, row));
        }
    }
    let (known, row) = again.first()?;
    Some(format!("{} {name} images repeat another one: {} is {}", again.len(), row.place, known.place))
}

fn encodings(rows: &[Row], packed: &[Packed]) -> Option<String> {
    let mut first: HashMap<[u8; 32], (&Row, &Packed)> = HashMap::new();
    let mut twice = Vec::new();
    for (row, image) in rows.iter().zip(packed).filter(|(row, _)| is_kept(row)) {
        let (known, other) = *first.entry(image.pixels).or_insert((row, image));
        if other.sha256 != image.sha256 {
            twice.push((known, row));
        }
    }
    let (known, row) = twice.first()?;
    let shared = twice.iter().filter(|(a, b)| a.part != b.part).count();
    Some(format!(
        "{} pictures occur twice in different encodings, {shared} of them in train and in test: {} is {}",
        twice.len(),
        row.place,
        known.place
    ))
}

/// For each split that is dropped, what it shares with those that are kept.
fn dropped(rows: &[Row], packed: &[Packed]) -> Vec<String> {
    let mut notices = Vec::new();
    let mut dropped: BTreeMap<&str, Vec<&Packed>> = BTreeMap::new();
    for (row, image) in rows.iter().zip(packed) {
        if let Part::Dropped(split) = row.part {
            dropped.entry(split).or_default().push(image);
        }
    }
    for (split, images) in dropped {
        let mut notice = format!("{} images of split `{split}` dropped", images.len());
        for (name, part) in [("test", Part::Test), ("train", Part::Train)] {
            let pixels: BTreeSet<&[u8; 32]> =
                rows.iter().zip(packed).filter(|(row, _)| row.part == part).map(|(_, image)| &image.pixels).collect();
            let shared = images.iter().filter(|image| pixels.contains(&image.pixels)).count();
            if shared > 0 {
                notice += &format!("; {shared} of them are {name} images");
            }
        }
        notices.push(notice);
    }
    notices
}
