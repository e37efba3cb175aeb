//! The hardest negatives of groups of matrices (the parts of an image), exactly.
//!
//! For the Bures-Wasserstein distance, candidates are discarded by Kantorovich duality: for every positive definite `M`,
//! `2 tr (A^½ B A^½)^½ ≤ tr A M + tr B M⁻¹` (Alberti, Lett. Math. Phys. 7, 1983, on the fidelity), so that
//! `δ² ≥ tr A (I − M) + tr B (I − M⁻¹)`, with equality where `M` is the optimal map from `A` to `B`. The map between the
//! means of two groups bounds the distances of all their members at the cost of two inner products each, and the bound
//! is off by no more than a term of second order in the members' deviations from their means.
//!
//! Where a mean is too badly conditioned for a map, `H/√2 ≤ δ` with `H = ‖A^½ − B^½‖_F` discards.
//!
//! Any positive definite `M` bounds, so an inexact map makes the search slower, never wrong: `M` is taken as it was computed,
//! and its inverse comes from its own Cholesky factor.

use rayon::prelude::*;

use super::bures;
use super::cholesky::{Cholesky, cholesky};
use super::inverse_root::TOGETHER;
use super::linalg::{Form, accumulate, square, symmetrise};
use super::polar::{Bounded, orthogonal_factors};
use super::prepared::{Prepared, SLACK};
use super::simd::{dispatched, dot, squared_difference};
use super::{Metric, eigen};
use crate::{Error, Result};

/// Rounding errors in `M M⁻¹ − I` are below this share of `‖M‖ ‖M⁻¹‖`.
const INVERSE_ROUNDING: f64 = 1e-13;
/// Rounding errors in a sum of traces, as a share of their magnitudes.
const SUM_ROUNDING: f64 = 1e-12;
/// Maps that are computed at a time.
const MAPS: usize = 4;

/// Open pairs of two groups up to which their distances are computed without a map between the groups.
const FEW: usize = 3;

/// Nearest matrices found, ascending: distance and index.
type Best = Vec<(f64, usize)>;

impl Prepared {
    /// The distances of the pairs `(i, j)` of matrix `i` and matrix `j` of `other`, as [`Prepared::distance`].
    ///
    /// # Errors
    /// As [`Prepared::distance`].
    pub fn distances(&self, other: &Prepared, pairs: &[(usize, usize)]) -> Result<Vec<f64>> {
        const OP: &str = "spd_prepared_distances";
        self.check(OP, other)?;
        for &(i, j) in pairs {
            self.check_index(OP, "i", i)?;
            other.check_index(OP, "j", j)?;
        }
        #[cfg(feature = "cuda")]
        if let Some([a, b]) = self.cards(OP, other)? {
            return a.distances((OP, self.metric()), b, pairs);
        }
        let groups: Vec<Result<Vec<f64>>> = pairs.par_chunks(TOGETHER).map(|group| self.values(other, group)).collect();
        Ok(groups.into_iter().collect::<Result<Vec<_>>>()?.concat())
    }

