//! Batches of views, made ahead of the step that uses them.

mod bytes;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::decoded_set::DecodedSet;
use crate::error::DatasetError;
use crate::views::{EvalConfig, Normalise, Scratch, Targets, TrainPlan, write_eval_view, write_train_views};

use bytes::byte_batch;
pub use bytes::{ByteBatch, Place};

/// Batches that may wait for the consumer. A third may be finished and a fourth with the consumer: four batches is the
/// most memory that a loader takes.
const DEPTH: usize = 2;

/// A batch, or why there is none.
type Made<T = ViewBatch> = Result<T, DatasetError>;

/// A batch of `B` images.
#[derive(Debug, Clone, PartialEq)]
pub struct ViewBatch {
    /// Indices into the [`DecodedSet`].
    pub indices: Vec<usize>,
    /// Labels of the images.
    pub labels: Vec<u32>,
    /// `[B, 3, S, S]`, normalised.
    pub anchor: Vec<f32>,
    /// `[B, 3, S, S]`, if wanted.
    pub positive: Option<Vec<f32>>,
    /// `[B, 3, S, S]`, if wanted.
    pub teacher: Option<Vec<f32>>,
}

/// What evaluation views are made with.
#[derive(Debug, Clone)]
pub struct EvalPlan {
    /// Resize before the centre crop.
    pub eval: EvalConfig,
    /// Side of the views.
    pub size: usize,
    /// Normalisation.
    pub norm: Normalise,
}

/// An iterator over batches, in the order given: of views, or of bytes with recipes ([`ByteBatch`]). A thread of its own makes up to three batches ahead, the images of a
/// batch in parallel on a rayon pool. What comes out does not depend on the number of workers. Dropping the loader
/// in the middle stops the thread after the batch it is making.
///
/// An image that cannot be had ([`DecodedSet::image`]) is an error in place of its batch, that of the first such image
/// of the batch, and the last thing that comes.
#[derive(Debug)]
pub struct Loader<T = ViewBatch> {
    batches: Option<Receiver<Made<T>>>,
    thread: Option<JoinHandle<()>>,
    left: usize,
}

impl Loader<ByteBatch> {
    /// The bytes of `batches` (indices into `set`) and the recipes of the views that [`Loader::new`] would make of them,
    /// drawn on `pool`, or on rayon's global pool.
    ///
    /// # Panics
    /// As [`Loader::new`].
    pub fn bytes(
        set: Arc<DecodedSet>,
        batches: Vec<Vec<usize>>,
        plan: TrainPlan,
        pool: Option<Arc<ThreadPool>>,
    ) -> Self {
        Self::start(batches, pool, move |indices| byte_batch(&set, indices, &plan))
    }
}

impl Loader {
    /// Training views of `batches` (indices into `set`), made on `pool`, or on rayon's global pool.
    ///
    /// # Panics
    /// If the thread cannot be started; the iterator panics if an index is not in `set` or a size is 0.
    pub fn new(set: Arc<DecodedSet>, batches: Vec<Vec<usize>>, plan: TrainPlan, pool: Option<Arc<ThreadPool>>) -> Self {
        Self::start(batches, pool, move |indices| train_batch(&set, indices, &plan))
    }

    /// Evaluation views of `batches` (indices into `set`), as anchors.
    ///
    /// # Panics
    /// As [`Loader::new`], and if a view of `size` cannot be cut from `resize` ([`EvalConfig::validate`]).
    pub fn eval(set: Arc<DecodedSet>, batches: Vec<Vec<usize>>, plan: EvalPlan, pool: Option<Arc<ThreadPool>>) -> Self {
        Self::start(batches, pool, move |indices| eval_batch(&set, indices, &plan))
    }
}

impl<T: Send + 'static> Loader<T> {
    fn start(
        batches: Vec<Vec<usize>>,
        pool: Option<Arc<ThreadPool>>,
        make: impl Fn(Vec<usize>) -> Made<T> + Send + Sync + 'static,
    ) -> Self {
        let (sender, receiver) = sync_channel(DEPTH);
        let left = batches.len();
        let thread = std::thread::spawn(move || {
            for indices in batches {
                let batch = match &pool {
                    Some(pool) => pool.install(|| make(indices)),
                    None => make(indices),
                };
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        });
        Self { batches: Some(receiver), thread: Some(thread), left }
    }
}

impl<T> Iterator for Loader<T> {
    type Item = Made<T>;

    fn next(&mut self) -> Option<Made<T>> {
        if let Ok(batch) = self.batches.as_ref()?.recv() {
            self.left = if batch.is_ok() { self.left - 1 } else { 0 };
            return Some(batch);
        }
        // The thread is done, or has panicked: an epoch must not end early without a word.
        self.batches = None;
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T> ExactSizeIterator for Loader<T> {}

impl<T> Drop for Loader<T> {
    fn drop(&mut self) {
        // Without a receiver the thread's next `send` fails, so it ends and can be joined.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A panic of a thread whose batches nobody wants any more is nobody's loss.
            drop(thread.join());
        }
    }
}

fn train_batch(set: &DecodedSet, indices: Vec<usize>, plan: &TrainPlan) -> Made {
    let stride = 3 * plan.size * plan.size;
    let mut anchor = vec![0.0f32; indices.len() * stride];
    let mut positive = plan.want.positive.then(|| vec![0.0f32; indices.len() * stride]);
    let mut teacher = plan.want.teacher.then(|| vec![0.0f32; indices.len() * stride]);
    let positives = split(positive.as_deref_mut(), stride, indices.len());
    let teachers = split(teacher.as_deref_mut(), stride, indices.len());
    let targets = anchor.chunks_exact_mut(stride).zip(positives).zip(teachers);
    let targets: Vec<_> = targets.map(|((anchor, positive), teacher)| Targets { anchor, positive, teacher }).collect();
    let made = indices.par_iter().zip(targets).map_init(Scratch::default, |scratch, (&index, targets)| {
        write_train_views(set.image(index)?, plan, index as u64, targets, scratch);
        Ok(())
    });
    first_error(made)?;
    let labels = indices.iter().map(|&index| set.labels()[index]).collect();
    Ok(ViewBatch { indices, labels, anchor, positive, teacher })
}

/// The error with the lowest index, whatever the number of threads.
fn first_error(made: impl IndexedParallelIterator<Item = Result<(), DatasetError>>) -> Result<(), DatasetError> {
    let mut results = Vec::new();
    made.collect_into_vec(&mut results);
    results.into_iter().collect()
}

/// One slot an image, or as many times nothing.
fn split(batch: Option<&mut [f32]>, stride: usize, n: usize) -> Vec<Option<&mut [f32]>> {
    match batch {
        Some(values) => values.chunks_exact_mut(stride).map(Some).collect(),
        None => (0..n).map(|_| None).collect(),
    }
}

fn eval_batch(set: &DecodedSet, indices: Vec<usize>, plan: &EvalPlan) -> Made {
    let stride = 3 * plan.size * plan.size;
    let mut anchor = vec![0.0f32; indices.len() * stride];
    let made = indices.par_iter().zip(anchor.par_chunks_exact_mut(stride)).map(|(&index, target)| {
        write_eval_view(set.image(index)?, &plan.eval, plan.size, &plan.norm, target);
        Ok(())
    });
    first_error(made)?;
    let labels = indices.iter().map(|&index| set.labels()[index]).collect();
    Ok(ViewBatch { indices, labels, anchor, positive: None, teacher: None })
}

#[cfg(test)]
mod tests;
