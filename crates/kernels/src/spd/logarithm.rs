//! Logarithms of several SPD matrices in lockstep, with their derivatives, without an eigendecomposition.
//!
//! `A = Q T Qᵀ` with a tridiagonal `T`; `log T = γ + Σ w_j (T + c_j)^{-1}` by [`super::rational`], summed by
//! [`super::resolvents`]. The derivative of a term is `−w_j (T + c_j)^{-1} G (T + c_j)^{-1}`, summed by [`super::sandwich`].

use super::congruence::contract;
pub(super) use super::inverse_root::TOGETHER;
use super::rational::{self, Fractions, Logarithm};
use super::resolvents::{Of, Room};
use super::tridiagonal::Tridiagonal;
use super::wide::{Job, Wide, dispatch};

/// Largest size that is served: beyond, the matrices of a group leave the nearer caches.
pub(super) const LARGEST: usize = 128;

/// Ratio of the extreme eigenvalues down to which matrices are served. An error of `ε` over the ratio is left, that of
/// the tridiagonal form.
const CLOSE: f64 = 1e-3;

/// What a group of matrices leaves for its gradients.
#[derive(Debug)]
pub(super) struct Kept {
    /// Of [`Tridiagonal`], lane by lane: diagonal, coupling, β, and of row after row the reflection.
    numbers: Vec<f64>,
    /// Of each matrix, the bound of the eigenvalues and the scale of `T`; none for one that is not served.
    bounds: Vec<Option<Bounds>>,
}

/// The eigenvalues of a scaled matrix lie in `[ratio² largest, largest]`.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    scale: f64,
    largest: f64,
    ratio: f64,
}

impl Bounds {
    fn logarithm(&self) -> &'static Logarithm {
        rational::logarithm(self.ratio).unwrap_or_else(|| panic!("a ratio of {} is not covered", self.ratio))
    }
}

impl Kept {
    /// Which of the matrices were served.
    pub(super) fn served(&self) -> impl Iterator<Item = bool> {
        self.bounds.iter().map(Option::is_some)
    }
}

/// Writes the logarithms of SPD `d`×`d` matrices to `out`, one after the other, exactly symmetric. Where the eigenvalues
/// lie further apart than [`CLOSE`], or one is not above 0, what is written has no meaning.
///
/// What a matrix gets does not depend on its neighbours.
pub(super) fn logarithms(all: &[&[f64]], d: usize, out: &mut [f64]) -> Vec<Kept> {
    dispatch(Values { all, d, out })
}

/// Replaces the symmetric matrices `g` by the gradients of `⟨G, log A⟩` at the matrices of which `kept` came. What is
/// written for a matrix that was not served has no meaning.
pub(super) fn gradients(kept: &[Kept], d: usize, g: &mut [f64]) {
    dispatch(Gradients { kept, d, g });
}

struct Values<'a> {
    all: &'a [&'a [f64]],
    d: usize,
    out: &'a mut [f64],
}

struct Gradients<'a> {
    kept: &'a [Kept],
    d: usize,
    g: &'a mut [f64],
}

impl Job for Values<'_> {
    type Out = Vec<Kept>;

    #[inline(always)]
    fn run<W: Wide>(self) -> Self::Out {
        let d = self.d;
        let mut room = Room::<W>::take(d);
        let mut all = Vec::with_capacity(self.all.len().div_ceil(W::LANES));
        for (group, out) in self.all.chunks(W::LANES).zip(self.out.chunks_mut(W::LANES * d * d)) {
            let of: [&[f64]; 8] = std::array::from_fn(|k| group[k.min(group.len() - 1)]);
            let (scales, unshifted) = (of.map(|a| scale(a, d)), of.map(|a| (a, 0.0)));
            room.work.load(&unshifted, &scales);
            room.work.reduce();
            let bounds = bounds(&room.work, scales);
            if bounds.iter().all(Option::is_none) {
                all.push(Kept { numbers: Vec::new(), bounds: bounds[..group.len()].to_vec() });
                continue;
            }
            sum_of(&mut room, &bounds, |of| [of.largest, of.largest]);
            room.sum_inverses(Of::Matrix);
            let constants =
                W::from_lanes(|k| bounds[k].map_or(0.0, |of| of.logarithm().constant + (of.largest / of.scale).ln()));
            for i in 0..d {
                room.work.matrix[i * d + i] = room.work.matrix[i * d + i].add(constants);
            }
            room.expand();
            room.store(out.chunks_exact_mut(d * d));
            all.push(Kept { numbers: keep(&room.work), bounds: bounds[..group.len()].to_vec() });
        }
        room.keep();
        all
    }
}

