//! Classification scores against an oracle file, a naive re-implementation and cases known by hand.

use metrics::{ECE_BINS, MetricError, classification};
use proptest::prelude::*;
use testkit::oracle;
use testkit::tolerance::{ORACLE_F64, assert_close};

#[test]
fn agrees_with_the_oracle() {
    for case in oracle::cases("classification_metrics", "") {
        let logits = case.tensor("logits");
        let labels: Vec<u32> = case.tensor("labels").indices().iter().map(|&l| l as u32).collect();
        let got = classification(&logits.values, &labels, logits.shape[1]).unwrap();
        for (name, value) in
            [("top1", got.top1), ("top5", got.top5), ("macro_f1", got.macro_f1), ("nll", got.nll), ("ece15", got.ece15)]
        {
            assert_close(&format!("{}: {name}", case.case), &[value], &case.tensor(name).values, 1, ORACLE_F64.value);
        }
    }
}

/// The same scores by other ways: sorting, precision and recall, a loop over bins.
struct Naive {
    ranks: Vec<usize>,
    predicted: Vec<usize>,
    macro_f1: f64,
    nll: f64,
    ece: f64,
}

fn naive(logits: &[f64], labels: &[u32], c: usize) -> Naive {
    let n = labels.len();
    let mut out = Naive { ranks: vec![], predicted: vec![], macro_f1: 0.0, nll: 0.0, ece: 0.0 };
    let mut confidence = vec![];
    for i in 0..n {
        let row = &logits[i * c..(i + 1) * c];
        let mut order: Vec<usize> = (0..c).collect();
        order.sort_by(|&a, &b| row[b].partial_cmp(&row[a]).unwrap());
        let total: f64 = row.iter().map(|z| z.exp()).sum();
        out.predicted.push(order[0]);
        out.ranks.push(1 + order.iter().position(|&k| k == labels[i] as usize).unwrap());
        out.nll -= (row[labels[i] as usize].exp() / total).ln() / n as f64;
        confidence.push(row[order[0]].exp() / total);
    }
    for class in 0..c {
        let predicted = out.predicted.iter().filter(|&&p| p == class).count();
        let actual = labels.iter().filter(|&&l| l as usize == class).count();
        let both = (0..n).filter(|&i| out.predicted[i] == class && labels[i] as usize == class).count();
        if both > 0 {
            let (precision, recall) = (both as f64 / predicted as f64, both as f64 / actual as f64);
            out.macro_f1 += 2.0 * precision * recall / (precision + recall) / c as f64;
        }
    }
    for k in 0..ECE_BINS {
        let (low, high) = (k as f64 / ECE_BINS as f64, (k + 1) as f64 / ECE_BINS as f64);
        let inside: Vec<usize> = (0..n).filter(|&i| confidence[i] > low && confidence[i] <= high).collect();
        if !inside.is_empty() {
            let m = inside.len() as f64;
            let accuracy = inside.iter().filter(|&&i| out.predicted[i] == labels[i] as usize).count() as f64 / m;
            let mean = inside.iter().map(|&i| confidence[i]).sum::<f64>() / m;
            out.ece += m / n as f64 * (accuracy - mean).abs();
        }
    }
    out
}

/// `[n, c]` logits on a coarse grid (so that ties are common) plus an irrational stretch, and labels.
fn problem() -> impl Strategy<Value = (Vec<f64>, Vec<u32>, usize)> {
    (1usize..30, 1usize..9).prop_flat_map(|(n, c)| {
        (
            prop::collection::vec((-4i8..5).prop_map(|z| f64::from(z) * 0.731), n * c),
            prop::collection::vec(0..c as u32, n),
        )
            .prop_map(move |(logits, labels)| (logits, labels, c))
    })
}

