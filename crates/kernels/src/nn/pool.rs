//! Max pooling with overlapping windows, and its backward pass.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::buffers::{Held, Real, by_storage, check_activations, slice_of, zeros};
use super::flow::{Arg, Flow, apply_pairs, apply1};
use super::gradient::{Derivative, Gradient, Gradients, on_tensors};
use super::pair::{Join, Pair, Pairs, Split, fresh_pairs};
use super::wide::wide;
use crate::even::Even;
use crate::{Error, Result};

const OP: &str = "max_pool2d";

/// Largest value of each `kernel`×`kernel` window, windows `stride` apart, −∞ around the image.
///
/// `x` is [B, C, H, W]; the result [B, C, H', W'] with `H' = ⌊(H + 2·padding − kernel) / stride⌋ + 1`. The gradient
/// of a window goes to its first largest value in row-major order, and NaN counts as largest, as in PyTorch.
///
/// # Errors
/// [`Error::Attribute`] for a kernel or stride of 0, or a padding above half the kernel (a window without a pixel);
/// [`Error::Shape`] where the window does not fit; [`Error::Dtype`].
pub fn max_pool2d(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
    let op = check(x, kernel, stride, padding)?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        let MaxPool { batch, channels, height, width, oh, ow, kernel, stride, padding } = op;
        let planes = batch * channels;
        let pool = crate::cuda::train::pool::MaxPool { planes, height, width, oh, ow, kernel, stride, padding };
        return crate::cuda::tensors::max_pool2d(OP, x, pool);
    }
    Ok(x.contiguous()?.apply_op1(op)?)
}