impl Job for Gradients<'_> {
    type Out = ();

    #[inline(always)]
    fn run<W: Wide>(self) {
        let d = self.d;
        let mut room = Room::<W>::take(d);
        for (kept, g) in self.kept.iter().zip(self.g.chunks_mut(W::LANES * d * d)) {
            if kept.bounds.iter().all(Option::is_none) {
                continue;
            }
            restore(&mut room.work, &kept.numbers);
            room.work.load_symmetric(g);
            contract(&mut room.work, &mut room.vectors);
            let bounds: [Option<Bounds>; 8] = std::array::from_fn(|k| kept.bounds.get(k).copied().flatten());
            sum_of(&mut room, &bounds, |of| [of.largest, -of.largest * of.scale]);
            room.sandwiches();
            room.expand();
            room.store(g.chunks_exact_mut(d * d));
        }
        room.keep();
    }
}

/// Makes the sums of `room` those of logarithms, with poles and weights in the units of `units`.
#[inline(always)]
fn sum_of<W: Wide>(room: &mut Room<W>, bounds: &[Option<Bounds>; 8], units: impl Fn(&Bounds) -> [f64; 2]) {
    static NONE: Fractions = Fractions { poles: Vec::new(), weights: Vec::new() };
    let fractions = std::array::from_fn(|k| bounds[k].as_ref().map_or(&NONE, |of| &of.logarithm().fractions));
    let units: [[f64; 2]; 8] = std::array::from_fn(|k| bounds[k].as_ref().map_or([1.0; 2], &units));
    room.sum_of(fractions, [units.map(|u| u[0]), units.map(|u| u[1])]);
}

/// A power of two that brings the largest diagonal entry near 1.
#[inline(always)]
fn scale(a: &[f64], d: usize) -> f64 {
    let largest = a.iter().step_by(d + 1).fold(0.0f64, |m, v| m.max(v.abs()));
    if largest == 0.0 { 1.0 } else { 2.0f64.powi(-(largest.log2().floor().clamp(-1000.0, 1000.0) as i32)) }
}

/// Bounds of the eigenvalues of what was reduced, by the signs of pivots: `T − σ` is positive definite where all of its are
/// positive, and `σ − T` likewise.
#[inline(always)]
fn bounds<W: Wide>(work: &Tridiagonal<W>, scales: [f64; 8]) -> [Option<Bounds>; 8] {
    let [least, largest] = [least(work), largest(work)].map(|bound| {
        let lanes = [bound];
        let mut all = [0.0; 8];
        all[..W::LANES].copy_from_slice(W::lanes(&lanes));
        all
    });
    std::array::from_fn(|k| {
        let served = least[k] > 0.0 && least[k] >= CLOSE * largest[k] && largest[k] < f64::INFINITY;
        served.then(|| Bounds { scale: scales[k], largest: largest[k], ratio: (least[k] / largest[k]).sqrt() })
    })
}

/// Mask of the lanes in which `sign · (T − σ)` is positive definite.
#[inline(always)]
fn definite<W: Wide>(work: &Tridiagonal<W>, sign: W, sigma: W) -> W {
    let zero = W::splat(0.0);
    let mut pivot = W::splat(1.0);
    let mut coupling = zero;
    let mut all = zero.at_most(zero);
    for (&a, &b) in work.diagonal.iter().zip(&work.off) {
        pivot = sign.mul(a.sub(sigma)).sub(coupling.mul(coupling).div(pivot));
        all = all.and(zero.below(pivot));
        coupling = b;
    }
    all
}

