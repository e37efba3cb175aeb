//! Optimisers, schedules and moving averages of the protocol.
//!
//! Arithmetic is float64 inside, whatever the dtype of the parameters; state has the dtype of its parameter. State
//! is exact: what `state` gives and `load_state` takes continues with the same bits.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor, Var};

use crate::nn::buffers::{Held, Real, by_dtype, check_dtype};
use crate::{Error, Result, host};

mod adamw;
mod clipped;
mod ema;
mod schedule;
mod sgd;

pub use adamw::{AdamW, AdamWConfig};
pub use clipped::GradientNorm;
pub use ema::Ema;
pub use schedule::{CosineSchedule, cosine_decay};
pub use sgd::{Sgd, SgdConfig};

/// A trainable tensor.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Unique name, such as `layer1.0.conv1.weight`.
    pub name: String,
    /// The values.
    pub var: Var,
    /// Whether weight decay applies.
    pub decay: bool,
}

impl Parameter {
    /// A parameter that decays if it has at least two dimensions: norms and biases do not.
    pub fn new(name: impl Into<String>, var: Var) -> Self {
        let decay = var.rank() >= 2;
        Self { name: name.into(), var, decay }
    }
}

/// Saved state that does not belong to these parameters. Wrapped in [`Error::Tensor`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the saved state does not fit: missing {missing:?}, unexpected {unexpected:?}, wrong shape or dtype {misfits:?}; it \
     belongs to another configuration or build"
)]
pub struct StateError {
    /// Names that the state should hold and does not.
    pub missing: Vec<String>,
    /// Names under the same prefix that nobody asked for.
    pub unexpected: Vec<String>,
    /// Names whose tensors have another shape or dtype.
    pub misfits: Vec<String>,
}

/// Euclidean norm of all gradients together, `√(Σ g²)`, summed in float64 in the order of `params`. Parameters without
/// a gradient count as zero. NaN and infinity show in the result.
///
/// # Errors
/// [`Error::Dtype`], or what the tensor library refuses.
pub fn gradient_norm(params: &[Parameter], grads: &GradStore) -> Result<f64> {
    const OP: &str = "gradient_norm";
    let gradients: Vec<&Tensor> = params.iter().filter_map(|p| grads.get(p.var.as_tensor())).collect();
    #[cfg(feature = "cuda")]
    if gradients.first().is_some_and(|g| g.device().is_cuda()) {
        return crate::cuda::tensors::optim::gradient_norm(OP, &gradients);
    }
    let mut sum = 0.0;
    for gradient in gradients {
        let gradient = on_cpu(OP, gradient)?;
        let held = Held::new(&gradient);
        sum += by_dtype!(gradient, T => {
            Ok(held.slice::<T>()?.iter().map(|g| g.up() * g.up()).sum::<f64>())
        })?;
    }
    Ok(sum.sqrt())
}

/// Factor that brings gradients of this norm down to `max_norm`: `min(1, max_norm / (norm + 1e-6))`, as PyTorch's
/// `clip_grad_norm_`.
///
/// # Errors
/// [`Error::Attribute`] for a norm that is not finite (the step has diverged) or a `max_norm` that is not positive.
pub fn clip_scale(norm: f64, max_norm: f64) -> Result<f64> {
    let attribute = |name, value, expected| Error::Attribute { op: "clip_scale", name, value, expected };
    if !norm.is_finite() {
        return Err(attribute("norm", norm, "a finite gradient norm"));
    }
    if max_norm.is_nan() || max_norm <= 0.0 {
        return Err(attribute("max_norm", max_norm, "a positive number"));
    }
    Ok((max_norm / (norm + 1e-6)).min(1.0))
}

/// Contiguous, on the CPU, of a float dtype; no copy if it is so already.
fn on_cpu(op: &'static str, tensor: &Tensor) -> Result<Tensor> {
    check_dtype(op, tensor)?;
    host::refuse_device(op, tensor)?;
    Ok(tensor.contiguous()?)
}

/// Contiguous, of a float dtype, on the CPU or on a card where there is code for one; no copy if it is so already.
fn usable(op: &'static str, tensor: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if tensor.device().is_cuda() {
        check_dtype(op, tensor)?;
        return Ok(tensor.contiguous()?);
    }
    on_cpu(op, tensor)
}

/// A copy on the CPU, which later steps do not change.
fn host_copy(tensor: &Tensor) -> candle_core::Result<Tensor> {
    if tensor.device().is_cpu() { tensor.copy() } else { tensor.to_device(&Device::Cpu) }
}

