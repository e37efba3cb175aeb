//! Eigenvalues of several symmetric tridiagonal matrices in lockstep, by the QL iteration with implicit shifts (Golub
//! and Van Loan, *Matrix Computations*, 4th ed., section 8.3.3).
//!
//! A rotation waits for the square root and the quotient of the one before; lanes that go through them together hide
//! that. Each lane has its own block and its own shift, and no lane's numbers depend on its neighbours.

use super::sweeps::Sweeps;
use super::wide::Wide;

/// QL iterations allowed for one eigenvalue; two or three are usual.
const ITERATIONS: usize = 60;

/// Iterations for one eigenvalue after which an error of `ε` times the largest entry is accepted.
const PATIENCE: usize = 10;

/// More lanes than any register has.
const MOST: usize = 8;

/// Where one lane stands.
#[derive(Debug, Clone, Copy, Default)]
struct Lane {
    /// The eigenvalue sought; those before it are found.
    l: usize,
    /// Last row of the block that the next sweep is for; `l` if there is none.
    m: usize,
    /// Iterations spent on this eigenvalue.
    step: usize,
    /// Iterations after which the lane gave up.
    failed: Option<usize>,
}

/// Turns `diagonal` (`d` numbers) into the eigenvalues, in no order; `off` (`d` numbers, the last unused) is destroyed.
/// The first `used` lanes matter. Records the rotations of lane `k` in `sweeps[k]`, where there are any to record to. Per
/// lane the number of iterations after which it gave up, if it did.
#[inline(always)]
pub(super) fn eigenvalues<W: Wide>(
    diagonal: &mut [W],
    off: &mut [W],
    used: usize,
    sweeps: &mut [Sweeps],
) -> [Option<usize>; MOST] {
    let d = diagonal.len();
    let mut lanes = [Lane::default(); MOST];
    let lanes_used = &mut lanes[..used];
    let mut rotations = vec![W::splat(0.0); if sweeps.is_empty() { 0 } else { 2 * d }];
    loop {
        find_blocks(diagonal, off, lanes_used);
        if lanes_used.iter().all(|lane| lane.failed.is_some() || lane.l + 1 >= d) {
            break;
        }
        if lanes_used.iter().all(|lane| lane.m == lane.l) {
            continue; // Each lane has just found an eigenvalue, and its next one lies alone too.
        }
        let stops = sweep(diagonal, off, lanes_used, &mut rotations);
        for (k, sweeps) in sweeps.iter_mut().enumerate().take(used) {
            let lane = lanes_used[k];
            if lane.m > lane.l {
                sweeps.record(W::lanes(&rotations), 2 * W::LANES, (k, W::LANES + k), stops[k]..lane.m);
            }
        }
    }
    std::array::from_fn(|k| lanes[k].failed)
}

/// Moves each lane past the eigenvalues that it has found, and sets its next block.
#[inline(always)]
fn find_blocks<W: Wide>(diagonal: &[W], off: &[W], lanes: &mut [Lane]) {
    let d = diagonal.len();
    let Some(least) = lanes.iter().filter(|lane| lane.failed.is_none()).map(|lane| lane.l).min() else { return };
    let of = |f: &dyn Fn(&Lane) -> f64| W::from_lanes(|k| lanes.get(k).map_or(0.0, f));
    // The absolute bar is for a block of zeros, and after some iterations for a block far below the largest entry,
    // whose rounding errors are no smaller; the matrix was scaled to a largest entry of about 1.
    let bar = of(&|lane| if lane.step < PATIENCE { 1e-300 } else { f64::EPSILON });
    let from = of(&|lane| lane.l as f64);
    let epsilon = W::splat(f64::EPSILON);
    // The first two rows from `l` on that hardly couple to the next.
    let (mut first, mut second) = (W::splat((d - 1) as f64), W::splat((d - 1) as f64));
    for i in (least..d - 1).rev() {
        let (coupling, row) = (off[i].abs(), W::splat(i as f64));
        let scale = diagonal[i].abs().add(diagonal[i + 1].abs());
        let negligible = coupling.at_most(epsilon.mul(scale)).or(coupling.below(bar)).and(from.at_most(row));
        second = negligible.select(first, second);
        first = negligible.select(row, first);
    }
    let found = [first, second];
    let found = W::lanes(&found);
    for (k, lane) in lanes.iter_mut().enumerate() {
        if lane.failed.is_some() || lane.l + 1 >= d {
            lane.m = lane.l;
            continue;
        }
        lane.m = found[k] as usize;
        if lane.m == lane.l {
            (lane.l, lane.m, lane.step) = (lane.l + 1, found[W::LANES + k] as usize, 0);
        }
        if lane.m > lane.l && lane.step == ITERATIONS {
            (lane.failed, lane.m) = (Some(lane.step), lane.l);
        }
        lane.step += usize::from(lane.m > lane.l);
    }
}

