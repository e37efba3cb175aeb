//! The calls of cuDNN.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::sync::Arc;

use cudarc::cudnn::result::{self, CudnnError};
use cudarc::cudnn::sys;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError, sys as driver};

use super::super::card::Card;
use super::super::device::{Stored, View};
use super::super::train::conv::{Conv, Pass};
use super::descriptors::Descriptors;
use super::plan::{Choice, Math, Offer, Precision, Problem};
use super::plans::{Engine, Plans, Refusal};
use super::settled;
use crate::Result;

/// Algorithms that cuDNN is asked for: more than a pass has.
const OFFERS: usize = 16;

/// A status of cuDNN as a refusal.
pub(super) fn told<T>(done: std::result::Result<T, CudnnError>) -> std::result::Result<T, Refusal> {
    use sys::cudnnStatus_t as Status;
    done.map_err(|CudnnError(status)| {
        // SAFETY: cuDNN returns a text that it owns and keeps.
        let text = unsafe { CStr::from_ptr(sys::cudnnGetErrorString(status)) }.to_string_lossy();
        let text = format!("{text} ({status:?})");
        match status {
            Status::CUDNN_STATUS_NOT_INITIALIZED
            | Status::CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH
            | Status::CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED
            | Status::CUDNN_STATUS_NOT_SUPPORTED_SUBLIBRARY_UNAVAILABLE => Refusal::Missing(text),
            Status::CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED => Refusal::Memory(text),
            // All of one kind have the same thousand; a combination that has no code may also be called a bad parameter.
            status if status as u32 / 1000 == 3 => Refusal::Unsupported,
            _ => Refusal::Failed(text),
        }
    })
}

fn driven<T>(done: std::result::Result<T, DriverError>) -> std::result::Result<T, Refusal> {
    done.map_err(|error| match error.0 {
        driver::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Refusal::Memory(error.to_string()),
        _ => Refusal::Failed(error.to_string()),
    })
}

/// A handle of a thread, and what was asked of it.
struct Handle {
    raw: sys::cudnnHandle_t,
    stream: Arc<CudaStream>,
    problems: HashMap<Problem, Descriptors>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and freed here alone. At the end of a thread nobody can be told of a refusal.
        let _ = unsafe { result::destroy_handle(self.raw) };
    }
}

impl Handle {
    fn new(stream: Arc<CudaStream>) -> std::result::Result<Self, Refusal> {
        driven(stream.context().bind_to_thread())?;
        let raw = told(result::create_handle())?;
        let new = Self { raw, stream, problems: HashMap::new() };
        // SAFETY: both were just made, and the stream lives as long as the handle.
        told(unsafe { result::set_stream(raw, new.stream.cu_stream().cast()) })?;
        Ok(new)
    }

    fn descriptors(&mut self, problem: &Problem) -> std::result::Result<&Descriptors, Refusal> {
        if !self.problems.contains_key(problem) {
            self.problems.insert(*problem, Descriptors::new(problem)?);
        }
        self.problems.get(problem).ok_or_else(|| Refusal::Failed("a problem was lost".into()))
    }
}

/// An offer, `cudnnConvolutionFwdAlgoPerf_t` and its two likes, with plain numbers: a later cuDNN may know more of them.
#[derive(Clone, Copy)]
#[repr(C)]
struct Raw {
    algorithm: u32,
    status: u32,
    time: f32,
    memory: usize,
    determinism: u32,
    math: u32,
    reserved: [c_int; 3],
}

const _: () = assert!(
    size_of::<Raw>() == size_of::<sys::cudnnConvolutionFwdAlgoPerf_t>()
        && size_of::<Raw>() == size_of::<sys::cudnnConvolutionBwdDataAlgoPerf_t>()
        && size_of::<Raw>() == size_of::<sys::cudnnConvolutionBwdFilterAlgoPerf_t>()
        && std::mem::offset_of!(Raw, memory) == std::mem::offset_of!(sys::cudnnConvolutionFwdAlgoPerfStruct, memory)
        && std::mem::offset_of!(Raw, math) == std::mem::offset_of!(sys::cudnnConvolutionFwdAlgoPerfStruct, mathType)
);

/// cuDNN's algorithm of a number.
macro_rules! algorithm {
    ($number:expr, $all:ident: $($name:ident),*) => {
        [$(sys::$all::$name),*]
            .into_iter()
            .find(|algorithm| *algorithm as u32 == $number)
            .ok_or(Refusal::Unsupported)
    };
}

fn forward(number: u32) -> std::result::Result<sys::cudnnConvolutionFwdAlgo_t, Refusal> {
    algorithm!(number, cudnnConvolutionFwdAlgo_t:
        CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
        CUDNN_CONVOLUTION_FWD_ALGO_GEMM, CUDNN_CONVOLUTION_FWD_ALGO_DIRECT, CUDNN_CONVOLUTION_FWD_ALGO_FFT,
        CUDNN_CONVOLUTION_FWD_ALGO_FFT_TILING, CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD,
        CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED)
}

