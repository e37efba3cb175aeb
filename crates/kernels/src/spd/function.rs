//! Functions of symmetric matrices, and their derivatives.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::eigen::Eigen;
use super::input::Batch;
use super::linalg::{Form, from_spectrum, square, symmetrise};
use super::saved;
use crate::Result;

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

    /// The divided difference `(f(x) − f(y)) / (x − y)`, `f'(x)` for `x = y`, without cancellation;
    /// `fx` and `fy` are the values.
    fn divided(self, x: f64, y: f64, fx: f64, fy: f64) -> f64 {
        match self {
            Self::Log => {
                let ratio = (x - y) / (x + y);
                if ratio.abs() > 0.5 {
                    (fx - fy) / (x - y) // Values a factor of 3 apart or more: nothing cancels.
                } else if ratio == 0.0 {
                    2.0 / (x + y)
                } else {
                    // ln(x / y) = 2 artanh ratio
                    (2.0 * ratio / (1.0 - ratio)).ln_1p() / (x - y)
                }
            }
            Self::Sqrt => 1.0 / (fx + fy),
            Self::InvSqrt => -(fx * fy) * (fx * fy) / (fx + fy),
            Self::Exp => {
                let gap = (x - y).abs();
                fx.max(fy) * if gap == 0.0 { 1.0 } else { -(-gap).exp_m1() / gap }
            }
        }
    }

    /// The function of a matrix.
    pub(crate) fn matrix(self, eigen: &Eigen) -> Vec<f64> {
        let values: Vec<f64> = match (self, &eigen.centre) {
            (Self::Log, Some((centre, offsets))) => {
                offsets.iter().map(|offset| centre.ln() + (offset / centre).ln_1p()).collect()
            }
            _ => eigen.values.iter().map(|&v| self.value(v)).collect(),
        };
        from_spectrum(&eigen.vectors, &values)
    }

    /// Gradient of `⟨G, f(A)⟩` by Daleckii and Krein: `V (K ∘ (Vᵀ G V)) Vᵀ` with the divided differences `K`.
    pub(crate) fn gradient(self, eigen: &Eigen, g: &[f64]) -> Vec<f64> {
        let d = eigen.values.len();
        let vectors = &eigen.vectors;
        let values: Vec<f64> = eigen.values.iter().map(|&v| self.value(v)).collect();
        let half = square((vectors, Form::Plain), (g, Form::Plain), d);
        let mut inner = square((&half, Form::Plain), (vectors, Form::Transposed), d);
        symmetrise(&mut inner, d);
        for i in 0..d {
            for j in 0..=i {
                let k = self.divided(eigen.values[i], eigen.values[j], values[i], values[j]);
                inner[i * d + j] *= k;
                inner[j * d + i] = inner[i * d + j];
            }
        }
        let half = square((vectors, Form::Transposed), (&inner, Form::Plain), d);
        let mut out = square((&half, Form::Plain), (vectors, Form::Plain), d);
        symmetrise(&mut out, d);
        out
    }

    /// The op.
    pub(crate) fn apply(self, a: &Tensor) -> Result<Tensor> {
        let batch = Batch::read(self.name(), "a", a)?;
        let eigen = match self {
            Self::Exp => batch.eigen(self.name())?,
            Self::Log | Self::Sqrt | Self::InvSqrt => batch.positive_eigen(self.name())?,
        };
        let size = batch.d * batch.d;
        let values = eigen.par_iter().map(|e| self.matrix(e)).collect::<Vec<_>>().concat();
        let eigen = Arc::new(eigen);
        saved::unary(self.name(), a, values, a.shape(), move |_, grad| {
            let parts = eigen.par_iter().zip(grad.par_chunks_exact(size));
            Ok(parts.map(|(e, g)| self.gradient(e, g)).collect::<Vec<_>>().concat())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
