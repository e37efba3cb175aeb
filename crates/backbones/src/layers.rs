//! Layers shared by backbones: convolution and batch normalisation with timm's initial values.

use candle_core::{Tensor, Var};
use candle_nn::VarBuilder;
use candle_nn::init::{FanInOut, Init, NonLinearity, NormalOrUniform};
use kernels::nn::{
    self, BatchNormOut, Conv2dConfig, batch_norm_eval, batch_norm_relu_eval, batch_norm_relu_train, batch_norm_train,
};

use crate::{Error, Result};

/// Added to variances.
const EPS: f64 = 1e-5;
/// Share of a new batch in the running statistics.
const MOMENTUM: f64 = 0.1;

/// Which statistics a batch normalisation uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchStatistics {
    /// Those of the batch; the running ones follow with momentum 0.1 (and the unbiased variance).
    Train,
    /// Those of the batch; the running ones stay as they are. For a teacher whose buffers are averages.
    TrainFrozen,
    /// The running ones.
    Eval,
}

/// A convolution without bias.
#[derive(Debug)]
pub(crate) struct Conv {
    weight: Tensor,
    config: Conv2dConfig,
}

impl Conv {
    /// `kernel`×`kernel`, padded by half of it, Kaiming-normal over the outputs.
    pub(crate) fn new(c_in: usize, c_out: usize, kernel: usize, stride: usize, vb: VarBuilder) -> Result<Self> {
        let init =
            Init::Kaiming { dist: NormalOrUniform::Normal, fan: FanInOut::FanOut, non_linearity: NonLinearity::ReLU };
        let weight = vb.get_with_hints((c_out, c_in, kernel, kernel), "weight", init)?;
        Ok(Self { weight, config: Conv2dConfig { stride, padding: kernel / 2, ..Conv2dConfig::default() } })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(nn::conv2d(x, &self.weight, None, self.config)?)
    }
}

/// A batch normalisation over the channels of a map.
#[derive(Debug)]
pub(crate) struct BatchNorm {
    name: String,
    gamma: Tensor,
    beta: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl BatchNorm {
    /// `gamma` is the initial scale: 1, or 0 for the last one of a residual block.
    pub(crate) fn new(channels: usize, gamma: f64, vb: VarBuilder) -> Result<Self> {
        let get = |name, value| vb.get_with_hints(channels, name, Init::Const(value));
        Ok(Self {
            name: vb.prefix(),
            gamma: get("weight", gamma)?,
            beta: get("bias", 0.0)?,
            running_mean: get("running_mean", 0.0)?,
            running_var: get("running_var", 1.0)?,
        })
    }

    /// The normalised map, rectified if `relu`.
    pub(crate) fn forward(&self, x: &Tensor, statistics: BatchStatistics, relu: bool) -> Result<Tensor> {
        let (gamma, beta) = (&self.gamma, &self.beta);
        if statistics == BatchStatistics::Eval {
            let run = if relu { batch_norm_relu_eval } else { batch_norm_eval };
            return Ok(run(x, gamma, beta, &self.running_mean, &self.running_var, EPS)?);
        }
        let run = if relu { batch_norm_relu_train } else { batch_norm_train };
        let out = run(x, gamma, beta, EPS)?;
        if statistics == BatchStatistics::Train {
            self.follow(&out)?;
        }
        Ok(out.y)
    }

    /// Moves the running statistics towards those of a batch.
    fn follow(&self, out: &BatchNormOut) -> Result<()> {
        let unbiased = out.count as f64 / (out.count as f64 - 1.0);
        let var: Vec<f64> = out.var.iter().map(|v| v * unbiased).collect();
        for (name, running, new) in
            [("running_mean", &self.running_mean, &out.mean), ("running_var", &self.running_var, &var)]
        {
            if !running.is_variable() {
                return Err(Error::FrozenStatistics { name: format!("{}.{name}", self.name) });
            }
            let old = kernels::host::to_f64("running statistics", running)?;
            let mixed = old.iter().zip(new).map(|(old, new)| (1.0 - MOMENTUM) * old + MOMENTUM * new).collect();
            let mixed = kernels::host::from_f64(
                "running statistics",
                mixed,
                running.shape(),
                running.dtype(),
                running.device(),
            )?;
            Var::from_tensor(running)?.set(&mixed)?;
        }
        Ok(())
    }
}