fn backward_data(number: u32) -> std::result::Result<sys::cudnnConvolutionBwdDataAlgo_t, Refusal> {
    algorithm!(number, cudnnConvolutionBwdDataAlgo_t:
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_0, CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT,
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT_TILING, CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD,
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD_NONFUSED)
}

fn backward_filter(number: u32) -> std::result::Result<sys::cudnnConvolutionBwdFilterAlgo_t, Refusal> {
    algorithm!(number, cudnnConvolutionBwdFilterAlgo_t:
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3,
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD_NONFUSED,
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT_TILING)
}

/// 1 and 0, the factors of what is computed and of what the output held before, in the type that cuDNN takes them in.
fn factors(precision: Precision) -> [*const c_void; 2] {
    static SINGLE: [f32; 2] = [1.0, 0.0];
    static DOUBLE: [f64; 2] = [1.0, 0.0];
    match precision {
        Precision::Double => [0, 1].map(|k| std::ptr::from_ref(&DOUBLE[k]).cast()),
        _ => [0, 1].map(|k| std::ptr::from_ref(&SINGLE[k]).cast()),
    }
}

impl Engine for Handle {
    type Room = Option<CudaSlice<u64>>;

    fn offers(&mut self, problem: &Problem) -> std::result::Result<Vec<Offer>, Refusal> {
        let handle = self.raw;
        let Descriptors { x, w, y, movement } = self.descriptors(problem)?;
        movement.take(problem.math())?;
        let none = Raw { algorithm: 0, status: 1, time: 0.0, memory: 0, determinism: 0, math: 0, reserved: [0; 3] };
        let (mut all, mut count) = ([none; OFFERS], 0);
        let (asked, to) = (OFFERS as c_int, all.as_mut_ptr());
        // SAFETY: handle and descriptors live, and there is room for as many offers as are asked for, in their layout.
        told(unsafe {
            use result as cudnn;
            let (n, c) = (asked, &raw mut count);
            match problem.pass {
                Pass::Forward => {
                    cudnn::get_convolution_forward_algorithm(handle, x.0, w.0, movement.0, y.0, n, c, to.cast())
                }
                Pass::BackwardData => {
                    cudnn::get_convolution_backward_data_algorithm(handle, w.0, y.0, movement.0, x.0, n, c, to.cast())
                }
                Pass::BackwardFilter => {
                    cudnn::get_convolution_backward_filter_algorithm(handle, x.0, y.0, movement.0, w.0, n, c, to.cast())
                }
            }
        })?;
        let offered = all.iter().take(usize::try_from(count).unwrap_or(0));
        let offer = |raw: &Raw| {
            let math = Math::numbered(raw.math)?;
            let (works, deterministic) = (raw.status == 0, raw.determinism == 1);
            Some(Offer { algorithm: raw.algorithm, math, works, deterministic })
        };
        Ok(offered.filter_map(offer).collect())
    }

    fn bytes(&mut self, problem: &Problem, choice: Choice) -> std::result::Result<usize, Refusal> {
        let (handle, number) = (self.raw, choice.algorithm);
        let Descriptors { x, w, y, movement } = self.descriptors(problem)?;
        movement.take(choice.math)?;
        // SAFETY: handle and descriptors live.
        let bytes = unsafe {
            use result as cudnn;
            let by = movement.0;
            match problem.pass {
                Pass::Forward => {
                    cudnn::get_convolution_forward_workspace_size(handle, x.0, w.0, by, y.0, forward(number)?)
                }
                Pass::BackwardData => {
                    let algorithm = backward_data(number)?;
                    cudnn::get_convolution_backward_data_workspace_size(handle, w.0, y.0, by, x.0, algorithm)
                }
                Pass::BackwardFilter => {
                    let algorithm = backward_filter(number)?;
                    cudnn::get_convolution_backward_filter_workspace_size(handle, x.0, y.0, by, w.0, algorithm)
                }
            }
        };
        // A combination that has no code is called a bad parameter by some of the algorithms.
        told(bytes).map_err(|refusal| match refusal {
            Refusal::Failed(_) => Refusal::Unsupported,
            other => other,
        })
    }

    fn room(&mut self, bytes: usize) -> std::result::Result<Option<CudaSlice<u64>>, Refusal> {
        if bytes == 0 {
            return Ok(None);
        }
        // SAFETY: plain numbers, which cuDNN writes before it reads them.
        driven(unsafe { self.stream.alloc(bytes.div_ceil(size_of::<u64>())) }).map(Some)
    }

