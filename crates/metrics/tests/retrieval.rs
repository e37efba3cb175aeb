//! Retrieval scores against an oracle file, a naive re-implementation and cases known by hand.

use metrics::{MetricError, RetrievalScores, retrieval};
use proptest::prelude::*;
use testkit::oracle;
use testkit::tolerance::{ORACLE_F64, assert_close};

#[test]
fn agrees_with_the_oracle() {
    for case in oracle::cases("retrieval_metrics", "") {
        let embeddings = case.tensor("embeddings");
        let labels: Vec<u32> = case.tensor("labels").indices().iter().map(|&l| l as u32).collect();
        let got = retrieval(&embeddings.values, &labels, embeddings.shape[1]).unwrap();
        let map_at_r = got.map_at_r.expect("classes with two images");
        for (name, value) in
            [("recall_at_1", got.recall_at_1), ("recall_at_4", got.recall_at_4), ("map_at_r", map_at_r)]
        {
            assert_close(&format!("{}: {name}", case.case), &[value], &case.tensor(name).values, 1, ORACLE_F64.value);
        }
    }
}

/// All cosines at once, a stable sort of everything, precision recounted at each position.
fn naive(embeddings: &[f64], labels: &[u32], d: usize) -> RetrievalScores {
    let n = labels.len();
    let unit = |i: usize| -> Vec<f64> {
        let row = &embeddings[i * d..(i + 1) * d];
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        row.iter().map(|v| if norm == 0.0 { 0.0 } else { v / norm }).collect()
    };
    let (mut r1, mut r4, mut aps) = (0.0, 0.0, vec![]);
    for i in 0..n {
        let cosine = |j: usize| -> f64 { unit(i).iter().zip(unit(j)).map(|(a, b)| a * b).sum() };
        let mut others: Vec<(usize, f64)> = (0..n).filter(|&j| j != i).map(|j| (j, cosine(j))).collect();
        others.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
        let right: Vec<bool> = others.iter().map(|&(j, _)| labels[j] == labels[i]).collect();
        r1 += f64::from(u8::from(right.first() == Some(&true)));
        r4 += f64::from(u8::from(right.iter().take(4).any(|&r| r)));
        let relevant = right.iter().filter(|&&r| r).count();
        if relevant > 0 {
            let precision = |k: usize| right[..k].iter().filter(|&&r| r).count() as f64 / k as f64;
            aps.push((1..=relevant).filter(|&k| right[k - 1]).map(precision).sum::<f64>() / relevant as f64);
        }
    }
    RetrievalScores {
        recall_at_1: r1 / n as f64,
        recall_at_4: r4 / n as f64,
        map_at_r: (!aps.is_empty()).then(|| aps.iter().sum::<f64>() / aps.len() as f64),
    }
}

fn agree(a: RetrievalScores, b: RetrievalScores) -> bool {
    let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
    close(a.recall_at_1, b.recall_at_1)
        && close(a.recall_at_4, b.recall_at_4)
        && a.map_at_r.is_some() == b.map_at_r.is_some()
        && close(a.map_at_r.unwrap_or(0.0), b.map_at_r.unwrap_or(0.0))
}

fn problem(
    value: impl Strategy<Value = f64> + Clone,
    d: std::ops::Range<usize>,
) -> impl Strategy<Value = (Vec<f64>, Vec<u32>, usize)> {
    (1usize..80, d, 1u32..7).prop_flat_map(move |(n, d, classes)| {
        (prop::collection::vec(value.clone(), n * d), prop::collection::vec(0..classes, n))
            .prop_map(move |(embeddings, labels)| (embeddings, labels, d))
    })
}

