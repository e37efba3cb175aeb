//! Eigenvectors of batches of symmetric matrices by cuSOLVER.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use cudarc::cusolver::result::{self, CusolverError};
use cudarc::cusolver::sys;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::card::Card;
use super::device::View;
use crate::{Error, Result};

/// Numbers of the matrices of one call: as many matrices at a time as fill a gigabyte, so that the workspace stays of that
/// order and no index passes 2³¹.
const TOGETHER: usize = 1 << 27;

/// What is computed: eigenvectors too, from the lower triangles, in float64.
const VECTORS: sys::cusolverEigMode_t = sys::cusolverEigMode_t::CUSOLVER_EIG_MODE_VECTOR;
const LOWER: sys::cublasFillMode_t = sys::cublasFillMode_t::CUBLAS_FILL_MODE_LOWER;
const REAL: sys::cudaDataType_t = sys::cudaDataType_t::CUDA_R_64F;

/// What a thread knows of cuSOLVER on a stream of a card.
enum Known {
    There(Solver),
    Missing(String),
}

thread_local! {
    /// By the card's number and the stream's address. A handle must not be used by two threads at once.
    static KNOWN: RefCell<HashMap<(usize, usize), Known>> = RefCell::default();
}

/// A handle, and the parameters of its routines.
struct Solver {
    handle: sys::cusolverDnHandle_t,
    parameters: sys::cusolverDnParams_t,
    stream: Arc<CudaStream>,
}

impl Drop for Solver {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and freed here alone; there may be no parameters. At the end of a thread nobody can be told
        // of a refusal.
        unsafe {
            if !self.parameters.is_null() {
                let _ = result::dn_destroy_params(self.parameters);
            }
            let _ = result::dn_destroy(self.handle);
        }
    }
}

impl Solver {
    fn new(stream: Arc<CudaStream>) -> std::result::Result<Self, CusolverError> {
        let mut new = Self { handle: result::dn_create()?, parameters: std::ptr::null_mut(), stream };
        new.parameters = result::dn_create_params()?;
        let mode = sys::cusolverDeterministicMode_t::CUSOLVER_DETERMINISTIC_RESULTS;
        // SAFETY: the handle was just made, and the stream lives as long as it.
        unsafe {
            result::dn_set_stream(new.handle, new.stream.cu_stream().cast())?;
            sys::cusolverDnSetDeterministicMode(new.handle, mode).result()?;
        }
        // A library of before CUDA 12.8 may lack the routine, whose caller is told so by this status alone.
        match new.workspace([0; 3], (1, 1)) {
            Err(error) if Self::is_missing(error) => Err(error),
            _ => Ok(new),
        }
    }

    /// Whether a refusal means that the library, or what is needed of it, is not there.
    fn is_missing(error: CusolverError) -> bool {
        error.0 == sys::cusolverStatus_t::CUSOLVER_STATUS_NOT_INITIALIZED
    }

    /// Bytes on the card and on the host that `n` matrices need.
    fn workspace(&self, at: [u64; 3], (n, d): (usize, usize)) -> std::result::Result<(usize, usize), CusolverError> {
        let [matrices, values, _] = at;
        let (d, n) = (d as i64, n as i64);
        let (mut on_card, mut on_host) = (0, 0);
        // SAFETY: handle and parameters live; what lies on the card is not read for this.
        let asked = unsafe {
            sys::cusolverDnXsyevBatched_bufferSize(
                self.handle,
                self.parameters,
                VECTORS,
                LOWER,
                d,
                REAL,
                matrices as *const c_void,
                d,
                REAL,
                values as *const c_void,
                REAL,
                &mut on_card,
                &mut on_host,
                n,
            )
        };
        asked.result().map(|()| (on_card, on_host))
    }

