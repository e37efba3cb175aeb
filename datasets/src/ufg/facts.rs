//! How many images of how many classes each subset has. Counted over the published split lists.

use std::collections::BTreeMap;

use super::Subset;

/// For a number of images, how many classes have that many.
pub type Histogram = BTreeMap<usize, usize>;

/// What a subset must consist of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Number of classes.
    pub classes: usize,
    /// Train images.
    pub train: usize,
    /// Test images.
    pub test: usize,
    /// Classes by their number of train images.
    pub train_per_class: Histogram,
    /// Classes by their number of test images.
    pub test_per_class: Histogram,
}

/// SoyGene: (train images, classes).
const SOYGENE_TRAIN: [(usize, usize); 13] = [
    (3, 1),
    (4, 4),
    (5, 2),
    (6, 9),
    (7, 6),
    (8, 14),
    (9, 29),
    (10, 57),
    (11, 366),
    (12, 467),
    (13, 115),
    (14, 30),
    (15, 10),
];
/// SoyGene: (test images, classes).
const SOYGENE_TEST: [(usize, usize); 11] =
    [(3, 1), (4, 11), (5, 2), (6, 8), (7, 16), (8, 43), (9, 138), (10, 479), (11, 396), (12, 14), (13, 2)];

impl Facts {
    fn of(shots: &[(usize, usize)]) -> Self {
        let count = |pick: fn(&(usize, usize)) -> usize| {
            let mut histogram = Histogram::new();
            shots.iter().for_each(|shot| *histogram.entry(pick(shot)).or_default() += 1);
            histogram
        };
        Self {
            classes: shots.len(),
            train: shots.iter().map(|s| s.0).sum(),
            test: shots.iter().map(|s| s.1).sum(),
            train_per_class: count(|s| s.0),
            test_per_class: count(|s| s.1),
        }
    }
}

impl Subset {
    /// Number of classes.
    pub fn classes(self) -> usize {
        match self {
            Subset::Cotton80 => 80,
            Subset::SoyLocal => 200,
            Subset::SoyGene => 1110,
            Subset::SoyAgeing(_) => 198,
            Subset::SoyGlobal => 1938,
        }
    }

    /// (train, test) images of classes with the subset's histograms; which class has how many is not a fact for
    /// SoyGene, where both counts simply ascend.
    fn shots(self) -> Vec<(usize, usize)> {
        match self {
            Subset::Cotton80 | Subset::SoyLocal | Subset::SoyGlobal => vec![(3, 3); self.classes()],
            Subset::SoyAgeing(_) => vec![(5, 5); self.classes()],
            Subset::SoyGene => {
                let expand = |pairs: &[(usize, usize)]| -> Vec<usize> {
                    pairs.iter().flat_map(|&(images, classes)| std::iter::repeat_n(images, classes)).collect()
                };
                expand(&SOYGENE_TRAIN).into_iter().zip(expand(&SOYGENE_TEST)).collect()
            }
        }
    }

    /// What the subset must consist of.
    pub fn facts(self) -> Facts {
        Facts::of(&self.shots())
    }

    /// (train, test) images of each class of a stand-in with `classes` classes: every `C / classes`-th of the
    /// subset's C classes in ascending order of their counts.
    pub(crate) fn stand_in_shots(self, classes: usize) -> Vec<(usize, usize)> {
        let shots = self.shots();
        (0..classes).map(|i| shots[i * shots.len() / classes]).collect()
    }

    /// What a stand-in with `classes` classes must consist of. With all classes, these are [`Subset::facts`].
    pub fn stand_in_facts(self, classes: usize) -> Facts {
        Facts::of(&self.stand_in_shots(classes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ufg::Stage;

    #[test]
    fn the_totals_are_the_papers() {
        let facts: Vec<Facts> = Subset::ALL.into_iter().map(Subset::facts).collect();
        assert_eq!(facts.iter().map(|f| f.train).sum::<usize>(), 24_367);
        assert_eq!(facts.iter().map(|f| f.test).sum::<usize>(), 22_747);
        assert_eq!(facts.iter().map(|f| f.train + f.test).sum::<usize>(), 47_114);
        // The stages of SoyAgeing share their classes.
        let stages = Stage::ALL[1..].iter().map(|&s| Subset::SoyAgeing(s).facts().classes).sum::<usize>();
        assert_eq!(facts.iter().map(|f| f.classes).sum::<usize>() - stages, 3_526);
        for (subset, f) in Subset::ALL.into_iter().zip(&facts) {
            assert_eq!(f.classes, subset.classes());
            for (histogram, images) in [(&f.train_per_class, f.train), (&f.test_per_class, f.test)] {
                assert_eq!(histogram.values().sum::<usize>(), f.classes);
                assert_eq!(histogram.iter().map(|(images, classes)| images * classes).sum::<usize>(), images);
            }
        }
    }

    #[test]
    fn each_subset_has_its_counts() {
        let counts = |s: Subset| (s.facts().classes, s.facts().train, s.facts().test);
        assert_eq!(counts(Subset::Cotton80), (80, 240, 240));
        assert_eq!(counts(Subset::SoyLocal), (200, 600, 600));
        assert_eq!(counts(Subset::SoyGene), (1110, 12_763, 11_143));
        assert_eq!(counts(Subset::SoyAgeing(Stage::R4)), (198, 990, 990));
        assert_eq!(counts(Subset::SoyGlobal), (1938, 5_814, 5_814));
    }

    #[test]
    fn stand_ins_have_the_shape_of_their_subset() {
        for subset in Subset::ALL {
            assert_eq!(subset.stand_in_facts(subset.classes()), subset.facts());
        }
        assert_eq!(Subset::SoyGene.stand_in_shots(5), [(3, 3), (11, 10), (11, 10), (12, 10), (12, 11)]);
        assert_eq!(Subset::Cotton80.stand_in_shots(2), [(3, 3), (3, 3)]);
    }
}
