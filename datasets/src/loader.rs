//! Batches of views, made ahead of the step that uses them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use random::Seeds;
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::augment::AugmentConfig;
use crate::decode::DecodedSet;
use crate::views::{EvalConfig, Normalise, WantViews, eval_view, train_views};

/// Batches that may wait for the consumer.
const DEPTH: usize = 2;

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

/// What training views are made with.
#[derive(Debug, Clone)]
pub struct TrainPlan {
    /// Augmentation.
    pub augment: AugmentConfig,
    /// Side of the views.
    pub size: usize,
    /// Normalisation.
    pub norm: Normalise,
    /// Root of the streams.
    pub seeds: Seeds,
    /// The epoch, which enters the streams.
    pub epoch: u64,
    /// Which views to make.
    pub want: WantViews,
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

/// An iterator over batches, in the order given. A thread of its own makes up to two batches ahead, the images of a
/// batch in parallel on a rayon pool. What comes out does not depend on the number of workers. Dropping the loader
/// in the middle stops the thread after the batch it is making.
#[derive(Debug)]
pub struct Loader {
    batches: Option<Receiver<ViewBatch>>,
    thread: Option<JoinHandle<()>>,
    left: usize,
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

    fn start(
        batches: Vec<Vec<usize>>,
        pool: Option<Arc<ThreadPool>>,
        make: impl Fn(Vec<usize>) -> ViewBatch + Send + Sync + 'static,
    ) -> Self {
        let (sender, receiver) = sync_channel(DEPTH);
        let left = batches.len();
        let thread = std::thread::spawn(move || {
            for indices in batches {
                let batch = match &pool {
                    Some(pool) => pool.install(|| make(indices)),
                    None => make(indices),
                };
                if sender.send(batch).is_err() {
                    return;
                }
            }
        });
        Self { batches: Some(receiver), thread: Some(thread), left }
    }
}

impl Iterator for Loader {
    type Item = ViewBatch;

    fn next(&mut self) -> Option<ViewBatch> {
        if let Ok(batch) = self.batches.as_ref()?.recv() {
            self.left -= 1;
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

impl ExactSizeIterator for Loader {}

impl Drop for Loader {
    fn drop(&mut self) {
        // Without a receiver the thread's next `send` fails, so it ends and can be joined.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A panic of a thread whose batches nobody wants any more is nobody's loss.
            drop(thread.join());
        }
    }
}

fn train_batch(set: &DecodedSet, indices: Vec<usize>, plan: &TrainPlan) -> ViewBatch {
    let stride = 3 * plan.size * plan.size;
    let mut anchor = vec![0.0f32; indices.len() * stride];
    let mut positive = plan.want.positive.then(|| vec![0.0f32; indices.len() * stride]);
    let mut teacher = plan.want.teacher.then(|| vec![0.0f32; indices.len() * stride]);
    let positives = split(positive.as_deref_mut(), stride, indices.len());
    let teachers = split(teacher.as_deref_mut(), stride, indices.len());
    let targets: Vec<_> = anchor.chunks_exact_mut(stride).zip(positives).zip(teachers).collect();
    indices.par_iter().zip(targets).for_each(|(&index, ((anchor, positive), teacher))| {
        let TrainPlan { augment, size, norm, seeds, epoch, want } = plan;
        let image = &set.images()[index];
        let views = train_views(image, augment, *size, norm, *seeds, *epoch, index as u64, *want);
        anchor.copy_from_slice(&views.anchor);
        for (target, view) in [(positive, views.positive), (teacher, views.teacher)] {
            if let (Some(target), Some(view)) = (target, view) {
                target.copy_from_slice(&view);
            }
        }
    });
    let labels = indices.iter().map(|&index| set.labels()[index]).collect();
    ViewBatch { indices, labels, anchor, positive, teacher }
}

/// One slot an image, or as many times nothing.
fn split(batch: Option<&mut [f32]>, stride: usize, n: usize) -> Vec<Option<&mut [f32]>> {
    match batch {
        Some(values) => values.chunks_exact_mut(stride).map(Some).collect(),
        None => (0..n).map(|_| None).collect(),
    }
}

fn eval_batch(set: &DecodedSet, indices: Vec<usize>, plan: &EvalPlan) -> ViewBatch {
    let stride = 3 * plan.size * plan.size;
    let mut anchor = vec![0.0f32; indices.len() * stride];
    indices.par_iter().zip(anchor.par_chunks_exact_mut(stride)).for_each(|(&index, target)| {
        target.copy_from_slice(&eval_view(&set.images()[index], &plan.eval, plan.size, &plan.norm));
    });
    let labels = indices.iter().map(|&index| set.labels()[index]).collect();
    ViewBatch { indices, labels, anchor, positive: None, teacher: None }
}

#[cfg(test)]
mod tests;