    /// Eigenvectors of `n` matrices in their place. A symmetric matrix is the same by rows and by columns, and eigenvectors in
    /// columns, by columns, are eigenvectors in rows, by rows.
    fn run(&self, op: &'static str, at: [u64; 3], (n, d): (usize, usize)) -> Result<()> {
        let refused = |error| Error::Device { op, reason: format!("cuSOLVER: {error}") };
        let (on_card, on_host) = self.workspace(at, (n, d)).map_err(refused)?;
        // SAFETY: plain numbers, which cuSOLVER writes before it reads them.
        let room: CudaSlice<u64> = unsafe { self.stream.alloc(on_card.div_ceil(size_of::<u64>()).max(1)) }.w()?;
        let mut host = vec![0u64; on_host.div_ceil(size_of::<u64>())];
        let ([matrices, values, failed], (d, n)) = (at, (d as i64, n as i64));
        // One stream does everything in order, so that the guard need not outlive this line.
        let (address, _guard) = room.device_ptr(&self.stream);
        // SAFETY: handle and parameters live; the caller keeps `n` matrices, `n` rows of values and `n` words at the three
        // addresses, and both rooms have the sizes that were asked for. What lies on the card is freed in the stream's order.
        let done = unsafe {
            sys::cusolverDnXsyevBatched(
                self.handle,
                self.parameters,
                VECTORS,
                LOWER,
                d,
                REAL,
                matrices as *mut c_void,
                d,
                REAL,
                values as *mut c_void,
                REAL,
                address as *mut c_void,
                on_card,
                host.as_mut_ptr().cast(),
                on_host,
                failed as *mut c_int,
                n,
            )
        };
        done.result().map_err(refused)?;
        if on_host > 0 {
            // What lies on the host must outlive the work.
            self.stream.synchronize().w()?;
        }
        Ok(())
    }
}

/// Does something with what this thread knows of the card's stream; what it did not know is found out.
fn with<R>(card: &Card, op: &'static str, run: impl FnOnce(&Known) -> Result<R>) -> Result<R> {
    let stream = card.0.cuda_stream();
    let key = (stream.context().ordinal(), stream.cu_stream() as usize);
    stream.context().bind_to_thread().w()?;
    KNOWN.with_borrow_mut(|known| {
        if !known.contains_key(&key) {
            // Streams that are kept here alone are those of devices that are gone.
            known.retain(|_, of| matches!(of, Known::There(of) if Arc::strong_count(&of.stream) > 1));
            let made = match Solver::new(stream) {
                Ok(solver) => Known::There(solver),
                Err(error) if Solver::is_missing(error) => Known::Missing(error.to_string()),
                Err(error) => return Err(Error::Device { op, reason: format!("cuSOLVER: {error}") }),
            };
            known.insert(key, made);
        }
        match known.get(&key) {
            Some(of) => run(of),
            None => Err(Error::Device { op, reason: "a handle of cuSOLVER was lost".into() }),
        }
    })
}

/// Whether cuSOLVER is on the machine.
///
/// # Errors
/// What a cuSOLVER that is there refuses.
pub(crate) fn is_there(card: &Card, op: &'static str) -> Result<bool> {
    with(card, op, |known| Ok(matches!(known, Known::There(_))))
}

/// [`super::device::Device::eigenvectors`].
///
/// # Errors
/// What cuSOLVER refuses, and memory that has run out.
pub(crate) fn eigenvectors(
    card: &Card,
    op: &'static str,
    (matrices, values, failed): (View<f64>, View<f64>, View<u32>),
    (n, d): (usize, usize),
) -> Result<()> {
    let some = (TOGETHER / (d * d)).max(1);
    with(card, op, |known| {
        let Known::There(solver) = known else {
            return Err(Error::Device { op, reason: "cuSOLVER is not there".into() });
        };
        (0..n).step_by(some).try_for_each(|from| {
            let at =
                [matrices.from(from * d * d).address(), values.from(from * d).address(), failed.from(from).address()];
            solver.run(op, at, (some.min(n - from), d))
        })
    })
}

/// The version of cuSOLVER on the machine, or why there is none.
pub(crate) fn found(card: &Card) -> std::result::Result<String, String> {
    let found = with(card, "libraries", |known| match known {
        Known::Missing(why) => Ok(Err(why.clone())),
        Known::There(_) => {
            let mut version: c_int = 0;
            // SAFETY: the version is written there and nowhere else.
            match unsafe { sys::cusolverGetVersion(&mut version) }.result() {
                Ok(()) => Ok(Ok(format!("{}.{}.{}", version / 1000, version / 100 % 10, version % 100))),
                Err(error) => Ok(Err(error.to_string())),
            }
        }
    });
    found.unwrap_or_else(|error| Err(error.to_string()))
}
