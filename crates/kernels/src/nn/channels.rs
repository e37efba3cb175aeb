//! Ops between maps [B, C, H, W] and one number a channel: mean over the pixels, gates, scaled residuals.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::buffers::{Real, beside, by_storage, check_activations, slice_of, zeros};
use super::flow::{Arg, Flow, apply1, apply2, apply3};
use super::gradient::{Derivative, Gradient, Gradients, on_tensors};
use super::moments::{lanes, lanes2};
use super::pointwise::logistic;
use super::wide::{Loop, wide};
use crate::even::Even;
use crate::{Error, Result};

/// Batch, channels, pixels of a map.
fn sizes_of(op: &'static str, x: &Tensor) -> Result<[usize; 3]> {
    check_activations(op, x)?;
    match *x.dims() {
        [b, c, h, w] if c * h * w > 0 => Ok([b, c, h * w]),
        _ => Err(Error::Shape { op, name: "x", got: x.dims().to_vec(), expected: "[B, C, H, W], not empty".into() }),
    }
}

/// Refuses a tensor of another shape or dtype.
pub(super) fn check(op: &'static str, name: &'static str, tensor: &Tensor, dtype: DType, dims: &[usize]) -> Result<()> {
    if tensor.dtype() != dtype {
        return Err(Error::Dtype { op, got: tensor.dtype() });
    }
    if tensor.dims() != dims {
        return Err(Error::Shape { op, name, got: tensor.dims().to_vec(), expected: format!("{dims:?}") });
    }
    Ok(())
}

/// Mean over the pixels: [B, C, H, W] to [B, C], accumulated in float64.
///
/// # Errors
/// [`Error::Shape`], [`Error::Dtype`].
pub fn global_mean(x: &Tensor) -> Result<Tensor> {
    let op = GlobalMean::of(x)?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::tensors::global_mean("global_mean", x);
    }
    Ok(x.contiguous()?.apply_op1(op)?)
}

/// `y[b,c,·] = x[b,c,·] / (1 + exp(−gate[b,c]))`: the end of squeeze-and-excitation (Hu et al. 2018, equation 4), `x`
/// [B, C, H, W], `gate` [B, C] before the logistic function.
///
/// # Errors
/// [`Error::Shape`], [`Error::Dtype`].
pub fn gated(x: &Tensor, gate: &Tensor) -> Result<Tensor> {
    let op = Gated::of(x, gate)?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::tensors::gated("gated", x, gate);
    }
    Ok(x.contiguous()?.apply_op2(&gate.contiguous()?, op)?)
}

/// `y[b,c,·] = shortcut[b,c,·] + scale[c] · x[b,c,·]`: the end of a block with a layer scale (Touvron et al. 2021,
/// equation 2), maps [B, C, H, W], `scale` `[C]`.
///
/// # Errors
/// [`Error::Shape`], [`Error::Dtype`].
pub fn scaled_residual(shortcut: &Tensor, x: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let op = ScaledResidual::of(shortcut, x, scale)?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::tensors::scaled_residual("scaled_residual", shortcut, x, scale);
    }
    Ok(shortcut.contiguous()?.apply_op3(&x.contiguous()?, &scale.contiguous()?, op)?)
}

struct GlobalMean {
    batch: usize,
    channels: usize,
    map: usize,
}

impl CustomOp1 for GlobalMean {
    fn name(&self) -> &'static str {
        "global_mean"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = by_storage!(x, T => {
            let n = self.map as f64;
            let mean = |map: &[T]| T::down(lanes(map, |v| v.up()) / n);
            let y: Vec<T> = slice_of::<T>(x, lx)?.par_chunks(self.map).evenly(8).map(mean).collect();
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, Shape::from((self.batch, self.channels))))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, gy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        on_tensors(self, &[x], y, gy).map(|[gx, ..]| gx)
    }
}

impl GlobalMean {
    fn of(x: &Tensor) -> Result<Self> {
        let [batch, channels, map] = sizes_of("global_mean", x)?;
        Ok(Self { batch, channels, map })
    }
}

