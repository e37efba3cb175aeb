//! Steps of optimisers and moving averages, each one launch over all parameters.

use std::marker::PhantomData;
use std::sync::Arc;

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

/// Which chunk of which parameter each block takes: the same from step to step while the same parameters have gradients.
pub(crate) struct Chunks<D: Device> {
    lengths: Vec<usize>,
    chunks: D::Buffer<u32>,
    blocks: usize,
}

impl<D: Device> Chunks<D> {
    fn new(device: &D, lengths: Vec<usize>) -> Result<Self> {
        let of = |(k, len): (usize, &usize)| (0..len.div_ceil(CHUNK)).map(move |c| [k as u32, c as u32]);
        let chunks: Vec<[u32; 2]> = lengths.iter().enumerate().flat_map(of).collect();
        Ok(Self { lengths, chunks: device.upload(chunks.as_flattened())?, blocks: chunks.len() })
    }

    /// Those for parameters of these lengths: `kept` ones if they are.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn of(device: &D, lengths: Vec<usize>, kept: &mut Option<Arc<Self>>) -> Result<Arc<Self>> {
        match kept {
            Some(kept) if kept.lengths == lengths => Ok(kept.clone()),
            _ => Ok(kept.insert(Arc::new(Self::new(device, lengths)?)).clone()),
        }
    }
}

/// The kernels' table of parameters and of chunks.
pub(crate) struct Table<D: Device, S> {
    /// A row for each parameter, and behind them the factor of the gradients.
    rows: D::Buffer<u64>,
    parameters: usize,
    chunks: Arc<Chunks<D>>,
    number: PhantomData<S>,
}

/// AdamW's settings that all parameters share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adam {
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
}

impl<D: Device, S: Stored<Sum = S>> Table<D, S> {
    /// Uploads the table, with a factor for the gradients; the memory of all slots must outlive the steps.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn new(device: &D, slots: &[Slot<S>], scale: f64, kept: &mut Option<Arc<Chunks<D>>>) -> Result<Self> {
        let chunks = Chunks::of(device, slots.iter().map(|slot| slot.value.len()).collect(), kept)?;
        let rows: Vec<u64> = slots.iter().flat_map(Slot::row).chain([scale.to_bits()]).collect();
        Ok(Self { rows: device.upload(&rows)?, parameters: slots.len(), chunks, number: PhantomData })
    }

    fn launch(&self, shared: usize) -> Launch {
        Launch { blocks: self.chunks.blocks, threads: THREADS, shared }
    }

    /// Where the rows lie, and the chunks.
    fn views(&self, device: &D) -> (View<u64>, View<u32>) {
        (device.view(&self.rows), device.view(&self.chunks.chunks))
    }

    /// The factor that was uploaded.
    pub(crate) fn scale(&self, device: &D) -> View<f64> {
        View::new(device.view(&self.rows).from(self.parameters * ROW).address(), 1)
    }

    /// Sums of squares that [`Self::squares`] makes.
    pub(crate) fn parts(&self) -> usize {
        self.chunks.blocks
    }

    /// The sums of squares of pieces of the gradients, in float64.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn squares(&self, device: &D, parts: View<f64>) -> Result<()> {
        let (rows, chunks) = self.views(device);
        device.launch(kernel!(S, "gradient_squares"), self.launch(32), arguments![rows, chunks, parts])
    }

    /// A step of [`crate::optim::AdamW`] with the gradients times `scale[0]`; none where that is not finite.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn adamw(&self, device: &D, scale: View<f64>, adam: Adam) -> Result<()> {
        let (rows, chunks) = self.views(device);
        let arguments = arguments![rows, chunks, scale, adam.beta1, adam.beta2, adam.eps];
        device.launch(kernel!(S, "adamw"), self.launch(0), arguments)
    }

    /// A step of [`crate::optim::Sgd`]; as [`Self::adamw`] otherwise.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn sgd(&self, device: &D, scale: View<f64>, momentum: f64, nesterov: bool) -> Result<()> {
        let (rows, chunks) = self.views(device);
        let arguments = arguments![rows, chunks, scale, momentum, usize::from(nesterov)];
        device.launch(kernel!(S, "sgd"), self.launch(0), arguments)
    }

    /// A step of [`crate::optim::Ema`]: each value towards its slot's `gradient`.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn ema(&self, device: &D, decay: f64) -> Result<()> {
        let (rows, chunks) = self.views(device);
        device.launch(kernel!(S, "ema"), self.launch(0), arguments![rows, chunks, decay])
    }
}

/// The norm of gradients, from the sums of squares of their pieces in a fixed order, and the factor
/// `min(1, most / (norm + 1e-6))`; NaN for a norm that is not finite.
///
/// # Errors
/// What the device refuses.
pub(crate) fn factor<D: Device>(device: &D, parts: View<f64>, most: f64) -> Result<D::Buffer<f64>> {
    let out = device.empty::<f64>(2)?;
    let launch = Launch { blocks: 1, threads: THREADS, shared: 32 };
    device.launch("gradient_factor", launch, arguments![parts, device.view(&out), parts.len(), most])?;
    Ok(out)
}
