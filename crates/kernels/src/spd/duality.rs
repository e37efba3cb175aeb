//! Lower bounds of Bures-Wasserstein distances by maps between means, see [`super::mining`].
//!
//! An error of a map counts by its square in the bound, so that roots with a few digits do.

use std::ops::Range;

use rayon::prelude::*;

use super::cholesky::{cholesky, cholesky_from_below};
use super::inverse_root::{Scaled, covers, rough_inverse_roots};
use super::linalg::{Form, accumulate};
use super::polar::{self, Bounded};
use super::prepared::Prepared;
use super::simd::{dispatched, dot};
use super::triangular::{self, Factor, Triangle, expansion, gram_between};

/// Rounding errors in `M M⁻¹ − I` are below this share of `‖M‖ ‖M⁻¹‖`.
const INVERSE_ROUNDING: f64 = 1e-13;
/// Rounding errors in a sum of traces, as a share of their magnitudes.
const SUM_ROUNDING: f64 = 1e-12;
/// Maps that are computed at a time.
pub(super) const MAPS: usize = 4;

/// Matrices whose products with all maps are computed at a time.
const ROWS: usize = 24;

/// The mean of a group.
pub(super) struct Mean {
    matrix: Vec<f64>,
    /// Its Cholesky factor; none where it is too badly conditioned for one.
    factor: Option<Vec<f64>>,
    triangle: Triangle,
    /// Bounds of its eigenvalues.
    least: f64,
    largest: f64,
}

impl Mean {
    /// Of the groups of `size` consecutive matrices, with lower or upper Cholesky factors.
    fn of_groups(prepared: &Prepared, size: usize, triangle: Triangle) -> Vec<Self> {
        let (d, n) = (prepared.dim(), prepared.len());
        let one = |start: usize| {
            let members = start..start + size;
            // The extreme eigenvalues of a mean lie between the means of the members' extreme eigenvalues.
            let end = |at: usize| members.clone().map(|i| prepared.eigenvalues(i)[at]).sum::<f64>() / size as f64;
            let matrix = mean(members.clone().map(|i| prepared.matrix(i)), d);
            Self { matrix, factor: None, triangle, least: end(0), largest: end(d - 1) }
        };
        let mut means: Vec<Self> = (0..n).into_par_iter().step_by(size).map(one).collect();
        means.par_chunks_mut(MAPS).for_each(|group| Self::factorise(group, d));
        means
    }

    /// The mean of the means of groups of one size.
    fn of_all(groups: &[Self], d: usize) -> Self {
        let end = |of: &dyn Fn(&Self) -> f64| groups.iter().map(of).sum::<f64>() / groups.len() as f64;
        let matrix = mean(groups.iter().map(|group| &group.matrix[..]), d);
        let (least, largest) = (end(&|group| group.least), end(&|group| group.largest));
        let mut all = [Self { matrix, factor: None, triangle: groups[0].triangle, least, largest }];
        Self::factorise(&mut all, d);
        let [all] = all;
        all
    }

    fn factorise(group: &mut [Self], d: usize) {
        let views: Vec<&[f64]> = group.iter().map(|mean| &mean.matrix[..]).collect();
        let upper = group.first().is_some_and(|mean| mean.triangle == Triangle::Upper);
        let factors = if upper { cholesky_from_below(&views, d) } else { cholesky(&views, d) };
        group.iter_mut().zip(factors).for_each(|(mean, found)| mean.factor = found.map(|found| found.factor));
    }

    fn factor(&self) -> Option<Factor<'_>> {
        self.factor.as_deref().map(|values| Factor { values, triangle: self.triangle })
    }
}

/// `M` and `M⁻¹`, of which the first is no smaller than the inverse of the second.
pub(super) struct Map {
    pub(super) map: Vec<f64>,
    pub(super) inverse: Vec<f64>,
}

/// The means of the groups of each side, and maps from those of `a` to the mean of all of `b`.
pub(super) struct Means {
    pub(super) a: Vec<Mean>,
    pub(super) b: Vec<Mean>,
    pub(super) rough: Vec<Option<Map>>,
    /// Inner products of each matrix of `b` with the inverses of these maps, 0 where there is none, row by row.
    pub(super) products: Vec<f64>,
}

