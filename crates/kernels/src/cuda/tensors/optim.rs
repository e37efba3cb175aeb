//! Optimisers and averages of parameters that lie on a card.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use cudarc::driver::CudaSlice;

use super::super::card::Card;
use super::super::device::{Device, View};
use super::super::train::optim::{Adam, Chunks, Slot, Table, factor};
use super::{Element, Source, card, tensor};
use crate::{Error, Result};

/// A parameter with what a step needs; all tensors are of one shape and dtype and lie on one card.
pub(crate) struct Entry<'a> {
    /// The values, changed in place.
    pub(crate) value: &'a Tensor,
    /// Their gradient; for an average the parameter that it follows.
    pub(crate) gradient: &'a Tensor,
    /// Moments or velocity, changed in place.
    pub(crate) state: [Option<&'a Tensor>; 2],
    /// See [`Slot::shrink`].
    pub(crate) shrink: f64,
    /// See [`Slot::rate`].
    pub(crate) rate: f64,
    /// See [`Slot::root`].
    pub(crate) root: f64,
}

impl<'a> Entry<'a> {
    /// A value and its gradient, without state.
    pub(crate) fn new(value: &'a Tensor, gradient: &'a Tensor) -> Self {
        Self { value, gradient, state: [None, None], shrink: 0.0, rate: 0.0, root: 1.0 }
    }
}

/// What is done with all parameters.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    /// [`crate::optim::AdamW`].
    AdamW(Adam),
    /// [`crate::optim::Sgd`].
    Sgd { momentum: f64, nesterov: bool },
    /// [`crate::optim::Ema`].
    Ema { decay: f64 },
}

/// What the gradients are multiplied by.
#[derive(Clone, Copy)]
pub(crate) enum Factor {
    /// This.
    Given(f64),
    /// What brings their norm down to this; a norm that is not finite makes no step.
    Most(f64),
}

/// What stays on the card from step to step.
#[derive(Default)]
pub(crate) struct Kept {
    single: Option<Arc<Chunks<Card>>>,
    double: Option<Arc<Chunks<Card>>>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

/// Numbers of a tensor that are changed, or read, where they lie.
pub(super) fn in_place<T: Element>(op: &'static str, tensor: &Tensor) -> Result<Source<T>> {
    if !tensor.is_contiguous() {
        return Err(Error::Device { op, reason: "a parameter or its state is not contiguous".into() });
    }
    Source::of(op, tensor)
}

/// Refuses dtypes that steps do not know.
fn check(op: &'static str, entries: &[Entry]) -> Result<()> {
    let other = entries.iter().map(|e| e.value.dtype()).find(|d| !matches!(d, DType::F32 | DType::F64));
    other.map_or(Ok(()), |got| Err(Error::Dtype { op, got }))
}

/// The table of the entries of one dtype, with the gradients that it points to.
struct Group<T> {
    table: Table<Card, T>,
    _gradients: Vec<Source<T>>,
}

/// The entries of dtype `T`, if there are any.
fn group<T: Element>(
    op: &'static str,
    card: &Card,
    entries: &[Entry],
    scale: f64,
    kept: &mut Option<Arc<Chunks<Card>>>,
) -> Result<Option<Group<T>>> {
    let own: Vec<&Entry> = entries.iter().filter(|e| e.value.dtype() == T::DTYPE).collect();
    if own.is_empty() {
        return Ok(None);
    }
    let (mut slots, mut gradients) = (Vec::with_capacity(own.len()), Vec::with_capacity(own.len()));
    for entry in own {
        let (value, gradient) = (in_place::<T>(op, entry.value)?, Source::<T>::of(op, entry.gradient)?);
        let mut slot = Slot::new(value.view, gradient.view);
        let [first, second] = entry.state.map(|state| state.map(|t| in_place::<T>(op, t)).transpose());
        if let Some(first) = first? {
            slot.first = first.view;
        }
        if let Some(second) = second? {
            slot.second = second.view;
        }
        (slot.shrink, slot.rate, slot.root) = (entry.shrink, entry.rate, entry.root);
        slots.push(slot);
        gradients.push(gradient);
    }
    Ok(Some(Group { table: Table::new(card, &slots, scale, kept)?, _gradients: gradients }))
}

impl<T: Element> Group<T> {
    fn step(&self, card: &Card, step: Step, factor: Option<View<f64>>) -> Result<()> {
        let scale = factor.unwrap_or_else(|| self.table.scale(card));
        match step {
            Step::AdamW(adam) => self.table.adamw(card, scale, adam),
            Step::Sgd { momentum, nesterov } => self.table.sgd(card, scale, momentum, nesterov),
            Step::Ema { decay } => self.table.ema(card, decay),
        }
    }
}

/// All entries, by dtype.
struct Groups {
    card: Card,
    single: Option<Group<f32>>,
    double: Option<Group<f64>>,
}

impl Groups {
    /// `None` for no entries.
    fn new(op: &'static str, entries: &[Entry], scale: f64, kept: &mut Kept) -> Result<Option<Self>> {
        check(op, entries)?;
        let Some(first) = entries.first() else { return Ok(None) };
        if entries.iter().any(|entry| !entry.value.device().same_device(first.value.device())) {
            return Err(Error::Device { op, reason: "its parameters lie on different devices".into() });
        }
        let card = card(op, first.value)?;
        let single = group::<f32>(op, &card, entries, scale, &mut kept.single)?;
        let double = group::<f64>(op, &card, entries, scale, &mut kept.double)?;
        Ok(Some(Self { card, single, double }))
    }

