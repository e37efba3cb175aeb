//! What cuDNN knows of a problem: the sizes and types of its tensors, and of the convolution.

use std::ffi::c_int;

use cudarc::cudnn::sys::cudnnTensorFormat_t::CUDNN_TENSOR_NCHW;
use cudarc::cudnn::{result, sys};

use super::engine::told;
use super::plan::{Math, Precision, Problem};
use super::plans::Refusal;

/// Sizes as cuDNN counts them.
fn sizes<const N: usize>(of: [usize; N]) -> Result<[c_int; N], Refusal> {
    let mut out = [0; N];
    for (to, size) in out.iter_mut().zip(of) {
        *to = c_int::try_from(size).map_err(|_| Refusal::Failed(format!("a size of {size} is more than it counts")))?;
    }
    Ok(out)
}

fn number(precision: Precision) -> sys::cudnnDataType_t {
    match precision {
        Precision::Single => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        Precision::Double => sys::cudnnDataType_t::CUDNN_DATA_DOUBLE,
        Precision::Half => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
    }
}

/// What sums are kept in.
fn sums(precision: Precision) -> sys::cudnnDataType_t {
    match precision {
        Precision::Half => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        other => number(other),
    }
}

fn named(math: Math) -> sys::cudnnMathType_t {
    match math {
        Math::Default => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
        Math::Tensor => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        Math::Convert => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION,
        Math::Fma => sys::cudnnMathType_t::CUDNN_FMA_MATH,
    }
}

/// A tensor `[N, C, H, W]`, row-major.
pub(super) struct Maps(pub(super) sys::cudnnTensorDescriptor_t);

impl Maps {
    fn new(precision: Precision, of: [usize; 4]) -> Result<Self, Refusal> {
        let of = sizes(of)?;
        let new = Self(told(result::create_tensor_descriptor())?);
        // SAFETY: the descriptor was just made, and lives.
        told(unsafe { result::set_tensor4d_descriptor(new.0, CUDNN_TENSOR_NCHW, number(precision), of) })?;
        Ok(new)
    }
}

impl Drop for Maps {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and freed here alone. A refusal leaves a few bytes of host memory behind.
        let _ = unsafe { result::destroy_tensor_descriptor(self.0) };
    }
}

/// Filters `[O, C/groups, kh, kw]`, row-major.
pub(super) struct Filters(pub(super) sys::cudnnFilterDescriptor_t);

impl Filters {
    fn new(precision: Precision, of: [usize; 4]) -> Result<Self, Refusal> {
        let of = sizes(of)?;
        let new = Self(told(result::create_filter_descriptor())?);
        // SAFETY: the descriptor was just made, and lives.
        told(unsafe { result::set_filter4d_descriptor(new.0, number(precision), CUDNN_TENSOR_NCHW, of) })?;
        Ok(new)
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and freed here alone. A refusal leaves a few bytes of host memory behind.
        let _ = unsafe { result::destroy_filter_descriptor(self.0) };
    }
}

/// How the filters move over the maps.
pub(super) struct Movement(pub(super) sys::cudnnConvolutionDescriptor_t);

impl Movement {
    fn new(problem: &Problem) -> Result<Self, Refusal> {
        let [padding, stride, dilation, groups] =
            sizes([problem.padding, problem.stride, problem.dilation, problem.groups])?;
        let new = Self(told(result::create_convolution_descriptor())?);
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let sums = sums(problem.precision);
        // SAFETY: the descriptor was just made, and lives.
        told(unsafe {
            result::set_convolution2d_descriptor(
                new.0, padding, padding, stride, stride, dilation, dilation, mode, sums,
            )
        })?;
        // SAFETY: as above.
        told(unsafe { result::set_convolution_group_count(new.0, groups) })?;
        Ok(new)
    }

    pub(super) fn take(&self, math: Math) -> Result<(), Refusal> {
        // SAFETY: the descriptor lives as long as `self`.
        told(unsafe { result::set_convolution_math_type(self.0, named(math)) })
    }
}

impl Drop for Movement {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and freed here alone. A refusal leaves a few bytes of host memory behind.
        let _ = unsafe { result::destroy_convolution_descriptor(self.0) };
    }
}

/// A problem's maps, filters, and result.
pub(super) struct Descriptors {
    pub(super) x: Maps,
    pub(super) w: Filters,
    pub(super) y: Maps,
    pub(super) movement: Movement,
}

impl Descriptors {
    pub(super) fn new(problem: &Problem) -> Result<Self, Refusal> {
        let [oh, ow] = problem.y;
        Ok(Self {
            x: Maps::new(problem.precision, problem.x)?,
            w: Filters::new(problem.precision, problem.w)?,
            y: Maps::new(problem.precision, [problem.x[0], problem.w[0], oh, ow])?,
            movement: Movement::new(problem)?,
        })
    }
}
