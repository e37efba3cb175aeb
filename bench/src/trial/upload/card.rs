//! Bytes and recipes, from pinned memory to a card that makes the views.

use std::sync::Arc;

use candle_core::CudaDevice;
use datasets::{ByteBatch, DecodedSet, Loader, Normalise, Recipe, TrainPlan, recipe_words};
use kernels::images::{self, Copying, Recipes};
use records::Stage;

use super::super::Failure;
use super::ImageBatch;
use super::ahead::{Ahead, Rooms};

/// Batches in pinned memory and on the card: one that the card makes views of, one that is there, one on its way.
const STAGES: usize = 3;

/// A card with its stages.
pub(super) struct Card {
    device: CudaDevice,
    stages: Rooms<images::Stage>,
}

/// What is known of a batch that is on its way to the card.
pub(super) struct Sent {
    labels: Vec<u32>,
    positive: bool,
    teacher: bool,
    /// Seconds for which the card waited for an earlier copy.
    waited: f64,
}

impl Card {
    pub(super) fn new(device: &CudaDevice) -> Result<Self, Failure> {
        let failed = |e: kernels::Error| Failure::at(Stage::Start, e);
        let copying = Arc::new(Copying::new(device).map_err(failed)?);
        let stages = (0..STAGES).map(|_| images::Stage::new(&copying).map_err(failed));
        let stages: Vec<_> = stages.collect::<Result<_, Failure>>()?;
        Ok(Self { device: device.clone(), stages: Rooms::new(stages) })
    }

    pub(super) fn epoch(&self, set: &Arc<DecodedSet>, batches: Vec<Vec<usize>>, plan: TrainPlan) -> Epoch {
        let (size, norm) = (plan.size, plan.norm);
        let loader = Loader::bytes(Arc::clone(set), batches, plan, None);
        let source = loader.map(|batch| batch.map_err(|e| Failure::at(Stage::Data, e)));
        let sent = Ahead::start(source, &self.stages, move |stage, batch| send(stage, batch, size, &norm));
        Epoch { device: self.device.clone(), sent }
    }
}

/// Puts a batch into a stage, from which it is copied.
fn send(stage: &mut images::Stage, batch: ByteBatch, size: usize, norm: &Normalise) -> Result<Sent, Failure> {
    let checked = |recipes: &Vec<Recipe>| {
        let words = recipe_words(recipes, &batch.places);
        Recipes::new(words, recipes.len(), size, (norm.mean, norm.std), batch.pixels.len())
    };
    let all = [Some(&batch.anchor), batch.positive.as_ref(), batch.teacher.as_ref()];
    let recipes = all.into_iter().flatten().map(checked).collect::<Result<Vec<_>, _>>();
    let waited =
        recipes.and_then(|recipes| stage.fill(&batch.pixels, recipes)).map_err(|e| Failure::at(Stage::Train, e))?;
    let (positive, teacher) = (batch.positive.is_some(), batch.teacher.is_some());
    Ok(Sent { labels: batch.labels, positive, teacher, waited })
}

/// The batches of an epoch, on their way.
pub(super) struct Epoch {
    device: CudaDevice,
    sent: Ahead<images::Stage, Sent>,
}

impl Epoch {
    /// The next batch that was sent.
    pub(super) fn next(&mut self) -> Option<Result<(images::Stage, Sent), Failure>> {
        self.sent.next()
    }

    /// Its views, and for how many seconds the card waited for an earlier copy.
    pub(super) fn views(&self, (mut stage, sent): (images::Stage, Sent)) -> Result<(ImageBatch, f64), Failure> {
        let views = stage.views(&self.device);
        self.sent.give_back(stage);
        let mut views = views.map_err(|e| Failure::at(Stage::Train, e))?.into_iter();
        let missing = || Failure::at(Stage::Train, "fewer views than recipes".to_owned());
        let anchor = views.next().ok_or_else(missing)?;
        let mut wanted = |wanted: bool| if wanted { views.next().ok_or_else(missing).map(Some) } else { Ok(None) };
        let (positive, teacher) = (wanted(sent.positive)?, wanted(sent.teacher)?);
        Ok((ImageBatch { labels: sent.labels, anchor, positive, teacher }, sent.waited))
    }
}
