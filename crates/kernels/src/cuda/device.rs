//! What the host's code needs of a device.

use std::marker::PhantomData;

use super::train::conv::{Conv, Pass};
use crate::{Error, Result};

#[cfg(feature = "cuda")]
pub(crate) use cudarc::driver::DeviceRepr as Represented;

/// What cards know as a number: anything where there is none.
#[cfg(not(feature = "cuda"))]
pub(crate) trait Represented {}

#[cfg(not(feature = "cuda"))]
impl<T> Represented for T {}

/// A number that device memory may hold.
pub(crate) trait Number: Represented + Copy + Default + Send + Sync + Unpin + 'static {}

impl Number for f32 {}
impl Number for f64 {}
impl Number for u8 {}
impl Number for u32 {}
impl Number for u64 {}

/// A number of a tensor that kernels read and write.
pub(crate) trait Float: Number {
    /// How far a symmetric matrix of it may be from symmetric, relative to its largest entry.
    const ASYMMETRY: f64;
    /// Share of its terms that a gradient must keep for its digits to be enough.
    const RESIDUE: f64;
    /// The name of a kernel in two versions.
    fn version(single: &'static str, double: &'static str) -> &'static str;
}

impl Float for f32 {
    const ASYMMETRY: f64 = 1e-5;
    const RESIDUE: f64 = 2.3e-8;

    fn version(single: &'static str, _: &'static str) -> &'static str {
        single
    }
}

impl Float for f64 {
    const ASYMMETRY: f64 = 1e-12;
    const RESIDUE: f64 = 2.3e-5;

    fn version(_: &'static str, double: &'static str) -> &'static str {
        double
    }
}

/// A bfloat16, as the upper half of a float32.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(transparent)]
pub(crate) struct Bf16(pub(crate) u16);

// SAFETY: sixteen bits, as kernels read and write them.
#[cfg(feature = "cuda")]
unsafe impl Represented for Bf16 {}

impl Number for Bf16 {}