    /// The gradients' norm and their factor, `[2]`.
    fn factor(&self, most: f64) -> Result<CudaSlice<f64>> {
        let single = self.single.as_ref().map_or(0, |group| group.table.parts());
        let double = self.double.as_ref().map_or(0, |group| group.table.parts());
        let parts = self.card.empty::<f64>(single + double)?;
        let view = View::new(self.card.view(&parts).address(), single + double);
        if let Some(group) = &self.single {
            group.table.squares(&self.card, view)?;
        }
        if let Some(group) = &self.double {
            group.table.squares(&self.card, view.from(single))?;
        }
        factor(&self.card, view, most)
    }
}

/// One step of all entries, a launch for each dtype; nothing comes back to the host. The norm of the gradients, a number on
/// the card, where [`Factor::Most`] asks for it and there are entries.
pub(crate) fn step(
    op: &'static str,
    entries: &[Entry],
    step: Step,
    scale: Factor,
    kept: &mut Kept,
) -> Result<Option<Tensor>> {
    let (given, most) = match scale {
        Factor::Given(scale) => (scale, None),
        Factor::Most(most) => (1.0, Some(most)),
    };
    let Some(groups) = Groups::new(op, entries, given, kept)? else { return Ok(None) };
    let clipped = most.map(|most| groups.factor(most)).transpose()?;
    let factor = clipped.as_ref().map(|clipped| groups.card.view(clipped).from(1));
    if let Some(group) = &groups.single {
        group.step(&groups.card, step, factor)?;
    }
    if let Some(group) = &groups.double {
        group.step(&groups.card, step, factor)?;
    }
    clipped.map(|clipped| Ok(tensor(clipped, &groups.card.0, 2).get(0)?)).transpose()
}

/// Euclidean norm of all gradients together.
pub(crate) fn gradient_norm(op: &'static str, gradients: &[&Tensor]) -> Result<f64> {
    let gradients: Vec<Tensor> = gradients.iter().map(|g| g.contiguous()).collect::<candle_core::Result<_>>()?;
    let entries: Vec<Entry> = gradients.iter().map(|g| Entry::new(g, g)).collect();
    let Some(groups) = Groups::new(op, &entries, 1.0, &mut Kept::default())? else { return Ok(0.0) };
    Ok(groups.card.download(&groups.factor(1.0)?)?[0])
}
