//! Softmax attention of packed queries, keys and values.

use super::super::device::{Device, Stored, View, arguments, kernel};
use super::linear::{Product, Strides};
use super::{countable, warps};
use crate::Result;

/// Sizes of [`crate::nn::attention`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention {
    pub(crate) batch: usize,
    pub(crate) tokens: usize,
    pub(crate) heads: usize,
    /// Numbers of a query.
    pub(crate) width: usize,
}

impl Attention {
    fn dim(self) -> usize {
        self.heads * self.width
    }

    fn rows(self) -> usize {
        self.batch * self.heads * self.tokens
    }

    fn scale(self) -> f64 {
        1.0 / (self.width as f64).sqrt()
    }

    fn check(self, op: &'static str) -> Result<()> {
        countable(op, (self.batch * self.tokens * 3 * self.dim()).max(self.rows() * self.tokens))?;
        Ok(())
    }

    /// The part of `packed` numbers a token that begins `at` of them: its head and image, rows of tokens.
    fn part<T: Stored>(self, all: View<T>, parts: usize, at: usize) -> (View<T>, Strides) {
        let pitch = parts * self.dim();
        let view = all.from(at * self.dim());
        (view, Strides { outer: self.tokens * pitch, inner: self.width, across: pitch, along: 1 })
    }

    /// Matrices of `tokens`×`tokens`, one for each head.
    fn squares(self) -> Strides {
        let square = self.tokens * self.tokens;
        Strides { outer: self.heads * square, inner: square, across: self.tokens, along: 1 }
    }

    fn product(self, columns: usize, terms: usize, [left, right, out]: [Strides; 3], scale: f64) -> Product {
        let (rows, outer, inner) = (self.tokens, self.batch, self.heads);
        Product { rows, columns, terms, outer, inner, left, right, out, scale }
    }

    /// `scale · a bᵀ` of two parts.
    fn scores<D: Device, T: Stored>(
        self,
        device: &D,
        a: (View<T>, Strides),
        b: (View<T>, Strides),
        scale: f64,
    ) -> Result<D::Buffer<T>> {
        let out = device.empty::<T>(self.rows() * self.tokens)?;
        let product = self.product(self.tokens, self.width, [a.1, b.1, self.squares()], scale);
        product.into(device, (a.0, b.0), None, device.view(&out))?;
        Ok(out)
    }

    /// `scale · s v`, or `scale · sᵀ v`, of squares and a part, written to a part.
    fn mixed<D: Device, T: Stored>(
        self,
        device: &D,
        (s, transposed): (View<T>, bool),
        v: (View<T>, Strides),
        out: (View<T>, Strides),
        scale: f64,
    ) -> Result<()> {
        let turned = |strides: Strides| Strides { across: strides.along, along: strides.across, ..strides };
        let squares = if transposed { turned(self.squares()) } else { self.squares() };
        let product = self.product(self.width, self.tokens, [squares, turned(v.1), out.1], scale);
        product.into(device, (s, v.0), None, out.0)
    }

    /// The result, `[batch, tokens, heads · width]`, and the weights, which the gradient needs.
    ///
    /// # Errors
    /// More values than a kernel counts.
    pub(crate) fn forward<D: Device, T: Stored>(
        self,
        device: &D,
        op: &'static str,
        qkv: View<T>,
    ) -> Result<(D::Buffer<T>, D::Buffer<T>)> {
        self.check(op)?;
        let y = device.empty::<T>(self.batch * self.tokens * self.dim())?;
        let [q, k, v] = [0, 1, 2].map(|at| self.part(qkv, 3, at));
        let weights = self.scores(device, q, k, self.scale())?;
        let p = device.view(&weights);
        device.launch(kernel!(T, "softmax"), warps(self.rows()), arguments![p, self.rows(), self.tokens])?;
        self.mixed(device, (p, false), v, self.part(device.view(&y), 1, 0), 1.0)?;
        Ok((y, weights))
    }

    /// The gradient of `qkv`.
    ///
    /// # Errors
    /// More values than a kernel counts.
    pub(crate) fn backward<D: Device, T: Stored>(
        self,
        device: &D,
        op: &'static str,
        (qkv, weights): (View<T>, View<T>),
        gy: View<T>,
    ) -> Result<D::Buffer<T>> {
        self.check(op)?;
        let g = device.empty::<T>(qkv.len())?;
        let [q, k, v] = [0, 1, 2].map(|at| self.part(qkv, 3, at));
        let [gq, gk, gv] = [0, 1, 2].map(|at| self.part(device.view(&g), 3, at));
        let gy = self.part(gy, 1, 0);
        let slopes = self.scores(device, gy, v, 1.0)?;
        let s = device.view(&slopes);
        let arguments = arguments![weights, s, self.rows(), self.tokens];
        device.launch(kernel!(T, "softmax_backward"), warps(self.rows()), arguments)?;
        self.mixed(device, (weights, true), gy, gv, 1.0)?;
        self.mixed(device, (s, false), k, gq, self.scale())?;
        self.mixed(device, (s, true), q, gk, self.scale())?;
        Ok(g)
    }
}
