//! Functions and distances of SPD matrices, and covariances.

use super::device::{Device, Float, Launch, View, arguments};
use super::flag::Flag;
use crate::spd::Metric;
use crate::spd::function::Function;
use crate::{Error, Result};

/// Rows of the largest matrix that two copies of fit in a block's shared memory on every card.
const SHARED: usize = 64;
/// Rows of the largest matrix: a thread of a block each.
const LARGEST: usize = 1024;
/// Polar factors are kept for the backward pass up to this many numbers in all (512 MiB); beyond, so many are made anew at
/// a time.
pub(crate) const KEPT: usize = 1 << 26;

/// The function as `eigen.cu` numbers them; none for the decomposition alone.
fn code(function: Option<Function>) -> usize {
    match function {
        None => 0,
        Some(Function::Log) => 1,
        Some(Function::Sqrt) => 2,
        Some(Function::InvSqrt) => 3,
        Some(Function::Exp) => 4,
    }
}

/// Threads that a `d`×`d` matrix keeps busy: four entries each up to 256 threads, at least a row.
fn threads(d: usize) -> usize {
    (d * d / 4).clamp(32, 256).max(d).next_multiple_of(32)
}

/// Numbers of a matrix in memory: rows of an odd length, so that columns lie in different banks.
fn padded(d: usize) -> usize {
    d * (d | 1)
}

/// Where the blocks of a launch keep their matrices: in shared memory, or in device memory where they are too large.
pub(crate) struct Room<D: Device> {
    pub(crate) launch: Launch,
    scratch: Option<D::Buffer<f64>>,
}

impl<D: Device> Room<D> {
    /// For `blocks` blocks with `matrices` `d`×`d` matrices and `more` numbers each.
    pub(crate) fn new(device: &D, blocks: usize, d: usize, matrices: usize, more: usize) -> Result<Self> {
        let (threads, size) = (threads(d), matrices * padded(d));
        if d <= SHARED {
            return Ok(Self { launch: Launch { blocks, threads, shared: size + more }, scratch: None });
        }
        Ok(Self { launch: Launch { blocks, threads, shared: more }, scratch: Some(device.empty(blocks * size)?) })
    }

    /// The argument that a kernel finds its matrices by.
    pub(crate) fn scratch(&self, device: &D) -> View<f64> {
        self.scratch.as_ref().map_or(View::new(0, 0), |buffer| device.view(buffer))
    }
}

/// How many matrices of which size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Batch {
    pub(crate) n: usize,
    pub(crate) d: usize,
}

impl Batch {
    /// Of a tensor `[.., d, d]`.
    pub(crate) fn of(op: &'static str, name: &'static str, dims: &[usize]) -> Result<Self> {
        match *dims {
            [ref leading @ .., rows, d] if rows == d && d > 0 => {
                Self { n: leading.iter().product(), d }.check(op, name, dims)
            }
            _ => {
                let expected = "square matrices [.., d, d] with d >= 1".into();
                Err(Error::Shape { op, name, got: dims.to_vec(), expected })
            }
        }
    }

    /// Refuses matrices that are too large for a device.
    pub(crate) fn check(self, op: &'static str, name: &'static str, dims: &[usize]) -> Result<Self> {
        if self.d <= LARGEST {
            return Ok(self);
        }
        let expected = format!("matrices of at most {LARGEST} rows on a device");
        Err(Error::Shape { op, name, got: dims.to_vec(), expected })
    }

    fn size(self) -> usize {
        self.d * self.d
    }
}

/// Eigenvalues, ascending, and eigenvectors, in rows, of a batch of matrices.
pub(crate) struct Eigen<D: Device> {
    pub(crate) batch: Batch,
    pub(crate) vectors: D::Buffer<f64>,
    pub(crate) values: D::Buffer<f64>,
}

/// Decomposes the matrices `a`, and gives a function of them in `Out`; with `positive`, refuses those that are not positive
/// definite.
///
/// # Errors
/// Those of [`Flag::check`].
fn decompose<D: Device, In: Float, Out: Float>(
    device: &D,
    (op, names): (&'static str, [&'static str; 2]),
    kernel: &'static str,
    a: View<In>,
    batch: Batch,
    function: Option<Function>,
    positive: bool,
) -> Result<(D::Buffer<Out>, Eigen<D>)> {
    let Batch { n, d } = batch;
    let images = device.empty::<Out>(n * batch.size())?;
    let (vectors, values) = (device.empty::<f64>(n * batch.size())?, device.empty::<f64>(n * d)?);
    let flag = Flag::new(device, n)?;
    let (word, details) = flag.views(device);
    let room = Room::new(device, n, d, 2, 2 * d + 32 + 3 * d.div_ceil(2) + 2 * threads(d))?;
    let (v, w, scratch) = (device.view(&vectors), device.view(&values), room.scratch(device));
    let arguments = arguments![
        a,
        device.view(&images),
        v,
        w,
        word,
        details,
        scratch,
        d,
        code(function),
        usize::from(positive),
        In::ASYMMETRY
    ];
    device.launch(kernel, room.launch, arguments)?;
    flag.check(device, op, names, n)?;
    Ok((images, Eigen { batch, vectors, values }))
}

