//! Cholesky factors of several matrices in lockstep, and their inverses (Golub and Van Loan, *Matrix Computations*, 4th
//! ed., section 4.2).

use super::wide::{Job, Wide, dispatch, inner};

/// Rows that share the loads of another, in independent chains of operations.
const ROWS: usize = 8;

/// `C` with `A = C Cᵀ`, lower triangular, and `C⁻¹`; row-major, 0 above the diagonal.
#[derive(Debug, Clone)]
pub(super) struct Cholesky {
    pub(super) factor: Vec<f64>,
    pub(super) inverse: Vec<f64>,
}

/// Of symmetric `d`×`d` matrices, of which the lower triangle is read; `None` for one that is not positive definite up to
/// rounding.
pub(super) fn cholesky(all: &[&[f64]], d: usize) -> Vec<Option<Cholesky>> {
    dispatch(Factorise { all, d, reversed: false })
}

/// As [`cholesky`], from below: `C` and `C⁻¹` are upper triangular, 0 below the diagonal.
pub(super) fn cholesky_from_below(all: &[&[f64]], d: usize) -> Vec<Option<Cholesky>> {
    dispatch(Factorise { all, d, reversed: true })
}

struct Factorise<'a> {
    all: &'a [&'a [f64]],
    d: usize,
    /// Whether rows and columns are taken in reverse, which is the numbers in reverse.
    reversed: bool,
}

impl Job for Factorise<'_> {
    type Out = Vec<Option<Cholesky>>;

    #[inline(always)]
    fn run<W: Wide>(self) -> Self::Out {
        let d = self.d;
        let (mut c, mut inverse) = (vec![W::splat(0.0); d * d], vec![W::splat(0.0); d * d]);
        let mut reciprocals = vec![W::splat(0.0); d];
        let mut out = Vec::with_capacity(self.all.len());
        for group in self.all.chunks(W::LANES) {
            load(&mut c, group, (d, self.reversed));
            factorise(&mut c, &mut reciprocals, d);
            invert(&c, &reciprocals, &mut inverse, d);
            let shape = (d, self.reversed);
            let (factors, inverses) = (unload(&c, group.len(), shape), unload(&inverse, group.len(), shape));
            for (factor, inverse) in factors.into_iter().zip(inverses) {
                // A pivot that is not positive is not a number, or infinite, after its square root and quotient.
                let positive = (0..d).all(|i| inverse[i * d + i].is_finite() && factor[i * d + i] > 0.0);
                out.push(positive.then_some(Cholesky { factor, inverse }));
            }
        }
        out
    }
}

/// The lower triangles in the lanes, of the matrices or of those with the numbers in reverse; lanes without a matrix repeat
/// the first.
#[inline(always)]
fn load<W: Wide>(c: &mut [W], group: &[&[f64]], (d, reversed): (usize, bool)) {
    let sources: [&[f64]; 8] = std::array::from_fn(|k| group[if k < group.len() { k } else { 0 }]);
    for i in 0..d {
        let target = c[i * d..i * d + i + 1].iter_mut().enumerate();
        if reversed {
            let end = (d - i) * d;
            let rows: [&[f64]; 8] = std::array::from_fn(|k| &sources[k][end - i - 1..end]);
            target.for_each(|(j, v)| *v = W::from_lanes(|k| rows[k][i - j]));
        } else {
            let rows: [&[f64]; 8] = std::array::from_fn(|k| &sources[k][i * d..i * d + i + 1]);
            target.for_each(|(j, v)| *v = W::from_lanes(|k| rows[k][j]));
        }
    }
}

/// The lower triangles of the first `used` lanes, with the numbers in reverse if they came so.
#[inline(always)]
fn unload<W: Wide>(c: &[W], used: usize, (d, reversed): (usize, bool)) -> Vec<Vec<f64>> {
    let mut out: Vec<Vec<f64>> = (0..used).map(|_| vec![0.0; d * d]).collect();
    for i in 0..d {
        let lanes = W::lanes(&c[i * d..i * d + i + 1]);
        for (lane, out) in out.iter_mut().enumerate() {
            let from = lanes.chunks_exact(W::LANES);
            if reversed {
                let end = (d - i) * d;
                out[end - i - 1..end].iter_mut().rev().zip(from).for_each(|(v, lanes)| *v = lanes[lane]);
            } else {
                out[i * d..i * d + i + 1].iter_mut().zip(from).for_each(|(v, lanes)| *v = lanes[lane]);
            }
        }
    }
    out
}

