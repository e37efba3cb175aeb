//! Distances of pairs of SPD matrices.

use super::super::device::{Device, Float, Launch, View, arguments};
use super::super::flag::Flag;
use super::{Prepared, Room, through};
use crate::Result;
use crate::spd::Metric;
use crate::spd::function::Function;

/// Polar factors are kept for the backward pass up to this many numbers in all (512 MiB); beyond, so many are made anew at
/// a time.
const KEPT: usize = 1 << 26;

/// Pairs of matrices and what the gradients of their distances need.
pub(crate) struct Distances<D: Device> {
    op: &'static str,
    metric: Metric,
    pairs: Vec<(u32, u32)>,
    left: D::Buffer<u32>,
    right: D::Buffer<u32>,
    kept: D::Buffer<f64>,
    polar: Option<D::Buffer<f64>>,
}

/// Which side of the pairs a gradient is for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Side {
    /// The left matrices.
    A,
    /// The right ones.
    B,
}

/// Distances of `pairs` of the left and right matrices; `differentiated` says whether gradients will be asked for.
///
/// # Errors
/// No convergence.
pub(crate) fn distances<D: Device, T: Float>(
    device: &D,
    (op, metric): (&'static str, Metric),
    (a, b): (&Prepared<D>, &Prepared<D>),
    pairs: Vec<(u32, u32)>,
    differentiated: bool,
) -> Result<(D::Buffer<T>, Distances<D>)> {
    let (left, right): (Vec<u32>, Vec<u32>) = pairs.iter().copied().unzip();
    let (left, right) = (device.upload(&left)?, device.upload(&right)?);
    let (out, kept) = (device.empty::<T>(pairs.len())?, device.empty::<f64>(pairs.len())?);
    let mut all = Distances { op, metric, pairs, left, right, kept, polar: None };
    match metric {
        Metric::LogEuclidean => {
            let launch = Launch { blocks: all.pairs.len(), threads: 128, shared: 32 };
            let (x, y) = (device.view(&a.images), device.view(&b.images));
            let (left, right, kept) = (device.view(&all.left), device.view(&all.right), device.view(&all.kept));
            let kernel = T::version("le_distance_f32", "le_distance_f64");
            let arguments = arguments![x, y, left, right, kept, device.view(&out), a.eigen.batch.size()];
            device.launch(kernel, launch, arguments)?;
        }
        Metric::BuresWasserstein => {
            let count = all.pairs.len();
            let together = all.together(a.eigen.batch.d);
            for first in (0..count).step_by(together) {
                let polar = all.polar(device, (a, b), &out, first, together.min(count - first))?;
                all.polar = (differentiated && together >= count).then_some(polar);
            }
        }
    }
    Ok((out, all))
}

impl<D: Device> Distances<D> {
    /// How many polar factors there may be at a time.
    fn together(&self, d: usize) -> usize {
        (KEPT / (d * d)).clamp(1, self.pairs.len().max(1))
    }

    /// Distances and polar factors of `count` pairs from `first` on.
    fn polar<T: Float>(
        &self,
        device: &D,
        (a, b): (&Prepared<D>, &Prepared<D>),
        out: &D::Buffer<T>,
        first: usize,
        count: usize,
    ) -> Result<D::Buffer<f64>> {
        let batch = a.eigen.batch;
        let polar = device.empty::<f64>(count * batch.size())?;
        let flag = Flag::new(device, batch.n)?;
        let (word, details) = flag.views(device);
        let d = batch.d;
        let room = Room::new(device, count, d, 2, d + 32)?;
        let ([x, vectors_x, values_x], [y, vectors_y, values_y]) = (a.views(device), b.views(device));
        let (left, right, kept) = (device.view(&self.left), device.view(&self.right), device.view(&self.kept));
        let out = device.view(out);
        let kernel = T::version("bw_distance_f32", "bw_distance_f64");
        let arguments = arguments![
            x,
            vectors_x,
            values_x,
            y,
            vectors_y,
            values_y,
            left,
            right,
            device.view(&polar),
            kept,
            out,
            word,
            details,
            room.scratch(device),
            d,
            first
        ];
        device.launch(kernel, room.launch, arguments)?;
        flag.check(device, self.op, ["a", "b"], batch.n)?;
        Ok(polar)
    }

    /// The gradient of one side's matrices for that of the distances.
    ///
    /// # Errors
    /// No convergence.
    pub(crate) fn gradient<T: Float>(
        &self,
        device: &D,
        (a, b): (&Prepared<D>, &Prepared<D>),
        grad: View<T>,
        side: Side,
    ) -> Result<D::Buffer<T>> {
        let (own, other, partner) = match side {
            Side::A => (a, b, &self.right),
            Side::B => (b, a, &self.left),
        };
        let batch = own.eigen.batch;
        let (offsets, members) = self.members(side, batch.n);
        let (offsets, members) = (device.upload(&offsets)?, device.upload(&members)?);
        let (mine, theirs) = (device.view(&own.images), device.view(&other.images));
        let (partner, offsets, members) = (device.view(partner), device.view(&offsets), device.view(&members));
        let kept = device.view(&self.kept);
        if self.metric == Metric::LogEuclidean {
            let sum = device.empty::<f64>(batch.n * batch.size())?;
            let launch = Launch { blocks: batch.n, threads: 256, shared: 0 };
            let kernel = T::version("le_gradient_f32", "le_gradient_f64");
            let sums = device.view(&sum);
            device.launch(
                kernel,
                launch,
                arguments![mine, theirs, partner, offsets, members, grad, kept, sums, batch.size()],
            )?;
            let kernel = T::version("spd_gradient_f64_f32", "spd_gradient_f64_f64");
            return through(device, kernel, Function::Log, &own.eigen, device.view(&sum));
        }
        let sum = device.upload(&vec![0.0f64; batch.n * batch.size()])?;
        let d = batch.d;
        let count = self.pairs.len();
        let together = self.together(d);
        let transposed = usize::from(side == Side::A);
        for first in (0..count).step_by(together) {
            let now = together.min(count - first);
            let anew;
            let polar = match &self.polar {
                Some(kept) => kept,
                None => {
                    anew = self.polar(device, (a, b), &device.empty::<T>(count)?, first, now)?;
                    &anew
                }
            };
            let room = Room::new(device, batch.n, d, 2, 0)?;
            let kernel = T::version("bw_accumulate_f32", "bw_accumulate_f64");
            let (polar, sums, scratch) = (device.view(polar), device.view(&sum), room.scratch(device));
            device.launch(
                kernel,
                room.launch,
                arguments![
                    mine, theirs, partner, offsets, members, grad, kept, polar, sums, scratch, d, first, now,
                    transposed
                ],
            )?;
        }
        let out = device.empty::<T>(batch.n * batch.size())?;
        let room = Room::new(device, batch.n, d, 2, 0)?;
        let (vectors, values) = (device.view(&own.eigen.vectors), device.view(&own.eigen.values));
        let (sums, to, scratch) = (device.view(&sum), device.view(&out), room.scratch(device));
        let kernel = T::version("bw_finish_f32", "bw_finish_f64");
        device.launch(kernel, room.launch, arguments![vectors, values, sums, to, scratch, d])?;
        Ok(out)
    }

    /// The pairs of each of `n` matrices of a side, in their order: where each begins, and all of them.
    fn members(&self, side: Side, n: usize) -> (Vec<u32>, Vec<u32>) {
        let of = |&(i, j): &(u32, u32)| if side == Side::A { i as usize } else { j as usize };
        let mut offsets = vec![0u32; n + 1];
        self.pairs.iter().for_each(|pair| offsets[of(pair) + 1] += 1);
        for k in 0..n {
            offsets[k + 1] += offsets[k];
        }
        let (mut next, mut members) = (offsets.clone(), vec![0; self.pairs.len()]);
        for (k, pair) in self.pairs.iter().enumerate() {
            let at = &mut next[of(pair)];
            members[*at as usize] = k as u32;
            *at += 1;
        }
        (offsets, members)
    }
}