/// Runs `f` on the numbers of a contiguous tensor on the CPU, to be changed in place.
fn with_values<T: Real, R>(tensor: &Tensor, f: impl FnOnce(&mut [T]) -> R) -> candle_core::Result<R> {
    let run = InPlace { f: RefCell::new(Some(f)), out: RefCell::new(None), dtype: PhantomData::<fn(T)> };
    tensor.inplace_op1(&run)?;
    match run.out.into_inner() {
        Some(out) => Ok(out),
        None => candle_core::bail!("an update in place was not run"),
    }
}

/// A closure as candle's op in place.
struct InPlace<T, F, R> {
    f: RefCell<Option<F>>,
    out: RefCell<Option<R>>,
    dtype: PhantomData<fn(T)>,
}

impl<T: Real, F: FnOnce(&mut [T]) -> R, R> InplaceOp1 for InPlace<T, F, R> {
    fn name(&self) -> &'static str {
        "in_place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("an update in place met a tensor that is not contiguous: {layout:?}")
        };
        let Some(values) = T::numbers_of(storage) else {
            candle_core::bail!("an update in place met a tensor of another dtype")
        };
        if let Some(f) = self.f.take() {
            self.out.replace(Some(f(&mut values[start..end])));
        }
        Ok(())
    }
}

/// Refuses a value outside `low..` or not finite.
fn check_at_least(op: &'static str, name: &'static str, value: f64, low: f64, expected: &'static str) -> Result<()> {
    if value.is_finite() && value >= low {
        return Ok(());
    }
    Err(Error::Attribute { op, name, value, expected })
}

/// Refuses a momentum outside `[0, 1)`.
fn check_momentum(op: &'static str, name: &'static str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::Attribute { op, name, value, expected: "a number in [0, 1)" })
}

/// Refuses two parameters of one name, whose state would be one entry, and dtypes that are no floats.
fn check_parameters(op: &'static str, params: &[Parameter]) -> Result<()> {
    let mut names = std::collections::BTreeSet::new();
    for parameter in params {
        check_dtype(op, &parameter.var)?;
        if !names.insert(parameter.name.as_str()) {
            return Err(candle_core::Error::Msg(format!("{op}: two parameters are called `{}`", parameter.name)).into());
        }
    }
    Ok(())
}

/// The gradient of a parameter, checked against it; `None` without one.
fn gradient_of(op: &'static str, parameter: &Parameter, grads: &GradStore) -> Result<Option<Tensor>> {
    let Some(gradient) = grads.get(parameter.var.as_tensor()) else { return Ok(None) };
    if gradient.dims() != parameter.var.dims() {
        let expected = format!("{:?}, the shape of `{}`", parameter.var.dims(), parameter.name);
        return Err(Error::Shape { op, name: "gradient", got: gradient.dims().to_vec(), expected });
    }
    if gradient.dtype() != parameter.var.dtype() {
        return Err(Error::Dtype { op, got: gradient.dtype() });
    }
    usable(op, gradient).map(Some)
}

/// Takes the entries of `state` that start with `prefix` and must be exactly `like`, in name, shape and dtype.
fn take_state<'a>(
    prefix: &str,
    state: &'a BTreeMap<String, Tensor>,
    like: &BTreeMap<String, Tensor>,
) -> Result<BTreeMap<&'a str, &'a Tensor>> {
    let saved: BTreeMap<&str, &Tensor> =
        state.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(name, t)| (name.as_str(), t)).collect();
    let missing: Vec<String> = like.keys().filter(|name| !saved.contains_key(name.as_str())).cloned().collect();
    let unexpected = saved.keys().filter(|name| !like.contains_key(**name)).map(|name| name.to_string()).collect();
    let misfits: Vec<String> = like
        .iter()
        .filter_map(|(name, like)| {
            let got = saved.get(name.as_str())?;
            (got.dims() != like.dims() || got.dtype() != like.dtype()).then(|| {
                format!("{name}: {:?} {:?}, expected {:?} {:?}", got.dtype(), got.dims(), like.dtype(), like.dims())
            })
        })
        .collect();
    let error = StateError { missing, unexpected, misfits };
    if error.missing.is_empty() && error.unexpected.is_empty() && error.misfits.is_empty() {
        return Ok(saved);
    }
    Err(candle_core::Error::wrap(error).into())
}
