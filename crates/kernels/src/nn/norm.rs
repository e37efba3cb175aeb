//! Batch normalisation, fused: statistics in float64, one pass for the result, backward in closed form.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::batch_moments::BatchMoments;
use super::buffers::{Held, Real, by_dtype, by_storage, fresh, slice_of};
use super::flow::{Arg, Flow, apply_pairs, apply3};
use super::gradient::{Derivative, Gradient, Gradients, on_tensors};
use super::moments::{OP, Sizes, check_vector};
use super::norm_pairs;
use super::norm_pieces::{Line, Share, Slope, Sums};
use super::pair::Pair;
use super::wide::wide;
use crate::even::Even;
use crate::{Error, Result, host};

/// Values that one task handles at least.
const TASK: usize = 16 * 1024;

/// A normalised batch and its statistics.
#[derive(Debug)]
pub struct BatchNormOut<X = Tensor> {
    /// The result, of the shape of the input.
    pub y: X,
    /// Mean and variance of each channel.
    pub moments: BatchMoments,
}

/// Batch normalisation with the statistics of the batch (Ioffe and Szegedy 2015, algorithm 1):
/// `y = γ (x − μ) / √(σ² + eps) + β` per channel, μ and σ² (biased) over batch and pixels.
///
/// `x` is [B, C, H, W] or [B, C], `gamma` and `beta` `[C]`. The statistics are accumulated in float64, in two passes.
/// Differentiable in `x` (through the statistics), `gamma` and `beta`.
///
/// # Errors
/// [`Error::Shape`] where shapes do not fit, or where a channel has a single value, whose variance says nothing;
/// [`Error::Dtype`]; [`Error::Attribute`] unless `eps` is positive.
pub fn batch_norm_train(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<BatchNormOut> {
    train(x, gamma, beta, eps, false)
}

/// [`batch_norm_train`] followed by `max(·, 0)`, in one pass.
///
/// # Errors
/// Those of [`batch_norm_train`].
pub fn batch_norm_relu_train(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<BatchNormOut> {
    train(x, gamma, beta, eps, true)
}

/// Batch normalisation with given statistics: `y = γ (x − running_mean) / √(running_var + eps) + β`.
///
/// Shapes as in [`batch_norm_train`], the statistics `[C]`. Differentiable in `x`, `gamma` and `beta`; the statistics
/// are constants.
///
/// # Errors
/// [`Error::Shape`], [`Error::Dtype`], or [`Error::Attribute`] unless `eps` is positive.
pub fn batch_norm_eval(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running_mean: &Tensor,
    running_var: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    eval(x, gamma, beta, running_mean, running_var, eps, false)
}

/// [`batch_norm_eval`] followed by `max(·, 0)`, in one pass.
///
/// # Errors
/// Those of [`batch_norm_eval`].
pub fn batch_norm_relu_eval(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running_mean: &Tensor,
    running_var: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    eval(x, gamma, beta, running_mean, running_var, eps, true)
}

fn train(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64, relu: bool) -> Result<BatchNormOut> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        of_some(x, Sizes::of(x, gamma, beta, eps)?)?;
        return crate::cuda::tensors::batch_norm_train(OP, [x, gamma, beta], eps, relu);
    }
    let x = x.contiguous()?;
    let BatchNormOut { y: op, moments } = of_batch(&x, gamma, beta, eps, relu)?;
    Ok(BatchNormOut { y: op.apply(&x, gamma, beta)?, moments })
}

/// Values per channel; refuses a single one.
fn of_some(x: &Tensor, sizes: Sizes) -> Result<usize> {
    if sizes.count() >= 2 {
        return Ok(sizes.count());
    }
    let expected = "at least two values per channel (use batch_norm_eval for fewer)".into();
    Err(Error::Shape { op: OP, name: "x", got: x.dims().to_vec(), expected })
}

/// The op for the statistics of a contiguous batch, and these.
fn of_batch(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64, relu: bool) -> Result<BatchNormOut<Norm>> {
    let sizes = Sizes::of(x, gamma, beta, eps)?;
    let count = of_some(x, sizes)?;
    let moments = {
        let held = Held::new(x);
        by_dtype!(x, T => Ok(sizes.moments::<T>(held.slice()?)))?
    };
    let (mean, var): (Vec<f64>, Vec<f64>) = moments.into_iter().unzip();
    let y = Norm::new(sizes, mean.clone(), &var, eps, Statistics::Batch, relu);
    Ok(BatchNormOut { y, moments: BatchMoments::on_host(mean, var, count) })
}

fn eval(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running_mean: &Tensor,
    running_var: &Tensor,
    eps: f64,
    relu: bool,
) -> Result<Tensor> {
    let running = [running_mean, running_var];
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        fitting(x, gamma, beta, running, eps)?;
        return crate::cuda::tensors::batch_norm_eval(OP, [x, gamma, beta], running, eps, relu);
    }
    of_given(x, gamma, beta, running, eps, relu)?.apply(&x.contiguous()?, gamma, beta)
}

