//! The hardest negatives: the nearest of another class.

use super::device::{Device, Float, Launch, View, arguments};
use super::flag::Flag;
use super::spd::{Prepared, Room};
use crate::spd::Metric;
use crate::{Error, Result};

/// Whom the matrices of one side may be compared with.
pub(crate) struct Groups<'a> {
    /// Consecutive matrices of a group, on both sides.
    pub(crate) size: usize,
    /// For each group of the left side and each of the right one, row by row, 1 where they may be compared.
    pub(crate) allowed: &'a [u32],
}

/// For every left matrix the `k` nearest right ones that it may be compared with, ascending, with their distances; see
/// [`crate::spd::Prepared::nearest_in_groups`].
///
/// # Errors
/// No convergence.
pub(crate) fn nearest<D: Device>(
    device: &D,
    (op, metric): (&'static str, Metric),
    (a, b): (&Prepared<D>, &Prepared<D>),
    groups: &Groups,
    k: usize,
) -> Result<Vec<Vec<(usize, f64)>>> {
    let (n, m, d) = (a.eigen.batch.n, b.eigen.batch.n, a.eigen.batch.d);
    if n == 0 || m == 0 || k == 0 {
        return Ok(vec![Vec::new(); n]);
    }
    let bounded = metric == Metric::BuresWasserstein;
    let allowed = device.upload(groups.allowed)?;
    let (bounds, polar) = (device.empty::<f64>(n * m)?, device.empty::<f64>(if bounded { n * d * d } else { 1 })?);
    let (index, distances) = (device.empty::<u32>(n * k)?, device.empty::<f64>(n * k)?);
    let flag = Flag::new(device, n)?;
    let (word, details) = flag.views(device);
    let (x, y) = (device.view(&a.images), device.view(&b.images));
    let (of_a, of_b) = (device.view(&a.eigen.values), device.view(&b.eigen.values));
    let (bounds, polar) = (device.view(&bounds), device.view(&polar));
    let (places, found) = (device.view(&index), device.view(&distances));
    let room = Room::new(device, n, d, 2, d + 32)?;
    let (allowed, scratch) = (device.view(&allowed), room.scratch(device));
    let bounded = usize::from(bounded);
    let arguments = arguments![
        x,
        y,
        of_a,
        of_b,
        allowed,
        bounds,
        polar,
        places,
        found,
        word,
        details,
        scratch,
        d,
        m,
        groups.size,
        k,
        bounded
    ];
    device.launch("spd_nearest", room.launch, arguments)?;
    flag.check(device, op, ["a", "b"], n)?;
    let (index, distances) = (device.download(&index)?, device.download(&distances)?);
    let each = index.chunks_exact(k).zip(distances.chunks_exact(k));
    let there = |(index, distances): (&[u32], &[f64])| {
        let all = index.iter().zip(distances).take_while(|(j, _)| (**j as usize) < m);
        all.map(|(j, distance)| (*j as usize, *distance)).collect()
    };
    Ok(each.map(there).collect())
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
