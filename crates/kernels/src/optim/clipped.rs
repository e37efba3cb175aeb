//! Steps whose gradients are brought down to a norm, without waiting for it.

use candle_core::{Device, Tensor};

use super::clip_scale;
use crate::Result;

/// The norm of a step's gradients, `√(Σ g²)`, see [`super::gradient_norm`]. On a card it lies there until it is asked for, so
/// that a step does not wait for it.
#[derive(Debug, Clone)]
pub struct GradientNorm {
    norm: Tensor,
}

impl GradientNorm {
    pub(super) fn of(norm: f64) -> Result<Self> {
        Ok(Self { norm: Tensor::new(norm, &Device::Cpu)? })
    }

    /// Of a number on a card; `None` for no gradients at all, whose norm is 0.
    #[cfg(feature = "cuda")]
    pub(super) fn on_card(norm: Option<Tensor>) -> Result<Self> {
        norm.map_or_else(|| Self::of(0.0), |norm| Ok(Self { norm }))
    }

    /// The norm. On a card this waits for everything launched so far. One that is not finite says that no step was made.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn value(&self) -> Result<f64> {
        Ok(self.norm.to_scalar()?)
    }

    /// The norm where it lies: a float64 tensor without dimensions, to be read together with other numbers.
    pub fn tensor(&self) -> &Tensor {
        &self.norm
    }
}

/// Makes the step with the factor for gradients of this norm; none where it is not finite.
pub(super) fn step(norm: f64, max_norm: Option<f64>, step: impl FnOnce(f64) -> Result<()>) -> Result<GradientNorm> {
    if norm.is_finite() {
        step(max_norm.map_or(Ok(1.0), |most| clip_scale(norm, most))?)?;
    }
    GradientNorm::of(norm)
}

/// Refuses what [`clip_scale`] refuses of `max_norm`.
pub(super) fn check(max_norm: Option<f64>) -> Result<()> {
    max_norm.map_or(Ok(()), |most| clip_scale(0.0, most).map(drop))
}
