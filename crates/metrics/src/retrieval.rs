//! Retrieval: each image is a query against all others of the split, by cosine similarity.
//!
//! For query `i` let the others be sorted by falling cosine to it, equals by rising index, and let
//! `R` be the number of *other* images of its class:
//!
//! - Recall@k: share of queries with an image of their class among the first `min(k, n − 1)`. A query whose class
//!   has no other image is a miss, and counts.
//! - mAP@R: mean over the queries with `R ≥ 1` of `1/R Σ_{r=1..R} [r-th is of the class] · precision(r)`
//!   (Musgrave, Belongie, Lim, "A Metric Learning Reality Check", ECCV 2020, eqs. (3) and (4)). Queries of a class
//!   with a single image are left out.
//!
//! The cosine with a zero vector has no value; here it is 0, so that such an image is neither near nor far.

use rayon::prelude::*;

use crate::error::{MetricError, check_finite, check_length};

/// Queries handled together: with the candidates they stay in the cache.
const BLOCK: usize = 32;
/// Queries, candidates and partial sums of the innermost product.
const QUERIES: usize = 4;
const CANDIDATES: usize = 2;
const LANES: usize = 2;

/// Retrieval scores of a split, fractions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetrievalScores {
    /// Share of queries whose nearest other image is of their class.
    pub recall_at_1: f64,
    /// The same among the nearest four.
    pub recall_at_4: f64,
    /// Mean average precision at R; none if no class has two images.
    pub map_at_r: Option<f64>,
}

/// Scores row-major `embeddings` `[n, dim]` of images with `labels` `[n]`.
///
/// Takes `O(n² dim)` time on all of rayon's threads and `O(n dim)` memory. A pair's cosine is summed in one fixed
/// order, so that equal embeddings tie exactly and the result does not depend on the number of threads.
///
/// # Errors
/// [`MetricError::Empty`] without labels or with `dim` 0, [`MetricError::Length`] if `embeddings` is not `[n, dim]`,
/// [`MetricError::NotFinite`] for NaN or an infinity.
pub fn retrieval(embeddings: &[f64], labels: &[u32], dim: usize) -> Result<RetrievalScores, MetricError> {
    if labels.is_empty() {
        return Err(MetricError::Empty { what: "labels" });
    }
    if dim == 0 {
        return Err(MetricError::Empty { what: "dimensions" });
    }
    check_length("embeddings", embeddings.len(), labels.len() * dim)?;
    check_finite("embeddings", embeddings)?;
    let units = normalise(embeddings, dim);
    let blocks = labels.len().div_ceil(BLOCK);
    let queries: Vec<Vec<Query>> =
        (0..blocks).into_par_iter().map(|block| block_of_queries(&units, labels, dim, block * BLOCK)).collect();
    let share =
        |hit: &dyn Fn(&Query) -> bool| queries.iter().flatten().filter(|q| hit(q)).count() as f64 / labels.len() as f64;
    let precisions: Vec<f64> = queries.iter().flatten().filter_map(|q| q.average_precision).collect();
    Ok(RetrievalScores {
        recall_at_1: share(&|q| q.hit_at_1),
        recall_at_4: share(&|q| q.hit_at_4),
        map_at_r: (!precisions.is_empty()).then(|| precisions.iter().sum::<f64>() / precisions.len() as f64),
    })
}

/// What one query found.
struct Query {
    hit_at_1: bool,
    hit_at_4: bool,
    average_precision: Option<f64>,
}

/// Rows divided by their Euclidean norm; zero rows stay zero. Divides by the largest entry first, so that neither
/// very large nor very small rows overflow or vanish.
fn normalise(embeddings: &[f64], dim: usize) -> Vec<f64> {
    let mut units = embeddings.to_vec();
    for row in units.chunks_exact_mut(dim) {
        let largest = row.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        if largest > 0.0 {
            row.iter_mut().for_each(|v| *v /= largest);
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            row.iter_mut().for_each(|v| *v /= norm);
        }
    }
    units
}

/// The queries `first .. first + BLOCK`, as far as there are any.
fn block_of_queries(units: &[f64], labels: &[u32], dim: usize, first: usize) -> Vec<Query> {
    let n = labels.len();
    let last = (first + BLOCK).min(n);
    let row = |i: usize| &units[i * dim..(i + 1) * dim];
    let mut cosines = vec![0.0; (last - first) * n];
    for candidate in (0..n).step_by(CANDIDATES) {
        // Beyond the end the last row is computed once more.
        let candidates: [&[f64]; CANDIDATES] = std::array::from_fn(|c| row((candidate + c).min(n - 1)));
        for query in (first..last).step_by(QUERIES) {
            let tile = products(std::array::from_fn(|q| row((query + q).min(last - 1))), candidates);
            for (q, products) in tile.iter().enumerate().take(last - query) {
                for (c, &product) in products.iter().enumerate().take(n - candidate) {
                    cosines[(query + q - first) * n + candidate + c] = product;
                }
            }
        }
    }
    (first..last).map(|query| judge(&cosines[(query - first) * n..(query - first + 1) * n], labels, query)).collect()
}

/// Inner products of a few queries with a few candidates. Each is `(Σ even positions) + (Σ odd positions)`, in
/// rising order, whatever the place of the pair in its block.
fn products(queries: [&[f64]; QUERIES], candidates: [&[f64]; CANDIDATES]) -> [[f64; CANDIDATES]; QUERIES] {
    let dim = candidates[0].len();
    let queries = queries.map(|q| &q[..dim]);
    let candidates = candidates.map(|c| &c[..dim]);
    let mut sums = [[[0.0f64; LANES]; CANDIDATES]; QUERIES];
    for k in (0..dim / LANES * LANES).step_by(LANES) {
        for q in 0..QUERIES {
            for c in 0..CANDIDATES {
                for lane in 0..LANES {
                    sums[q][c][lane] += queries[q][k + lane] * candidates[c][k + lane];
                }
            }
        }
    }
    for k in dim / LANES * LANES..dim {
        for q in 0..QUERIES {
            for c in 0..CANDIDATES {
                sums[q][c][k % LANES] += queries[q][k] * candidates[c][k];
            }
        }
    }
    sums.map(|row| row.map(|lanes| lanes.iter().sum()))
}

/// Judges the ranking that `cosines` to all images give for `query`.
fn judge(cosines: &[f64], labels: &[u32], query: usize) -> Query {
    let same = |i: usize| labels[i] == labels[query];
    let relevant = labels.iter().filter(|&&label| label == labels[query]).count() - 1;
    let by_cosine = |&a: &usize, &b: &usize| cosines[b].total_cmp(&cosines[a]).then(a.cmp(&b));
    let mut nearest: Vec<usize> = (0..labels.len()).filter(|&i| i != query).collect();
    let needed = relevant.max(4).min(nearest.len());
    if needed < nearest.len() {
        nearest.select_nth_unstable_by(needed, by_cosine);
        nearest.truncate(needed);
    }
    nearest.sort_unstable_by(by_cosine);
    let mut found = 0.0;
    let mut precisions = 0.0;
    for (position, &i) in nearest.iter().take(relevant).enumerate() {
        if same(i) {
            found += 1.0;
            precisions += found / (position + 1) as f64;
        }
    }
    Query {
        hit_at_1: nearest.iter().take(1).any(|&i| same(i)),
        hit_at_4: nearest.iter().take(4).any(|&i| same(i)),
        average_precision: (relevant > 0).then(|| precisions / relevant as f64),
    }
}
