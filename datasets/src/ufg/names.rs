//! What file names and class names of a subset say: class ids and the split.

use std::collections::BTreeMap;

use super::Subset;
use crate::model::{Split, sort_classes};

/// An image's file name, taken apart: `<class>_<k>_{train,test}.png`, for SoyAgeing `<class>_<stage>_<k>_…`, for
/// SoyGene `<class>-<p>-<nnn>_<k>_…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileName<'a> {
    /// The class as it is named there.
    pub(crate) class: &'a str,
    /// The split named there.
    pub(crate) split: Split,
}

impl<'a> FileName<'a> {
    /// Takes a name apart; the error says which rule it breaks.
    pub(crate) fn parse(subset: Subset, name: &'a str) -> Result<Self, String> {
        let form = match subset {
            Subset::SoyAgeing(_) => "<class>_<stage>_<k>_{train,test}.png",
            Subset::SoyGene => "<class>-<p>-<nnn>_<k>_{train,test}.png",
            _ => "<class>_<k>_{train,test}.png",
        };
        let malformed = || format!("the name is not of the form {form}");
        let stem = name.strip_suffix(".png").ok_or_else(malformed)?;
        let (rest, tag) = stem.rsplit_once('_').ok_or_else(malformed)?;
        let split = match tag {
            "train" => Split::Train,
            "test" => Split::Test,
            _ => return Err(malformed()),
        };
        let (rest, k) = rest.rsplit_once('_').ok_or_else(malformed)?;
        let k: u32 = digits(k).ok_or_else(malformed)?;
        let class = match subset {
            Subset::SoyAgeing(stage) => {
                let (class, named) = rest.rsplit_once('_').ok_or_else(malformed)?;
                if named != stage.name() {
                    return Err(format!("the name says stage `{named}`, not {}", stage.name()));
                }
                class
            }
            Subset::SoyGene => rest.split_once('-').ok_or_else(malformed)?.0,
            _ => {
                digits(rest).ok_or_else(malformed)?;
                rest
            }
        };
        if class.is_empty() {
            return Err(malformed());
        }
        match expected_split(subset, k) {
            None => Err(format!("number {k} is none of the subset's")),
            Some(Some(expected)) if expected != split => {
                Err(format!("the name says {split}, but images with number {k} are {expected} images"))
            }
            Some(_) => Ok(Self { class, split }),
        }
    }
}

/// A number without sign or space.
fn digits(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// The split of image `k` of a class: None if there is no such k, `Some(None)` where k tells nothing.
#[expect(clippy::option_option, reason = "no such number, or a number that tells nothing")]
fn expected_split(subset: Subset, k: u32) -> Option<Option<Split>> {
    match subset {
        Subset::SoyGene => Some(None),
        Subset::SoyAgeing(_) => match k {
            1..=5 => Some(Some(Split::Train)),
            6..=10 => Some(Some(Split::Test)),
            _ => None,
        },
        Subset::Cotton80 | Subset::SoyLocal | Subset::SoyGlobal => match k {
            1 | 3 | 5 => Some(Some(Split::Train)),
            2 | 4 | 6 => Some(Some(Split::Test)),
            _ => None,
        },
    }
}

/// Class ids of a subset, from the class names of a source.
///
/// Cotton80, SoyLocal and SoyGlobal: names are whole numbers, in numeric order, and become 1, 2, …, C (a source may
/// count from 0). SoyGene and SoyAgeing: lexicographic order by bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Classes {
    /// Names by id, the same from every source.
    pub(crate) names: Vec<String>,
    /// Id of each name in the source.
    pub(crate) ids: BTreeMap<String, u32>,
    /// What the user should know.
    pub(crate) notice: Option<String>,
}

impl Classes {
    /// Orders the names of a source. The error names the class that does not fit.
    pub(crate) fn new(subset: Subset, mut found: Vec<String>) -> Result<Self, String> {
        found.sort();
        found.dedup();
        if matches!(subset, Subset::SoyGene | Subset::SoyAgeing(_)) {
            return Ok(Self::by_text(found));
        }
        let mut numbers: BTreeMap<u32, &String> = BTreeMap::new();
        for name in &found {
            let number = digits(name).ok_or_else(|| format!("class `{name}` is not a number"))?;
            if let Some(other) = numbers.insert(number, name) {
                return Err(format!("classes `{other}` and `{name}` are the same number"));
            }
        }
        let first = numbers.keys().next().copied().unwrap_or(1);
        if let Some((at, (_, name))) = (first.min(1)..).zip(&numbers).find(|(at, (number, _))| at != *number) {
            return Err(format!("classes are not numbered one after the other: `{name}` stands where {at} should"));
        }
        let ids = numbers.values().zip(0u32..).map(|(name, id)| ((*name).clone(), id)).collect();
        let names: Vec<String> = (1..=found.len()).map(|n| n.to_string()).collect();
        let notice = (first == 0)
            .then(|| format!("class names count from 0; named 1 to {} here, as in the file names", names.len()));
        Ok(Self { names, ids, notice })
    }