/// A lower bound of the least eigenvalue, at most a tenth below it; 0 where that lies far below the diagonal.
#[inline(always)]
fn least<W: Wide>(work: &Tridiagonal<W>) -> W {
    const HALVINGS: usize = 12;
    let (zero, one, half) = (W::splat(0.0), W::splat(1.0), W::splat(0.5));
    let mut above = work.diagonal.iter().skip(1).fold(work.diagonal[0], |m, &a| a.below(m).select(a, m));
    let mut found = zero;
    for _ in 0..HALVINGS {
        let sigma = above.mul(half);
        let open = found.at_most(zero);
        if !open.any() {
            break;
        }
        let definite = definite(work, one, sigma);
        found = open.and(definite).select(sigma, found);
        above = open.and_not(definite).select(sigma, above);
    }
    for _ in 0..3 {
        let sigma = found.mul(above).sqrt();
        let definite = definite(work, one, sigma);
        found = definite.select(sigma, found);
        above = definite.select(above, sigma);
    }
    found
}

/// An upper bound of the largest eigenvalue, close to it.
#[inline(always)]
fn largest<W: Wide>(work: &Tridiagonal<W>) -> W {
    let (zero, half) = (W::splat(0.0), W::splat(0.5));
    let minus = W::splat(-1.0);
    let (mut below, mut found) = (work.diagonal[0], zero);
    let mut left = zero;
    for (&a, &b) in work.diagonal.iter().zip(&work.off) {
        // Gershgorin's circles.
        let end = a.add(left.abs()).add(b.abs());
        found = found.below(end).select(end, found);
        below = below.below(a).select(a, below);
        left = b;
    }
    for _ in 0..4 {
        let sigma = below.add(found).mul(half);
        let definite = definite(work, minus, sigma);
        found = definite.select(sigma, found);
        below = definite.select(below, sigma);
    }
    found
}

/// What [`restore`] takes.
#[inline(always)]
fn keep<W: Wide>(work: &Tridiagonal<W>) -> Vec<f64> {
    let d = work.diagonal.len();
    let mut out = Vec::with_capacity((3 * d + d * (d - 1) / 2) * W::LANES);
    for all in [&work.diagonal, &work.off, &work.betas] {
        out.extend_from_slice(W::lanes(all));
    }
    for k in 0..d {
        out.extend_from_slice(W::lanes(&work.reflections[k * d + k + 1..(k + 1) * d]));
    }
    out
}