impl Means {
    pub(super) fn new(a: &Prepared, b: &Prepared, size: usize) -> Self {
        let d = a.dim();
        let (of_a, of_b) = (Mean::of_groups(a, size, Triangle::Upper), Mean::of_groups(b, size, Triangle::Lower));
        let all = Mean::of_all(&of_b, d);
        let pairs: Vec<(&Mean, &Mean)> = of_a.iter().map(|mean| (mean, &all)).collect();
        let rough: Vec<Option<Map>> = pairs.par_chunks(MAPS).flat_map_iter(|pairs| maps(pairs, d)).collect();
        // One product of matrices of d² columns: each matrix is read once, not once for each map.
        let nothing = vec![0.0; d * d];
        let inverses: Vec<f64> =
            rough.iter().flat_map(|map| map.as_ref().map_or(&nothing, |map| &map.inverse)).copied().collect();
        let rows = |start: usize| {
            let count = ROWS.min(b.len() - start);
            let mut out = vec![0.0; count * rough.len()];
            let sizes = (count, rough.len(), d * d);
            accumulate(
                &mut out,
                (0.0, 1.0),
                (b.matrices(start, count), Form::Plain),
                (&inverses, Form::Transposed),
                sizes,
                false,
            );
            out
        };
        let products: Vec<Vec<f64>> = (0..b.len()).into_par_iter().step_by(ROWS).map(rows).collect();
        Self { a: of_a, b: of_b, rough, products: products.concat() }
    }
}

/// Of each of the matrices the trace and the inner product with a map.
pub(super) fn products(prepared: &Prepared, members: Range<usize>, map: &[f64]) -> Vec<[f64; 2]> {
    members.map(|m| [prepared.trace(m), inner(prepared.matrix(m), map, prepared.dim())]).collect()
}

/// `√(tr A + tr B − 2 √(tr A M · tr B M⁻¹))` less rounding, row by row, from what [`products`] has of both sides: the bound of
/// the best multiple of `M`.
pub(super) fn lower_bounds(a: &[[f64; 2]], b: &[[f64; 2]]) -> Vec<f64> {
    let bound = |[trace_a, a]: [f64; 2], [trace_b, b]: [f64; 2]| {
        let rounding = SUM_ROUNDING * (trace_a + trace_b + a + b);
        (trace_a + trace_b - 2.0 * (a.max(0.0) * b.max(0.0)).sqrt() - rounding).max(0.0).sqrt()
    };
    a.iter().flat_map(|&a| b.iter().map(move |&b| bound(a, b))).collect()
}

/// Two means with a map from one to the other.
struct Ends<'a> {
    from: Factor<'a>,
    to: Factor<'a>,
    /// Bounds of the singular values of the product of their roots.
    least: f64,
    largest: f64,
}

impl<'a> Ends<'a> {
    /// None for means that are too badly conditioned.
    fn new(a: &'a Mean, b: &'a Mean) -> Option<Self> {
        let (least, largest) = polar::ends((a.least, a.largest), (b.least, b.largest));
        let (from, to) = (a.factor()?, b.factor()?);
        covers(least / largest).then_some(Self { from, to, least, largest })
    }

    fn scaled<'g>(&self, gram: &'g [f64]) -> Scaled<'g> {
        Bounded { matrix: gram, triangle: Triangle::Full, least: self.least, largest: self.largest }.of_gram()
    }

    /// The inverse of the map, from the inverse root of the scaled `FᵀF`.
    fn inverse(&self, root: &[f64], d: usize) -> Vec<f64> {
        let mut inverse = expansion(self.from, root, d);
        inverse.iter_mut().for_each(|v| *v /= self.largest);
        inverse
    }
}