    /// For every matrix the `k` nearest matrices of `other` in the groups that it may be compared with, with their
    /// distances, exactly: ascending, the lower index first where distances are equal.
    ///
    /// Groups are `size` consecutive matrices, here and in `other`; `allowed(i, j)` says whether the members of group `i`
    /// may be compared with those of group `j` of `other`. Works on several threads; the result does not depend on how
    /// many.
    ///
    /// # Errors
    /// As [`Prepared::distance`]; a number of matrices that is not a multiple of `size`.
    pub fn nearest_in_groups(
        &self,
        other: &Prepared,
        size: usize,
        k: usize,
        allowed: impl Fn(usize, usize) -> bool + Sync,
    ) -> Result<Vec<Vec<(usize, f64)>>> {
        const OP: &str = "spd_nearest_in_groups";
        self.check(OP, other)?;
        for (name, prepared) in [("self", self), ("other", other)] {
            if size == 0 || prepared.len() % size != 0 {
                let expected = format!("groups of {size} matrices");
                let got = vec![prepared.len(), prepared.dim(), prepared.dim()];
                return Err(Error::Shape { op: OP, name, got, expected });
            }
        }
        #[cfg(feature = "cuda")]
        if let Some([a, b]) = self.cards(OP, other)? {
            let columns = other.len() / size;
            let may = |at: usize| u32::from(allowed(at / columns, at % columns));
            let allowed: Vec<u32> = (0..self.len() / size * columns).map(may).collect();
            let groups = crate::cuda::mining::Groups { size, allowed: &allowed };
            return a.nearest((OP, self.metric()), b, &groups, k);
        }
        let search = Search::new(self, other, size, k);
        let groups: Vec<Vec<usize>> = (0..self.len() / size)
            .map(|i| (0..other.len() / size).filter(|&j| k > 0 && allowed(i, j)).collect())
            .collect();
        let found: Vec<Result<Vec<Best>>> =
            groups.par_iter().enumerate().map(|(i, candidates)| search.group(i, candidates)).collect();
        let found = found.into_iter().collect::<Result<Vec<_>>>()?;
        let swap = |best: Best| best.into_iter().map(|(distance, j)| (j, distance)).collect();
        Ok(found.into_iter().flatten().map(swap).collect())
    }

    /// Distances of up to a group of pairs, on the calling thread.
    fn values(&self, other: &Prepared, pairs: &[(usize, usize)]) -> Result<Vec<f64>> {
        if self.metric() == Metric::LogEuclidean {
            let one = |&(i, j): &(usize, usize)| squared_difference(self.image(i), other.image(j)).sqrt();
            return Ok(pairs.iter().map(one).collect());
        }
        let all: Vec<_> = pairs.iter().map(|&(i, j)| (self.root(i), other.root(j))).collect();
        let failed = |(value, &(i, _)): (std::result::Result<f64, eigen::NoConvergence>, &(usize, usize))| {
            value.map_err(|e| e.at("spd_prepared_distance", i))
        };
        bures::values(&all, self.dim()).into_iter().zip(pairs).map(failed).collect()
    }
}

/// The means of groups, factorised.
struct Means {
    factors: Vec<Option<Cholesky>>,
    /// Bounds of their eigenvalues.
    ranges: Vec<(f64, f64)>,
}

impl Means {
    /// Of the groups of `size` consecutive matrices.
    fn new(prepared: &Prepared, size: usize) -> Self {
        let (d, n) = (prepared.dim(), prepared.len());
        let one = |start: usize| {
            let mut mean = vec![0.0; d * d];
            for i in start..start + size {
                add(&mut mean, 1.0 / size as f64, prepared.matrix(i));
            }
            mean
        };
        let means: Vec<Vec<f64>> = (0..n).step_by(size.max(1)).map(one).collect();
        let views: Vec<&[f64]> = means.iter().map(Vec::as_slice).collect();
        // The extreme eigenvalues of a mean lie between the means of the members' extreme eigenvalues.
        let end = |start: usize, at: usize| {
            (start..start + size).map(|i| prepared.eigenvalues(i)[at]).sum::<f64>() / size as f64
        };
        let ranges = (0..n).step_by(size.max(1)).map(|start| (end(start, 0), end(start, d - 1))).collect();
        let factors = views.par_chunks(MAPS).flat_map_iter(|group| cholesky(group, d)).collect();
        Self { factors, ranges }
    }
}

/// `M` and `M⁻¹`, of which the second is no smaller than the inverse of the first.
struct Map {
    map: Vec<f64>,
    inverse: Vec<f64>,
}

/// What the searches of all groups share.
struct Search<'a> {
    a: &'a Prepared,
    b: &'a Prepared,
    size: usize,
    k: usize,
    /// Means of the groups of each side, and of all of `b`; none for the log-Euclidean distance, which needs no bounds.
    means: Option<[Means; 3]>,
}

