//! Functions and distances of SPD matrices, covariances, and mining.

use std::sync::Arc;

use candle_core::{CudaDevice, Shape, Tensor};

use super::super::card::Card;
use super::super::device::Device;
use super::super::{mining, spd};
use super::op::record;
use super::{Element, Source, by_dtype, card, tensor};
use crate::spd::Metric;
use crate::spd::function::Function;
use crate::{Error, Result};

/// A function of symmetric matrices.
pub(crate) fn function(op: &'static str, function: Function, a: &Tensor) -> Result<Tensor> {
    fn typed<T: Element>(op: &'static str, function: Function, a: &Tensor) -> Result<Tensor> {
        let (card, batch) = (card(op, a)?, spd::Batch::of(op, "a", a.dims())?);
        let source = Source::<T>::of(op, a)?;
        let (values, eigen) = spd::function(&card, op, function, source.view, batch)?;
        let device = card.clone();
        let shape = a.shape().clone();
        record(op, &card, &[a], (values, a.shape()), move |_, _, grad| {
            let grad = Source::<T>::of(op, grad)?;
            let gradient = spd::function_gradient(&device, function, &eigen, grad.view)?;
            Ok([Some(tensor(gradient, &device.0, &shape)), None, None])
        })
    }
    by_dtype!(op, a, typed(op, function, a))
}

/// Distances `[N, M]` of all pairs of `a` `[N, d, d]` and `b` `[M, d, d]`.
pub(crate) fn distance(op: &'static str, metric: Metric, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (left, batch_a, _) = Prepared::new(op, "a", metric, a)?;
    let (right, batch_b, _) = match a.id() == b.id() {
        true => (left.clone(), batch_a, Vec::new()),
        false => Prepared::new(op, "b", metric, b)?,
    };
    if batch_a.d != batch_b.d {
        let expected = format!("matrices of {0}x{0}, as the first argument", batch_a.d);
        return Err(Error::Shape { op, name: "b", got: b.dims().to_vec(), expected });
    }
    let (n, m) = (batch_a.n, batch_b.n);
    let pairs: Vec<(usize, usize)> = (0..n).flat_map(|i| (0..m).map(move |j| (i, j))).collect();
    pair_distance((op, metric), (a, b), &pairs, (&left, &right))?.reshape((n, m)).map_err(Error::from)
}

/// Matrices with their factorisations on a card; cheap to clone.
#[derive(Clone)]
pub(crate) struct Prepared {
    card: CudaDevice,
    matrices: Arc<spd::Prepared<Card>>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prepared({:?} on {:?})", self.matrices.eigen.batch, self.card)
    }
}

impl Prepared {
    /// Factorises `a` `[N, d, d]`; with how many matrices of which size there are, and their eigenvalues, ascending.
    pub(crate) fn new(
        op: &'static str,
        name: &'static str,
        metric: Metric,
        a: &Tensor,
    ) -> Result<(Self, spd::Batch, Vec<Vec<f64>>)> {
        fn typed<T: Element>(
            op: &'static str,
            name: &'static str,
            metric: Metric,
            a: &Tensor,
        ) -> Result<(Prepared, spd::Batch, Vec<Vec<f64>>)> {
            let (card, batch) = (card(op, a)?, list(op, name, a)?);
            let source = Source::<T>::of(op, a)?;
            let matrices = spd::prepare(&card, op, name, metric, source.view, batch)?;
            let values = card.download(&matrices.eigen.values)?;
            let spectra = values.chunks_exact(batch.d).take(batch.n).map(<[f64]>::to_vec).collect();
            Ok((Prepared { card: card.0, matrices: Arc::new(matrices) }, batch, spectra))
        }
        by_dtype!(op, a, typed(op, name, metric, a))
    }

