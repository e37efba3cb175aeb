//! Statistics of a batch, and the running averages that follow them.

use candle_core::Var;

use crate::{Error, Result, host};

/// Mean and variance of each channel of a batch. They stay where they were computed: in float64 on the host, on a card in the
/// dtype of the parameters.
#[derive(Debug, Clone)]
pub struct BatchMoments {
    held: Held,
    count: usize,
}

#[derive(Clone)]
enum Held {
    Host {
        mean: Vec<f64>,
        /// Biased.
        var: Vec<f64>,
    },
    #[cfg(feature = "cuda")]
    Card(std::sync::Arc<dyn crate::cuda::tensors::OnCard>),
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Host { mean, var } => f.debug_struct("Host").field("mean", mean).field("var", var).finish(),
            #[cfg(feature = "cuda")]
            Self::Card(_) => f.write_str("Card"),
        }
    }
}

impl BatchMoments {
    pub(super) fn on_host(mean: Vec<f64>, var: Vec<f64>, count: usize) -> Self {
        Self { held: Held::Host { mean, var }, count }
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn on_card(moments: std::sync::Arc<dyn crate::cuda::tensors::OnCard>, count: usize) -> Self {
        Self { held: Held::Card(moments), count }
    }

    /// Values per channel: `B·H·W`.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Mean and biased variance (the sum of squares divided by [`Self::count`]) of each channel. On a card this waits for
    /// everything launched so far.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn read(&self) -> Result<[Vec<f64>; 2]> {
        match &self.held {
            Held::Host { mean, var } => Ok([mean.clone(), var.clone()]),
            #[cfg(feature = "cuda")]
            Held::Card(moments) => moments.read(),
        }
    }

    /// Moves running averages `[C]`, on the device of the batch, towards it in place:
    /// `r ← (1 − momentum) r + momentum s`, where s is the mean, and the unbiased variance `var · count / (count − 1)`.
    /// Nothing is read back from a card.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Dtype`], and what the tensor library refuses.
    pub fn follow(&self, running_mean: &Var, running_var: &Var, momentum: f64) -> Result<()> {
        const OP: &str = "running statistics";
        match &self.held {
            Held::Host { mean, var } => {
                let unbiased = self.count as f64 / (self.count as f64 - 1.0);
                let var: Vec<f64> = var.iter().map(|v| v * unbiased).collect();
                for (name, running, new) in [("running_mean", running_mean, mean), ("running_var", running_var, &var)] {
                    check(OP, name, running, new.len())?;
                    let old = host::to_f64(OP, running)?;
                    let mixed = old.iter().zip(new).map(|(old, new)| (1.0 - momentum) * old + momentum * new).collect();
                    let mixed = host::from_f64(OP, mixed, running.shape(), running.dtype(), running.device())?;
                    running.set(&mixed)?;
                }
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Held::Card(moments) => {
                for (name, running) in [("running_mean", running_mean), ("running_var", running_var)] {
                    check(OP, name, running, moments.channels())?;
                }
                moments.follow(OP, [running_mean, running_var], momentum, self.count)
            }
        }
    }
}

fn check(op: &'static str, name: &'static str, running: &Var, channels: usize) -> Result<()> {
    if running.dims() == [channels] {
        return Ok(());
    }
    Err(Error::Shape { op, name, got: running.dims().to_vec(), expected: format!("[{channels}]") })
}
