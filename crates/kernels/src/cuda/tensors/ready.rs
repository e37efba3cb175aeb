//! Ops whose forward pass was computed before, so that a refusal is a typed error.

use std::sync::Mutex;

use candle_core::cuda_backend::{CudaDType, CudaStorage};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};
use cudarc::driver::CudaSlice;

use super::super::card::Card;
use crate::{Error, Result};

/// A result that was computed before its op, handed out once.
pub(super) struct Ready {
    name: &'static str,
    result: Mutex<Option<(CudaStorage, Shape)>>,
}

impl Ready {
    pub(super) fn new<T: CudaDType>(
        name: &'static str,
        card: &Card,
        values: CudaSlice<T>,
        shape: impl Into<Shape>,
    ) -> Self {
        let storage = CudaStorage::wrap_cuda_slice(values, card.0.clone());
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

/// An op of one argument; `backward` maps its gradient to the argument's.
pub(super) struct Unary<F> {
    pub(super) ready: Ready,
    pub(super) backward: F,
}

impl<F: Fn(&Tensor) -> Result<Tensor>> CustomOp1 for Unary<F> {
    fn name(&self) -> &'static str {
        self.ready.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Err(self.ready.elsewhere())
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        self.ready.take()
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some((self.backward)(grad)?))
    }
}

/// An op of two arguments; `backward` is told which gradients are needed.
pub(super) struct Binary<F> {
    pub(super) ready: Ready,
    pub(super) backward: F,
}

/// Gradients of two arguments.
pub(super) type Two = (Option<Tensor>, Option<Tensor>);

impl<F: Fn([bool; 2], &Tensor) -> Result<Two>> CustomOp2 for Binary<F> {
    fn name(&self) -> &'static str {
        self.ready.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Err(self.ready.elsewhere())
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        self.ready.take()
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Two> {
        Ok((self.backward)([a.track_op(), b.track_op()], grad)?)
    }
}