    /// Distances of pairs, without a gradient.
    pub(crate) fn distances(
        &self,
        (op, metric): (&'static str, Metric),
        other: &Self,
        pairs: &[(usize, usize)],
    ) -> Result<Vec<f64>> {
        let card = Card(self.card.clone());
        let both = (&*self.matrices, &*other.matrices);
        let (out, _) = spd::distances::<_, f64>(&card, (op, metric), both, narrow(pairs), false)?;
        let mut values = card.download(&out)?;
        values.truncate(pairs.len());
        Ok(values)
    }

    /// The nearest in other groups.
    pub(crate) fn nearest(
        &self,
        names: (&'static str, Metric),
        other: &Self,
        groups: &mining::Groups,
        k: usize,
    ) -> Result<Vec<Vec<(usize, f64)>>> {
        mining::nearest(&Card(self.card.clone()), names, (&self.matrices, &other.matrices), groups, k)
    }
}

fn narrow(pairs: &[(usize, usize)]) -> Vec<(u32, u32)> {
    pairs.iter().map(|&(i, j)| (i as u32, j as u32)).collect()
}

/// Distances `[K]` of pairs; shapes and indices were checked.
pub(crate) fn pair_distance(
    (op, metric): (&'static str, Metric),
    (a, b): (&Tensor, &Tensor),
    pairs: &[(usize, usize)],
    (left, right): (&Prepared, &Prepared),
) -> Result<Tensor> {
    fn typed<T: Element>(
        (op, metric): (&'static str, Metric),
        (a, b): (&Tensor, &Tensor),
        pairs: &[(usize, usize)],
        (left, right): (Prepared, Prepared),
    ) -> Result<Tensor> {
        let card = card(op, a)?;
        let differentiated = a.track_op() || b.track_op();
        let both = (&*left.matrices, &*right.matrices);
        let (values, all) = spd::distances::<_, T>(&card, (op, metric), both, narrow(pairs), differentiated)?;
        let device = card.clone();
        let shapes = [a.shape().clone(), b.shape().clone()];
        record(op, &card, &[a, b], (values, pairs.len()), move |needed, _, grad| {
            let grad = Source::<T>::of(op, grad)?;
            let side = |needed: bool, side, shape: &Shape| -> Result<Option<Tensor>> {
                if !needed {
                    return Ok(None);
                }
                let both = (&*left.matrices, &*right.matrices);
                Ok(Some(tensor(all.gradient::<T>(&device, both, grad.view, side)?, &device.0, shape)))
            };
            Ok([side(needed[0], spd::Side::A, &shapes[0])?, side(needed[1], spd::Side::B, &shapes[1])?, None])
        })
    }
    if a.dtype() != b.dtype() {
        return Err(Error::DtypeMismatch { op, left: a.dtype(), right: b.dtype() });
    }
    by_dtype!(op, a, typed((op, metric), (a, b), pairs, (left.clone(), right.clone())))
}

/// For each row of `a` `[n, d]` the nearest row of `b` `[n, d]` with another label; the shapes were checked.
pub(crate) fn nearest_rows(op: &'static str, a: &Tensor, b: &Tensor, labels: &[u32]) -> Result<Vec<Option<usize>>> {
    fn typed<T: Element>(op: &'static str, a: &Tensor, b: &Tensor, labels: &[u32]) -> Result<Vec<Option<usize>>> {
        let card = card(op, a)?;
        let (left, right) = (Source::<T>::of(op, a)?, Source::<T>::of(op, b)?);
        mining::nearest_rows(&card, op, (left.view, right.view), labels, a.dims2()?)
    }
    if a.dtype() != b.dtype() {
        return Err(Error::DtypeMismatch { op, left: a.dtype(), right: b.dtype() });
    }
    by_dtype!(op, a, typed(op, a, b, labels))
}

/// The sizes of `[N, d, d]`.
fn list(op: &'static str, name: &'static str, a: &Tensor) -> Result<spd::Batch> {
    if a.rank() != 3 {
        return Err(Error::Shape { op, name, got: a.dims().to_vec(), expected: "[N, d, d]".into() });
    }
    spd::Batch::of(op, name, a.dims())
}

/// Attention-weighted covariances; the shapes were checked.
pub(crate) fn covariance(op: &'static str, x: &Tensor, logits: &Tensor, eps: f64) -> Result<Tensor> {
    fn typed<T: Element>(op: &'static str, x: &Tensor, logits: &Tensor, eps: f64) -> Result<Tensor> {
        let card = card(op, x)?;
        let sizes = x.dims3()?;
        let (b, n, d) = sizes;
        spd::Batch { n: b, d }.check(op, "x", x.dims())?;
        let (tokens, scores) = (Source::<T>::of(op, x)?, Source::<T>::of(op, logits)?);
        let (values, moments) = spd::covariance(&card, op, (tokens.view, scores.view), sizes, eps)?;
        let device = card.clone();
        record(op, &card, &[x, logits], (values, (b, d, d)), move |_, _, grad| {
            let grad = Source::<T>::of(op, grad)?;
            let (dx, dl) = spd::covariance_gradient(&device, (tokens.view, grad.view), &moments, sizes)?;
            Ok([Some(tensor(dx, &device.0, (b, n, d))), Some(tensor(dl, &device.0, (b, n))), None])
        })
    }
    if x.dtype() != logits.dtype() {
        return Err(Error::DtypeMismatch { op, left: x.dtype(), right: logits.dtype() });
    }
    by_dtype!(op, x, typed(op, x, logits, eps))
}
