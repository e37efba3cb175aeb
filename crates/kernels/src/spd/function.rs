//! Functions of symmetric matrices, and their derivatives.

use std::cell::RefCell;
use std::sync::OnceLock;

use candle_core::Tensor;

use super::eigen::{Eigen, centre};
use super::input::Batch;
use super::linalg::{Form, accumulate, from_spectrum, from_spectrum_to, mirror, product, symmetrise};
use super::logarithm::{self, Kept};
use super::saved;
use super::simd::dispatched;
use crate::{Result, host};

/// A scalar function applied to the spectrum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Function {
    Log,
    Sqrt,
    InvSqrt,
    Exp,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Self::Log => "spd_log",
            Self::Sqrt => "spd_sqrt",
            Self::InvSqrt => "spd_inv_sqrt",
            Self::Exp => "spd_exp",
        }
    }

    /// `f(x)`.
    pub(crate) fn value(self, x: f64) -> f64 {
        match self {
            Self::Log => x.ln(),
            Self::Sqrt => x.sqrt(),
            Self::InvSqrt => 1.0 / x.sqrt(),
            Self::Exp => x.exp(),
        }
    }

    /// Multiplies entry `(i, j)` of the `d`×`d` matrix `inner` by the divided difference `(f(x_i) − f(x_j)) / (x_i − x_j)`,
    /// `f'(x_i)` for `x_i = x_j`, without cancellation; `f` has the values.
    fn multiply_divided(self, x: &[f64], f: &[f64], inner: &mut [f64]) {
        match self {
            Self::Log => multiply_log(x, f, inner),
            Self::Sqrt => multiply_sqrt(f, inner),
            Self::InvSqrt => multiply_inv_sqrt(f, inner),
            Self::Exp => multiply_exp(x, f, inner),
        }
        mirror(inner, x.len());
    }

    /// The function of a matrix.
    pub(crate) fn matrix(self, eigen: &Eigen) -> Vec<f64> {
        from_spectrum(&eigen.vectors, &self.spectrum(eigen))
    }

    /// The function of the eigenvalues.
    fn spectrum(self, eigen: &Eigen) -> Vec<f64> {
        match (self, &eigen.centre) {
            (Self::Log, Some((centre, offsets))) => {
                offsets.iter().map(|offset| centre.ln() + (offset / centre).ln_1p()).collect()
            }
            _ => eigen.values.iter().map(|&v| self.value(v)).collect(),
        }
    }

    /// Gradient of `⟨G, f(A)⟩` by Daleckii and Krein: `V (K ∘ (Vᵀ G V)) Vᵀ` with the divided differences `K`.
    pub(crate) fn gradient(self, eigen: &Eigen, g: &[f64]) -> Vec<f64> {
        let mut out = g.to_vec();
        self.gradient_in_place(eigen, &mut out, &mut Room::default());
        out
    }

    /// As [`Function::gradient`]; `g` becomes the gradient.
    fn gradient_in_place(self, eigen: &Eigen, g: &mut [f64], room: &mut Room) {
        let d = eigen.values.len();
        let vectors = &eigen.vectors;
        let values: Vec<f64> = eigen.values.iter().map(|&v| self.value(v)).collect();
        room.half.resize(d * d, 0.0);
        room.inner.resize(d * d, 0.0);
        let (half, inner) = (&mut room.half, &mut room.inner);
        symmetrise(g, d);
        product(half, (vectors, Form::Plain), (g, Form::Plain), d, d, d);
        accumulate(inner, (0.0, 1.0), (half, Form::Plain), (vectors, Form::Transposed), (d, d, d), true);
        self.multiply_divided(&eigen.values, &values, inner);
        product(half, (inner, Form::Plain), (vectors, Form::Plain), d, d, d);
        accumulate(g, (0.0, 1.0), (vectors, Form::Transposed), (half, Form::Plain), (d, d, d), true);
    }

    /// The op.
    pub(crate) fn apply(self, a: &Tensor) -> Result<Tensor> {
        let name = self.name();
        #[cfg(feature = "cuda")]
        if a.device().is_cuda() {
            return crate::cuda::tensors::function(name, self, a);
        }
        let batch = Batch::read(name, "a", a)?;
        if self == Self::Log && batch.d <= logarithm::LARGEST {
            return apply_log(name, a, &batch);
        }
        let eigen = match self {
            Self::Exp => batch.eigen(name)?,
            Self::Log | Self::Sqrt | Self::InvSqrt => batch.positive_eigen(name, 1.0)?,
        };
        let items = (batch.n, batch.d * batch.d);
        drop(batch);
        let result = host::fill_items(name, a.dtype(), items, |i, out| {
            SCALED.with_borrow_mut(|room| from_spectrum_to(out, &eigen[i].vectors, &self.spectrum(&eigen[i]), room));
        })?;
        saved::unary_storage(name, a, result, a.shape(), move |grad| {
            host::with_numbers(name, grad, |grad| {
                host::fill_items(name, grad.dtype(), items, |i, out| {
                    grad.copy(i * items.1, out);
                    ROOM.with_borrow_mut(|room| self.gradient_in_place(&eigen[i], out, room));
                })
            })
        })
    }
}

