//! The hardest negatives: the nearest of another class.

use super::device::{Device, Float, Launch, View, arguments};
use super::flag::Flag;
use super::spd::{self, Batch, Prepared, Room};
use crate::spd::Metric;
use crate::{Error, Result};

/// Whom the matrices of one side may be compared with.
pub(crate) struct Groups<'a> {
    /// Consecutive matrices of a group, on both sides.
    pub(crate) size: usize,
    /// For each group of the left side and each of the right one, row by row, 1 where they may be compared.
    pub(crate) allowed: &'a [u32],
}

/// Right matrices from which on the map to their sum is worth its price: about that of a distance.
const MANY: usize = 16;

/// What [`search`] found, `k` places a left matrix.
pub(super) struct Found<D: Device> {
    index: D::Buffer<u32>,
    distances: D::Buffer<f64>,
    /// How many distances of each left matrix were computed.
    #[cfg_attr(not(test), expect(dead_code, reason = "what the bounds are worth is for tests"))]
    pub(super) looked: D::Buffer<u32>,
}

/// For every left matrix the `k` nearest right ones that it may be compared with, ascending, with their distances; see
/// [`crate::spd::Prepared::nearest_in_groups`].
///
/// # Errors
/// No convergence.
pub(crate) fn nearest<D: Device>(
    device: &D,
    of: (&'static str, Metric),
    (a, b): (&Prepared<D>, &Prepared<D>),
    groups: &Groups,
    k: usize,
) -> Result<Vec<Vec<(usize, f64)>>> {
    let (n, m) = (a.eigen.batch.n, b.eigen.batch.n);
    if n == 0 || m == 0 || k == 0 {
        return Ok(vec![Vec::new(); n]);
    }
    let Found { index, distances, .. } = search(device, of, (a, b), groups, k)?;
    let (index, distances) = (device.download(&index)?, device.download(&distances)?);
    let each = index.chunks_exact(k).zip(distances.chunks_exact(k));
    let there = |(index, distances): (&[u32], &[f64])| {
        let all = index.iter().zip(distances).take_while(|(j, _)| (**j as usize) < m);
        all.map(|(j, distance)| (*j as usize, *distance)).collect()
    };
    Ok(each.map(there).collect())
}

/// The matrices whose roots were prepared, and the root of their sum where there are many of them.
fn squares<D: Device>(device: &D, op: &'static str, b: &Prepared<D>) -> Result<Two<D>> {
    let Batch { n, d } = b.eigen.batch;
    let squares = device.empty::<f64>(n * d * d)?;
    let launch = Launch { blocks: n, threads: 256, shared: 0 };
    device.launch("spd_square", launch, arguments![device.view(&b.images), device.view(&squares), d])?;
    if n < MANY {
        return Ok((squares, None));
    }
    let sum = device.empty::<f64>(d * d)?;
    let launch = Launch { blocks: (d * d).div_ceil(256), threads: 256, shared: 0 };
    device.launch("sum_pieces_f64", launch, arguments![device.view(&squares), device.view(&sum), d * d, n])?;
    let middle = spd::prepare(device, op, "b", Metric::BuresWasserstein, device.view(&sum), Batch { n: 1, d })?;
    Ok((squares, Some(middle)))
}

/// Matrices, and their sum with its root.
type Two<D> = (<D as Device>::Buffer<f64>, Option<Prepared<D>>);

/// Starts the search of [`nearest`], and refuses what it refused.
///
/// # Errors
/// As [`nearest`].
pub(super) fn search<D: Device>(
    device: &D,
    (op, metric): (&'static str, Metric),
    (a, b): (&Prepared<D>, &Prepared<D>),
    groups: &Groups,
    k: usize,
) -> Result<Found<D>> {
    let (n, m, d) = (a.eigen.batch.n, b.eigen.batch.n, a.eigen.batch.d);
    let bounded = metric == Metric::BuresWasserstein;
    let known = bounded.then(|| squares(device, op, b)).transpose()?;
    let middle = known.as_ref().and_then(|(_, middle)| middle.as_ref());
    let [middle, middle_vectors, middle_values] = middle.map_or([View::none(); 3], |middle| middle.views(device));
    let known = known.as_ref().map_or(View::none(), |(all, _)| device.view(all));
    let ([x, vectors_x, values_x], [y, vectors_y, values_y]) = (a.views(device), b.views(device));
    let allowed = device.upload(groups.allowed)?;
    let (bounds, maps) = (device.empty::<f64>(n * m)?, device.empty::<f64>(if bounded { n * d * d } else { 1 })?);
    let (index, distances) = (device.empty::<u32>(n * k)?, device.empty::<f64>(n * k)?);
    let looked = device.empty::<u32>(n)?;
    let flag = Flag::new(device, n)?;
    let (word, details) = flag.views(device);
    let room = Room::new(device, n, d, 2, d + 32)?;
    let arguments = arguments![
        x,
        vectors_x,
        values_x,
        y,
        vectors_y,
        values_y,
        known,
        middle,
        middle_vectors,
        middle_values,
        device.view(&allowed),
        device.view(&bounds),
        device.view(&maps),
        device.view(&index),
        device.view(&distances),
        device.view(&looked),
        word,
        details,
        room.scratch(device),
        d,
        m,
        groups.size,
        k,
        usize::from(bounded)
    ];
    device.launch("spd_nearest", room.launch, arguments)?;
    flag.check(device, op, ["a", "b"], n)?;
    Ok(Found { index, distances, looked })
}

/// For each of the `n` rows of `a` the nearest row of `b` with another label; none where there is none.
///
/// # Errors
/// Labels that are not `n`.
pub(crate) fn nearest_rows<D: Device, T: Float>(
    device: &D,
    op: &'static str,
    (a, b): (View<T>, View<T>),
    labels: &[u32],
    (n, d): (usize, usize),
) -> Result<Vec<Option<usize>>> {
    if labels.len() != n {
        let expected = format!("{n} labels");
        return Err(Error::Shape { op, name: "labels", got: vec![labels.len()], expected });
    }
    let labels = device.upload(labels)?;
    let (squares, index) = (device.empty::<f64>(n * n)?, device.empty::<u32>(n)?);
    let launch = Launch { blocks: n, threads: 256, shared: 32 };
    let (of, squares, to) = (device.view(&labels), device.view(&squares), device.view(&index));
    let kernel = T::version("nearest_row_f32", "nearest_row_f64");
    device.launch(kernel, launch, arguments![a, b, of, squares, to, n, d])?;
    let index = device.download(&index)?;
    Ok(index.into_iter().take(n).map(|j| Some(j as usize).filter(|j| *j < n)).collect())
}
