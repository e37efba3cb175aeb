//! Ops whose forward pass was already computed on the host, with what their backward pass needs.
//!
//! The public functions compute first, so that a refusal is a typed [`crate::Error`]; the candle op then only
//! hands the result out.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Shape, Tensor};

use crate::{Result, host};

/// The result, handed out once.
struct Ready {
    name: &'static str,
    result: Mutex<Option<(CpuStorage, Shape)>>,
}

impl Ready {
    fn new(name: &'static str, values: Vec<f64>, shape: Shape, dtype: DType) -> Result<Self> {
        let storage = match dtype {
            DType::F64 => CpuStorage::F64(values),
            DType::F32 => CpuStorage::F32(values.into_iter().map(|v| v as f32).collect()),
            got => return Err(crate::Error::Dtype { op: name, got }),
        };
        Ok(Self::of(name, storage, shape))
    }

    fn of(name: &'static str, storage: CpuStorage, shape: Shape) -> Self {
        Self { name, result: Mutex::new(Some((storage, shape))) }
    }

    fn take(&self) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut slot = self.result.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slot.take().ok_or_else(|| candle_core::Error::Msg(format!("{}: the forward pass ran twice", self.name)))
    }
}

struct Unary<F> {
    ready: Ready,
    backward: F,
}

impl<F: Fn(&Tensor, Vec<f64>) -> Result<Vec<f64>>> CustomOp1 for Unary<F> {
    fn name(&self) -> &'static str {
        self.ready.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.ready.take()
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let gradient = (self.backward)(x, host::to_f64(self.name(), grad)?)?;
        Ok(Some(host::from_f64(self.name(), gradient, x.shape(), x.dtype(), x.device())?))
    }
}

/// The op with result `values` at `x`. `backward` maps `x` and the result's gradient to the gradient of `x`.
pub(crate) fn unary<F>(
    name: &'static str,
    x: &Tensor,
    values: Vec<f64>,
    shape: impl Into<Shape>,
    backward: F,
) -> Result<Tensor>
where
    F: Fn(&Tensor, Vec<f64>) -> Result<Vec<f64>> + Send + Sync + 'static,
{
    let op = Unary { ready: Ready::new(name, values, shape.into(), x.dtype())?, backward };
    Ok(x.to_device(&Device::Cpu)?.apply_op1(op)?.to_device(x.device())?)
}

struct UnaryStorage<F> {
    ready: Ready,
    backward: F,
}

impl<F: Fn(&Tensor) -> Result<CpuStorage>> CustomOp1 for UnaryStorage<F> {
    fn name(&self) -> &'static str {
        self.ready.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.ready.take()
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let gradient = host::tensor(self.name(), (self.backward)(grad)?, x.shape())?;
        Ok(Some(gradient.to_device(x.device())?))
    }
}

/// As [`unary`], with numbers of `x`'s dtype: nothing is copied or converted on the way.
pub(crate) fn unary_storage<F>(
    name: &'static str,
    x: &Tensor,
    result: CpuStorage,
    shape: impl Into<Shape>,
    backward: F,
) -> Result<Tensor>
where
    F: Fn(&Tensor) -> Result<CpuStorage> + Send + Sync + 'static,
{
    let op = UnaryStorage { ready: Ready::of(name, result, shape.into()), backward };
    Ok(x.to_device(&Device::Cpu)?.apply_op1(op)?.to_device(x.device())?)
}

/// Gradients of two arguments.
pub(crate) type Two = (Option<Vec<f64>>, Option<Vec<f64>>);

struct Binary<F> {
    ready: Ready,
    backward: F,
}

impl<F: Fn([bool; 2], Vec<f64>) -> Result<Two>> CustomOp2 for Binary<F> {
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
        self.ready.take()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let needed = [a.track_op(), b.track_op()];
        let (da, db) = (self.backward)(needed, host::to_f64(self.name(), grad)?)?;
        let tensor = |of: &Tensor, gradient: Option<Vec<f64>>| {
            gradient.map(|g| host::from_f64(self.name(), g, of.shape(), of.dtype(), of.device())).transpose()
        };
        Ok((tensor(a, da)?, tensor(b, db)?))
    }
}

/// The op with result `values` at `a` and `b`. `backward` gets which gradients are needed and the result's gradient.
pub(crate) fn binary<F>(
    name: &'static str,
    a: &Tensor,
    b: &Tensor,
    values: Vec<f64>,
    shape: impl Into<Shape>,
    backward: F,
) -> Result<Tensor>
where
    F: Fn([bool; 2], Vec<f64>) -> Result<Two> + Send + Sync + 'static,
{
    if a.dtype() != b.dtype() {
        return Err(crate::Error::DtypeMismatch { op: name, left: a.dtype(), right: b.dtype() });
    }
    let op = Binary { ready: Ready::new(name, values, shape.into(), a.dtype())?, backward };
    let (left, right) = (a.to_device(&Device::Cpu)?, b.to_device(&Device::Cpu)?);
    Ok(left.apply_op2(&right, op)?.to_device(a.device())?)
}

struct BinaryStorage<F> {
    ready: Ready,
    backward: F,
}

impl<F: Fn(&Tensor, &Tensor) -> Result<(CpuStorage, CpuStorage)>> CustomOp2 for BinaryStorage<F> {
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
        self.ready.take()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (da, db) = (self.backward)(a, grad)?;
        let tensor = |of: &Tensor, gradient: CpuStorage| -> candle_core::Result<Option<Tensor>> {
            if of.track_op() { Ok(Some(host::tensor(self.name(), gradient, of.shape())?)) } else { Ok(None) }
        };
        Ok((tensor(a, da)?, tensor(b, db)?))
    }
}

/// As [`binary`] of tensors on the host, with a result of any dtype. `backward` maps `a` and the result's gradient to the
/// gradients of both arguments, in their dtypes.
pub(crate) fn binary_storage<F>(
    name: &'static str,
    a: &Tensor,
    b: &Tensor,
    result: CpuStorage,
    shape: impl Into<Shape>,
    backward: F,
) -> Result<Tensor>
where
    F: Fn(&Tensor, &Tensor) -> Result<(CpuStorage, CpuStorage)> + Send + Sync + 'static,
{
    Ok(a.apply_op2(b, BinaryStorage { ready: Ready::of(name, result, shape.into()), backward })?)
}
