//! Products of matrices, and linear maps of tokens.

use super::super::device::{Device, Stored, View, arguments, kernel};
use super::conv::{SIDE, tiles};
use super::{Maps, countable};
use crate::Result;

/// Distances of one matrix of a product, in numbers: between outer and inner pairs, between the lines that the sum does not
/// go along, and between those that it does. For the result: between its rows, and between its columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strides {
    pub(super) outer: usize,
    pub(super) inner: usize,
    pub(super) across: usize,
    pub(super) along: usize,
}

impl Strides {
    /// Of a single matrix.
    pub(super) fn of(across: usize, along: usize) -> Self {
        Self { outer: 0, inner: 0, across, along }
    }

    fn each(self) -> [usize; 4] {
        [self.outer, self.inner, self.across, self.along]
    }
}

/// Products of `outer · inner` pairs of matrices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) terms: usize,
    pub(super) outer: usize,
    pub(super) inner: usize,
    pub(super) left: Strides,
    pub(super) right: Strides,
    pub(super) out: Strides,
    pub(super) scale: f64,
}

impl Product {
    /// Writes `scale · left · right + bias` to `out`. Kernels differ in whether the matrices lie along the sum or across it:
    /// the stride of 1 says which.
    pub(super) fn into<D: Device, T: Stored>(
        self,
        device: &D,
        (left, right): (View<T>, View<T>),
        bias: Option<View<T::Sum>>,
        out: View<T>,
    ) -> Result<()> {
        let kernel = match (self.left.along == 1, self.right.along == 1) {
            (true, true) => kernel!(T, "matmul_nn"),
            (true, false) => kernel!(T, "matmul_nt"),
            (false, _) => kernel!(T, "matmul_tt"),
        };
        self.launch::<D, T, T>(device, kernel, (left, right), bias, out)
    }

    fn launch<D: Device, T: Stored, Out: Stored>(
        self,
        device: &D,
        kernel: &'static str,
        (left, right): (View<T>, View<T>),
        bias: Option<View<T::Sum>>,
        out: View<Out>,
    ) -> Result<()> {
        let Self { rows, columns, terms, outer, inner, scale, .. } = self;
        let [lo, li, lr, lt] = self.left.each();
        let [ro, ri, rc, rt] = self.right.each();
        let [oo, oi, or, oc] = self.out.each();
        let bias = bias.unwrap_or(View::none());
        let arguments = arguments![
            left, right, bias, out, rows, columns, terms, inner, lo, li, lr, lt, ro, ri, rc, rt, oo, oi, or, oc, scale
        ];
        let blocks = rows.div_ceil(SIDE) * columns.div_ceil(SIDE) * outer * inner;
        device.launch(kernel, tiles::<T>(blocks), arguments)
    }
}

/// Sizes of a linear map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear {
    pub(crate) tokens: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

impl Linear {
    fn product(self, rows: usize, columns: usize, terms: usize, left: Strides, right: Strides) -> Product {
        let out = Strides::of(columns, 1);
        Product { rows, columns, terms, outer: 1, inner: 1, left, right, out, scale: 1.0 }
    }

    fn check(self, op: &'static str) -> Result<()> {
        let Self { tokens, inputs, outputs } = self;
        countable(op, (tokens * inputs).max(tokens * outputs).max(inputs * outputs))?;
        Ok(())
    }

    /// `x Wᵀ + b`, see [`crate::nn::linear`].
    ///
    /// # Errors
    /// More values than a kernel counts.
    pub(crate) fn forward<D: Device, T: Stored>(
        self,
        device: &D,
        op: &'static str,
        (x, w): (View<T>, View<T>),
        bias: Option<View<T::Sum>>,
    ) -> Result<D::Buffer<T>> {
        self.check(op)?;
        let Self { tokens, inputs, outputs } = self;
        let y = device.empty::<T>(tokens * outputs)?;
        let product = self.product(tokens, outputs, inputs, Strides::of(inputs, 1), Strides::of(inputs, 1));
        product.into(device, (x, w), bias, device.view(&y))?;
        Ok(y)
    }

    /// The gradient of `x`, `gy W`.
    ///
    /// # Errors
    /// More values than a kernel counts.
    pub(crate) fn backward<D: Device, T: Stored>(
        self,
        device: &D,
        op: &'static str,
        (gy, w): (View<T>, View<T>),
    ) -> Result<D::Buffer<T>> {
        self.check(op)?;
        let Self { tokens, inputs, outputs } = self;
        let gx = device.empty::<T>(tokens * inputs)?;
        let product = self.product(tokens, inputs, outputs, Strides::of(outputs, 1), Strides::of(1, inputs));
        product.into(device, (gy, w), None, device.view(&gx))?;
        Ok(gx)
    }

    /// The gradient of the weight, `gyᵀ x`.
    ///
    /// # Errors
    /// More values than a kernel counts.
    pub(crate) fn weight<D: Device, T: Stored>(
        self,
        device: &D,
        op: &'static str,
        (x, gy): (View<T>, View<T>),
    ) -> Result<D::Buffer<T::Sum>> {
        self.check(op)?;
        let Self { tokens, inputs, outputs } = self;
        let gw = device.empty::<T::Sum>(outputs * inputs)?;
        let product = self.product(outputs, inputs, tokens, Strides::of(1, outputs), Strides::of(1, inputs));
        product.launch(device, kernel!(T, "matmul_wide_tt"), (gy, x), None, device.view(&gw))?;
        Ok(gw)
    }

    /// The gradient of the bias.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn bias<D: Device, T: Stored>(self, device: &D, gy: View<T>) -> Result<D::Buffer<T::Sum>> {
        Maps { batch: self.tokens, channels: self.outputs, map: 1 }.sums(device, gy, None, None)
    }
}