/// One QL sweep over each lane's block `l..=m`. Keeps the cosine and sine of the rotations of rows `(i, i + 1)` at `2 i` and
/// `2 i + 1` of `rotations`, if that has room; the row down to which each lane rotated.
#[inline(always)]
fn sweep<W: Wide>(diagonal: &mut [W], off: &mut [W], lanes: &[Lane], rotations: &mut [W]) -> [usize; MOST] {
    let keep = !rotations.is_empty();
    let (zero, one) = (W::splat(0.0), W::splat(1.0));
    let of = |f: &dyn Fn(&Lane) -> f64| W::from_lanes(|k| lanes.get(k).map_or(0.0, f));
    let (low, high) = (of(&|lane| lane.l as f64), of(&|lane| lane.m as f64));
    let bottom = lanes.iter().filter(|lane| lane.m > lane.l).map(|lane| lane.l).min().unwrap_or(0);
    let top = lanes.iter().map(|lane| if lane.m > lane.l { lane.m } else { 0 }).max().unwrap_or(0);
    let mut g = shift(diagonal, off, lanes);
    let (mut c, mut s, mut p) = (one, one, zero);
    let mut stopped = zero; // Mask of the lanes whose sweep ended early,
    let mut stops = low; // and down to which row each lane goes.
    for i in (bottom..top).rev() {
        let row = W::splat(i as f64);
        let active = low.at_most(row).and(row.below(high)).and_not(stopped);
        let (f, b) = (s.mul(off[i]), c.mul(off[i]));
        let r = f.mul_add(f, g.mul(g)).sqrt();
        let above = diagonal[i + 1].sub(p);
        let split = active.and(r.at_most(zero));
        if split.any() {
            stopped = stopped.or(split);
            stops = split.select(W::splat((i + 1) as f64), stops);
            off[i + 1] = split.select(zero, off[i + 1]);
            diagonal[i + 1] = split.select(above, diagonal[i + 1]);
        }
        let active = active.and_not(split);
        let inverse = one.div(r);
        s = active.select(f.mul(inverse), s);
        c = active.select(g.mul(inverse), c);
        let t = diagonal[i].sub(above).mul_add(s, c.add(c).mul(b));
        p = active.select(s.mul(t), p);
        diagonal[i + 1] = active.select(above.add(p), diagonal[i + 1]);
        off[i + 1] = active.select(r, off[i + 1]);
        g = active.select(c.mul_add(t, zero.sub(b)), g);
        if keep {
            rotations[2 * i] = c;
            rotations[2 * i + 1] = s;
        }
    }
    finish(diagonal, off, lanes, &[g, p, stops])
}

/// `d_m − d_l + e_l / (δ ± √(δ² + 1))` with `δ = (d_{l+1} − d_l) / 2 e_l`, of each lane's block.
#[inline(always)]
fn shift<W: Wide>(diagonal: &[W], off: &[W], lanes: &[Lane]) -> W {
    let (diagonal, off) = (W::lanes(diagonal), W::lanes(off));
    let pick = |from: &[f64], row: &dyn Fn(&Lane) -> usize, other: f64| {
        W::from_lanes(|k| match lanes.get(k) {
            Some(lane) if lane.m > lane.l => from[row(lane) * W::LANES + k],
            _ => other,
        })
    };
    let (first, coupling) = (pick(diagonal, &|lane| lane.l, 0.0), pick(off, &|lane| lane.l, 1.0));
    let (second, last) = (pick(diagonal, &|lane| lane.l + 1, 0.0), pick(diagonal, &|lane| lane.m, 0.0));
    let half = second.sub(first).div(coupling.add(coupling));
    let root = half.mul_add(half, W::splat(1.0)).sqrt().with_sign(half);
    last.sub(first).add(coupling.div(half.add(root)))
}

/// Writes what a sweep leaves at the ends of each lane's block.
#[inline(always)]
fn finish<W: Wide>(diagonal: &mut [W], off: &mut [W], lanes: &[Lane], last: &[W; 3]) -> [usize; MOST] {
    let (diagonal, off, last) = (W::lanes_mut(diagonal), W::lanes_mut(off), W::lanes(last));
    let mut stops = [0; MOST];
    for (k, lane) in lanes.iter().enumerate().filter(|(_, lane)| lane.m > lane.l) {
        stops[k] = last[2 * W::LANES + k] as usize;
        if stops[k] == lane.l {
            diagonal[lane.l * W::LANES + k] -= last[W::LANES + k];
            off[lane.l * W::LANES + k] = last[k];
        }
        off[lane.m * W::LANES + k] = 0.0;
    }
    stops
}
