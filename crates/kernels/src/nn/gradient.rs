//! Gradients on their way from op to op, and backward passes on plain slices.

use std::any::Any;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use rayon::prelude::*;

use super::buffers::{Held, Real, by_dtype, copied};
use crate::even::Even;

/// Values that one task adds.
const CHUNK: usize = 16 * 1024;

/// The gradient of an op's result.
#[derive(Debug)]
pub(super) enum Gradient<'a, T> {
    /// Nobody else has it: it may be written over.
    Alone(Vec<T>),
    /// It is also on its way to another op.
    Shared(Arc<Vec<T>>),
    /// It belongs to a tensor.
    Borrowed(&'a [T]),
}

impl<T> Deref for Gradient<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Alone(values) => values,
            Self::Shared(values) => values,
            Self::Borrowed(values) => values,
        }
    }
}

impl<T: Real> Gradient<'_, T> {
    /// Its numbers, to be written over: a copy unless nobody else has them.
    pub(super) fn into_vec(self) -> Vec<T> {
        match self {
            Self::Alone(values) => values,
            Self::Shared(values) => Arc::try_unwrap(values).unwrap_or_else(|values| copied(&values)),
            Self::Borrowed(values) => copied(values),
        }
    }

    /// The same gradient for two ways.
    pub(super) fn twice(self) -> [Gradient<'static, T>; 2] {
        let values = match self {
            Self::Alone(values) => Arc::new(values),
            Self::Shared(values) => values,
            Self::Borrowed(values) => Arc::new(copied(values)),
        };
        [Gradient::Shared(values.clone()), Gradient::Shared(values)]
    }
}

impl<T: Real> Gradient<'static, T> {
    /// The sum of two gradients of one tensor.
    fn plus(self, other: Self) -> Self {
        let (to, from) = if matches!(self, Self::Alone(_)) { (self, other) } else { (other, self) };
        let mut to = to.into_vec();
        to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).evenly(1).for_each(|(to, from)| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += *from);
        });
        Self::Alone(to)
    }
}

/// Gradients in up to three arguments, those of them that are wanted.
pub(super) type Gradients<T> = [Option<Gradient<'static, T>>; 3];

/// A backward pass on plain slices.
pub(super) trait Derivative: Send + Sync {
    /// Gradients in the arguments whose `want` is set, from the arguments, the result and the result's gradient. Arguments
    /// that the op does not have are empty and not wanted.
    fn gradients<T: Real>(&self, args: [&[T]; 3], y: &[T], gy: Gradient<T>, want: [bool; 3]) -> Gradients<T>;
}

/// The backward pass on tensors: gradients that nobody tracks are left out.
pub(super) fn on_tensors<D: Derivative>(
    op: &D,
    args: &[&Tensor],
    y: &Tensor,
    gy: &Tensor,
) -> candle_core::Result<[Option<Tensor>; 3]> {
    fn run<D: Derivative, T: Real>(
        op: &D,
        args: &[&Tensor],
        y: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<[Option<Tensor>; 3]> {
        let want = |index: usize| args.get(index).is_some_and(|arg| arg.track_op());
        let held: Vec<Held> = args.iter().map(|arg| Held::new(arg)).collect();
        let (held_y, held_gy) = (Held::new(y), Held::new(gy));
        let mut slices: [&[T]; 3] = [&[]; 3];
        for (slice, held) in slices.iter_mut().zip(&held) {
            *slice = held.slice()?;
        }
        let gy = Gradient::Borrowed(held_gy.slice()?);
        let gradients = op.gradients(slices, held_y.slice()?, gy, [want(0), want(1), want(2)]);
        let mut tensors = [None, None, None];
        for ((tensor, gradient), arg) in tensors.iter_mut().zip(gradients).zip(args) {
            *tensor = gradient.map(|g| Tensor::from_vec(g.into_vec(), arg.shape(), arg.device())).transpose()?;
        }
        Ok(tensors)
    }
    let gy = gy.contiguous()?;
    by_dtype!(y, T => run::<D, T>(op, args, y, &gy))
}

/// Where the ops behind a value put its gradient, and the op before it finds their sum.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<Option<Box<dyn Any + Send>>>);

impl Slot {
    fn with<R>(&self, f: impl FnOnce(&mut Option<Box<dyn Any + Send>>) -> R) -> R {
        // What a panicking thread left is a whole gradient or none.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the sum.
    pub(super) fn take<T: Real>(&self) -> Option<Gradient<'static, T>> {
        let held = self.with(Option::take)?;
        held.downcast::<Gradient<'static, T>>().ok().map(|gradient| *gradient)
    }

    /// Adds a gradient.
    pub(super) fn put<T: Real>(&self, gradient: Gradient<'static, T>) {
        let sum = match self.take::<T>() {
            Some(sum) => sum.plus(gradient),
            None => gradient,
        };
        self.with(|held| *held = Some(Box::new(sum)));
    }
}