impl<'a> Search<'a> {
    fn new(a: &'a Prepared, b: &'a Prepared, size: usize, k: usize) -> Self {
        let bounded = a.metric() == Metric::BuresWasserstein && !a.is_empty() && !b.is_empty();
        let means = bounded.then(|| [Means::new(a, size), Means::new(b, size), Means::new(b, b.len())]);
        Self { a, b, size, k, means }
    }

    /// The nearest of each member of group `i` among the members of the groups `candidates` of `b`.
    fn group(&self, i: usize, candidates: &[usize]) -> Result<Vec<Best>> {
        let mut best: Vec<Best> = vec![Vec::new(); self.size];
        let mut rough: Vec<(f64, usize, Vec<f64>)> = self.rough_bounds(i, candidates);
        rough.sort_by(|x, y| x.0.total_cmp(&y.0).then(x.1.cmp(&y.1)));
        let mut rest = &rough[..];
        while !rest.is_empty() {
            // The next groups that may still hold somebody nearer, a few at a time.
            let near = |(_, _, bounds): &&(f64, usize, Vec<f64>)| self.any_open(bounds, &best);
            let mut chosen = Vec::with_capacity(MAPS);
            while chosen.len() < MAPS
                && let Some((first, others)) = rest.split_first()
            {
                rest = others;
                if near(&first) {
                    chosen.push(first);
                }
            }
            // A map costs as much as a few distances.
            let worth = |(_, _, bounds): &&&(f64, usize, Vec<f64>)| self.open(bounds, &best).count() > FEW;
            let groups: Vec<usize> = chosen.iter().filter(worth).map(|(_, j, _)| *j).collect();
            let mut maps = groups.iter().zip(self.maps(i, &groups)).peekable();
            for (_, j, bounds) in chosen {
                let mut bounds = bounds.clone();
                let map = maps.next_if(|(group, _)| *group == j).and_then(|(_, map)| map);
                if self.any_open(&bounds, &best)
                    && let Some(map) = map
                {
                    let closer = self.bounds(i, *j, &map);
                    bounds.iter_mut().zip(&closer).for_each(|(bound, closer)| *bound = bound.max(*closer));
                }
                self.evaluate(i, *j, bounds, &mut best)?;
            }
        }
        Ok(best)
    }

    /// Distance from which on nobody is of interest to a member.
    fn bar(&self, best: &Best) -> f64 {
        if best.len() < self.k { f64::INFINITY } else { best[self.k - 1].0 * (1.0 + SLACK) }
    }