/// A function of matrices, and what its gradient needs.
///
/// # Errors
/// Values that are not finite, matrices that are not symmetric or (but for the exponential) not positive definite, no
/// convergence.
pub(crate) fn function<D: Device, T: Float>(
    device: &D,
    op: &'static str,
    function: Function,
    a: View<T>,
    batch: Batch,
) -> Result<(D::Buffer<T>, Eigen<D>)> {
    let kernel = T::version("spd_decompose_f32_f32", "spd_decompose_f64_f64");
    decompose(device, (op, ["a", "a"]), kernel, a, batch, Some(function), function != Function::Exp)
}

/// The gradient of [`function`].
pub(crate) fn function_gradient<D: Device, T: Float>(
    device: &D,
    function: Function,
    eigen: &Eigen<D>,
    grad: View<T>,
) -> Result<D::Buffer<T>> {
    through(device, T::version("spd_gradient_f32_f32", "spd_gradient_f64_f64"), function, eigen, grad)
}

fn through<D: Device, In: Float, Out: Float>(
    device: &D,
    kernel: &'static str,
    function: Function,
    eigen: &Eigen<D>,
    grad: View<In>,
) -> Result<D::Buffer<Out>> {
    let Batch { n, d } = eigen.batch;
    let out = device.empty::<Out>(n * d * d)?;
    let room = Room::new(device, n, d, 2, 2 * d)?;
    let (vectors, values) = (device.view(&eigen.vectors), device.view(&eigen.values));
    let (to, scratch) = (device.view(&out), room.scratch(device));
    device.launch(kernel, room.launch, arguments![vectors, values, grad, to, scratch, d, code(Some(function))])?;
    Ok(out)
}

/// Matrices with their decompositions and their logarithms or square roots, in float64.
pub(crate) struct Prepared<D: Device> {
    pub(crate) eigen: Eigen<D>,
    pub(crate) images: D::Buffer<f64>,
}

/// Prepares the matrices `a`, the argument `name`, for distances.
///
/// # Errors
/// As [`function`].
pub(crate) fn prepare<D: Device, T: Float>(
    device: &D,
    op: &'static str,
    name: &'static str,
    metric: Metric,
    a: View<T>,
    batch: Batch,
) -> Result<Prepared<D>> {
    let function = match metric {
        Metric::LogEuclidean => Function::Log,
        Metric::BuresWasserstein => Function::Sqrt,
    };
    let kernel = T::version("spd_decompose_f32_f64", "spd_decompose_f64_f64");
    let (images, eigen) = decompose(device, (op, [name, name]), kernel, a, batch, Some(function), true)?;
    Ok(Prepared { eigen, images })
}

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
        let (x, y) = (device.view(&a.images), device.view(&b.images));
        let (left, right, kept) = (device.view(&self.left), device.view(&self.right), device.view(&self.kept));
        let out = device.view(out);
        let kernel = T::version("bw_distance_f32", "bw_distance_f64");
        let arguments = arguments![
            x,
            y,
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

/// What the gradient of [`covariance`] needs besides its arguments.
pub(crate) struct Moments<D: Device> {
    weights: D::Buffer<f64>,
    means: D::Buffer<f64>,
}

/// Sizes of [`covariance`]: batch entries, tokens and their length.
pub(crate) type Tokens = (usize, usize, usize);

/// Attention-weighted covariances, see [`crate::spd::covariance`].
///
/// # Errors
/// Values that are not finite.
pub(crate) fn covariance<D: Device, T: Float>(
    device: &D,
    op: &'static str,
    (x, logits): (View<T>, View<T>),
    (b, n, d): Tokens,
    eps: f64,
) -> Result<(D::Buffer<T>, Moments<D>)> {
    let out = device.empty::<T>(b * d * d)?;
    let moments = Moments { weights: device.empty(b * n)?, means: device.empty(b * d)? };
    let flag = Flag::new(device, b)?;
    let (word, details) = flag.views(device);
    let (weights, means) = (device.view(&moments.weights), device.view(&moments.means));
    let launch = Launch { blocks: b, threads: 256, shared: n + d + 32 };
    let kernel = T::version("covariance_f32", "covariance_f64");
    device.launch(
        kernel,
        launch,
        arguments![x, logits, device.view(&out), weights, means, word, details, n, d, eps],
    )?;
    flag.check(device, op, ["x", "logits"], b)?;
    Ok((out, moments))
}

/// Its gradients.
pub(crate) fn covariance_gradient<D: Device, T: Float>(
    device: &D,
    (x, grad): (View<T>, View<T>),
    moments: &Moments<D>,
    (b, n, d): Tokens,
) -> Result<(D::Buffer<T>, D::Buffer<T>)> {
    let (dx, dlogits) = (device.empty::<T>(b * n * d)?, device.empty::<T>(b * n)?);
    let (weights, means) = (device.view(&moments.weights), device.view(&moments.means));
    // A warp takes a token and needs a copy of it.
    let room = Room::new(device, b, d, 1, n + 32 + threads(d) / 32 * d)?;
    let kernel = T::version("covariance_gradient_f32", "covariance_gradient_f64");
    let (to_x, to_logits, scratch) = (device.view(&dx), device.view(&dlogits), room.scratch(device));
    device.launch(kernel, room.launch, arguments![x, weights, means, grad, to_x, to_logits, scratch, n, d])?;
    Ok((dx, dlogits))
}
