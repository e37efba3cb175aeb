//! Steps of optimisers and moving averages, each one launch over all parameters.

use super::super::device::{Bf16, Device, Launch, Stored, View, arguments, kernel};
use super::THREADS;
use crate::Result;

/// Values of a block, as in `step.cu`.
const CHUNK: usize = 4096;
/// Words of a row of the table.
const ROW: usize = 9;

/// Where a parameter and what belongs to it lie. A row of the kernels' table: `Slot` in `step.cu`.
#[derive(Clone, Copy)]
pub(crate) struct Slot<S> {
    /// The values, which the step changes.
    pub(crate) value: View<S>,
    /// Their gradient; for an average the parameter that it follows.
    pub(crate) gradient: View<S>,
    /// First moment, or velocity.
    pub(crate) first: View<S>,
    /// Second moment.
    pub(crate) second: View<S>,
    /// The copy that the network computes with, where that is bfloat16.
    pub(crate) copy: Option<View<Bf16>>,
    /// `1 − ηλ` (AdamW), or the penalty λ (gradient descent).
    pub(crate) shrink: f64,
    /// The learning rate, over `1 − β₁ᵗ` (AdamW).
    pub(crate) rate: f64,
    /// `√(1 − β₂ᵗ)` (AdamW).
    pub(crate) root: f64,
}

impl<S: Stored> Slot<S> {
    /// A parameter and its gradient, with no state.
    pub(crate) fn new(value: View<S>, gradient: View<S>) -> Self {
        let (first, second) = (View::none(), View::none());
        Self { value, gradient, first, second, copy: None, shrink: 0.0, rate: 0.0, root: 1.0 }
    }

    fn row(&self) -> [u64; ROW] {
        let addresses = [self.value, self.gradient, self.first, self.second].map(View::address);
        let [value, gradient, first, second] = addresses;
        let copy = self.copy.map_or(0, View::address);
        let [shrink, rate, root] = [self.shrink, self.rate, self.root].map(f64::to_bits);
        [value, gradient, first, second, copy, self.value.len() as u64, shrink, rate, root]
    }
}

/// The kernels' table of parameters and of chunks.
pub(crate) struct Table<D: Device, S> {
    rows: D::Buffer<u64>,
    chunks: D::Buffer<u32>,
    blocks: usize,
    number: std::marker::PhantomData<S>,
}

/// AdamW's settings that all parameters share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adam {
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
}

impl<D: Device, S: Stored<Sum = S>> Table<D, S> {
    /// Uploads the table; the memory of all slots must outlive the steps.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn new(device: &D, slots: &[Slot<S>]) -> Result<Self> {
        let rows: Vec<u64> = slots.iter().flat_map(Slot::row).collect();
        let of =
            |(k, slot): (usize, &Slot<S>)| (0..slot.value.len().div_ceil(CHUNK)).map(move |c| [k as u32, c as u32]);
        let chunks: Vec<[u32; 2]> = slots.iter().enumerate().flat_map(of).collect();
        let (rows, blocks) = (device.upload(&rows)?, chunks.len());
        Ok(Self { rows, chunks: device.upload(chunks.as_flattened())?, blocks, number: std::marker::PhantomData })
    }

    fn launch(&self, shared: usize) -> Launch {
        Launch { blocks: self.blocks, threads: THREADS, shared }
    }

    /// The norm of all gradients, summed in float64 in a fixed order, and the factor `min(1, most / (norm + 1e-6))`; NaN
    /// for a norm that is not finite.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn factor(&self, device: &D, most: f64) -> Result<D::Buffer<f64>> {
        let (parts, out) = (device.empty::<f64>(self.blocks)?, device.empty::<f64>(2)?);
        let (rows, chunks) = (device.view(&self.rows), device.view(&self.chunks));
        let to = device.view(&parts);
        device.launch(kernel!(S, "gradient_squares"), self.launch(32), arguments![rows, chunks, to])?;
        let launch = Launch { blocks: 1, threads: THREADS, shared: 32 };
        device.launch("gradient_factor", launch, arguments![to, device.view(&out), self.blocks, most])?;
        Ok(out)
    }

    /// A step of [`crate::optim::AdamW`] with the gradients times `scale[0]`; none where that is not finite.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn adamw(&self, device: &D, scale: View<f64>, adam: Adam) -> Result<()> {
        let (rows, chunks) = (device.view(&self.rows), device.view(&self.chunks));
        let arguments = arguments![rows, chunks, scale, adam.beta1, adam.beta2, adam.eps];
        device.launch(kernel!(S, "adamw"), self.launch(0), arguments)
    }

    /// A step of [`crate::optim::Sgd`]; as [`Self::adamw`] otherwise.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn sgd(&self, device: &D, scale: View<f64>, momentum: f64, nesterov: bool) -> Result<()> {
        let (rows, chunks) = (device.view(&self.rows), device.view(&self.chunks));
        let arguments = arguments![rows, chunks, scale, momentum, usize::from(nesterov)];
        device.launch(kernel!(S, "sgd"), self.launch(0), arguments)
    }

    /// A step of [`crate::optim::Ema`]: each value towards its slot's `gradient`.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn ema(&self, device: &D, decay: f64) -> Result<()> {
        let (rows, chunks) = (device.view(&self.rows), device.view(&self.chunks));
        device.launch(kernel!(S, "ema"), self.launch(0), arguments![rows, chunks, decay])
    }
}
