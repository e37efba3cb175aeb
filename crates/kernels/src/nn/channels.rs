//! Ops between maps [B, C, H, W] and one number a channel: mean over the pixels, gates, scaled residuals.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::buffers::{Held, Real, by_dtype, by_storage, check_dtype, slice_of, zeros};
use super::moments::{lanes, lanes2};
use super::pointwise::logistic;
use crate::{Error, Result};

/// Batch, channels, pixels of a map.
fn sizes_of(op: &'static str, x: &Tensor) -> Result<[usize; 3]> {
    check_dtype(op, x)?;
    match *x.dims() {
        [b, c, h, w] if c * h * w > 0 => Ok([b, c, h * w]),
        _ => Err(Error::Shape { op, name: "x", got: x.dims().to_vec(), expected: "[B, C, H, W], not empty".into() }),
    }
}

/// Refuses a tensor of another shape or dtype.
fn check(op: &'static str, name: &'static str, tensor: &Tensor, like: &Tensor, dims: &[usize]) -> Result<()> {
    if tensor.dtype() != like.dtype() {
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
    let [batch, channels, map] = sizes_of("global_mean", x)?;
    Ok(x.contiguous()?.apply_op1(GlobalMean { batch, channels, map })?)
}

/// `y[b,c,·] = x[b,c,·] / (1 + exp(−gate[b,c]))`: the end of squeeze-and-excitation (Hu et al. 2018, equation 4), `x`
/// [B, C, H, W], `gate` [B, C] before the logistic function.
///
/// # Errors
/// [`Error::Shape`], [`Error::Dtype`].
pub fn gated(x: &Tensor, gate: &Tensor) -> Result<Tensor> {
    const OP: &str = "gated";
    let [batch, channels, map] = sizes_of(OP, x)?;
    check(OP, "gate", gate, x, &[batch, channels])?;
    Ok(x.contiguous()?.apply_op2(&gate.contiguous()?, Gated { map })?)
}

/// `y[b,c,·] = shortcut[b,c,·] + scale[c] · x[b,c,·]`: the end of a block with a layer scale (Touvron et al. 2021,
/// equation 2), maps [B, C, H, W], `scale` `[C]`.
///
/// # Errors
/// [`Error::Shape`], [`Error::Dtype`].
pub fn scaled_residual(shortcut: &Tensor, x: &Tensor, scale: &Tensor) -> Result<Tensor> {
    const OP: &str = "scaled_residual";
    let [_, channels, map] = sizes_of(OP, x)?;
    check(OP, "shortcut", shortcut, x, x.dims())?;
    check(OP, "scale", scale, x, &[channels])?;
    let op = ScaledResidual { channels, map };
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
            let y: Vec<T> = slice_of::<T>(x, lx)?.par_chunks(self.map).with_min_len(8).map(mean).collect();
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, Shape::from((self.batch, self.channels))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let gy = gy.contiguous()?;
        by_dtype!(x, T => {
            let held = Held::new(&gy);
            let share = T::down(1.0 / self.map as f64);
            let mut gx = zeros::<T>(x.elem_count());
            let maps = gx.par_chunks_mut(self.map).zip(held.slice::<T>()?.par_iter()).with_min_len(8);
            maps.for_each(|(gx, gy)| gx.fill(*gy * share));
            Tensor::from_vec(gx, x.shape(), x.device())
        })
        .map(Some)
    }
}

struct Gated {
    map: usize,
}

impl Gated {
    fn backward<T: Real>(&self, x: &Tensor, gate: &Tensor, gy: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let (xs, gates, gys) = (Held::new(x), Held::new(gate), Held::new(gy));
        let (x_slice, gate_slice, gy_slice) = (xs.slice::<T>()?, gates.slice::<T>()?, gys.slice::<T>()?);
        let mut gx = zeros::<T>(x_slice.len());
        let maps = gx.par_chunks_mut(self.map).zip(x_slice.par_chunks(self.map)).zip(gy_slice.par_chunks(self.map));
        let slopes: Vec<T> = maps
            .zip(gate_slice.par_iter())
            .with_min_len(8)
            .map(|(((gx, x), gy), gate)| {
                let s = logistic(*gate);
                gx.iter_mut().zip(gy).for_each(|(gx, gy)| *gx = *gy * s);
                let s = s.up();
                T::down(lanes2(x, gy, |x, gy| x.up() * gy.up()) * s * (1.0 - s))
            })
            .collect();
        Ok((Tensor::from_vec(gx, x.shape(), x.device())?, Tensor::from_vec(slopes, gate.shape(), x.device())?))
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
            let maps = y.par_chunks_mut(self.map).zip(x.par_chunks(self.map)).zip(gate.par_iter()).with_min_len(8);
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
        _y: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let gy = gy.contiguous()?;
        by_dtype!(x, T => self.backward::<T>(x, gate, &gy)).map(|(gx, gg)| (Some(gx), Some(gg)))
    }
}

struct ScaledResidual {
    channels: usize,
    map: usize,
}

impl ScaledResidual {
    fn backward<T: Real>(&self, x: &Tensor, scale: &Tensor, gy: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let (xs, scales, gys) = (Held::new(x), Held::new(scale), Held::new(gy));
        let (x_slice, scale_slice, gy_slice) = (xs.slice::<T>()?, scales.slice::<T>()?, gys.slice::<T>()?);
        let (map, image) = (self.map, self.channels * self.map);
        let mut gx = zeros::<T>(x_slice.len());
        gx.par_chunks_mut(image).zip(gy_slice.par_chunks(image)).for_each(|(gx, gy)| {
            for ((gx, gy), scale) in gx.chunks_mut(map).zip(gy.chunks(map)).zip(scale_slice) {
                gx.iter_mut().zip(gy).for_each(|(gx, gy)| *gx = *scale * *gy);
            }
        });
        let sum_of = |c: usize| {
            let maps = (c * map..x_slice.len()).step_by(image);
            T::down(
                maps.map(|at| lanes2(&x_slice[at..at + map], &gy_slice[at..at + map], |x, g| x.up() * g.up())).sum(),
            )
        };
        let sums: Vec<T> = (0..self.channels).into_par_iter().with_min_len(8).map(sum_of).collect();
        Ok((Tensor::from_vec(gx, x.shape(), x.device())?, Tensor::from_vec(sums, scale.shape(), x.device())?))
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
            y.par_chunks_mut(image).zip(s.par_chunks(image).zip(x.par_chunks(image))).for_each(|(y, (s, x))| {
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
        _shortcut: &Tensor,
        x: &Tensor,
        scale: &Tensor,
        _y: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gy = gy.contiguous()?;
        let (gx, gs) = by_dtype!(x, T => self.backward::<T>(x, scale, &gy))?;
        Ok((Some(gy), Some(gx), Some(gs)))
    }
}
