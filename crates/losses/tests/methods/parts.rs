//! Part-aware contrast against its definition, written out on plain numbers, and its zero-loss condition.

use candle_core::{DType, Tensor, Var};
use kernels::spd::{Metric, distance};
use losses::pac_mcl::pac_mcl;
use losses::{Alignment, Negatives, SoftTopK};
use proptest::prelude::*;
use random::{Axis, Seeds, Stream};
use testkit::tolerance::{IDENTITY_F64, ORACLE_F64, assert_close};

use crate::support::{CHANNELS, Fixture, LABELS, SIDE, normal, stream, tensor, value, values};

const METRICS: [Metric; 2] = [Metric::LogEuclidean, Metric::BuresWasserstein];
const ALIGNMENTS: [Alignment; 3] = [Alignment::Nearest, Alignment::Mutual, Alignment::Hungarian];

fn spd(n: usize, parts: usize, d: usize, stream: &mut Stream) -> Vec<f64> {
    testkit::spd::batch(n * parts, d, 0.3, 2.0, stream)
}

fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let shorter = permutations(n - 1);
    shorter.iter().flat_map(|p| (0..n).map(move |at| [&p[..at], &[n - 1], &p[at..]].concat())).collect()
}

/// The alignment of one image from its P×P distances, by its definition.
fn aligned(how: Alignment, block: &[Vec<f64>]) -> Vec<usize> {
    let parts = block.len();
    let nearest = |row: &[f64]| (0..parts).min_by(|&x, &y| row[x].total_cmp(&row[y])).unwrap();
    let column = |q: usize| block.iter().map(|row| row[q]).collect::<Vec<f64>>();
    match how {
        Alignment::Nearest => block.iter().map(|row| nearest(row)).collect(),
        Alignment::Hungarian => {
            let cost = |p: &Vec<usize>| p.iter().enumerate().map(|(i, &j)| block[i][j]).sum::<f64>();
            permutations(parts).into_iter().min_by(|x, y| cost(x).total_cmp(&cost(y))).unwrap()
        }
        Alignment::Mutual => {
            let mut chosen = vec![None; parts];
            for p in 0..parts {
                let q = nearest(&block[p]);
                chosen[p] = (nearest(&column(q)) == p).then_some(q);
            }
            let mut rest: Vec<(usize, usize)> = (0..parts * parts).map(|at| (at / parts, at % parts)).collect();
            rest.sort_by(|x, y| block[x.0][x.1].total_cmp(&block[y.0][y.1]));
            for (p, q) in rest {
                if chosen[p].is_none() && !chosen.contains(&Some(q)) {
                    chosen[p] = Some(q);
                }
            }
            chosen.into_iter().map(Option::unwrap).collect()
        }
    }
}

