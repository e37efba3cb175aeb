//! Covariances of few samples plus εI, as the maps of small networks give them: a cluster of equal eigenvalues far
//! below the norm.

use candle_core::{Device, Tensor};
use kernels::spd::{Metric, Prepared, exp, log, pair_distance};
use random::{Axis, Seeds};
use testkit::tolerance::{IDENTITY_F64, assert_close};

const COUNT: usize = 24;

/// Covariances of `rank + 1` samples in `d` dimensions, plus 1e-4 I.
fn covariances(d: usize, rank: usize) -> Tensor {
    let mut stream = Seeds::new(1 + d as u64).stream(Axis::Test, &[rank as u64]);
    let mut all = Vec::with_capacity(COUNT * d * d);
    for _ in 0..COUNT {
        let samples: Vec<Vec<f64>> = (0..=rank).map(|_| (0..d).map(|_| stream.normal()).collect()).collect();
        let mean: Vec<f64> = (0..d).map(|i| samples.iter().map(|s| s[i]).sum::<f64>() / (rank + 1) as f64).collect();
        for i in 0..d {
            for j in 0..d {
                let sum: f64 = samples.iter().map(|s| (s[i] - mean[i]) * (s[j] - mean[j])).sum();
                all.push(sum / (rank + 1) as f64 + if i == j { 1e-4 } else { 0.0 });
            }
        }
    }
    Tensor::from_vec(all, (COUNT, d, d), &Device::Cpu).unwrap()
}

#[test]
fn log_and_distances_of_low_rank_covariances() {
    for (d, rank) in [(64, 5), (64, 12), (64, 2), (128, 12), (128, 3), (48, 15), (33, 1)] {
        let a = covariances(d, rank);
        let y = log(&a).unwrap_or_else(|e| panic!("d = {d}, rank {rank}: {e}"));
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_close(
            &format!("exp(log A), d = {d}, rank {rank}"),
            &values(&exp(&y).unwrap()),
            &values(&a),
            d * d,
            IDENTITY_F64,
        );
        for metric in [Metric::LogEuclidean, Metric::BuresWasserstein] {
            let prepared =
                Prepared::new(metric, &a).unwrap_or_else(|e| panic!("{metric:?}, d = {d}, rank {rank}: {e}"));
            for i in 0..COUNT {
                let smallest = prepared.eigenvalues(i)[0];
                assert!((smallest - 1e-4).abs() < 1e-12, "d = {d}, rank {rank}: smallest eigenvalue {smallest}");
            }
            let pairs: Vec<(usize, usize)> = (0..COUNT - 1).map(|i| (i, i + 1)).collect();
            let distances = values(&pair_distance(&a, &a, &pairs, &prepared, &prepared).unwrap());
            assert!(distances.iter().all(|v| v.is_finite() && *v > 0.0), "{distances:?}");
        }
    }
}