/// The optimal maps from means to means; none where these are too badly conditioned for one.
pub(super) fn maps(pairs: &[(&Mean, &Mean)], d: usize) -> Vec<Option<Map>> {
    let ends: Vec<Option<Ends>> = pairs.iter().map(|&(a, b)| Ends::new(a, b)).collect();
    let known = || ends.iter().flatten();
    let gram = |ends: &Ends| {
        let mut out = Vec::new();
        gram_between(&mut out, ends.to, ends.from, d);
        out
    };
    let grams: Vec<Vec<f64>> = known().map(gram).collect();
    let scaled: Vec<Scaled> = known().zip(&grams).map(|(ends, matrix)| ends.scaled(matrix)).collect();
    let roots = rough_inverse_roots(&scaled, d);
    let inverses: Vec<Vec<f64>> = known().zip(&roots).map(|(ends, root)| ends.inverse(root, d)).collect();
    let views: Vec<&[f64]> = inverses.iter().map(Vec::as_slice).collect();
    let mut found = cholesky(&views, d).into_iter().zip(&inverses);
    let map = |ends: &Option<Ends>| {
        ends.as_ref()?;
        let (factors, inverse) = found.next()?;
        Map::new(inverse, &factors?.inverse, d)
    };
    ends.iter().map(map).collect()
}

impl Map {
    /// From `M⁻¹` and the inverse of its Cholesky factor.
    fn new(inverse: &[f64], factor: &[f64], d: usize) -> Option<Self> {
        let mut map = triangular::gram(Factor { values: factor, triangle: Triangle::Lower }, d);
        let error = INVERSE_ROUNDING * (inner(&map, &map, d) * inner(inverse, inverse, d)).sqrt();
        // With ‖M M⁻¹ − I‖ ≤ η, the inverse of M⁻¹ is at most M / (1 − η).
        (error < 0.5).then(|| {
            map.iter_mut().for_each(|v| *v /= 1.0 - error);
            Self { map, inverse: inverse.to_vec() }
        })
    }
}

/// Columns of a block of [`inner`].
const BLOCK: usize = 8;

dispatched! {
    /// `⟨a, b⟩` of symmetric `d`×`d` matrices. Blocks beyond the diagonal count twice, so that those before it need not be
    /// read: matrices by the dozen lie far from the processor.
    fn inner(a: &[f64], b: &[f64], d: usize) -> f64 {
        if !d.is_multiple_of(BLOCK) {
            return dot(a, b);
        }
        let (mut own, mut beyond) = ([0.0; BLOCK], [0.0; BLOCK]);
        for (i, (a, b)) in a.chunks_exact(d).zip(b.chunks_exact(d)).enumerate() {
            let first = i / BLOCK;
            let (a, b) = (&a.as_chunks::<BLOCK>().0[first..], &b.as_chunks::<BLOCK>().0[first..]);
            for lane in 0..BLOCK {
                own[lane] += a[0][lane] * b[0][lane];
            }
            for (a, b) in a[1..].iter().zip(&b[1..]) {
                for lane in 0..BLOCK {
                    beyond[lane] += a[lane] * b[lane];
                }
            }
        }
        own.iter().zip(&beyond).map(|(own, beyond)| own + 2.0 * beyond).sum()
    }
}

/// The mean of `d`×`d` matrices.
fn mean<'a>(matrices: impl ExactSizeIterator<Item = &'a [f64]>, d: usize) -> Vec<f64> {
    let share = 1.0 / matrices.len() as f64;
    let mut sum = vec![0.0; d * d];
    matrices.for_each(|matrix| add(&mut sum, share, matrix));
    sum
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
    use random::{Axis, Seeds};

    #[test]
    fn inner_products_of_symmetric_matrices() {
        let mut stream = Seeds::new(15).stream(Axis::Test, &[]);
        for d in [1, 3, 8, 12, 16, 40] {
            let mut draw = || {
                let spectrum: Vec<f64> = (0..d).map(|_| 0.1 + stream.uniform()).collect();
                testkit::spd::with_spectrum(&spectrum, &mut stream)
            };
            let (a, b) = (draw(), draw());
            let mirrored = (0..d * d).all(|at| a[at] == a[at % d * d + at / d] && b[at] == b[at % d * d + at / d]);
            let want: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert!(mirrored && (inner(&a, &b, d) / want - 1.0).abs() < 1e-14, "{d}");
        }
    }
}
