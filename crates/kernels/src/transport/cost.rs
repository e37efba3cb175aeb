//! Cost between the tokens of an image: cosine dissimilarity plus squared distance of positions, per mean.

use candle_core::Tensor;
use rayon::prelude::*;

use super::graph::DsotConfig;
use crate::spd::linalg::{Form, product};
use crate::spd::saved;
use crate::spd::simd::dot;
use crate::{Error, Result, host};

const OP: &str = "dsot_graph";
/// Norms below this are divided as if they were this.
const LEAST_NORM: f64 = 1e-12;
/// Added to the mean that the cost is divided by.
const MEAN_OFFSET: f64 = 1e-8;

/// Costs `[B, N, N]` of tokens `x` `[B, N, D]`, float64 in and out. Differentiable.
pub(super) fn cost(x: &Tensor, config: &DsotConfig) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::tensors::graph_cost(OP, x, config);
    }
    let (b, n, d) = x.dims3()?;
    let positions = squared_distances(config.height, config.width);
    let values = host::to_f64(OP, x)?;
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(Error::NonFinite { op: OP, name: "x", batch: at / (n * d) });
    }
    let lambda = config.lambda_pos;
    let parts: Vec<Part> =
        (0..b).into_par_iter().map(|i| Part::new(&values[i * n * d..(i + 1) * n * d], n, d)).collect();
    let raw: Vec<Vec<f64>> = parts.par_iter().map(|part| part.raw(&positions, lambda)).collect();
    let means: Vec<f64> = raw.iter().map(|c| c.iter().sum::<f64>() / (n * n) as f64 + MEAN_OFFSET).collect();
    let costs = raw.iter().zip(&means).flat_map(|(c, mean)| c.iter().map(move |v| v / mean)).collect();
    drop(raw);
    saved::unary(OP, x, costs, (b, n, n), move |_, grad| {
        let each = parts.par_iter().zip(&means).zip(grad.par_chunks_exact(n * n));
        let gradients = each.map(|((part, &mean), grad)| part.gradient(&positions, lambda, mean, grad));
        Ok(gradients.collect::<Vec<_>>().concat())
    })
}

/// Squared distances of grid positions, row-major over the grid, both axes running from 0 to 1.
fn squared_distances(height: usize, width: usize) -> Vec<f64> {
    let step = |index: usize, count: usize| if count > 1 { index as f64 / (count - 1) as f64 } else { 0.0 };
    let position = |k: usize| (step(k / width, height), step(k % width, width));
    let n = height * width;
    (0..n * n)
        .map(|k| {
            let ((y0, x0), (y1, x1)) = (position(k / n), position(k % n));
            (y0 - y1).powi(2) + (x0 - x1).powi(2)
        })
        .collect()
}

/// One image: unit tokens and the norms they had.
struct Part {
    n: usize,
    d: usize,
    unit: Vec<f64>,
    norms: Vec<f64>,
}

impl Part {
    fn new(tokens: &[f64], n: usize, d: usize) -> Self {
        let norms: Vec<f64> = tokens.chunks_exact(d).map(|t| dot(t, t).sqrt()).collect();
        let rows = tokens.chunks_exact(d).zip(&norms);
        let unit = rows.flat_map(|(t, norm)| t.iter().map(move |v| v / norm.max(LEAST_NORM))).collect();
        Self { n, d, unit, norms }
    }

    /// `1 − cosine + λ · positions`, before the division by its mean.
    fn raw(&self, positions: &[f64], lambda: f64) -> Vec<f64> {
        let mut out = vec![0.0; self.n * self.n];
        product(&mut out, (&self.unit, Form::Plain), (&self.unit, Form::Transposed), self.n, self.n, self.d);
        out.iter_mut().zip(positions).for_each(|(c, p)| *c = 1.0 - *c + lambda * p);
        out
    }

    /// Gradient of the tokens; a token of norm 0 has no direction and gets the gradient 0.
    fn gradient(&self, positions: &[f64], lambda: f64, mean: f64, grad: &[f64]) -> Vec<f64> {
        let (n, d) = (self.n, self.d);
        let raw = self.raw(positions, lambda);
        // C = R / m with m = mean(R) + offset: ∂R = ∂C / m − Σ(∂C ∘ R) / (m² N²).
        let shift = dot(grad, &raw) / (mean * mean * (n * n) as f64);
        let mut similarity = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                similarity[i * n + j] = 2.0 * shift - (grad[i * n + j] + grad[j * n + i]) / mean;
            }
        }
        let mut out = vec![0.0; n * d];
        product(&mut out, (&similarity, Form::Plain), (&self.unit, Form::Plain), n, d, n);
        for ((row, unit), &norm) in out.chunks_exact_mut(d).zip(self.unit.chunks_exact(d)).zip(&self.norms) {
            let along = dot(row, unit);
            let scale = if norm > LEAST_NORM { 1.0 / norm } else { 0.0 };
            row.iter_mut().zip(unit).for_each(|(g, u)| *g = scale * (*g - along * u));
        }
        out
    }
}