/// Restores what [`keep`] kept.
#[inline(always)]
fn restore<W: Wide>(work: &mut Tridiagonal<W>, numbers: &[f64]) {
    let d = work.diagonal.len();
    let mut rest = numbers;
    let mut take = |to: &mut [W]| {
        let to = W::lanes_mut(to);
        let (first, after) = rest.split_at(to.len());
        to.copy_from_slice(first);
        rest = after;
    };
    take(&mut work.diagonal);
    take(&mut work.off);
    take(&mut work.betas);
    for k in 0..d {
        take(&mut work.reflections[k * d + k + 1..(k + 1) * d]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spd::linalg::{Form, square};
    use random::{Axis, Seeds, Stream};
    use testkit::tolerance::assert_close;

    struct Case {
        q: Vec<f64>,
        values: Vec<f64>,
        a: Vec<f64>,
        g: Vec<f64>,
    }

    impl Case {
        fn new(d: usize, spread: f64, stream: &mut Stream) -> Self {
            let q = testkit::spd::orthogonal(d, stream);
            let values: Vec<f64> = (0..d).map(|_| 3.0 * 10f64.powf(-spread * stream.uniform())).collect();
            let a = congruent(&q, &diagonal(&values), d);
            let mut g: Vec<f64> = (0..d * d).map(|_| stream.normal()).collect();
            testkit::spd::symmetrise(&mut g, d);
            Self { q, values, a, g }
        }

        fn logarithm(&self, d: usize) -> Vec<f64> {
            congruent(&self.q, &diagonal(&self.values.iter().map(|v| v.ln()).collect::<Vec<_>>()), d)
        }

        /// By divided differences.
        fn gradient(&self, d: usize) -> Vec<f64> {
            let half = square((&self.q, Form::Plain), (&self.g, Form::Plain), d);
            let mut inner = square((&half, Form::Plain), (&self.q, Form::Transposed), d);
            for (at, v) in inner.iter_mut().enumerate() {
                let (x, y) = (self.values[at / d], self.values[at % d]);
                *v *= if at / d == at % d { 1.0 / x } else { ((x - y) / y).ln_1p() / (x - y) };
            }
            congruent(&self.q, &inner, d)
        }
    }

    fn diagonal(values: &[f64]) -> Vec<f64> {
        let d = values.len();
        (0..d * d).map(|at| if at % (d + 1) == 0 { values[at / d] } else { 0.0 }).collect()
    }

    /// `Qᵀ S Q`, exactly symmetric.
    fn congruent(q: &[f64], s: &[f64], d: usize) -> Vec<f64> {
        let half = square((q, Form::Transposed), (s, Form::Plain), d);
        let mut out = square((&half, Form::Plain), (q, Form::Plain), d);
        testkit::spd::symmetrise(&mut out, d);
        out
    }

    #[test]
    fn logarithms_and_gradients_of_known_spectra() {
        let mut stream = Seeds::new(31).stream(Axis::Test, &[]);
        for d in [1, 2, 3, 4, 5, 8, 17, 33, 64] {
            for count in [1, 2, 4, 7] {
                let all: Vec<Case> =
                    (0..count).map(|k| Case::new(d, [0.5, 1.5, 2.9, 0.01, 1.0, 2.0, 0.1][k], &mut stream)).collect();
                let views: Vec<&[f64]> = all.iter().map(|case| &case.a[..]).collect();
                let mut values = vec![f64::NAN; count * d * d];
                let kept = logarithms(&views, d, &mut values);
                assert_eq!(kept.iter().flat_map(Kept::served).collect::<Vec<_>>(), vec![true; count]);
                let mut gradients_of: Vec<f64> = all.iter().flat_map(|case| case.g.clone()).collect();
                gradients(&kept, d, &mut gradients_of);
                for (k, case) in all.iter().enumerate() {
                    let name = format!("d {d}, matrix {k} of {count}");
                    let ratio = case.values.iter().fold(1.0, |m, v| f64::min(m, v / 3.0));
                    let bar = 2e-15 / ratio * (d + 4) as f64;
                    let (value, gradient) = (&values[k * d * d..][..d * d], &gradients_of[k * d * d..][..d * d]);
                    assert_close(&name, value, &case.logarithm(d), d * d, bar);
                    assert_close(&format!("gradient, {name}"), gradient, &case.gradient(d), d * d, bar / ratio);
                    let mut alone = vec![0.0; d * d];
                    let kept = logarithms(&views[k..=k], d, &mut alone);
                    assert_eq!(alone, value, "{name} beside others");
                    let mut alone = case.g.clone();
                    gradients(&kept, d, &mut alone);
                    assert_eq!(alone, gradient, "gradient, {name} beside others");
                }
            }
        }
    }

    #[test]
    fn says_what_it_does_not_serve() {
        let served = |a: [f64; 4]| {
            let one: Vec<bool> = logarithms(&[&a], 2, &mut [0.0; 4]).iter().flat_map(Kept::served).collect();
            one == [true]
        };
        assert!(served([1.0, 0.0, 0.0, 2e-3]) && served([1e200, 0.0, 0.0, 1e199]) && served([3.0, 0.0, 0.0, 3.0]));
        for a in [
            [1.0, 0.0, 0.0, 5e-4],
            [1.0, 0.0, 0.0, 0.0],
            [1.0, 2.0, 2.0, 1.0],
            [0.0; 4],
            [-1.0, 0.0, 0.0, -1.0],
            [f64::NAN, 0.0, 0.0, 1.0],
        ] {
            assert!(!served(a), "{a:?}");
        }
    }

    #[test]
    fn a_matrix_that_is_not_served_leaves_its_neighbours_alone() {
        let mut stream = Seeds::new(32).stream(Axis::Test, &[]);
        let d = 6;
        let case = Case::new(d, 1.0, &mut stream);
        let bad: Vec<f64> = case.a.iter().map(|v| -v).collect();
        let mut beside = vec![0.0; 3 * d * d];
        let kept = logarithms(&[&bad, &case.a, &bad], d, &mut beside);
        let mut g = [&case.g[..], &case.g, &case.g].concat();
        gradients(&kept, d, &mut g);
        let mut alone = vec![0.0; d * d];
        let kept = logarithms(&[&case.a], d, &mut alone);
        assert_eq!(beside[d * d..2 * d * d], alone);
        let mut of_alone = case.g.clone();
        gradients(&kept, d, &mut of_alone);
        assert_eq!(g[d * d..2 * d * d], of_alone);
    }
}