/// The matrices of a group with their factorisations.
struct Group {
    kept: Vec<Kept>,
    /// Of those that are not served so.
    eigen: Vec<Option<Eigen>>,
}

impl Group {
    /// Factorises the matrices of `batch` from `first` on and writes their logarithms to `out`.
    fn new(name: &'static str, batch: &Batch, first: usize, out: &mut [f64]) -> Result<Self> {
        let d = batch.d;
        let matrices: Vec<&[f64]> = (0..out.len() / (d * d)).map(|k| batch.matrix(first + k)).collect();
        let kept = logarithm::logarithms(&matrices, d, out);
        let served = kept.iter().flat_map(Kept::served).zip(&matrices);
        // Close to a multiple of the identity the logarithm is small, and keeps its digits by the difference from that.
        let one = |(k, (served, matrix)): (usize, (bool, &&[f64]))| {
            let other = !served || centre(matrix, d).is_some();
            other.then(|| batch.positive_eigen_of(name, first + k)).transpose()
        };
        let eigen = served.enumerate().map(one).collect::<Result<Vec<_>>>()?;
        for (eigen, out) in eigen.iter().zip(out.chunks_exact_mut(d * d)) {
            if let Some(eigen) = eigen {
                out.copy_from_slice(&Function::Log.matrix(eigen));
            }
        }
        Ok(Self { kept, eigen })
    }

    /// Replaces gradients of the logarithms by those of the matrices.
    fn gradients(&self, d: usize, g: &mut [f64]) {
        let room = &mut Room::default();
        let size = d * d;
        let one = |(k, eigen): (usize, &Option<Eigen>)| {
            let eigen = eigen.as_ref()?;
            let mut own = g[k * size..(k + 1) * size].to_vec();
            Function::Log.gradient_in_place(eigen, &mut own, room);
            Some((k, own))
        };
        let others: Vec<(usize, Vec<f64>)> = self.eigen.iter().enumerate().filter_map(one).collect();
        logarithm::gradients(&self.kept, d, g);
        others.iter().for_each(|(k, own)| g[k * size..(k + 1) * size].copy_from_slice(own));
    }
}

/// The logarithm, group after group of matrices.
fn apply_log(name: &'static str, a: &Tensor, batch: &Batch) -> Result<Tensor> {
    let (d, items) = (batch.d, (batch.n, batch.d * batch.d));
    let groups: Vec<OnceLock<Result<Group>>> =
        (0..batch.n.div_ceil(logarithm::TOGETHER)).map(|_| OnceLock::new()).collect();
    let result = host::fill_groups(name, a.dtype(), items, logarithm::TOGETHER, |first, out| {
        groups[first / logarithm::TOGETHER].get_or_init(|| Group::new(name, batch, first, out));
    })?;
    let groups: Vec<Group> = groups.into_iter().filter_map(OnceLock::into_inner).collect::<Result<_>>()?;
    saved::unary_storage(name, a, result, a.shape(), move |grad| {
        host::with_numbers(name, grad, |grad| {
            host::fill_groups(name, grad.dtype(), items, logarithm::TOGETHER, |first, out| {
                grad.copy(first * items.1, out);
                groups[first / logarithm::TOGETHER].gradients(d, out);
            })
        })
    })
}

/// Memory for the products of a gradient.
#[derive(Default)]
struct Room {
    half: Vec<f64>,
    inner: Vec<f64>,
}

thread_local! {
    static ROOM: RefCell<Room> = const { RefCell::new(Room { half: Vec::new(), inner: Vec::new() }) };
    static SCALED: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
}

/// Squared `(x − y) / (x + y)` up to which [`divided_log`] sums the series.
const NEAR: f64 = 0.02;