proptest! {
    #[test]
    fn agrees_with_a_naive_implementation((logits, labels, c) in problem()) {
        let got = classification(&logits, &labels, c).unwrap();
        let want = naive(&logits, &labels, c);
        let n = labels.len() as f64;
        let predicted: Vec<usize> = got.images.iter().map(|i| i.predicted as usize).collect();
        let ranks: Vec<usize> = got.images.iter().map(|i| i.rank as usize).collect();
        prop_assert_eq!(&predicted, &want.predicted);
        prop_assert_eq!(&ranks, &want.ranks);
        prop_assert_eq!(got.top1, ranks.iter().filter(|&&r| r == 1).count() as f64 / n);
        prop_assert_eq!(got.top5, ranks.iter().filter(|&&r| r <= 5).count() as f64 / n);
        prop_assert!((got.macro_f1 - want.macro_f1).abs() < 1e-12);
        prop_assert!((got.nll - want.nll).abs() < 1e-12 * want.nll.max(1.0));
        // Confidences that lie on the edge of a bin may fall on either side by rounding, and move their image only.
        prop_assert!((got.ece15 - want.ece).abs() < 1e-12 || got.images.iter().any(on_an_edge));
        prop_assert_eq!(got.confusion.iter().sum::<u64>(), got.total);
        prop_assert_eq!((0..c).map(|k| got.confusion[k * c + k]).sum::<u64>(), got.correct);
    }

    #[test]
    fn a_shift_of_the_logits_changes_nothing((logits, labels, c) in problem(), shift in -50i8..50) {
        // A whole shift of halves is exact, so the scores agree to the last bit.
        let halves: Vec<f64> = logits.iter().map(|z| (z * 2.0).round() / 2.0).collect();
        let shifted: Vec<f64> = halves.iter().map(|z| z + f64::from(shift)).collect();
        prop_assert_eq!(classification(&halves, &labels, c), classification(&shifted, &labels, c));
    }
}

fn on_an_edge(image: &metrics::ImageScore) -> bool {
    let scaled = image.probability * ECE_BINS as f64;
    (scaled - scaled.round()).abs() < 1e-9
}

#[test]
fn ties_go_to_the_lower_id() {
    let got = classification(&[0.5, 0.5, 0.5], &[2], 3).unwrap();
    assert_eq!((got.images[0].predicted, got.images[0].rank), (0, 3));
    assert_eq!((got.correct, got.top1, got.top5), (0, 0.0, 1.0));
    assert_eq!(got.per_class, [None, None, Some(0.0)]);
    assert_eq!(got.confusion, [0, 0, 0, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn one_class_is_always_right() {
    let got = classification(&[-3.0, 9.0], &[0, 0], 1).unwrap();
    assert_eq!((got.top1, got.top5, got.macro_f1, got.nll, got.ece15), (1.0, 1.0, 1.0, 0.0, 0.0));
}

#[test]
fn classes_without_images_and_predictions_count_as_zero_f1() {
    // Two images of class 0, both right: F1 is 1, 0, 0, 0.
    let got = classification(&[5.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0], &[0, 0], 4).unwrap();
    assert_eq!(got.macro_f1, 0.25);
    assert_eq!(got.per_class, [Some(1.0), None, None, None]);
}

#[test]
fn a_confident_error_has_a_finite_likelihood() {
    let got = classification(&[0.0, 2000.0], &[0], 2).unwrap();
    assert_eq!((got.nll, got.images[0].true_probability, got.ece15), (2000.0, 0.0, 1.0));
    assert_eq!(classification(&[-1.7e308, 1.7e308], &[0], 2), Err(MetricError::Overflow { image: 0 }));
}

#[test]
fn a_bin_holds_its_upper_edge() {
    // Five classes and equal logits: confidence is exactly 1/5 = 3/15, the upper edge of the third bin. Together with
    // a confidence just above it, the two images must not share a bin: 0.2 against 0, and 0.2000… against 1.
    let logits = [0.0, 0.0, 0.0, 0.0, 0.0, 1e-9, 0.0, 0.0, 0.0, 0.0];
    let got = classification(&logits, &[4, 0], 5).unwrap();
    assert!((got.ece15 - 0.5).abs() < 1e-8, "{}", got.ece15);
}

#[test]
fn wrong_inputs_are_named() {
    assert_eq!(classification(&[], &[], 3), Err(MetricError::Empty { what: "labels" }));
    assert_eq!(classification(&[], &[0], 0), Err(MetricError::Empty { what: "classes" }));
    let short = MetricError::Length { what: "logits", found: 3, expected: 4 };
    assert_eq!(classification(&[0.0; 3], &[0, 1], 2), Err(short));
    assert_eq!(classification(&[0.0; 4], &[0, 2], 2), Err(MetricError::Label { image: 1, label: 2, classes: 2 }));
    match classification(&[0.0, 0.0, f64::NAN, 0.0], &[0, 1], 2) {
        Err(MetricError::NotFinite { what: "logits", index: 2, value }) => assert!(value.is_nan()),
        other => panic!("{other:?}"),
    }
    assert!(classification(&[0.0, f64::INFINITY], &[0], 2).is_err());
}
