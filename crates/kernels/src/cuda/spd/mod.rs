//! Functions and distances of SPD matrices, and covariances.

mod covariance;
mod distance;

pub(crate) use covariance::{covariance, covariance_gradient};
pub(crate) use distance::{Side, distances};

use super::device::{Device, Float, Launch, View, arguments};
use super::flag::Flag;
use crate::spd::Metric;
use crate::spd::function::Function;
use crate::{Error, Result};

/// Rows of the largest matrix that two copies of fit in a block's shared memory on every card.
const SHARED: usize = 64;
/// Rows of the largest matrix: a thread of a block each.
const LARGEST: usize = 1024;
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
    let failed = bases(device, op, a, batch, (device.view(&vectors), device.view(&values)))?;
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
        failed.as_ref().map_or(View::none(), |buffer| device.view(buffer)),
        d,
        code(function),
        usize::from(positive),
        In::ASYMMETRY
    ];
    device.launch(kernel, room.launch, arguments)?;
    flag.check(device, op, names, n)?;
    Ok((images, Eigen { batch, vectors, values }))
}

/// Has a library of the device write eigenvectors of matrices that are too large for shared memory into `vectors`, where
/// there is one: [`decompose`] begins with them, and makes of them what it makes without. Says where that failed.
fn bases<D: Device, In: Float>(
    device: &D,
    op: &'static str,
    a: View<In>,
    Batch { n, d }: Batch,
    (vectors, values): (View<f64>, View<f64>),
) -> Result<Option<D::Buffer<u32>>> {
    if d <= SHARED || n == 0 || !device.has_eigenvectors(op)? {
        return Ok(None);
    }
    let launch = Launch { blocks: n, threads: threads(d), shared: 32 };
    let kernel = In::version("spd_symmetrise_f32", "spd_symmetrise_f64");
    device.launch(kernel, launch, arguments![a, vectors, d])?;
    let failed = device.empty::<u32>(n)?;
    device.eigenvectors(op, (vectors, values, device.view(&failed)), (n, d))?;
    Ok(Some(failed))
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

impl<D: Device> Prepared<D> {
    /// Images, eigenvectors and eigenvalues.
    pub(crate) fn views(&self, device: &D) -> [View<f64>; 3] {
        [device.view(&self.images), device.view(&self.eigen.vectors), device.view(&self.eigen.values)]
    }
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