    /// The bounds, row by row, of the pairs of two groups that may be nearer than what was found.
    fn open<'b>(&'b self, bounds: &'b [f64], best: &'b [Best]) -> impl Iterator<Item = f64> + 'b {
        let rows = bounds.chunks_exact(self.size).zip(best);
        rows.flat_map(|(row, best)| row.iter().copied().filter(|&bound| bound <= self.bar(best)))
    }

    /// Whether there is such a pair.
    fn any_open(&self, bounds: &[f64], best: &[Best]) -> bool {
        self.open(bounds, best).next().is_some()
    }

    /// Computes the distances of the pairs of groups `i` and `j` that the bounds leave open, the most promising first.
    fn evaluate(&self, i: usize, j: usize, mut bounds: Vec<f64>, best: &mut [Best]) -> Result<()> {
        loop {
            // Of each member the partner of the least bound; a bound above all others marks what was computed.
            let least = |(p, row): (usize, &[f64])| {
                let (q, bound) = row.iter().enumerate().min_by(|x, y| x.1.total_cmp(y.1))?;
                (*bound <= self.bar(&best[p]) && *bound < f64::INFINITY).then_some((p, q))
            };
            let open: Vec<(usize, usize)> = bounds.chunks_exact(self.size).enumerate().filter_map(least).collect();
            if open.is_empty() {
                return Ok(());
            }
            for open in open.chunks(TOGETHER) {
                let pair = |&(p, q): &(usize, usize)| (i * self.size + p, j * self.size + q);
                let pairs: Vec<(usize, usize)> = open.iter().map(pair).collect();
                let values = self.a.values(self.b, &pairs)?;
                for ((&(p, q), &(_, index)), distance) in open.iter().zip(&pairs).zip(values) {
                    bounds[p * self.size + q] = f64::INFINITY;
                    let at = best[p].partition_point(|&found| found < (distance, index));
                    if at < self.k {
                        best[p].insert(at, (distance, index));
                        best[p].truncate(self.k);
                    }
                }
            }
        }
    }

    /// For each group of `candidates` the least of its bounds, its index and its bounds, from the map between the mean of
    /// group `i` and the mean of all of `b`; by the roots' differences where these are too badly conditioned for a map.
    fn rough_bounds(&self, i: usize, candidates: &[usize]) -> Vec<(f64, usize, Vec<f64>)> {
        let map = self.means.as_ref().and_then(|[a, _, all]| self.map(&[(a, i, all, 0)]).pop().flatten());
        let bounds = |&j: &usize| {
            let bounds = match (&map, self.a.metric()) {
                (Some(map), _) => self.bounds(i, j, map),
                (None, Metric::BuresWasserstein) => self.root_bounds(i, j),
                (None, Metric::LogEuclidean) => vec![0.0; self.size * self.size],
            };
            (bounds.iter().copied().fold(f64::INFINITY, f64::min), j, bounds)
        };
        candidates.iter().map(bounds).collect()
    }

    /// As [`Search::bounds`], without a map.
    fn root_bounds(&self, i: usize, j: usize) -> Vec<f64> {
        let pair = |at: usize| (i * self.size + at / self.size, j * self.size + at % self.size);
        (0..self.size * self.size).map(pair).map(|(i, j)| self.a.lower_bound(i, self.b, j)).collect()
    }

    /// Maps from the mean of group `i` to those of `groups` of `b`.
    fn maps(&self, i: usize, groups: &[usize]) -> Vec<Option<Map>> {
        match &self.means {
            None => groups.iter().map(|_| None).collect(),
            Some([a, b, _]) => {
                let pairs: Vec<_> = groups.iter().map(|&j| (a, i, b, j)).collect();
                self.map(&pairs)
            }
        }
    }

    /// Maps between means; none where a mean is too badly conditioned for one.
    fn map(&self, pairs: &[(&Means, usize, &Means, usize)]) -> Vec<Option<Map>> {
        let d = self.a.dim();
        let maps = optimal_maps(pairs, d);
        let views: Vec<&[f64]> = maps.iter().flatten().map(Vec::as_slice).collect();
        let mut factors = cholesky(&views, d).into_iter();
        maps.into_iter().map(|map| map.and_then(|map| Map::new(map, factors.next().flatten()?, d))).collect()
    }

    /// Lower bounds of the distances of the members of group `i` and those of group `j` of `b`, row by row.
    fn bounds(&self, i: usize, j: usize, map: &Map) -> Vec<f64> {
        let side = |prepared: &Prepared, group: usize, map: &[f64]| -> Vec<[f64; 2]> {
            let members = group * self.size..(group + 1) * self.size;
            members.map(|m| [prepared.trace(m), inner(prepared.matrix(m), map)]).collect()
        };
        let (a, b) = (side(self.a, i, &map.map), side(self.b, j, &map.inverse));
        let bound = |[trace_a, a]: [f64; 2], [trace_b, b]: [f64; 2]| {
            let rounding = SUM_ROUNDING * (trace_a + trace_b + a + b);
            (trace_a + trace_b - a - b - rounding).max(0.0).sqrt()
        };
        a.iter().flat_map(|&a| b.iter().map(move |&b| bound(a, b))).collect()
    }
}

