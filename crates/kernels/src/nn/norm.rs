//! Batch normalisation, fused: statistics in float64, one pass for the result, backward in closed form.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::activation::rectify;
use super::buffers::{Held, Real, by_dtype, by_storage, slice_of, zeros};
use super::moments::{OP, Sizes, check_vector, lanes, lanes2};
use crate::{Error, Result, host};

/// A normalised batch and its statistics.
#[derive(Debug)]
pub struct BatchNormOut {
    /// The result, of the shape of the input.
    pub y: Tensor,
    /// Mean of each channel.
    pub mean: Vec<f64>,
    /// Biased variance of each channel: the sum of squares divided by `count`.
    pub var: Vec<f64>,
    /// Values per channel: `B·H·W`.
    pub count: usize,
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
    let sizes = Sizes::of(x, gamma, beta, eps)?;
    let count = sizes.count();
    if count < 2 {
        let expected = "at least two values per channel (use batch_norm_eval for fewer)".into();
        return Err(Error::Shape { op: OP, name: "x", got: x.dims().to_vec(), expected });
    }
    let x = x.contiguous()?;
    let moments = {
        let held = Held::new(&x);
        by_dtype!(x, T => Ok(sizes.moments::<T>(held.slice()?)))?
    };
    let (mean, var): (Vec<f64>, Vec<f64>) = moments.into_iter().unzip();
    let y = Norm::new(sizes, mean.clone(), &var, eps, Statistics::Batch, relu).apply(&x, gamma, beta)?;
    Ok(BatchNormOut { y, mean, var, count })
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
    let sizes = Sizes::of(x, gamma, beta, eps)?;
    for (name, tensor) in [("running_mean", running_mean), ("running_var", running_var)] {
        check_vector(name, tensor, sizes.channels)?;
    }
    let (mean, var) = (host::to_f64(OP, running_mean)?, host::to_f64(OP, running_var)?);
    Norm::new(sizes, mean, &var, eps, Statistics::Given, relu).apply(&x.contiguous()?, gamma, beta)
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

/// `Σ g` and `Σ g (x − μ)` of a channel.
#[derive(Clone, Copy)]
struct Sums {
    g: f64,
    gx: f64,
}

impl Norm {
    fn new(sizes: Sizes, mean: Vec<f64>, var: &[f64], eps: f64, statistics: Statistics, relu: bool) -> Self {
        let inv_std = var.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
        Self { sizes, mean, inv_std, statistics, relu }
    }

    fn apply(self, x: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<Tensor> {
        Ok(x.apply_op3(&gamma.contiguous()?, &beta.contiguous()?, self)?)
    }

    fn forward<T: Real>(&self, x: &[T], gamma: &[T], beta: &[T]) -> Vec<T> {
        let Sizes { channels, map, .. } = self.sizes;
        let lines: Vec<[T; 3]> = (0..channels)
            .map(|c| {
                let (mean, rest) = self.split_mean::<T>(c);
                let scale = gamma[c].up() * self.inv_std[c];
                [mean, T::down(scale), T::down(beta[c].up() - scale * rest)]
            })
            .collect();
        let mut y = zeros::<T>(x.len());
        let image = channels * map;
        y.par_chunks_mut(image).zip(x.par_chunks(image)).for_each(|(y, x)| {
            for ((y, x), [mean, scale, shift]) in y.chunks_mut(map).zip(x.chunks(map)).zip(&lines) {
                let line = |x: T| (x - *mean) * *scale + *shift;
                if self.relu {
                    y.iter_mut().zip(x).for_each(|(y, x)| *y = rectify(line(*x)));
                } else {
                    y.iter_mut().zip(x).for_each(|(y, x)| *y = line(*x));
                }
            }
        });
        y
    }

    /// The mean of a channel as a `T`, and what rounding it left over: a shift of the whole channel, which matters where
    /// the mean is large beside the deviations, so it is put into the additive constants.
    fn split_mean<T: Real>(&self, c: usize) -> (T, f64) {
        let mean = T::down(self.mean[c]);
        (mean, self.mean[c] - mean.up())
    }

    /// `g` before the rectifier: zero where the result is not above zero.
    fn through_relu<T: Real>(&self, gy: &[T], y: &[T]) -> Vec<T> {
        let image = self.sizes.channels * self.sizes.map;
        let mut g = zeros::<T>(gy.len());
        g.par_chunks_mut(image).zip(gy.par_chunks(image).zip(y.par_chunks(image))).for_each(|(g, (gy, y))| {
            for ((g, gy), y) in g.iter_mut().zip(gy).zip(y) {
                *g = if *y > T::ZERO { *gy } else { T::ZERO };
            }
        });
        g
    }

    fn sums<T: Real>(&self, x: &[T], g: &[T]) -> Vec<Sums> {
        let of = |c: usize| {
            let mean = self.mean[c];
            let mut sums = Sums { g: 0.0, gx: 0.0 };
            for at in self.sizes.maps(c) {
                let (x, g) = (&x[at.clone()], &g[at]);
                sums.g += lanes(g, |g| g.up());
                sums.gx += lanes2(x, g, |x, g| (x.up() - mean) * g.up());
            }
            sums
        };
        (0..self.sizes.channels).into_par_iter().map(of).collect()
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
        let image = channels * map;
        g.par_chunks_mut(image).zip(x.par_chunks(image)).for_each(|(g, x)| {
            for ((g, x), [scale, slope, shift, mean]) in g.chunks_mut(map).zip(x.chunks(map)).zip(&lines) {
                for (g, x) in g.iter_mut().zip(x) {
                    *g = *scale * *g + (*slope * (*x - *mean) + *shift);
                }
            }
        });
        g
    }

    fn backward<T: Real>(&self, x: &Tensor, gamma: &Tensor, y: &Tensor, gy: &Tensor) -> candle_core::Result<Gradients> {
        let (xs, gammas, ys, gys) = (Held::new(x), Held::new(gamma), Held::new(y), Held::new(gy));
        let x_slice = xs.slice::<T>()?;
        let g = if self.relu { self.through_relu::<T>(gys.slice()?, ys.slice()?) } else { gys.slice::<T>()?.to_vec() };
        let sums = self.sums(x_slice, &g);
        let device = x.device();
        let vector = |f: &dyn Fn(usize) -> f64| {
            let values: Vec<T> = (0..self.sizes.channels).map(|c| T::down(f(c))).collect();
            Tensor::from_vec(values, self.sizes.channels, device)
        };
        let gx = match x.track_op() {
            true => Some(Tensor::from_vec(self.data_gradient(x_slice, g, gammas.slice()?, &sums), x.shape(), device)?),
            false => None,
        };
        Ok((gx, Some(vector(&|c| sums[c].gx * self.inv_std[c])?), Some(vector(&|c| sums[c].g)?)))
    }
}

type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

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
        _beta: &Tensor,
        y: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<Gradients> {
        let gy = gy.contiguous()?;
        by_dtype!(x, T => self.backward::<T>(x, gamma, y, &gy))
    }
}