    fn start(
        &mut self,
        problem: &Problem,
        choice: Choice,
        (room, bytes): (&Option<CudaSlice<u64>>, usize),
        addresses: [u64; 3],
    ) -> std::result::Result<(), Refusal> {
        let (handle, stream) = (self.raw, self.stream.clone());
        let number = choice.algorithm;
        let Descriptors { x, w, y, movement } = self.descriptors(problem)?;
        movement.take(choice.math)?;
        let by = movement.0;
        // One stream does everything in order, so that the guard need not outlive this line.
        let room = room.as_ref().map_or(0, |room| room.device_ptr(&stream).0) as *mut c_void;
        let [one, zero] = factors(problem.precision);
        let [a, b] = [addresses[0] as *const c_void, addresses[1] as *const c_void];
        let to = addresses[2] as *mut c_void;
        // SAFETY: handle and descriptors live; the three addresses are those of tensors of the descriptors' sizes and types,
        // which the caller keeps, and the workspace has the size that the algorithm asked for and is freed in the stream's
        // order.
        told(unsafe {
            use result as cudnn;
            match problem.pass {
                Pass::Forward => {
                    let with = forward(number)?;
                    cudnn::convolution_forward(handle, one, x.0, a, w.0, b, by, with, room, bytes, zero, y.0, to)
                }
                Pass::BackwardData => {
                    // The inputs are the gradient of the result, and the filters.
                    let with = backward_data(number)?;
                    cudnn::convolution_backward_data(handle, one, w.0, b, y.0, a, by, with, room, bytes, zero, x.0, to)
                }
                Pass::BackwardFilter => {
                    let with = backward_filter(number)?;
                    cudnn::convolution_backward_filter(
                        handle, one, x.0, a, y.0, b, by, with, room, bytes, zero, w.0, to,
                    )
                }
            }
        })
    }
}

/// What a thread knows of cuDNN on a stream of a card.
enum Known {
    There(Box<(Handle, Plans)>),
    Missing(String),
}

thread_local! {
    /// By the card's number and the stream's address.
    static KNOWN: RefCell<HashMap<(usize, usize), Known>> = RefCell::default();
}

/// Does something with the handle of this thread for the card's stream, made where there is none yet.
fn with_handle<R>(
    card: &Card,
    run: impl FnOnce(&mut Handle, &mut Plans) -> std::result::Result<R, Refusal>,
) -> std::result::Result<R, Refusal> {
    let stream = card.0.cuda_stream();
    let key = (stream.context().ordinal(), stream.cu_stream() as usize);
    driven(stream.context().bind_to_thread())?;
    KNOWN.with_borrow_mut(|known| {
        if !known.contains_key(&key) {
            // Streams that are kept here alone are those of devices that are gone.
            known.retain(|_, of| matches!(of, Known::There(of) if Arc::strong_count(&of.0.stream) > 1));
            let made = match Handle::new(stream) {
                Ok(handle) => Known::There(Box::new((handle, Plans::default()))),
                Err(Refusal::Missing(text)) => Known::Missing(text),
                Err(other) => return Err(other),
            };
            known.insert(key, made);
        }
        let done = match known.get_mut(&key) {
            Some(Known::There(of)) => run(&mut of.0, &mut of.1),
            Some(Known::Missing(text)) => Err(Refusal::Missing(text.clone())),
            None => Err(Refusal::Failed("a handle was lost".into())),
        };
        // A part of the library that is opened late may be the one that is missing.
        if let Err(Refusal::Missing(text)) = &done {
            known.insert(key, Known::Missing(text.clone()));
        }
        done
    })
}

/// One pass of a convolution by cuDNN; `false` where it is not there or has no algorithm, and nobody insists.
///
/// # Errors
/// [`crate::Error::Library`] where somebody does; memory that has run out; what cuDNN refuses.
pub(crate) fn convolve<T: Stored>(
    card: &Card,
    op: &'static str,
    pass: Pass,
    ([a, b], to): ([View<T>; 2], View<T>),
    conv: &Conv,
) -> Result<bool> {
    let problem = Problem::new::<T>(pass, conv);
    let addresses = [a.address(), b.address(), to.address()];
    let done = with_handle(card, |handle, plans| plans.run(handle, &problem, addresses).map(drop));
    settled(op, conv.config.library.insists(), done)
}

/// The version of cuDNN on the machine, or why there is none.
pub(crate) fn found(card: &Card) -> std::result::Result<String, String> {
    let version = with_handle(card, |_, _| Ok(result::get_version()));
    match version {
        Ok(version) => Ok(format!("{}.{}.{}", version / 10000, version / 100 % 100, version % 100)),
        Err(Refusal::Missing(text) | Refusal::Memory(text) | Refusal::Failed(text)) => Err(text),
        Err(Refusal::Unsupported) => Err("it does not support this card".into()),
    }
}