/// A number of activations: what training ops read and write, and compute with in [`Stored::Sum`].
pub(crate) trait Stored: Number {
    /// What sums, statistics, gradients of parameters and the parameters of norms are kept in.
    type Sum: Stored<Sum = Self::Sum>;
    /// Shared memory of a tile of a product, `Tile<T>::Shared` in `product.cuh`, in float64 numbers.
    const TILE: usize;
    /// The name of a kernel in three versions: float32, float64, bfloat16.
    fn pick(names: [&'static str; 3]) -> &'static str;
}

impl Stored for f32 {
    type Sum = f32;
    const TILE: usize = 2272;

    fn pick([single, _, _]: [&'static str; 3]) -> &'static str {
        single
    }
}

impl Stored for f64 {
    type Sum = f64;
    const TILE: usize = 4448;

    fn pick([_, double, _]: [&'static str; 3]) -> &'static str {
        double
    }
}

impl Stored for Bf16 {
    type Sum = f32;
    const TILE: usize = 2752;

    fn pick([_, _, half]: [&'static str; 3]) -> &'static str {
        half
    }
}

/// The name of a kernel for a [`Stored`] type.
macro_rules! kernel {
    ($number:ty, $name:literal) => {
        <$number as $crate::cuda::device::Stored>::pick([
            concat!($name, "_f32"),
            concat!($name, "_f64"),
            concat!($name, "_bf16"),
        ])
    };
}
pub(crate) use kernel;

/// Numbers in device memory that somebody else owns and keeps while this is used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<T> {
    address: u64,
    len: usize,
    number: PhantomData<T>,
}

impl<T: Number> View<T> {
    /// `len` numbers from `address` on.
    pub(crate) fn new(address: u64, len: usize) -> Self {
        Self { address, len, number: PhantomData }
    }

    /// No memory, for an argument that a kernel may go without.
    pub(crate) fn none() -> Self {
        Self::new(0, 0)
    }

    /// The numbers from number `start` on.
    pub(crate) fn from(self, start: usize) -> Self {
        Self::new(self.address + (start * size_of::<T>()) as u64, self.len - start)
    }

    /// Where it begins.
    pub(crate) fn address(self) -> u64 {
        self.address
    }

    /// How many.
    pub(crate) fn len(self) -> usize {
        self.len
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Argument {
    /// Device memory.
    Address(u64),
    /// A size.
    Count(u32),
    /// A number.
    Real(f64),
}

impl<T> From<View<T>> for Argument {
    fn from(view: View<T>) -> Self {
        Self::Address(view.address)
    }
}

impl From<usize> for Argument {
    /// Sizes are those of batches and matrices, far below 2³².
    fn from(count: usize) -> Self {
        Self::Count(count as u32)
    }
}

impl From<f64> for Argument {
    fn from(real: f64) -> Self {
        Self::Real(real)
    }
}

/// How many blocks of how many threads, and how many float64 numbers each block shares.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launch {
    pub(crate) blocks: usize,
    pub(crate) threads: usize,
    pub(crate) shared: usize,
}

/// What becomes of a convolution where no library was built in: `false`, or a refusal where one is insisted on.
pub(crate) fn no_library(op: &'static str, conv: &Conv) -> Result<bool> {
    if !conv.config.library.insists() {
        return Ok(false);
    }
    let (library, reason) = ("cuDNN", "this program was built without it".into());
    Err(Error::Library { op, library, reason, remedy: "Build with the feature `cudnn`, or ask for ConvLibrary::Own" })
}

/// Memory and launches.
pub(crate) trait Device {
    /// Memory that holds numbers until it is dropped and everything launched before that is done.
    type Buffer<T: Number>: Send + Sync;

    /// Room for `len` numbers that a kernel is about to write.
    fn empty<T: Number>(&self, len: usize) -> Result<Self::Buffer<T>>;

    /// A copy of these numbers.
    fn upload<T: Number>(&self, values: &[T]) -> Result<Self::Buffer<T>>;

    /// A copy of the buffer's numbers; waits for what was launched before.
    fn download<T: Number>(&self, buffer: &Self::Buffer<T>) -> Result<Vec<T>>;

    /// The buffer's memory.
    fn view<T: Number>(&self, buffer: &Self::Buffer<T>) -> View<T>;

    /// Starts a kernel with the arguments of its signature, in their order.
    fn launch(&self, kernel: &'static str, launch: Launch, arguments: &[Argument]) -> Result<()>;

    /// Computes one pass of a convolution, from its two arguments to its result, by a library; `false` where the device has
    /// none that can, and own kernels may take its place.
    ///
    /// # Errors
    /// What the library refuses, and that there is none where the convolution insists on one.
    fn convolve<T: Stored>(
        &self,
        op: &'static str,
        _pass: Pass,
        _views: ([View<T>; 2], View<T>),
        conv: &Conv,
    ) -> Result<bool> {
        no_library(op, conv)
    }

    /// Whether [`Device::eigenvectors`] has a library to call.
    ///
    /// # Errors
    /// What a library that is there refuses.
    fn has_eigenvectors(&self, _op: &'static str) -> Result<bool> {
        Ok(false)
    }

    /// Overwrites `n` symmetric `d`×`d` matrices with orthonormal eigenvectors, in rows; `failed` gets other numbers than 0
    /// for those whose eigenvectors were not found, and `values` is overwritten. Called where [`Device::has_eigenvectors`].
    ///
    /// # Errors
    /// What the library refuses.
    fn eigenvectors(
        &self,
        op: &'static str,
        _views: (View<f64>, View<f64>, View<u32>),
        _sizes: (usize, usize),
    ) -> Result<()> {
        Err(Error::Device { op, reason: "the device has no library of eigenvectors".into() })
    }
}

/// Arguments of a kernel, each converted.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {
        &[$($crate::cuda::device::Argument::from($argument)),*]
    };
}
pub(crate) use arguments;