/// `C_A⁻ᵀ Uᵀ C_Bᵀ`, symmetrised, with the polar factor `U` of `C_Bᵀ C_A`, of pairs of means.
fn optimal_maps(pairs: &[(&Means, usize, &Means, usize)], d: usize) -> Vec<Option<Vec<f64>>> {
    let factors: Vec<Option<(&Cholesky, &Cholesky)>> =
        pairs.iter().map(|&(a, i, b, j)| Some((a.factors[i].as_ref()?, b.factors[j].as_ref()?))).collect();
    let product = |(x, y): (&Cholesky, &Cholesky)| square((&y.factor, Form::Transposed), (&x.factor, Form::Plain), d);
    let products: Vec<Vec<f64>> = factors.iter().map(|both| both.map(product).unwrap_or_default()).collect();
    let mut views = Vec::with_capacity(pairs.len());
    for (&(a, i, b, j), matrix) in pairs.iter().zip(&products).filter(|(_, product)| !product.is_empty()) {
        let ((low_a, high_a), (low_b, high_b)) = (a.ranges[i], b.ranges[j]);
        let (least, largest) = ((low_a * low_b).sqrt() * 0.999, (high_a * high_b).sqrt() * 1.001);
        views.push(Bounded { matrix, least, largest });
    }
    let mut rotations = orthogonal_factors(&views, d).into_iter();
    let map = |both: &Option<(&Cholesky, &Cholesky)>| {
        let &(x, y) = both.as_ref()?;
        let rotation = rotations.next().flatten()?;
        let half = square((&rotation, Form::Transposed), (&y.factor, Form::Transposed), d);
        let mut map = square((&x.inverse, Form::Transposed), (&half, Form::Plain), d);
        symmetrise(&mut map, d);
        Some(map)
    };
    factors.iter().map(map).collect()
}

impl Map {
    fn new(map: Vec<f64>, factor: Cholesky, d: usize) -> Option<Self> {
        let mut inverse = vec![0.0; d * d];
        let c = (&factor.inverse[..], Form::Transposed);
        accumulate(&mut inverse, (0.0, 1.0), c, (&factor.inverse, Form::Plain), (d, d, d), true);
        let error = INVERSE_ROUNDING * (inner(&map, &map) * inner(&inverse, &inverse)).sqrt();
        // With ‖M N − I‖ ≤ η, M⁻¹ is at most N / (1 − η).
        (error < 0.5).then(|| {
            inverse.iter_mut().for_each(|v| *v /= 1.0 - error);
            Self { map, inverse }
        })
    }
}

dispatched! {
    fn inner(a: &[f64], b: &[f64]) -> f64 {
        dot(a, b)
    }
}

