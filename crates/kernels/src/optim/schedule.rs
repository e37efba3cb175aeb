//! Learning rates and teacher momenta over the steps of a trial.

use std::f64::consts::PI;

use super::check_at_least;
use crate::{Error, Result};

const OP: &str = "cosine schedule";

/// Linear warm-up, then half a cosine (Loshchilov and Hutter 2017, eq. 5, without restarts).
///
/// Step `s` (from 0) has the rate `base (s + 1) / warmup` while `s < warmup`, then
/// `min + (base − min) (1 + cos(π (s − warmup) / (total − warmup))) / 2`; from `total` on it is `min`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CosineSchedule {
    base_lr: f64,
    warmup_steps: u64,
    total_steps: u64,
    min_lr: f64,
}

impl CosineSchedule {
    /// A schedule over `total_steps`, of which the first `warmup_steps` warm up.
    ///
    /// # Errors
    /// [`Error::Attribute`] unless `0 ≤ min_lr ≤ base_lr` and `warmup_steps ≤ total_steps`.
    pub fn new(base_lr: f64, warmup_steps: u64, total_steps: u64, min_lr: f64) -> Result<Self> {
        check_at_least(OP, "min_lr", min_lr, 0.0, "a finite number of at least 0")?;
        check_at_least(OP, "base_lr", base_lr, min_lr, "a finite number of at least min_lr")?;
        if warmup_steps > total_steps {
            let (name, expected) = ("warmup_steps", "at most total_steps");
            return Err(Error::Attribute { op: OP, name, value: warmup_steps as f64, expected });
        }
        Ok(Self { base_lr, warmup_steps, total_steps, min_lr })
    }

    /// The learning rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.base_lr * (step + 1) as f64 / self.warmup_steps as f64;
        }
        if step >= self.total_steps {
            return self.min_lr;
        }
        let t = (step - self.warmup_steps) as f64 / (self.total_steps - self.warmup_steps) as f64;
        self.min_lr + (self.base_lr - self.min_lr) * half_cosine(t)
    }
}

/// Decay of a teacher's moving average that grows from `base` to 1 along half a cosine (Grill et al. 2020, section
/// 3.1): `1 − (1 − base) (1 + cos(π step / total)) / 2`; 1 from `total` on.
pub fn cosine_decay(base: f64, step: u64, total: u64) -> f64 {
    if step >= total {
        return 1.0;
    }
    1.0 - (1.0 - base) * half_cosine(step as f64 / total as f64)
}

/// From 1 at `t = 0` to 0 at `t = 1`.
fn half_cosine(t: f64) -> f64 {
    0.5 * (1.0 + (PI * t).cos())
}