impl Derivative for GlobalMean {
    fn gradients<T: Real>(&self, args: [&[T]; 3], _: &[T], gy: Gradient<T>, _: [bool; 3]) -> Gradients<T> {
        let share = T::down(1.0 / self.map as f64);
        let mut gx = zeros::<T>(args[0].len());
        let maps = gx.par_chunks_mut(self.map).zip(gy.par_iter()).evenly(8);
        maps.for_each(|(gx, gy)| gx.fill(*gy * share));
        [Some(Gradient::Alone(gx)), None, None]
    }
}

struct Gated {
    map: usize,
}

impl Gated {
    fn of(x: &Tensor, gate: &Tensor) -> Result<Self> {
        let [batch, channels, map] = sizes_of("gated", x)?;
        check("gated", "gate", gate, x.dtype(), &[batch, channels])?;
        Ok(Self { map })
    }
}

impl Derivative for Gated {
    fn gradients<T: Real>(&self, args: [&[T]; 3], _: &[T], gy: Gradient<T>, _: [bool; 3]) -> Gradients<T> {
        let [x, gate, _] = args;
        let mut g = gy.into_vec();
        let maps = g.par_chunks_mut(self.map).zip(x.par_chunks(self.map)).zip(gate.par_iter()).evenly(8);
        let slopes: Vec<T> = maps
            .map(|((g, x), gate)| {
                let s = logistic(*gate);
                let sum = wide(ScaleInPlace { g, x, scale: s });
                let s = s.up();
                T::down(sum * s * (1.0 - s))
            })
            .collect();
        [Some(Gradient::Alone(g)), Some(Gradient::Alone(slopes)), None]
    }
}

/// `Σ x g` of a map, and then `g` scaled in place.
struct ScaleInPlace<'a, T> {
    g: &'a mut [T],
    x: &'a [T],
    scale: T,
}

impl<T: Real> Loop for ScaleInPlace<'_, T> {
    type Out = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let sum = lanes2(self.x, self.g, |x, g| x.up() * g.up());
        self.g.iter_mut().for_each(|g| *g *= self.scale);
        sum
    }
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        gate: &CpuStorage,
        lg: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = by_storage!(x, T => {
            let (x, gate) = (slice_of::<T>(x, lx)?, slice_of::<T>(gate, lg)?);
            let mut y = zeros::<T>(x.len());
            let maps = y.par_chunks_mut(self.map).zip(x.par_chunks(self.map)).zip(gate.par_iter()).evenly(8);
            maps.for_each(|((y, x), gate)| {
                let s = logistic(*gate);
                y.iter_mut().zip(x).for_each(|(y, x)| *y = *x * s);
            });
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gate: &Tensor,
        y: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        on_tensors(self, &[x, gate], y, gy).map(|[gx, gg, _]| (gx, gg))
    }
}

struct ScaledResidual {
    channels: usize,
    map: usize,
}

impl ScaledResidual {
    fn of(shortcut: &Tensor, x: &Tensor, scale: &Tensor) -> Result<Self> {
        const OP: &str = "scaled_residual";
        let [_, channels, map] = sizes_of(OP, x)?;
        check(OP, "shortcut", shortcut, x.dtype(), x.dims())?;
        check(OP, "scale", scale, beside(x.dtype()), &[channels])?;
        Ok(Self { channels, map })
    }
}

