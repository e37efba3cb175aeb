//! The images of a batch as tensors where the network is.
//!
//! On the CPU the loader's threads make the views. A card makes them itself, of the images' bytes and of recipes, which a thread
//! copies ahead from pinned memory. Both draw the same numbers and give the same bits.

#[cfg(any(test, feature = "cuda"))]
mod ahead;
#[cfg(feature = "cuda")]
mod card;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use datasets::{DecodedSet, Loader, TrainPlan, ViewBatch};
use records::Stage;

use super::Failure;
use crate::clock::Stopwatch;

/// The views of a batch of `B` images, each `[B, 3, S, S]` in float32, normalised.
pub(super) struct ImageBatch {
    pub(super) labels: Vec<u32>,
    pub(super) anchor: Tensor,
    pub(super) positive: Option<Tensor>,
    pub(super) teacher: Option<Tensor>,
}

/// Brings the images of a trial to its device.
pub(super) struct Upload {
    device: Device,
    waited: Waited,
    #[cfg(feature = "cuda")]
    card: Option<card::Card>,
}

/// Seconds for which the training loop waited for its images, and the card for their copies.
#[derive(Debug, Clone, Default)]
struct Waited(Rc<Cell<f64>>);

impl Waited {
    fn add(&self, seconds: f64) {
        self.0.set(self.0.get() + seconds);
    }
}

impl Upload {
    /// For the network on `device`.
    pub(super) fn new(device: &Device) -> Result<Self, Failure> {
        Ok(Self {
            device: device.clone(),
            waited: Waited::default(),
            #[cfg(feature = "cuda")]
            card: match device {
                Device::Cuda(device) => Some(card::Card::new(device)?),
                _ => None,
            },
        })
    }

    /// The batches of an epoch (indices into `set`) with the views of `plan`, in the order given, made ahead.
    pub(super) fn epoch(&self, set: &Arc<DecodedSet>, batches: Vec<Vec<usize>>, plan: TrainPlan) -> Batches {
        let (device, waited, size) = (self.device.clone(), self.waited.clone(), plan.size);
        #[cfg(feature = "cuda")]
        if let Some(card) = &self.card {
            return Batches { source: Source::Card(card.epoch(set, batches, plan)), device, waited, size };
        }
        let loader = Loader::new(Arc::clone(set), batches, plan, None);
        Batches { source: Source::Host(loader), device, waited, size }
    }

    /// Seconds for which training waited for images until now: the loop for the next batch, and a card for the end of a
    /// copy. The copies of the last few batches of a trial are not in it.
    pub(super) fn waited_s(&self) -> f64 {
        self.waited.0.get()
    }
}

/// The batches of an epoch.
pub(super) struct Batches {
    source: Source,
    device: Device,
    waited: Waited,
    size: usize,
}

enum Source {
    Host(Loader),
    #[cfg(feature = "cuda")]
    Card(card::Epoch),
}

impl Iterator for Batches {
    type Item = Result<ImageBatch, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let clock = Stopwatch::start();
        match &mut self.source {
            Source::Host(loader) => {
                let batch = loader.next();
                self.waited.add(clock.seconds());
                let batch = batch?.map_err(|e| Failure::at(Stage::Data, e));
                Some(batch.and_then(|batch| tensors(batch, self.size, &self.device)))
            }
            #[cfg(feature = "cuda")]
            Source::Card(epoch) => {
                let batch = epoch.next();
                self.waited.add(clock.seconds());
                let views = batch?.and_then(|batch| epoch.views(batch));
                Some(views.map(|(views, copying)| {
                    self.waited.add(copying);
                    views
                }))
            }
        }
    }
}

fn tensors(batch: ViewBatch, size: usize, device: &Device) -> Result<ImageBatch, Failure> {
    let count = batch.labels.len();
    let images = |views: Vec<f32>| {
        Tensor::from_vec(views, (count, 3, size, size), device).map_err(|e| Failure::at(Stage::Train, e))
    };
    Ok(ImageBatch {
        anchor: images(batch.anchor)?,
        positive: batch.positive.map(images).transpose()?,
        teacher: batch.teacher.map(images).transpose()?,
        labels: batch.labels,
    })
}

#[cfg(test)]
mod tests;
