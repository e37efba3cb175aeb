//! Ops in candle's graph.

use candle_core::cuda_backend::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Tensor};
use cudarc::driver::CudaSlice;

use super::super::card::Card;
use super::Held;
use super::ready::Ready;
use crate::{Error, Result};

/// Gradients of up to three arguments, those of them that are wanted.
pub(super) type Gradients = [Option<Tensor>; 3];
/// Gradients of two and of three arguments, as candle takes them.
type Two = (Option<Tensor>, Option<Tensor>);
type Three = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// An op whose forward pass was computed before; `backward` gets which gradients are wanted, the result and its gradient.
struct Op<F> {
    ready: Ready,
    backward: F,
}

/// A result with the gradients of its one to three arguments.
pub(super) fn record<T, F>(
    op: &'static str,
    card: &Card,
    args: &[&Tensor],
    (values, shape): (CudaSlice<T>, impl Into<Shape>),
    backward: F,
) -> Result<Tensor>
where
    T: Held,
    F: Fn([bool; 3], &Tensor, &Tensor) -> Result<Gradients> + Send + Sync + 'static,
{
    let run = Op { ready: Ready::new(op, card, values, shape), backward };
    Ok(match *args {
        [a] => a.apply_op1(run)?,
        [a, b] => a.apply_op2(b, run)?,
        [a, b, c] => a.apply_op3(b, c, run)?,
        _ => return Err(Error::Device { op, reason: format!("{} arguments", args.len()) }),
    })
}

impl<F: Fn([bool; 3], &Tensor, &Tensor) -> Result<Gradients>> CustomOp1 for Op<F> {
    fn name(&self) -> &'static str {
        self.ready.name()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Err(self.ready.elsewhere())
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        self.ready.take()
    }

    fn bwd(&self, a: &Tensor, y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let [a, _, _] = (self.backward)([a.track_op(), false, false], y, grad)?;
        Ok(a)
    }
}

impl<F: Fn([bool; 3], &Tensor, &Tensor) -> Result<Gradients>> CustomOp2 for Op<F> {
    fn name(&self) -> &'static str {
        self.ready.name()
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

    fn bwd(&self, a: &Tensor, b: &Tensor, y: &Tensor, grad: &Tensor) -> candle_core::Result<Two> {
        let [a, b, _] = (self.backward)([a.track_op(), b.track_op(), false], y, grad)?;
        Ok((a, b))
    }
}

impl<F: Fn([bool; 3], &Tensor, &Tensor) -> Result<Gradients>> CustomOp3 for Op<F> {
    fn name(&self) -> &'static str {
        self.ready.name()
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
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
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        self.ready.take()
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, c: &Tensor, y: &Tensor, grad: &Tensor) -> candle_core::Result<Three> {
        let [a, b, c] = (self.backward)([a.track_op(), b.track_op(), c.track_op()], y, grad)?;
        Ok((a, b, c))
    }
}