fn check(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<MaxPool> {
    check_activations(OP, x)?;
    let attribute = |name, value: usize, expected| Error::Attribute { op: OP, name, value: value as f64, expected };
    if kernel == 0 {
        return Err(attribute("kernel", kernel, "at least 1"));
    }
    if stride == 0 {
        return Err(attribute("stride", stride, "at least 1"));
    }
    if 2 * padding > kernel {
        return Err(attribute("padding", padding, "at most half the kernel"));
    }
    let &[batch, channels, height, width] = x.dims() else {
        return Err(Error::Shape { op: OP, name: "x", got: x.dims().to_vec(), expected: "[B, C, H, W]".into() });
    };
    let size = |n: usize| (n + 2 * padding).checked_sub(kernel).map(|rest| rest / stride + 1);
    let (Some(oh), Some(ow)) = (size(height).filter(|_| height > 0), size(width).filter(|_| width > 0)) else {
        let expected = format!("an image that a window of {kernel} fits into with padding {padding}");
        return Err(Error::Shape { op: OP, name: "x", got: x.dims().to_vec(), expected });
    };
    Ok(MaxPool { batch, channels, height, width, oh, ow, kernel, stride, padding })
}

#[derive(Clone, Copy)]
struct MaxPool {
    batch: usize,
    channels: usize,
    height: usize,
    width: usize,
    oh: usize,
    ow: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl MaxPool {
    /// Pixels of the window at output coordinate `o`, of an axis of `n` pixels.
    #[inline(always)]
    fn window(&self, o: usize, n: usize) -> std::ops::Range<usize> {
        let start = o * self.stride;
        start.saturating_sub(self.padding)..(start + self.kernel - self.padding).min(n)
    }

    /// Largest value of each window of a map, row by row: first over the rows of the window, then along it.
    fn forward_map<T: Real>(&self, x: &[T], y: &mut [T], row: &mut [T]) {
        for (oy, y) in y.chunks_mut(self.ow).enumerate() {
            row.fill(T::LOWEST);
            for iy in self.window(oy, self.height) {
                for (row, x) in row.iter_mut().zip(&x[iy * self.width..]) {
                    *row = larger(*row, *x);
                }
            }
            for (ox, y) in y.iter_mut().enumerate() {
                *y = row[self.window(ox, self.width)].iter().fold(T::LOWEST, |m, v| larger(m, *v));
            }
        }
    }

    fn forward<T: Real>(&self, x: &[T]) -> Vec<T> {
        let (plane, map) = (self.height * self.width, self.oh * self.ow);
        let mut y = zeros::<T>(self.batch * self.channels * map);
        y.par_chunks_mut(map).zip(x.par_chunks(plane)).evenly(8).for_each(|(y, x)| {
            T::with_scratch(self.width, |row| self.forward_map(x, y, row));
        });
        y
    }

    /// [`Self::forward`] of pairs.
    fn forward_pairs(&self, x: Pair) -> Pairs {
        let (plane, map) = (self.height * self.width, self.oh * self.ow);
        // SAFETY: a map of results is as long as the chunk, and all of it is written.
        unsafe {
            fresh_pairs(self.batch * self.channels * map, (map, 8), |index, to| {
                f64::with_scratch(plane + map + self.width, |scratch| {
                    let (numbers, scratch) = scratch.split_at_mut(plane);
                    let (y, row) = scratch.split_at_mut(map);
                    wide(Join { from: x.at(index * plane..(index + 1) * plane), to: &mut *numbers });
                    self.forward_map(numbers, y, row);
                    wide(Split { from: y, to });
                });
            })
        }
    }

    /// First pixel of the window that holds `value`.
    #[inline(always)]
    fn first_of<T: Real>(&self, x: &[T], value: T, oy: usize, ox: usize) -> usize {
        let (rows, columns) = (self.window(oy, self.height), self.window(ox, self.width));
        let nan = value.up().is_nan();
        // With NaN, PyTorch's running maximum moves on to every further NaN: the last one has the gradient.
        let mut at = rows.start * self.width + columns.start;
        for iy in rows {
            for ix in columns.clone() {
                let v = x[iy * self.width + ix];
                if v == value {
                    return iy * self.width + ix;
                }
                if nan && v.up().is_nan() {
                    at = iy * self.width + ix;
                }
            }
        }
        at
    }

    fn backward<T: Real>(&self, x_slice: &[T], y_slice: &[T], gy_slice: &[T]) -> Vec<T> {
        let (plane, map) = (self.height * self.width, self.oh * self.ow);
        let mut gx = zeros::<T>(x_slice.len());
        gx.par_chunks_mut(plane)
            .zip(x_slice.par_chunks(plane))
            .zip(y_slice.par_chunks(map).zip(gy_slice.par_chunks(map)))
            .evenly(8)
            .for_each(|((gx, x), (y, gy))| {
                for oy in 0..self.oh {
                    for ox in 0..self.ow {
                        let o = oy * self.ow + ox;
                        gx[self.first_of(x, y[o], oy, ox)] += gy[o];
                    }
                }
            });
        gx
    }
}

/// The larger of the two; NaN if there is one.
#[inline(always)]
fn larger<T: Real>(a: T, b: T) -> T {
    // `b != b` is NaN; a NaN in `a` makes the comparison false and stays.
    if b > a || b.up().is_nan() { b } else { a }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = by_storage!(x, T => Ok(T::to_cpu_storage_owned(self.forward(slice_of::<T>(x, lx)?))))?;
        Ok((y, Shape::from((self.batch, self.channels, self.oh, self.ow))))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, gy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        on_tensors(self, &[x], y, gy).map(|[gx, ..]| gx)
    }
}

impl Derivative for MaxPool {
    fn gradients<T: Real>(&self, args: [&[T]; 3], y: &[T], gy: Gradient<T>, _: [bool; 3]) -> Gradients<T> {
        [Some(Gradient::Alone(self.backward(args[0], y, &gy))), None, None]
    }
}

impl Flow {
    /// [`max_pool2d`].
    ///
    /// # Errors
    /// Those of [`max_pool2d`].
    pub fn max_pool2d(&self, kernel: usize, stride: usize, padding: usize) -> Result<Self> {
        match self.by_candle() {
            Some(x) => Ok(Self::of_candle(max_pool2d(x, kernel, stride, padding)?)),
            None => {
                let (x, op) = (self.tensor_of(), check(self.tensor_of(), kernel, stride, padding)?);
                let Some(rest) = self.rest() else { return apply1(op, self) };
                let held = Held::new(x);
                let y = op.forward_pairs(Pair { high: held.slice()?, rest: Some(rest) });
                let shape = Shape::from((op.batch, op.channels, op.oh, op.ow));
                apply_pairs(op, y, &shape, &[Arg::Flow(self)])
            }
        }
    }
}