proptest! {
    #[test]
    fn agrees_with_a_naive_implementation((embeddings, labels, d) in problem(-1.0f64..1.0, 2..12)) {
        let (got, want) = (retrieval(&embeddings, &labels, d).unwrap(), naive(&embeddings, &labels, d));
        prop_assert!(agree(got, want), "{got:?} {want:?}");
    }

    /// Entries −1, 0 and 1 in up to three dimensions: sums are exact, ties and zero vectors are everywhere.
    #[test]
    fn ties_and_zero_vectors_too((embeddings, labels, d) in problem((-1i8..2).prop_map(f64::from), 1..4)) {
        let (got, want) = (retrieval(&embeddings, &labels, d).unwrap(), naive(&embeddings, &labels, d));
        prop_assert!(agree(got, want), "{got:?} {want:?}");
    }

    #[test]
    fn lengths_of_the_vectors_do_not_matter((embeddings, labels, d) in problem(-1.0f64..1.0, 2..12), power in -900i32..900) {
        let scaled: Vec<f64> = embeddings.iter().map(|v| v * 2f64.powi(power)).collect();
        prop_assert_eq!(retrieval(&embeddings, &labels, d), retrieval(&scaled, &labels, d));
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let labels: Vec<u32> = (0..157).map(|i| i % 11).collect();
    // Noise, and one coordinate for the class.
    let noise = |i: u32| (f64::from(i * 7919 % 1013) * 0.37).sin();
    let class = |i: u32| if i % 13 == i / 13 % 11 { 1.5 } else { 0.0 };
    let embeddings: Vec<f64> = (0..157 * 13).map(|i| noise(i) + class(i)).collect();
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| retrieval(&embeddings, &labels, 13).unwrap())
    };
    let one = with(1);
    assert_eq!(one, with(3));
    assert!(one.recall_at_1 < one.recall_at_4, "{one:?}");
}

#[test]
fn ties_go_to_the_lower_index() {
    // All alike: the nearest of image 0 is 1, of every other image it is 0. Only 0 and 1 are of one class.
    let got = retrieval(&[1.0; 6], &[7, 7, 8, 9, 10, 11], 1).unwrap();
    assert_eq!(got.recall_at_1, 2.0 / 6.0);
    assert_eq!(got.map_at_r, Some(1.0));
    // The same with the pair at the end: neither finds the other among the first four.
    let got = retrieval(&[1.0; 6], &[8, 9, 10, 11, 7, 7], 1).unwrap();
    assert_eq!((got.recall_at_1, got.recall_at_4, got.map_at_r), (0.0, 0.0, Some(0.0)));
}

#[test]
fn nothing_to_find_is_a_miss_and_no_precision() {
    let alone = retrieval(&[0.3, 0.4], &[5], 2).unwrap();
    assert_eq!(alone, RetrievalScores { recall_at_1: 0.0, recall_at_4: 0.0, map_at_r: None });
    let two = retrieval(&[1.0, 0.0, 1.0, 0.1], &[0, 1], 2).unwrap();
    assert_eq!(two, RetrievalScores { recall_at_1: 0.0, recall_at_4: 0.0, map_at_r: None });
}

#[test]
fn a_single_image_of_a_class_is_a_miss_but_no_precision() {
    // Images 0 and 1 find each other; 2 is alone in its class.
    let got = retrieval(&[1.0, 0.0, 0.9, 0.1, 0.0, 1.0], &[0, 0, 1], 2).unwrap();
    assert_eq!((got.recall_at_1, got.map_at_r), (2.0 / 3.0, Some(1.0)));
}

#[test]
fn a_zero_vector_lies_between_near_and_far() {
    // Query 0 against: zero vector (cosine 0), the opposite (−1) of its class.
    let got = retrieval(&[1.0, 0.0, -1.0], &[0, 1, 0], 1).unwrap();
    assert_eq!((got.recall_at_1, got.map_at_r), (0.0, Some(0.0)));
}

#[test]
fn wrong_inputs_are_named() {
    assert_eq!(retrieval(&[], &[], 2), Err(MetricError::Empty { what: "labels" }));
    assert_eq!(retrieval(&[], &[0], 0), Err(MetricError::Empty { what: "dimensions" }));
    let short = MetricError::Length { what: "embeddings", found: 3, expected: 4 };
    assert_eq!(retrieval(&[0.0; 3], &[0, 1], 2), Err(short));
    let infinite = MetricError::NotFinite { what: "embeddings", index: 1, value: f64::INFINITY };
    assert_eq!(retrieval(&[0.0, f64::INFINITY], &[0], 2), Err(infinite));
}