/// Sizes that the given statistics fit.
fn fitting(x: &Tensor, gamma: &Tensor, beta: &Tensor, running: [&Tensor; 2], eps: f64) -> Result<Sizes> {
    let sizes = Sizes::of(x, gamma, beta, eps)?;
    for (name, tensor) in ["running_mean", "running_var"].into_iter().zip(running) {
        check_vector(name, tensor, sizes.channels)?;
    }
    Ok(sizes)
}

/// The op for given statistics.
fn of_given(x: &Tensor, gamma: &Tensor, beta: &Tensor, running: [&Tensor; 2], eps: f64, relu: bool) -> Result<Norm> {
    let sizes = fitting(x, gamma, beta, running, eps)?;
    let (mean, var) = (host::to_f64(OP, running[0])?, host::to_f64(OP, running[1])?);
    Ok(Norm::new(sizes, mean, &var, eps, Statistics::Given, relu))
}

impl Flow {
    /// [`batch_norm_train`], or [`batch_norm_relu_train`] if `relu`.
    ///
    /// # Errors
    /// Those of [`batch_norm_train`].
    pub fn batch_norm_train(&self, gamma: &Tensor, beta: &Tensor, eps: f64, relu: bool) -> Result<BatchNormOut<Self>> {
        if let Some(x) = self.by_candle() {
            let BatchNormOut { y, moments } = train(x, gamma, beta, eps, relu)?;
            return Ok(BatchNormOut { y: Self::of_candle(y), moments });
        }
        if let Some(rest) = self.rest() {
            return self.of_pairs(rest, gamma, beta, eps, relu);
        }
        let BatchNormOut { y: op, moments } = of_batch(self.tensor_of(), gamma, beta, eps, relu)?;
        let y = apply3(op, [Arg::Flow(self), Arg::Parameter(gamma), Arg::Parameter(beta)])?;
        Ok(BatchNormOut { y, moments })
    }

    /// [`Self::batch_norm_train`] of pairs, to pairs.
    fn of_pairs(
        &self,
        rest: &[f32],
        gamma: &Tensor,
        beta: &Tensor,
        eps: f64,
        relu: bool,
    ) -> Result<BatchNormOut<Self>> {
        let x = self.tensor_of();
        let (sizes, held) = (Sizes::of(x, gamma, beta, eps)?, Held::new(x));
        let (count, high) = (of_some(x, sizes)?, held.slice()?);
        let (mean, var): (Vec<f64>, Vec<f64>) = norm_pairs::moments(sizes, high, rest).into_iter().unzip();
        let op = Norm::new(sizes, mean.clone(), &var, eps, Statistics::Batch, relu);
        let lines = {
            let (gamma, beta) = (gamma.contiguous()?, beta.contiguous()?);
            let (gamma, beta) = (Held::new(&gamma), Held::new(&beta));
            op.lines::<f32>(gamma.slice()?, beta.slice()?)
        };
        let y = norm_pairs::normalise(sizes, Pair { high, rest: Some(rest) }, &lines, relu, op.maps_of_task());
        let y = apply_pairs(op, y, x.shape(), &[Arg::Flow(self), Arg::Parameter(gamma), Arg::Parameter(beta)])?;
        Ok(BatchNormOut { y, moments: BatchMoments::on_host(mean, var, count) })
    }