/// The divided difference of the logarithm: `(ln x − ln y) / (x − y)`, where that cancels
/// `2 artanh(r) / (x − y) = 2 / (x + y) · Σ r^2k / (2k + 1)` with `r = (x − y) / (x + y)`.
#[inline(always)]
fn divided_log(x: f64, y: f64, log_x: f64, log_y: f64) -> f64 {
    let (difference, sum) = (x - y, x + y);
    let r = difference / sum;
    let r2 = r * r;
    let mut series = 1.0 / 19.0;
    for k in (0..9).rev() {
        series = series * r2 + 1.0 / f64::from(2 * k + 1);
    }
    let (near, far) = (2.0 / sum * series, (log_x - log_y) / difference);
    if r2 <= NEAR { near } else { far }
}

/// That of the exponential.
#[inline(always)]
fn divided_exp(x: f64, y: f64, exp_x: f64, exp_y: f64) -> f64 {
    let gap = (x - y).abs();
    exp_x.max(exp_y) * if gap == 0.0 { 1.0 } else { -(-gap).exp_m1() / gap }
}

/// That of the square root, by the roots.
#[inline(always)]
fn divided_sqrt(root_x: f64, root_y: f64) -> f64 {
    1.0 / (root_x + root_y)
}

/// That of `1 / √x`, by the values.
#[inline(always)]
fn divided_inv_sqrt(x: f64, y: f64) -> f64 {
    let product = x * y;
    -product * product / (x + y)
}

// Of the symmetric `inner` these multiply the upper triangle.

dispatched! {
    fn multiply_log(x: &[f64], f: &[f64], inner: &mut [f64]) {
        for (i, row) in inner.chunks_exact_mut(x.len()).enumerate() {
            for ((v, &y), &f_y) in row[i..].iter_mut().zip(&x[i..]).zip(&f[i..]) {
                *v *= divided_log(x[i], y, f[i], f_y);
            }
        }
    }
}

dispatched! {
    fn multiply_sqrt(f: &[f64], inner: &mut [f64]) {
        for (i, row) in inner.chunks_exact_mut(f.len()).enumerate() {
            row[i..].iter_mut().zip(&f[i..]).for_each(|(v, &f_y)| *v *= divided_sqrt(f[i], f_y));
        }
    }
}

dispatched! {
    fn multiply_inv_sqrt(f: &[f64], inner: &mut [f64]) {
        for (i, row) in inner.chunks_exact_mut(f.len()).enumerate() {
            row[i..].iter_mut().zip(&f[i..]).for_each(|(v, &f_y)| *v *= divided_inv_sqrt(f[i], f_y));
        }
    }
}

fn multiply_exp(x: &[f64], f: &[f64], inner: &mut [f64]) {
    for (i, row) in inner.chunks_exact_mut(x.len()).enumerate() {
        for (j, v) in row.iter_mut().enumerate().skip(i) {
            *v *= divided_exp(x[i], x[j], f[i], f[j]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Function {
        fn divided(self, x: f64, y: f64, fx: f64, fy: f64) -> f64 {
            let mut inner = [1.0; 4];
            self.multiply_divided(&[x, y], &[fx, fy], &mut inner);
            assert_eq!(inner[1], inner[2]);
            inner[1]
        }
    }

    #[test]
    fn divided_differences_at_equal_and_near_arguments() {
        let x: f64 = 0.7;
        let slopes = [
            (Function::Log, 1.0 / x),
            (Function::Sqrt, 0.5 / x.sqrt()),
            (Function::InvSqrt, -0.5 * x.powf(-1.5)),
            (Function::Exp, x.exp()),
        ];
        for (f, slope) in slopes {
            for gap in [0.0, 1e-15, 1e-12, 1e-9] {
                let y = x * (1.0 + gap);
                let got = f.divided(x, y, f.value(x), f.value(y));
                assert!(
                    (got / slope - 1.0).abs() < 1e-15 + 4.0 * gap,
                    "{f:?} at a gap of {gap}: {got} against {slope}"
                );
            }
        }
    }

    #[test]
    fn divided_differences_far_apart() {
        for f in [Function::Log, Function::Sqrt, Function::InvSqrt, Function::Exp] {
            for (x, y) in [(3.0, 1.0), (3.1, 1.0), (1e-4, 10.0), (2.0, 2.5)] {
                let got = f.divided(x, y, f.value(x), f.value(y));
                let want = (f.value(x) - f.value(y)) / (x - y);
                assert!((got / want - 1.0).abs() < 1e-14, "{f:?} at {x}, {y}: {got} against {want}");
            }
        }
    }
}
