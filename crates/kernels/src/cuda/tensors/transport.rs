//! Transport plans, the graph over tokens, and the ranking loss.

use candle_core::Tensor;

use super::super::{cotap, graph, sinkhorn};
use super::op::record;
use super::{Element, Source, by_dtype, card, tensor};
use crate::Result;
use crate::transport::{DsotConfig, SinkhornConfig};

/// Transport plans; shapes and settings were checked.
pub(crate) fn sinkhorn(op: &'static str, cost: &Tensor, config: SinkhornConfig) -> Result<Tensor> {
    fn typed<T: Element>(op: &'static str, cost: &Tensor, config: SinkhornConfig) -> Result<Tensor> {
        let card = card(op, cost)?;
        let (b, n, _) = cost.dims3()?;
        let source = Source::<T>::of(op, cost)?;
        let (plans, path) = sinkhorn::sinkhorn(&card, op, source.view, (b, n), config)?;
        let device = card.clone();
        record(op, &card, &[cost], (plans, cost.shape()), move |_, _, grad| {
            let grad = Source::<T>::of(op, grad)?;
            let gradient = sinkhorn::gradient(&device, op, (source.view, grad.view), &path)?;
            Ok([Some(tensor(gradient, &device.0, (b, n, n))), None, None])
        })
    }
    by_dtype!(op, cost, typed(op, cost, config))
}

/// Costs between tokens `[B, N, D]` of float64; shapes and settings were checked.
pub(crate) fn graph_cost(op: &'static str, x: &Tensor, config: &DsotConfig) -> Result<Tensor> {
    let card = card(op, x)?;
    let (images, n, d) = x.dims3()?;
    let source = Source::<f64>::of(op, x)?;
    let grid = graph::Grid { images, height: config.height, width: config.width, d, lambda: config.lambda_pos };
    let (values, costs) = graph::cost(&card, op, source.view, grid)?;
    let device = card.clone();
    record(op, &card, &[x], (values, (images, n, n)), move |_, _, grad| {
        let grad = Source::<f64>::of(op, grad)?;
        Ok([Some(tensor(graph::cost_gradient(&device, &costs, grad.view)?, &device.0, (images, n, d))), None, None])
    })
}

/// Indices `[B, N, k]` of the `k` largest values of each row of `[B, N, N]` float64.
pub(crate) fn heaviest(op: &'static str, values: &Tensor, k: usize) -> Result<Tensor> {
    let card = card(op, values)?;
    let (b, n, _) = values.dims3()?;
    let source = Source::<f64>::of(op, values)?;
    Ok(tensor(graph::heaviest(&card, source.view, (b * n, n), k)?, &card.0, (b, n, k)))
}

/// Weighted sums over neighbours; shapes were checked.
pub(crate) fn aggregate(op: &'static str, h: &Tensor, index: &Tensor, weights: &Tensor) -> Result<Tensor> {
    fn typed<T: Element>(op: &'static str, h: &Tensor, index: &Tensor, weights: &Tensor) -> Result<Tensor> {
        let card = card(op, h)?;
        let ((b, n, c), k) = (h.dims3()?, index.dim(2)?);
        let sizes = (b, n, c, k);
        let (tokens, edges, factors) =
            (Source::<T>::of(op, h)?, Source::<u32>::of(op, index)?, Source::<T>::of(op, weights)?);
        let views = (tokens.view, edges.view, factors.view);
        let values = graph::aggregate(&card, op, views, sizes)?;
        let device = card.clone();
        record(op, &card, &[h, weights], (values, (b, n, c)), move |_, _, grad| {
            let grad = Source::<T>::of(op, grad)?;
            let views = (tokens.view, edges.view, factors.view);
            let (dh, dw) = graph::aggregate_gradient(&device, views, grad.view, sizes)?;
            Ok([Some(tensor(dh, &device.0, (b, n, c))), Some(tensor(dw, &device.0, (b, n, k))), None])
        })
    }
    by_dtype!(op, h, typed(op, h, index, weights))
}

/// Ranking losses; shapes and settings were checked.
pub(crate) fn cotap(op: &'static str, p: &Tensor, q: &Tensor, taus: (f64, f64)) -> Result<Tensor> {
    fn typed<T: Element>(op: &'static str, p: &Tensor, q: &Tensor, taus: (f64, f64)) -> Result<Tensor> {
        let card = card(op, p)?;
        let sizes = p.dims2()?;
        let (student, teacher) = (Source::<T>::of(op, p)?, Source::<T>::of(op, q)?);
        let (loss, slopes) = cotap::cotap(&card, op, (student.view, teacher.view), sizes, taus)?;
        let device = card.clone();
        record(op, &card, &[p], (loss, sizes.0), move |_, _, grad| {
            let grad = Source::<T>::of(op, grad)?;
            Ok([Some(tensor(cotap::gradient(&device, &slopes, grad.view, sizes)?, &device.0, sizes)), None, None])
        })
    }
    by_dtype!(op, p, typed(op, p, q, taus))
}