    fn by_text(found: Vec<String>) -> Self {
        let numeric = found.iter().all(|name| digits(name).is_some());
        let names = if numeric { sort_classes(found) } else { found };
        let ids = names.iter().cloned().zip(0u32..).collect();
        let notice = (numeric && !names.is_empty()).then(|| {
            "class names are numbers, not cultivars; ids follow the numbers and may differ from the archive's"
                .to_owned()
        });
        Self { names, ids, notice }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ufg::Stage;

    #[test]
    fn names_give_class_and_split() {
        let r1 = Subset::SoyAgeing(Stage::R1);
        for (subset, name, class, split) in [
            (Subset::Cotton80, "80_5_train.png", "80", Split::Train),
            (Subset::SoyGlobal, "1938_6_test.png", "1938", Split::Test),
            (r1, "yd012_R1_1_train.png", "yd012", Split::Train),
            (r1, "yd012_R1_10_test.png", "yd012", Split::Test),
            (Subset::SoyGene, "GDC008-1-003_7_test.png", "GDC008", Split::Test),
        ] {
            assert_eq!(FileName::parse(subset, name), Ok(FileName { class, split }), "{name}");
        }
    }

    #[test]
    fn names_that_break_a_rule_are_told_which() {
        let r1 = Subset::SoyAgeing(Stage::R1);
        for (subset, name, reason) in [
            (Subset::Cotton80, "80_5.png", "not of the form <class>_<k>_{train,test}.png"),
            (Subset::Cotton80, "80_5_val.png", "not of the form"),
            (Subset::Cotton80, "a_5_train.png", "not of the form"),
            (Subset::Cotton80, "80_+5_train.png", "not of the form"),
            (Subset::Cotton80, "80_5_train.jpg", "not of the form"),
            (Subset::SoyLocal, "80_4_train.png", "the name says train, but images with number 4 are test images"),
            (Subset::SoyLocal, "80_7_train.png", "number 7 is none of the subset's"),
            (r1, "yd012_R3_1_train.png", "the name says stage `R3`, not R1"),
            (r1, "_R1_1_train.png", "not of the form <class>_<stage>"),
            (Subset::SoyGene, "GDC008_7_test.png", "not of the form <class>-<p>-<nnn>"),
        ] {
            let error = FileName::parse(subset, name).unwrap_err();
            assert!(error.contains(reason), "{name}: {error}");
        }
    }

    fn classes(subset: Subset, names: &[&str]) -> Result<(Vec<String>, Vec<u32>), String> {
        let classes = Classes::new(subset, names.iter().map(|n| (*n).to_owned()).collect())?;
        Ok((classes.names, names.iter().map(|n| classes.ids[*n]).collect()))
    }

    #[test]
    fn ids_follow_the_documented_order() {
        let numbered = classes(Subset::Cotton80, &["10", "9", "1", "2", "3", "4", "5", "6", "7", "8"]).unwrap();
        assert_eq!(numbered.1, [9, 8, 0, 1, 2, 3, 4, 5, 6, 7]);
        // From 0 it is the same.
        let zero = classes(Subset::Cotton80, &["9", "8", "0", "1", "2", "3", "4", "5", "6", "7"]).unwrap();
        assert_eq!(zero, numbered);
        let padded = classes(Subset::SoyGlobal, &["001", "002"]).unwrap();
        assert_eq!(padded, (vec!["1".to_owned(), "2".to_owned()], vec![0, 1]));
        // Lexicographic, which is not the numbers' order.
        let genes = classes(Subset::SoyGene, &["GDC1000", "GDC008", "GDC101"]).unwrap();
        assert_eq!(genes, (vec!["GDC008".into(), "GDC1000".into(), "GDC101".into()], vec![1, 0, 2]));
        let gene = Classes::new(Subset::SoyGene, vec!["10".into(), "9".into()]).unwrap();
        assert_eq!((gene.names, gene.notice.is_some()), (vec!["9".to_owned(), "10".to_owned()], true));
    }

    #[test]
    fn names_that_are_no_numbers_are_refused_where_ids_are_numbers() {
        let error = |names: &[&str]| classes(Subset::SoyLocal, names).unwrap_err();
        assert_eq!(error(&["1", "cultivar"]), "class `cultivar` is not a number");
        assert_eq!(error(&["1", "01"]), "classes `01` and `1` are the same number");
        assert_eq!(error(&["1", "3"]), "classes are not numbered one after the other: `3` stands where 2 should");
        assert_eq!(error(&["2", "3"]), "classes are not numbered one after the other: `2` stands where 1 should");
    }
}
