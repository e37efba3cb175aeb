//! Bytes on their way to a card: from pinned memory, beside the stream that computes.

use std::sync::Arc;

use candle_core::cuda_backend::{CudaStorage, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, Storage, Tensor};
use cudarc::driver::result::stream::{self, StreamKind};
use cudarc::driver::sys::{CUevent_flags, CUstream};
use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtr, PinnedHostSlice};

use super::augment;
use super::card::Card;
use super::device::View;
use crate::images::{OP, Recipes};
use crate::{Error, Result};

/// Recipes begin at multiples of this.
const ALIGNMENT: usize = 8;

/// A stream of copies beside a card's stream of kernels.
///
/// It is made past the context's count of streams: with a second stream in that count every tensor would record an event
/// wherever it is used. Nothing but a [`Stage`] uses this stream, and it orders its copies itself.
#[derive(Debug)]
pub struct Copying {
    stream: Arc<CudaStream>,
    raw: CUstream,
}

// SAFETY: a stream may be used and destroyed by any thread; the driver locks.
unsafe impl Send for Copying {}
// SAFETY: as above.
unsafe impl Sync for Copying {}

impl Copying {
    /// A stream of copies to the card of `device`.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn new(device: &CudaDevice) -> Result<Self> {
        let context = Arc::clone(device.cuda_stream().context());
        context.bind_to_thread().w()?;
        let raw = stream::create(StreamKind::NonBlocking).w()?;
        // SAFETY: the stream was just made in this context, and lives until all who hold this wrapper are gone: stages, which
        // keep `Copying` itself.
        let stream = unsafe { context.wrap_borrowed_stream(raw) };
        Ok(Self { stream, raw })
    }

    fn context(&self) -> &Arc<CudaContext> {
        self.stream.context()
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        let context = self.context();
        context.record_err(context.bind_to_thread());
        // SAFETY: made by `new`, destroyed once; the driver finishes what is in it.
        context.record_err(unsafe { stream::destroy(self.raw) });
    }
}

/// Memory of one size at both ends.
#[derive(Debug)]
struct Room {
    pinned: PinnedHostSlice<u8>,
    device: CudaSlice<u8>,
}

/// Room for a batch in pinned memory and on the card, used again and again:
///
/// - [`Stage::fill`] waits until the views of the batch before are made, writes bytes and recipes and starts the copy;
/// - [`Stage::views`] makes the stream of kernels wait for the copy, and makes the views there.
///
/// The two may be called by different threads, so that one batch is copied while another is computed with. `views` belongs on
/// the thread of the other kernels: a card's stream is that of the thread.
#[derive(Debug)]
pub struct Stage {
    room: Option<Room>,
    recipes: Vec<(Recipes, usize)>,
    pixels: usize,
    /// The copy is done.
    copied: CudaEvent,
    /// The kernels' stream comes to the copy, has waited for it, and has made the views.
    reached: CudaEvent,
    waited: CudaEvent,
    made: CudaEvent,
    /// Whether `views` came after the last `fill`.
    read: bool,
    // Last: what is above lies in this stream.
    copying: Arc<Copying>,
}