dispatched! {
    /// `sum += factor · a`.
    fn add(sum: &mut [f64], factor: f64, a: &[f64]) {
        for (s, a) in sum.iter_mut().zip(a) {
            *s += factor * a;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use random::{Axis, Seeds, Stream};

    const SIZE: usize = 3;

    /// Groups of matrices that differ little inside a group.
    fn groups(count: usize, d: usize, stream: &mut Stream) -> Tensor {
        let mut all = Vec::new();
        for _ in 0..count {
            let spectrum: Vec<f64> = (0..d).map(|_| 0.01 + stream.uniform().powi(3)).collect();
            let centre = testkit::spd::with_spectrum(&spectrum, stream);
            for _ in 0..SIZE {
                let spectrum: Vec<f64> = (0..d).map(|_| 0.2 * stream.uniform() + 0.001).collect();
                let member = testkit::spd::with_spectrum(&spectrum, stream);
                all.extend(centre.iter().zip(member).map(|(c, m)| c + m));
            }
        }
        Tensor::from_vec(all, (count * SIZE, d, d), &Device::Cpu).unwrap()
    }

    #[test]
    fn finds_what_comparing_all_finds() {
        let mut stream = Seeds::new(8).stream(Axis::Test, &[]);
        let allowed = |i: usize, j: usize| !(i + j).is_multiple_of(3);
        for (metric, d) in [(Metric::BuresWasserstein, 7), (Metric::BuresWasserstein, 2), (Metric::LogEuclidean, 5)] {
            let (a, b) = (groups(5, d, &mut stream), groups(7, d, &mut stream));
            let (a, b) = (Prepared::new(metric, &a).unwrap(), Prepared::new(metric, &b).unwrap());
            for k in [1, 4, 100] {
                let found = a.nearest_in_groups(&b, SIZE, k, allowed).unwrap();
                for (i, found) in found.into_iter().enumerate() {
                    let candidates = (0..b.len()).filter(|j| allowed(i / SIZE, j / SIZE));
                    let mut all: Best = candidates.map(|j| (a.distance(i, &b, j).unwrap(), j)).collect();
                    all.sort_by(|x, y| x.0.total_cmp(&y.0).then(x.1.cmp(&y.1)));
                    all.truncate(k);
                    assert_eq!(found, all.into_iter().map(|(distance, j)| (j, distance)).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn finds_the_same_without_maps() {
        let mut stream = Seeds::new(10).stream(Axis::Test, &[]);
        let metric = Metric::BuresWasserstein;
        let graded: Vec<f64> = (0..4 * SIZE)
            .flat_map(|_| diagonal([1.0 + stream.uniform(), 0.3 + stream.uniform(), 1e-13 * (1.0 + stream.uniform())]))
            .collect();
        let a = Tensor::from_vec(graded, (4 * SIZE, 3, 3), &Device::Cpu).unwrap();
        let a = Prepared::new(metric, &a).unwrap();
        let search = Search::new(&a, &a, SIZE, 1);
        assert!(search.maps(0, &[1, 2]).iter().all(Option::is_none), "a map after all");
        let found = a.nearest_in_groups(&a, SIZE, 2, |i, j| i != j).unwrap();
        for (i, found) in found.into_iter().enumerate() {
            let others = (0..a.len()).filter(|j| j / SIZE != i / SIZE);
            let mut all: Best = others.map(|j| (a.distance(i, &a, j).unwrap(), j)).collect();
            all.sort_by(|x, y| x.0.total_cmp(&y.0).then(x.1.cmp(&y.1)));
            assert_eq!(found, all[..2].iter().map(|&(distance, j)| (j, distance)).collect::<Vec<_>>());
        }
    }

    fn diagonal([x, y, z]: [f64; 3]) -> [f64; 9] {
        [x, 0.0, 0.0, 0.0, y, 0.0, 0.0, 0.0, z]
    }

    #[test]
    fn bounds_lie_below_the_distances() {
        let mut stream = Seeds::new(9).stream(Axis::Test, &[]);
        let (a, b) = (groups(4, 6, &mut stream), groups(4, 6, &mut stream));
        let metric = Metric::BuresWasserstein;
        let (a, b) = (Prepared::new(metric, &a).unwrap(), Prepared::new(metric, &b).unwrap());
        let search = Search::new(&a, &b, SIZE, 1);
        let (mut total, mut below) = (0.0, 0.0);
        for i in 0..4 {
            let maps = search.maps(i, &[0, 1, 2, 3]);
            for (j, map) in maps.iter().enumerate() {
                for (at, bound) in search.bounds(i, j, map.as_ref().unwrap()).into_iter().enumerate() {
                    let distance = a.distance(i * SIZE + at / SIZE, &b, j * SIZE + at % SIZE).unwrap();
                    assert!(bound <= distance, "{bound} above {distance}");
                    total += distance;
                    below += bound;
                }
            }
        }
        assert!(below > 0.5 * total, "bounds of no use: {below} of {total}");
    }

    #[test]
    fn refuses_what_is_no_multiple_of_a_group() {
        let mut stream = Seeds::new(9).stream(Axis::Test, &[]);
        let a = Prepared::new(Metric::BuresWasserstein, &groups(1, 4, &mut stream)).unwrap();
        assert!(matches!(a.nearest_in_groups(&a, 2, 1, |_, _| true), Err(Error::Shape { .. })));
        assert!(matches!(a.nearest_in_groups(&a, 0, 1, |_, _| true), Err(Error::Shape { .. })));
        assert_eq!(a.nearest_in_groups(&a, 3, 0, |_, _| true).unwrap(), vec![vec![]; 3]);
        assert_eq!(a.nearest_in_groups(&a, 3, 1, |_, _| false).unwrap(), vec![vec![]; 3]);
    }
}