    /// [`batch_norm_eval`], or [`batch_norm_relu_eval`] if `relu`; `running` are the mean and the variance.
    ///
    /// # Errors
    /// Those of [`batch_norm_eval`].
    pub fn batch_norm_eval(
        &self,
        gamma: &Tensor,
        beta: &Tensor,
        running: [&Tensor; 2],
        eps: f64,
        relu: bool,
    ) -> Result<Self> {
        if let Some(x) = self.by_candle() {
            return Ok(Self::of_candle(eval(x, gamma, beta, running[0], running[1], eps, relu)?));
        }
        let op = of_given(self.tensor_of(), gamma, beta, running, eps, relu)?;
        apply3(op, [Arg::Flow(self), Arg::Parameter(gamma), Arg::Parameter(beta)])
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Statistics {
    /// Of the batch: functions of `x`.
    Batch,
    /// Given: constants.
    Given,
}

struct Norm {
    sizes: Sizes,
    mean: Vec<f64>,
    inv_std: Vec<f64>,
    statistics: Statistics,
    relu: bool,
}

impl Norm {
    fn new(sizes: Sizes, mean: Vec<f64>, var: &[f64], eps: f64, statistics: Statistics, relu: bool) -> Self {
        let inv_std = var.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
        Self { sizes, mean, inv_std, statistics, relu }
    }

    fn apply(self, x: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<Tensor> {
        Ok(x.apply_op3(&gamma.contiguous()?, &beta.contiguous()?, self)?)
    }

    /// Scale and shift of each channel.
    fn lines<T: Real>(&self, gamma: &[T], beta: &[T]) -> Vec<[f64; 2]> {
        let line = |c: usize| {
            let scale = gamma[c].up() * self.inv_std[c];
            [scale, beta[c].up() - scale * self.mean[c]]
        };
        (0..self.sizes.channels).map(line).collect()
    }

    fn forward<T: Real>(&self, x: &[T], gamma: &[T], beta: &[T]) -> Vec<T> {
        let Sizes { channels, map, .. } = self.sizes;
        let lines = self.lines(gamma, beta);
        // SAFETY: the map of `x` is as long as the chunk, and a number of the chunk is written for each of its numbers.
        unsafe {
            fresh(x.len(), (map, self.maps_of_task()), |index, y| {
                let x = &x[index * map..][..y.len()];
                wide(Line { x, y, line: lines[index % channels], relu: self.relu });
            })
        }
    }

    /// Maps that one task handles at least.
    fn maps_of_task(&self) -> usize {
        (TASK / self.sizes.map).max(1)
    }

    /// The mean of a channel as a `T`, and what rounding it left over: a shift of the whole channel, which matters where
    /// the mean is large beside the deviations, so it is put into the additive constants.
    fn split_mean<T: Real>(&self, c: usize) -> (T, f64) {
        let mean = T::down(self.mean[c]);
        (mean, self.mean[c] - mean.up())
    }

    /// The sums of each channel, added map by map. `g` becomes the gradient before the rectifier: zero where the result is
    /// not above zero.
    fn sums<T: Real>(&self, x: &[T], g: &mut [T], y: &[T]) -> Vec<Sums> {
        let Sizes { channels, map, .. } = self.sizes;
        let maps = g.par_chunks_mut(map).zip(x.par_chunks(map)).zip(y.par_chunks(map)).enumerate();
        let shares: Vec<Sums> = maps
            .evenly(self.maps_of_task())
            .map(|(index, ((g, x), y))| {
                wide(Share { x, g, y: self.relu.then_some(y), mean: self.mean[index % channels] })
            })
            .collect();
        let sum_of = |c: usize| {
            let shares = shares.iter().skip(c).step_by(channels);
            shares.fold(Sums { g: 0.0, gx: 0.0 }, |sum, share| Sums { g: sum.g + share.g, gx: sum.gx + share.gx })
        };
        (0..channels).map(sum_of).collect()
    }

    /// `∂x = γ/σ (g − Σg/n − x̂ Σ(g x̂)/n)` with batch statistics, `γ/σ g` with given ones.
    ///
    /// In the place of `g`.
    fn data_gradient<T: Real>(&self, x: &[T], mut g: Vec<T>, gamma: &[T], sums: &[Sums]) -> Vec<T> {
        let Sizes { channels, map, .. } = self.sizes;
        let n = self.sizes.count() as f64;
        let lines: Vec<[T; 4]> = (0..channels)
            .map(|c| {
                let scale = gamma[c].up() * self.inv_std[c];
                let (slope, shift) = match self.statistics {
                    Statistics::Batch => {
                        (-scale * self.inv_std[c] * self.inv_std[c] * sums[c].gx / n, -scale * sums[c].g / n)
                    }
                    Statistics::Given => (0.0, 0.0),
                };
                let (mean, rest) = self.split_mean::<T>(c);
                [T::down(scale), T::down(slope), T::down(shift - slope * rest), mean]
            })
            .collect();
        let maps = g.par_chunks_mut(map).zip(x.par_chunks(map)).enumerate().evenly(self.maps_of_task());
        maps.for_each(|(index, (g, x))| wide(Slope { x, g, line: lines[index % channels] }));
        g
    }
}

impl Derivative for Norm {
    fn gradients<T: Real>(&self, args: [&[T]; 3], y: &[T], gy: Gradient<T>, want: [bool; 3]) -> Gradients<T> {
        let [x, gamma, _] = args;
        let mut g = gy.into_vec();
        let sums = self.sums(x, &mut g, y);
        let vector = |f: &dyn Fn(usize) -> f64| -> Option<Gradient<'static, T>> {
            Some(Gradient::Alone((0..self.sizes.channels).map(|c| T::down(f(c))).collect()))
        };
        let [of_gamma, of_beta] = [vector(&|c| sums[c].gx * self.inv_std[c]), vector(&|c| sums[c].g)];
        [want[0].then(|| Gradient::Alone(self.data_gradient(x, g, gamma, &sums))), of_gamma, of_beta]
    }
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        gamma: &CpuStorage,
        lg: &Layout,
        beta: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = by_storage!(x, T => {
            let y = self.forward::<T>(slice_of(x, lx)?, slice_of(gamma, lg)?, slice_of(beta, lb)?);
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        y: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        on_tensors(self, &[x, gamma, beta], y, gy).map(|[gx, gg, gb]| (gx, gg, gb))
    }
}