impl Stage {
    /// An empty stage; it gets its memory when it is first filled.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn new(copying: &Arc<Copying>) -> Result<Self> {
        let event = |flags| copying.context().new_event(Some(flags)).w();
        Ok(Self {
            room: None,
            recipes: Vec::new(),
            pixels: 0,
            copied: event(CUevent_flags::CU_EVENT_BLOCKING_SYNC)?,
            reached: event(CUevent_flags::CU_EVENT_DEFAULT)?,
            waited: event(CUevent_flags::CU_EVENT_DEFAULT)?,
            made: event(CUevent_flags::CU_EVENT_BLOCKING_SYNC)?,
            read: false,
            copying: Arc::clone(copying),
        })
    }

    /// Puts a batch into the stage and starts its copy: the bytes of its images and the recipes of each kind of view. Waits
    /// until the batch before has left. The seconds for which the card waited for that batch's copy come back.
    ///
    /// # Errors
    /// [`Error::Device`] if recipes are for other bytes; what the driver refuses, memory that is not there included.
    pub fn fill(&mut self, pixels: &[u8], recipes: Vec<Recipes>) -> Result<f64> {
        if let Some(other) = recipes.iter().find(|recipes| recipes.pixels() > pixels.len()) {
            let reason = format!("recipes for {} bytes, and {} bytes", other.pixels(), pixels.len());
            return Err(Error::Device { op: OP, reason });
        }
        let waited = self.settle()?;
        let mut length = pixels.len();
        self.recipes = recipes
            .into_iter()
            .map(|recipes| {
                let begin = length.next_multiple_of(ALIGNMENT);
                length = begin + size_of_val(recipes.words());
                (recipes, begin)
            })
            .collect();
        self.pixels = pixels.len();
        let recipes = std::mem::take(&mut self.recipes);
        let room = self.room(length)?;
        let bytes = &mut room.pinned.as_mut_slice().w()?[..length];
        bytes[..pixels.len()].copy_from_slice(pixels);
        for (recipes, begin) in &recipes {
            let words = bytes[*begin..].chunks_exact_mut(size_of::<u32>());
            words.zip(recipes.words()).for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_ne_bytes()));
        }
        self.recipes = recipes;
        let stream = Arc::clone(&self.copying.stream);
        // From here on the copy may run: whatever fails, it is waited for.
        self.read = false;
        let Some(room) = &mut self.room else { return Ok(waited) };
        let started = stream.memcpy_htod(&room.pinned.as_slice().w()?[..length], &mut room.device).w();
        self.copied.record(&stream).w()?;
        started?;
        Ok(waited)
    }

    /// Waits for the copy and for the kernels that read it.
    fn settle(&mut self) -> Result<f64> {
        self.copied.synchronize().w()?;
        if !self.read {
            return Ok(0.0);
        }
        self.made.synchronize().w()?;
        Ok(1e-3 * f64::from(self.reached.elapsed_ms(&self.waited).w()?))
    }

    /// Memory for `length` bytes; nobody uses the old.
    fn room(&mut self, length: usize) -> Result<&mut Room> {
        if self.room.as_ref().is_some_and(|room| room.pinned.len() < length) {
            self.room = None;
        }
        let room = match self.room.take() {
            Some(room) => room,
            None => {
                // Batches of images of several sizes differ a little: some room to spare.
                let length = (length + length / 8).next_multiple_of(1 << 16);
                let copying = &self.copying;
                // SAFETY: set just below, before anybody reads it.
                let mut pinned = unsafe { copying.context().alloc_pinned::<u8>(length) }.w()?;
                let begin = pinned.as_mut_ptr().w()?;
                // SAFETY: the memory holds as many bytes.
                unsafe { std::ptr::write_bytes(begin, 0, length) };
                // SAFETY: the views read what a copy wrote before, by the bounds of the recipes.
                let device = unsafe { copying.stream.alloc::<u8>(length) }.w()?;
                Room { pinned, device }
            }
        };
        Ok(self.room.insert(room))
    }

    /// The views of each of the recipes, `[B, 3, S, S]` in float32, made on the stream of `device` once the copy is there.
    /// Does not wait itself.
    ///
    /// # Errors
    /// [`Error::Device`] for a stage without a batch, or another card's; what the driver refuses.
    pub fn views(&mut self, device: &CudaDevice) -> Result<Vec<Tensor>> {
        let stream = device.cuda_stream();
        let refused = |reason: &str| Error::Device { op: OP, reason: reason.to_owned() };
        let room = self.room.as_ref().ok_or_else(|| refused("a stage without a batch"))?;
        if stream.context() != self.copying.context() {
            return Err(refused("the batch lies on another card"));
        }
        self.reached.record(&stream).w()?;
        stream.wait(&self.copied).w()?;
        self.waited.record(&stream).w()?;
        let (address, _guard) = room.device.device_ptr(&stream);
        let card = Card(device.clone());
        let made = self.recipes.iter().map(|(recipes, begin)| {
            let words = View::new(address + *begin as u64, recipes.words().len());
            let values = augment::views(&card, View::new(address, self.pixels), words, recipes)?;
            let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(values, device.clone()));
            let shape = (recipes.views(), 3, recipes.size(), recipes.size());
            Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
        });
        let made: Result<Vec<Tensor>> = made.collect();
        // Kernels may run even where a later one was refused.
        self.made.record(&stream).w()?;
        self.read = true;
        made
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Memory is given back when nobody uses it any more.
        let context = Arc::clone(self.copying.context());
        context.record_err(self.copied.synchronize());
        context.record_err(self.made.synchronize());
    }
}
