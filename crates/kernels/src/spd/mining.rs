//! The hardest negatives of groups of matrices (the parts of an image), exactly.
//!
//! For the Bures-Wasserstein distance, candidates are discarded by Kantorovich duality: for every positive definite `M`,
//! `2 tr (A^½ B A^½)^½ ≤ tr A M + tr B M⁻¹` (Alberti, Lett. Math. Phys. 7, 1983, on the fidelity), so that
//! `δ² ≥ tr A (I − M) + tr B (I − M⁻¹)`, with equality where `M` is the optimal map from `A` to `B`; of all multiples of `M`
//! the best gives `δ² ≥ tr A + tr B − 2 √(tr A M · tr B M⁻¹)`. The map between the means of two groups bounds the distances of
//! all their members at the cost of two inner products each, and the bound is off by no more than a term of second order
//! in the members' deviations from their means.
//!
//! Where a mean is too badly conditioned for a map, the ordered eigenvalues discard, and for principal roots `H/√2 ≤ δ`
//! with `H = ‖A^½ − B^½‖_F`.
//!
//! Any positive definite `M` bounds, so an inexact map makes the search slower, never wrong: `M⁻¹` is taken as it was
//! computed, `C_A (FᵀF)^{-½} C_Aᵀ` with `F = C_Bᵀ C_A` for means `A = C_A C_Aᵀ` and `B = C_B C_Bᵀ`, and `M` comes from its
//! Cholesky factor.

use std::ops::Range;

use rayon::prelude::*;

use super::bures;
use super::duality::{MAPS, Map, Means, lower_bounds, maps, products};
use super::inverse_root::TOGETHER;
use super::prepared::{Prepared, SLACK};
use super::simd::squared_difference;
use super::{Metric, eigen};
use crate::{Error, Result};

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

/// A pair whose distance may have to be computed: a lower bound of it, a member of the group and a matrix of the other side.
#[derive(Debug, Clone, Copy)]
struct Open {
    bound: f64,
    member: usize,
    index: usize,
}

/// A group of the other side, with lower bounds, row by row, of the distances of both groups' members.
struct Candidate {
    group: usize,
    bounds: Vec<f64>,
}

/// What the searches of all groups share.
struct Search<'a> {
    a: &'a Prepared,
    b: &'a Prepared,
    size: usize,
    k: usize,
    /// None for the log-Euclidean distance, which needs no bounds.
    means: Option<Means>,
}

impl<'a> Search<'a> {
    fn new(a: &'a Prepared, b: &'a Prepared, size: usize, k: usize) -> Self {
        let bounded = a.metric() == Metric::BuresWasserstein && !a.is_empty() && !b.is_empty();
        let means = bounded.then(|| Means::new(a, b, size));
        Self { a, b, size, k, means }
    }

    /// The nearest of each member of group `i` among the members of the groups `candidates` of `b`.
    fn group(&self, i: usize, candidates: &[usize]) -> Result<Vec<Best>> {
        let mut best: Vec<Best> = vec![Vec::new(); self.size];
        let rough = self.rough_bounds(i, candidates);
        let mut pool: Vec<Open> = Vec::new();
        let mut rest = rough.into_iter();
        loop {
            // The next groups that may still hold somebody nearer, a few at a time.
            let mut chosen: Vec<Candidate> =
                rest.by_ref().filter(|c| self.any_open(&c.bounds, &best)).take(MAPS).collect();
            let last = chosen.len() < MAPS;
            self.tighten(i, &mut chosen, &best);
            pool.extend(chosen.iter().flat_map(|candidate| self.pairs(candidate)));
            self.evaluate(i, &mut pool, last, &mut best)?;
            if last {
                return Ok(best);
            }
        }
    }

    /// Distance from which on nobody is of interest to a member.
    fn bar(&self, best: &Best) -> f64 {
        if best.len() < self.k { f64::INFINITY } else { best[self.k - 1].0 * (1.0 + SLACK) }
    }

    /// How many pairs of two groups may be nearer than what was found, by their bounds.
    fn open(&self, bounds: &[f64], best: &[Best]) -> usize {
        let rows = bounds.chunks_exact(self.size).zip(best);
        rows.map(|(row, best)| row.iter().filter(|&&bound| bound <= self.bar(best)).count()).sum()
    }

    /// Whether there is such a pair.
    fn any_open(&self, bounds: &[f64], best: &[Best]) -> bool {
        self.open(bounds, best) > 0
    }

    /// All pairs of a group with a candidate.
    fn pairs(&self, candidate: &Candidate) -> impl Iterator<Item = Open> {
        let (first, size) = (candidate.group * self.size, self.size);
        let pair = move |(at, &bound)| Open { bound, member: at / size, index: first + at % size };
        candidate.bounds.iter().enumerate().map(pair)
    }

    /// Replaces the bounds of the groups in which many pairs are open by those of maps between the means.
    fn tighten(&self, i: usize, chosen: &mut [Candidate], best: &[Best]) {
        let Some(Means { a, b, .. }) = &self.means else { return };
        let mut worth: Vec<&mut Candidate> =
            chosen.iter_mut().filter(|candidate| self.open(&candidate.bounds, best) > FEW).collect();
        let pairs: Vec<_> = worth.iter().map(|candidate| (&a[i], &b[candidate.group])).collect();
        for (candidate, map) in worth.iter_mut().zip(maps(&pairs, self.a.dim())) {
            let Some(map) = map else { continue };
            let closer = self.bounds(i, candidate.group, &map);
            candidate.bounds.iter_mut().zip(&closer).for_each(|(bound, closer)| *bound = bound.max(*closer));
        }
    }

