//! Summaries for the manifold diagnostics.

use metrics::{
    ManifoldDiagnostics, ManifoldSamples, MetricError, active_share, aligned_distances, eigenvalues, quantile,
    separation,
};
use proptest::prelude::*;

#[test]
fn quantiles_are_of_type_seven() {
    // R: quantile(c(1, 2, 4, 8), c(0, .25, .5, .75, .95, 1)) gives 1.00 1.75 3.00 5.00 7.40 8.00.
    let values = [8.0, 1.0, 4.0, 2.0];
    for (level, want) in [(0.0, 1.0), (0.25, 1.75), (0.5, 3.0), (0.75, 5.0), (0.95, 7.4), (1.0, 8.0)] {
        assert!((quantile(&values, level).unwrap() - want).abs() < 1e-12, "{level}");
    }
    assert_eq!(quantile(&[3.0], 0.37), Ok(3.0));
    assert_eq!(quantile(&[3.0], 1.5), Err(MetricError::Level { level: 1.5 }));
    assert!(quantile(&[3.0], f64::NAN).is_err());
    assert_eq!(quantile(&[], 0.5), Err(MetricError::Empty { what: "values" }));
    assert!(quantile(&[0.0, f64::NAN], 0.5).is_err());
}

proptest! {
    #[test]
    fn quantiles_rise_and_turn_around(values in prop::collection::vec(-1e6f64..1e6, 1..40), a in 0.0f64..1.0, b in 0.0f64..1.0) {
        let (low, high) = (a.min(b), a.max(b));
        let at = |q| quantile(&values, q).unwrap();
        prop_assert!(at(low) <= at(high) + 1e-9);
        let negated: Vec<f64> = values.iter().map(|v| -v).collect();
        prop_assert!((at(a) + quantile(&negated, 1.0 - a).unwrap()).abs() < 1e-6);
        prop_assert_eq!(at(0.0), values.iter().copied().fold(f64::INFINITY, f64::min));
        prop_assert_eq!(at(1.0), values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    }
}

#[test]
fn summaries_by_hand() {
    let spectrum: Vec<f64> = (0..=100).rev().map(|k| f64::from(k) * 1e-4).collect();
    let e = eigenvalues(&spectrum).unwrap();
    assert_eq!((e.min, e.quantile_01, e.median), (0.0, 1e-4, 50.0 * 1e-4));
    let s = separation(&[1.0, 2.0], &[4.0, 5.0, 6.0]).unwrap();
    assert_eq!((s.intra, s.inter, s.margin), (1.5, 5.0, 3.5));
    let a = aligned_distances(&[0.0, 1.0, 2.0]).unwrap();
    assert_eq!(a.median, 1.0);
    assert!((a.quantile_95 - 1.9).abs() < 1e-12);
    assert_eq!(active_share(&[0.0, 0.1, -0.3, 2.0]), Ok(0.5));
    assert_eq!(active_share(&[]), Err(MetricError::Empty { what: "hinges" }));
}

#[test]
fn only_what_was_collected_is_named() {
    assert_eq!(ManifoldDiagnostics::of(&ManifoldSamples::default()).unwrap().named(), []);
    let hinges = ManifoldSamples { hinges: &[1.0, 0.0], intra: &[1.0], ..Default::default() };
    assert_eq!(ManifoldDiagnostics::of(&hinges).unwrap().named(), [("active_share", 0.5)]);
    let all = ManifoldSamples {
        smallest_eigenvalues: &[0.5],
        intra: &[1.0],
        inter: &[3.0],
        aligned: &[0.25],
        hinges: &[0.0],
    };
    let named = ManifoldDiagnostics::of(&all).unwrap().named();
    let expected = [
        ("eigenvalue_min", 0.5),
        ("eigenvalue_q01", 0.5),
        ("eigenvalue_median", 0.5),
        ("intra_distance", 1.0),
        ("inter_distance", 3.0),
        ("distance_margin", 2.0),
        ("aligned_median", 0.25),
        ("aligned_q95", 0.25),
        ("active_share", 0.0),
    ];
    assert_eq!(named, expected);
    let broken = ManifoldSamples { intra: &[f64::NAN], ..Default::default() };
    assert!(ManifoldDiagnostics::of(&broken).is_err());
}
