//! Optimisers and averages of parameters that lie on a card.

use candle_core::{DType, Tensor};

use super::super::card::Card;
use super::super::device::Device;
use super::super::train::optim::{Adam, Slot, Table};
use super::{Element, Source, card};
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
    /// [`crate::optim::AdamW`], with the gradients times `scale`.
    AdamW { scale: f64, adam: Adam },
    /// [`crate::optim::Sgd`], with the gradients times `scale`.
    Sgd { scale: f64, momentum: f64, nesterov: bool },
    /// [`crate::optim::Ema`].
    Ema { decay: f64 },
}

/// Numbers of a tensor that are changed, or read, where they lie.
fn in_place<T: Element>(op: &'static str, tensor: &Tensor) -> Result<Source<T>> {
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
    card: Card,
    _gradients: Vec<Source<T>>,
}

/// The entries of dtype `T`, if there are any.
fn group<T: Element>(op: &'static str, entries: &[Entry]) -> Result<Option<Group<T>>> {
    let own: Vec<&Entry> = entries.iter().filter(|e| e.value.dtype() == T::DTYPE).collect();
    let Some(&first) = own.first() else { return Ok(None) };
    let card = card(op, first.value)?;
    let (mut slots, mut gradients) = (Vec::with_capacity(own.len()), Vec::with_capacity(own.len()));
    for entry in own {
        if !entry.value.device().same_device(first.value.device()) {
            return Err(Error::Device { op, reason: "its parameters lie on different devices".into() });
        }
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
    Ok(Some(Group { table: Table::new(&card, &slots)?, card, _gradients: gradients }))
}

impl<T: Element> Group<T> {
    fn step(&self, step: Step) -> Result<()> {
        let card = &self.card;
        match step {
            Step::AdamW { scale, adam } => {
                let scale = card.upload(&[scale])?;
                self.table.adamw(card, card.view(&scale), adam)
            }
            Step::Sgd { scale, momentum, nesterov } => {
                let scale = card.upload(&[scale])?;
                self.table.sgd(card, card.view(&scale), momentum, nesterov)
            }
            Step::Ema { decay } => self.table.ema(card, decay),
        }
    }

    /// The gradients' norm.
    fn norm(&self) -> Result<f64> {
        let factor = self.table.factor(&self.card, 1.0)?;
        Ok(self.card.download(&factor)?[0])
    }
}

/// One step of all entries, a launch for each dtype.
pub(crate) fn step(op: &'static str, entries: &[Entry], step: Step) -> Result<()> {
    check(op, entries)?;
    if let Some(group) = group::<f32>(op, entries)? {
        group.step(step)?;
    }
    if let Some(group) = group::<f64>(op, entries)? {
        group.step(step)?;
    }
    Ok(())
}

/// Euclidean norm of all gradients together.
pub(crate) fn gradient_norm(op: &'static str, gradients: &[&Tensor]) -> Result<f64> {
    let gradients: Vec<Tensor> = gradients.iter().map(|g| g.contiguous()).collect::<candle_core::Result<_>>()?;
    let entries: Vec<Entry> = gradients.iter().map(|g| Entry::new(g, g)).collect();
    check(op, &entries)?;
    let single = group::<f32>(op, &entries)?.map_or(Ok(0.0), |group| group.norm())?;
    let double = group::<f64>(op, &entries)?.map_or(Ok(0.0), |group| group.norm())?;
    Ok(single.hypot(double))
}