/// (aligned distance, δ⁻) of every part that has a negative, from all distances.
fn tuples(how: Alignment, negatives: Negatives, all: &[Vec<f64>], labels: &[u32]) -> Vec<(f64, f64)> {
    let parts = all.len() / labels.len();
    let mut out = Vec::new();
    for i in 0..labels.len() {
        let rows = &all[i * parts..(i + 1) * parts];
        let block: Vec<Vec<f64>> = rows.iter().map(|r| r[i * parts..(i + 1) * parts].to_vec()).collect();
        let matched = aligned(how, &block);
        for p in 0..parts {
            let mut others: Vec<f64> =
                (0..all.len()).filter(|q| labels[q / parts] != labels[i]).map(|q| rows[p][q]).collect();
            others.sort_by(f64::total_cmp);
            if others.is_empty() {
                continue;
            }
            let inter = match negatives {
                Negatives::Hardest => others[0],
                Negatives::SoftTopK(soft) => {
                    others.truncate(soft.k);
                    let weights: Vec<f64> =
                        others.iter().map(|d| (-(d - others[0]) / soft.temperature).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    others.iter().zip(&weights).map(|(d, w)| d * w / total).sum()
                }
            };
            out.push((block[p][matched[p]], inter));
        }
    }
    out
}

fn all_distances(metric: Metric, a: &Tensor, b: &Tensor) -> Vec<Vec<f64>> {
    let flat = |x: &Tensor| x.flatten(0, 1).unwrap();
    distance(metric, &flat(a), &flat(b)).unwrap().to_vec2().unwrap()
}

#[test]
fn part_aware_contrast_is_its_definition() {
    let (parts, d, labels) = (3, 4, [0u32, 1, 0, 2, 3]);
    let shape = [labels.len(), parts, d, d];
    let soft = |k| Negatives::SoftTopK(SoftTopK { k, temperature: 0.3 });
    for (at, metric) in METRICS.into_iter().enumerate() {
        let a = tensor(&spd(labels.len(), parts, d, &mut stream(30 + at as u64)), &shape);
        let b = tensor(&spd(labels.len(), parts, d, &mut stream(40 + at as u64)), &shape);
        let all = all_distances(metric, &a, &b);
        for alignment in ALIGNMENTS {
            // 10 of class 0's parts have 9 candidates, the others 12: k = 100 and k = 11 pad.
            for negatives in [Negatives::Hardest, soft(1), soft(4), soft(11), soft(100)] {
                let margin = 0.1;
                let want = tuples(alignment, negatives, &all, &labels);
                let hinges: Vec<f64> = want.iter().map(|(i, o)| (i - o + margin).max(0.0)).collect();
                let mean = |v: &mut dyn Iterator<Item = f64>| v.sum::<f64>() / want.len() as f64;
                let out = pac_mcl(metric, alignment, negatives, margin, &a, &b, &labels).unwrap();
                let (intra, inter) = (mean(&mut want.iter().map(|t| t.0)), mean(&mut want.iter().map(|t| t.1)));
                let active = mean(&mut hinges.iter().map(|h| f64::from(u8::from(*h > 0.0))));
                let diagnostic = |key: &str| out.diagnostics[key];
                let got = [
                    value(&out.loss),
                    diagnostic("intra_distance"),
                    diagnostic("inter_distance"),
                    diagnostic("distance_margin"),
                    diagnostic("active_share"),
                ];
                let want = [mean(&mut hinges.iter().copied()), intra, inter, inter - intra, active];
                assert_close(&format!("{metric:?} {alignment:?} {negatives:?}"), &got, &want, 1, ORACLE_F64.value);
            }
        }
    }
}

#[test]
fn eigenvalue_diagnostics_are_those_of_the_parts() {
    let (parts, d) = (2, 3);
    let spectra: Vec<[f64; 3]> = (0..8).map(|i| [0.1 * f64::from(i) + 0.05, 1.0, 2.0]).collect();
    let mut stream = stream(50);
    let matrices: Vec<f64> = spectra.iter().flat_map(|w| testkit::spd::with_spectrum(w, &mut stream)).collect();
    let (a, b) = matrices.split_at(4 * d * d);
    let (a, b) = (tensor(a, &[2, parts, d, d]), tensor(b, &[2, parts, d, d]));
    let out = pac_mcl(Metric::LogEuclidean, Alignment::Nearest, Negatives::Hardest, 0.2, &a, &b, &[0, 1]).unwrap();
    let got = ["eigenvalue_min", "eigenvalue_q01", "eigenvalue_median"].map(|key| out.diagnostics[key]);
    // Order statistics 0.05, 0.15, …, 0.75 at positions 0, 0.07 and 3.5.
    assert_close("smallest eigenvalues", &got, &[0.05, 0.057, 0.4], 1, IDENTITY_F64);
}

#[test]
fn parts_are_attention_weighted_and_floored_by_epsilon() {
    for name in ["pac-mcl-le", "pac-mcl-bw"] {
        let config = crate::support::cases().into_iter().find(|c| c.name() == name).unwrap();
        let fixture = Fixture::new(config, &LABELS, DType::F32);
        let attention = fixture.method.part_attention(&fixture.anchor).unwrap().unwrap();
        assert_eq!(attention.dims(), [LABELS.len(), 2, SIDE, SIDE]);
        let sums = values(&attention.flatten_from(2).unwrap().sum(2).unwrap());
        assert_close("sum of attention", &sums, &vec![1.0; sums.len()], 1, testkit::tolerance::ORACLE_F32.value);
        let covariances = fixture.method.part_covariances(&fixture.anchor).unwrap().unwrap();
        assert_eq!((covariances.dims(), covariances.dtype()), (&[LABELS.len(), 2, 4, 4][..], DType::F64));
        // One position has no spread: its covariance is εI exactly.
        let point = normal(&[1, CHANNELS, 1, 1], 5).to_dtype(DType::F32).unwrap();
        let floor = values(&fixture.method.part_covariances(&point).unwrap().unwrap());
        let identity = |at: usize| if at % 16 / 4 == at % 4 { 1e-4 } else { 0.0 };
        assert_eq!(floor, (0..32).map(identity).collect::<Vec<f64>>());
        assert!(fixture.loss().read(&[]).unwrap().diagnostics["eigenvalue_min"] >= 1e-4 * (1.0 - IDENTITY_F64));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The zero-loss condition: the loss is 0 if and only if every aligned distance plus the margin is at most the
    /// distance to every negative; and then the gradient is exactly 0.
    #[test]
    fn zero_loss_condition(seed: u64, metric in 0usize..2, alignment in 0usize..3) {
        let (metric, alignment) = (METRICS[metric], ALIGNMENTS[alignment]);
        let (labels, parts, d) = ([0u32, 1, 2], 2, 3);
        let mut stream = Seeds::new(seed).stream(Axis::Test, &[]);
        // View 2 is view 1 up to 1 %, images are apart by factors: aligned pairs are near, negatives far.
        let a: Vec<f64> = spd(3, parts, d, &mut stream).chunks(parts * d * d).zip([1.0, 30.0, 900.0])
            .flat_map(|(image, scale)| image.iter().map(move |v| v * scale).collect::<Vec<_>>()).collect();
        let b: Vec<f64> = a.iter().map(|v| v * 1.01).collect();
        let shape = [3, parts, d, d];
        let a = Var::from_tensor(&tensor(&a, &shape)).unwrap();
        let b = Var::from_tensor(&tensor(&b, &shape)).unwrap();
        let gaps: Vec<f64> = tuples(alignment, Negatives::Hardest, &all_distances(metric, &a, &b), &labels)
            .iter().map(|(intra, inter)| inter - intra).collect();
        let slack = gaps.iter().copied().fold(f64::INFINITY, f64::min);
        prop_assert!(slack > 0.0);
        let at = |margin: f64| pac_mcl(metric, alignment, Negatives::Hardest, margin, &a, &b, &labels).unwrap();
        let below = at(slack * (1.0 - 1e-6));
        prop_assert_eq!(value(&below.loss), 0.0);
        let gradients = below.loss.backward().unwrap();
        for x in [&a, &b] {
            prop_assert!(values(gradients.get(x).unwrap()).iter().all(|g| *g == 0.0));
        }
        prop_assert!(value(&at(slack * (1.0 + 1e-6)).loss) > 0.0);
    }

    /// A larger margin never makes the loss smaller, nor larger than by the margin's growth.
    #[test]
    fn loss_grows_with_the_margin_at_most_as_fast(
        seed: u64, metric in 0usize..2, margin in 0.0f64..2.0, more in 0.0f64..2.0,
    ) {
        let (labels, parts, d) = ([0u32, 1, 0], 2, 3);
        let mut stream = Seeds::new(seed).stream(Axis::Test, &[]);
        let shape = [3, parts, d, d];
        let (a, b) = (tensor(&spd(3, parts, d, &mut stream), &shape), tensor(&spd(3, parts, d, &mut stream), &shape));
        let at = |m: f64| {
            value(&pac_mcl(METRICS[metric], Alignment::Hungarian, Negatives::Hardest, m, &a, &b, &labels).unwrap().loss)
        };
        let growth = at(margin + more) - at(margin);
        prop_assert!((-IDENTITY_F64..=more + IDENTITY_F64).contains(&growth), "{growth}");
    }
}
