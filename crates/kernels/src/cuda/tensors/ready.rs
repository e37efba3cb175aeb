//! Ops whose forward pass was computed before, so that a refusal is a typed error.

use std::sync::Mutex;

use candle_core::Shape;
use candle_core::cuda_backend::CudaStorage;
use cudarc::driver::CudaSlice;

use super::super::card::Card;
use super::Held;
use crate::Error;

/// A result that was computed before its op, handed out once.
pub(super) struct Ready {
    name: &'static str,
    result: Mutex<Option<(CudaStorage, Shape)>>,
}

impl Ready {
    pub(super) fn new<T: Held>(name: &'static str, card: &Card, values: CudaSlice<T>, shape: impl Into<Shape>) -> Self {
        let storage = T::storage(values, &card.0);
        Self { name, result: Mutex::new(Some((storage, shape.into()))) }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn take(&self) -> candle_core::Result<(CudaStorage, Shape)> {
        let mut slot = self.result.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slot.take().ok_or_else(|| candle_core::Error::Msg(format!("{}: the forward pass ran twice", self.name)))
    }

    pub(super) fn elsewhere(&self) -> candle_core::Error {
        Error::Device { op: self.name, reason: "its arguments lie on different devices".into() }.into()
    }
}