    /// Computes the distances of the pairs in the pool that are not yet out of the question, the most promising first; unless
    /// these are the `last`, leaves a few that would not fill the registers.
    fn evaluate(&self, i: usize, pool: &mut Vec<Open>, last: bool, best: &mut [Best]) -> Result<()> {
        let (together, least) = match self.a.metric() {
            Metric::BuresWasserstein => (TOGETHER, if last { 1 } else { TOGETHER }),
            Metric::LogEuclidean => (usize::MAX, 1),
        };
        loop {
            pool.retain(|open| open.bound <= self.bar(&best[open.member]));
            if pool.len() < least {
                return Ok(());
            }
            let chosen = most_promising(pool, self.size, together);
            let pairs: Vec<_> = chosen.iter().map(|open| (i * self.size + open.member, open.index)).collect();
            for (open, distance) in chosen.iter().zip(self.a.values(self.b, &pairs)?) {
                let found = &mut best[open.member];
                let at = found.partition_point(|&found| found < (distance, open.index));
                if at < self.k {
                    found.insert(at, (distance, open.index));
                    found.truncate(self.k);
                }
            }
        }
    }

    /// The `candidates` in the order of the least of their bounds, from the map between the mean of group `i` and the mean of
    /// all of `b`; by [`Prepared::lower_bound`] where these are too badly conditioned for a map.
    fn rough_bounds(&self, i: usize, candidates: &[usize]) -> Vec<Candidate> {
        let known = self.means.as_ref().and_then(|means| Some((means, means.rough[i].as_ref()?)));
        let side = known.map(|(means, map)| (means, products(self.a, self.members(i), &map.map)));
        let bounds = |&group: &usize| {
            let bounds = match (&side, self.a.metric()) {
                (Some((means, a)), _) => {
                    let product = |m: usize| [self.b.trace(m), means.products[m * means.a.len() + i]];
                    lower_bounds(a, &self.members(group).map(product).collect::<Vec<_>>())
                }
                (None, Metric::BuresWasserstein) => self.root_bounds(i, group),
                (None, Metric::LogEuclidean) => vec![0.0; self.size * self.size],
            };
            (bounds.iter().copied().fold(f64::INFINITY, f64::min), Candidate { group, bounds })
        };
        let mut all: Vec<(f64, Candidate)> = candidates.iter().map(bounds).collect();
        all.sort_by(|x, y| x.0.total_cmp(&y.0).then(x.1.group.cmp(&y.1.group)));
        all.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// As [`Search::bounds`], without a map.
    fn root_bounds(&self, i: usize, j: usize) -> Vec<f64> {
        let pair = |at: usize| (i * self.size + at / self.size, j * self.size + at % self.size);
        (0..self.size * self.size).map(pair).map(|(i, j)| self.a.lower_bound(i, self.b, j)).collect()
    }

    /// Lower bounds of the distances of the members of group `i` and those of group `j` of `b`, row by row.
    fn bounds(&self, i: usize, j: usize, map: &Map) -> Vec<f64> {
        let (a, b) = (self.members(i), self.members(j));
        lower_bounds(&products(self.a, a, &map.map), &products(self.b, b, &map.inverse))
    }

    fn members(&self, group: usize) -> Range<usize> {
        group * self.size..(group + 1) * self.size
    }
}

/// Takes up to `count` pairs: of each of the `members` that of the least bound, then of each the next.
fn most_promising(pool: &mut Vec<Open>, members: usize, count: usize) -> Vec<Open> {
    pool.sort_by(|x, y| x.bound.total_cmp(&y.bound).then((x.member, x.index).cmp(&(y.member, y.index))));
    let mut before = vec![0; members];
    let mut ranked: Vec<(usize, Open)> = Vec::with_capacity(pool.len());
    for open in pool.drain(..) {
        ranked.push((before[open.member], open));
        before[open.member] += 1;
    }
    ranked.sort_by_key(|&(rank, _)| rank);
    let rest = ranked.split_off(count.min(ranked.len()));
    pool.extend(rest.into_iter().map(|(_, open)| open));
    ranked.into_iter().map(|(_, open)| open).collect()
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
        let bures_wasserstein = [2, 7, 16].map(|d| (Metric::BuresWasserstein, d));
        for (metric, d) in bures_wasserstein.into_iter().chain([(Metric::LogEuclidean, 5)]) {
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
        let Some(Means { a: means, .. }) = &search.means else { panic!("no means") };
        let found = maps(&[(&means[0], &means[1]), (&means[0], &means[2])], 3);
        assert!(found.iter().all(Option::is_none), "a map after all");
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
        let Some(Means { a: of_a, b: of_b, .. }) = &search.means else { panic!("no means") };
        for (i, mean) in of_a.iter().enumerate() {
            let maps = maps(&of_b.iter().map(|b| (mean, b)).collect::<Vec<_>>(), 6);
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