/// The factor in the lower triangle, column by column, and the reciprocals of its diagonal.
#[inline(always)]
fn factorise<W: Wide>(c: &mut [W], reciprocals: &mut [W], d: usize) {
    for j in 0..d {
        let (above, below) = c.split_at_mut((j + 1) * d);
        let (known, rest) = above[j * d..].split_at_mut(j);
        let pivot = rest[0].sub(inner(known, known)).sqrt();
        rest[0] = pivot;
        reciprocals[j] = W::splat(1.0).div(pivot);
        let mut blocks = below.chunks_exact_mut(ROWS * d);
        for block in &mut blocks {
            let mut rows = block.chunks_exact_mut(d);
            let mut rows: [&mut [W]; ROWS] = std::array::from_fn(|_| rows.next().unwrap_or_default());
            let sums = inners(rows.each_ref().map(|row| &row[..j]), known);
            for (row, sum) in rows.iter_mut().zip(sums) {
                row[j] = row[j].sub(sum).mul(reciprocals[j]);
            }
        }
        for row in blocks.into_remainder().chunks_exact_mut(d) {
            row[j] = row[j].sub(inner(&row[..j], known)).mul(reciprocals[j]);
        }
    }
}

/// Row `j` of `inverse` as a working copy holds column `j` of `C⁻¹`, which is transposed at the end; the upper triangle is
/// left as it is.
#[inline(always)]
fn invert<W: Wide>(c: &[W], reciprocals: &[W], inverse: &mut [W], d: usize) {
    let zero = W::splat(0.0);
    for j in 0..d {
        // Columns of a block are read from its first row on.
        inverse[j * d + j / ROWS * ROWS..j * d + j].fill(zero);
    }
    for i in 0..d {
        let (row, reciprocal) = (&c[i * d..i * d + i], reciprocals[i]);
        let whole = i / ROWS * ROWS;
        for first in (0..whole).step_by(ROWS) {
            let mut columns = inverse[first * d..(first + ROWS) * d].chunks_exact_mut(d);
            let mut columns: [&mut [W]; ROWS] = std::array::from_fn(|_| columns.next().unwrap_or_default());
            let sums = inners(columns.each_ref().map(|column| &column[first..i]), &row[first..]);
            for (column, sum) in columns.iter_mut().zip(sums) {
                column[i] = zero.sub(sum).mul(reciprocal);
            }
        }
        for j in whole..i {
            let column = &mut inverse[j * d..(j + 1) * d];
            column[i] = zero.sub(inner(&row[j..], &column[j..i])).mul(reciprocal);
        }
        inverse[i * d + i] = reciprocal;
    }
    for i in 0..d {
        for j in 0..i {
            inverse[i * d + j] = inverse[j * d + i];
        }
    }
}

/// `Σ a_k b_k` of several rows `a`, which share the loads of `b`.
#[inline(always)]
fn inners<W: Wide>(rows: [&[W]; ROWS], b: &[W]) -> [W; ROWS] {
    let rows = rows.map(|row| &row[..b.len()]);
    let mut sums = [W::splat(0.0); ROWS];
    for (k, b) in b.iter().enumerate() {
        for r in 0..ROWS {
            sums[r] = rows[r][k].mul_add(*b, sums[r]);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::super::linalg::{Form, square};
    use super::*;
    use random::{Axis, Seeds};
    use testkit::tolerance::{IDENTITY_F64, assert_close};

    #[test]
    fn factors_and_inverses() {
        let mut stream = Seeds::new(4).stream(Axis::Test, &[]);
        for d in [1, 2, 5, 16, 33] {
            let spectrum: Vec<f64> = (0..d).map(|k| 0.5 + k as f64).collect();
            let all: Vec<Vec<f64>> = (0..5).map(|_| testkit::spd::with_spectrum(&spectrum, &mut stream)).collect();
            let views: Vec<&[f64]> = all.iter().map(Vec::as_slice).collect();
            let identity: Vec<f64> = (0..d * d).map(|k| f64::from(u8::from(k % (d + 1) == 0))).collect();
            let both = [cholesky(&views, d), cholesky_from_below(&views, d)].concat();
            for (at, (a, got)) in all.iter().chain(&all).zip(both).enumerate() {
                let got = got.unwrap();
                let below = at >= all.len();
                let outside = |k: &usize| if below { k / d > k % d } else { k / d < k % d };
                assert!((0..d * d).filter(outside).all(|k| got.factor[k] == 0.0 && got.inverse[k] == 0.0));
                let back = square((&got.factor, Form::Plain), (&got.factor, Form::Transposed), d);
                assert_close("C Cᵀ", &back, a, d * d, IDENTITY_F64);
                let unit = square((&got.inverse, Form::Plain), (&got.factor, Form::Plain), d);
                assert_close("C⁻¹ C", &unit, &identity, d * d, IDENTITY_F64);
            }
        }
    }

    #[test]
    fn tells_what_is_not_positive_definite() {
        let (good, bad, singular) = ([2.0, 1.0, 1.0, 2.0], [1.0, 2.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]);
        let got = cholesky(&[&good, &bad, &singular, &[f64::NAN; 4]], 2);
        assert_eq!(got.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false, false]);
    }
}