impl Derivative for ScaledResidual {
    /// In a map: `∂x = scale · g` and the map's share `Σ x g` of the scale's gradient; shares are added image by image.
    fn gradients<T: Real>(&self, args: [&[T]; 3], _: &[T], gy: Gradient<T>, want: [bool; 3]) -> Gradients<T> {
        let [_, x, scale] = args;
        let (gx, sums) = {
            let mut gx = zeros::<T>(x.len());
            let maps = gx.par_chunks_mut(self.map).zip(x.par_chunks(self.map)).zip(gy.par_chunks(self.map));
            let shares: Vec<f64> = maps
                .evenly(8)
                .enumerate()
                .map(|(index, ((gx, x), gy))| wide(Scaled { x, gy, gx, scale: scale[index % self.channels] }))
                .collect();
            let sum_of = |c: usize| T::down(shares.iter().skip(c).step_by(self.channels).sum());
            (gx, (0..self.channels).map(sum_of).collect())
        };
        let shortcut = want[0].then(|| Gradient::Alone(gy.into_vec()));
        [shortcut, Some(Gradient::Alone(gx)), Some(Gradient::Alone(sums))]
    }
}

/// `gx = scale · gy` of a map, and `Σ x gy`.
struct Scaled<'a, T> {
    x: &'a [T],
    gy: &'a [T],
    gx: &'a mut [T],
    scale: T,
}

impl<T: Real> Loop for Scaled<'_, T> {
    type Out = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        self.gx.iter_mut().zip(self.gy).for_each(|(gx, gy)| *gx = self.scale * *gy);
        lanes2(self.x, self.gy, |x, gy| x.up() * gy.up())
    }
}

impl CustomOp3 for ScaledResidual {
    fn name(&self) -> &'static str {
        "scaled_residual"
    }

    fn cpu_fwd(
        &self,
        shortcut: &CpuStorage,
        ls: &Layout,
        x: &CpuStorage,
        lx: &Layout,
        scale: &CpuStorage,
        lc: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = by_storage!(x, T => {
            let (s, x, scale) = (slice_of::<T>(shortcut, ls)?, slice_of::<T>(x, lx)?, slice_of::<T>(scale, lc)?);
            let (map, image) = (self.map, self.channels * self.map);
            let mut y = zeros::<T>(x.len());
            y.par_chunks_mut(image).zip(s.par_chunks(image).zip(x.par_chunks(image))).evenly(1).for_each(|(y, (s, x))| {
                for (((y, s), x), scale) in y.chunks_mut(map).zip(s.chunks(map)).zip(x.chunks(map)).zip(scale) {
                    y.iter_mut().zip(s.iter().zip(x)).for_each(|(y, (s, x))| *y = *s + *scale * *x);
                }
            });
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, lx.shape().clone()))
    }

    fn bwd(
        &self,
        shortcut: &Tensor,
        x: &Tensor,
        scale: &Tensor,
        y: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        on_tensors(self, &[shortcut, x, scale], y, gy).map(|[gs, gx, gc]| (gs, gx, gc))
    }
}

impl Flow {
    /// [`global_mean`].
    ///
    /// # Errors
    /// Those of [`global_mean`].
    pub fn global_mean(&self) -> Result<Self> {
        match self.by_candle() {
            Some(x) => Ok(Self::of_candle(global_mean(x)?)),
            None => apply1(GlobalMean::of(self.tensor_of())?, self),
        }
    }

    /// [`gated`].
    ///
    /// # Errors
    /// Those of [`gated`].
    pub fn gated(&self, gate: &Self) -> Result<Self> {
        match self.by_candle() {
            Some(x) => Ok(Self::of_candle(gated(x, gate.tensor_of())?)),
            None => {
                let op = Gated::of(self.tensor_of(), gate.tensor_of())?;
                apply2(op, [Arg::Flow(self), Arg::Flow(gate)])
            }
        }
    }

    /// [`scaled_residual`] with this value as the shortcut.
    ///
    /// # Errors
    /// Those of [`scaled_residual`].
    pub fn scaled_residual(&self, x: &Self, scale: &Tensor) -> Result<Self> {
        match self.by_candle() {
            Some(shortcut) => Ok(Self::of_candle(scaled_residual(shortcut, x.tensor_of(), scale)?)),
            None => {
                let op = ScaledResidual::of(self.tensor_of(), x.tensor_of(), scale)?;
                apply3(op, [Arg::Flow(self), Arg::Flow(x), Arg::Parameter(scale)])
            }
        }
    }
}
