//! Ops on tensors that lie on a card.

use std::sync::{Arc, Mutex};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::{CudaDType, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CudaDevice, CustomOp1, CustomOp2, DType, Layout, Shape, Storage, Tensor};
use cudarc::driver::{CudaSlice, DevicePtr};

use super::card::Card;
use super::device::{Device, Float, Number, View};
use super::{cotap, graph, mining, sinkhorn, spd};
use crate::spd::Metric;
use crate::spd::function::Function;
use crate::transport::{DsotConfig, SinkhornConfig};
use crate::{Error, Result};

/// A number of candle's tensors that kernels take.
trait Element: Float + CudaDType {}

impl Element for f32 {}
impl Element for f64 {}

/// Calls a generic function with the dtype of a tensor.
macro_rules! by_dtype {
    ($op:expr, $tensor:expr, $function:ident($($argument:expr),*)) => {
        match $tensor.dtype() {
            DType::F32 => $function::<f32>($($argument),*),
            DType::F64 => $function::<f64>($($argument),*),
            got => Err(Error::Dtype { op: $op, got }),
        }
    };
}

/// The card of a tensor.
fn card(op: &'static str, tensor: &Tensor) -> Result<Card> {
    match tensor.device() {
        candle_core::Device::Cuda(device) => Ok(Card(device.clone())),
        _ => Err(Error::Device { op, reason: "its arguments lie on different devices".into() }),
    }
}

/// The row-major numbers of a tensor on the card. They live as long as the tensor, which is kept here.
struct Source<T> {
    _tensor: Tensor,
    view: View<T>,
}

impl<T: Number + CudaDType> Source<T> {
    fn of(op: &'static str, tensor: &Tensor) -> Result<Self> {
        let tensor = tensor.contiguous()?;
        let len = tensor.elem_count();
        let address = {
            let (storage, layout) = tensor.storage_and_layout();
            let Storage::Cuda(storage) = &*storage else {
                return Err(Error::Device { op, reason: "its arguments lie on different devices".into() });
            };
            let stream = storage.device().cuda_stream();
            let (address, _guard) = storage.as_cuda_slice::<T>()?.device_ptr(&stream);
            address + (layout.start_offset() * size_of::<T>()) as u64
        };
        Ok(Self { _tensor: tensor, view: View::new(address, len) })
    }
}

/// A tensor of these numbers.
fn tensor<T: CudaDType>(slice: CudaSlice<T>, device: &CudaDevice, shape: impl Into<Shape>) -> Tensor {
    let storage = CudaStorage::wrap_cuda_slice(slice, device.clone());
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

/// A result that was computed before its op, handed out once.
struct Ready {
    name: &'static str,
    result: Mutex<Option<(CudaStorage, Shape)>>,
}

impl Ready {
    fn new<T: CudaDType>(name: &'static str, card: &Card, values: CudaSlice<T>, shape: impl Into<Shape>) -> Self {
        let storage = CudaStorage::wrap_cuda_slice(values, card.0.clone());
        Self { name, result: Mutex::new(Some((storage, shape.into()))) }
    }

    fn take(&self) -> candle_core::Result<(CudaStorage, Shape)> {
        let mut slot = self.result.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slot.take().ok_or_else(|| candle_core::Error::Msg(format!("{}: the forward pass ran twice", self.name)))
    }

    fn elsewhere(&self) -> candle_core::Error {
        Error::Device { op: self.name, reason: "its arguments lie on different devices".into() }.into()
    }
}

struct Unary<F> {
    ready: Ready,
    backward: F,
}

impl<F: Fn(&Tensor) -> Result<Tensor>> CustomOp1 for Unary<F> {
    fn name(&self) -> &'static str {
        self.ready.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Err(self.ready.elsewhere())
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        self.ready.take()
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some((self.backward)(grad)?))
    }
}

struct Binary<F> {
    ready: Ready,
    backward: F,
}

/// Gradients of two arguments.
type Two = (Option<Tensor>, Option<Tensor>);

impl<F: Fn([bool; 2], &Tensor) -> Result<Two>> CustomOp2 for Binary<F> {
    fn name(&self) -> &'static str {
        self.ready.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Err(self.ready.elsewhere())
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        self.ready.take()
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Two> {
        Ok((self.backward)([a.track_op(), b.track_op()], grad)?)
    }
}

/// A function of symmetric matrices.
pub(crate) fn function(op: &'static str, function: Function, a: &Tensor) -> Result<Tensor> {
    fn typed<T: Element>(op: &'static str, function: Function, a: &Tensor) -> Result<Tensor> {
        let (card, batch) = (card(op, a)?, spd::Batch::of(op, "a", a.dims())?);
        let source = Source::<T>::of(op, a)?;
        let (values, eigen) = spd::function(&card, op, function, source.view, batch)?;
        let ready = Ready::new(op, &card, values, a.shape());
        let shape = a.shape().clone();
        let backward = move |grad: &Tensor| {
            let grad = Source::<T>::of(op, grad)?;
            let gradient = spd::function_gradient(&card, function, &eigen, grad.view)?;
            Ok(tensor(gradient, &card.0, &shape))
        };
        Ok(a.apply_op1(Unary { ready, backward })?)
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
        let ready = Ready::new(op, &card, values, pairs.len());
        let shapes = [a.shape().clone(), b.shape().clone()];
        let backward = move |needed: [bool; 2], grad: &Tensor| {
            let grad = Source::<T>::of(op, grad)?;
            let side = |needed: bool, side, shape: &Shape| -> Result<Option<Tensor>> {
                if !needed {
                    return Ok(None);
                }
                let both = (&*left.matrices, &*right.matrices);
                Ok(Some(tensor(all.gradient::<T>(&card, both, grad.view, side)?, &card.0, shape)))
            };
            Ok((side(needed[0], spd::Side::A, &shapes[0])?, side(needed[1], spd::Side::B, &shapes[1])?))
        };
        Ok(a.apply_op2(b, Binary { ready, backward })?)
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
        let ready = Ready::new(op, &card, values, (b, d, d));
        let backward = move |_: [bool; 2], grad: &Tensor| {
            let grad = Source::<T>::of(op, grad)?;
            let (dx, dl) = spd::covariance_gradient(&card, (tokens.view, grad.view), &moments, sizes)?;
            Ok((Some(tensor(dx, &card.0, (b, n, d))), Some(tensor(dl, &card.0, (b, n)))))
        };
        Ok(x.apply_op2(logits, Binary { ready, backward })?)
    }
    if x.dtype() != logits.dtype() {
        return Err(Error::DtypeMismatch { op, left: x.dtype(), right: logits.dtype() });
    }
    by_dtype!(op, x, typed(op, x, logits, eps))
}

/// Transport plans; shapes and settings were checked.
pub(crate) fn sinkhorn(op: &'static str, cost: &Tensor, config: SinkhornConfig) -> Result<Tensor> {
    fn typed<T: Element>(op: &'static str, cost: &Tensor, config: SinkhornConfig) -> Result<Tensor> {
        let card = card(op, cost)?;
        let (b, n, _) = cost.dims3()?;
        let source = Source::<T>::of(op, cost)?;
        let (plans, path) = sinkhorn::sinkhorn(&card, op, source.view, (b, n), config)?;
        let ready = Ready::new(op, &card, plans, cost.shape());
        let backward = move |grad: &Tensor| {
            let grad = Source::<T>::of(op, grad)?;
            let gradient = sinkhorn::gradient(&card, op, (source.view, grad.view), &path)?;
            Ok(tensor(gradient, &card.0, (b, n, n)))
        };
        Ok(cost.apply_op1(Unary { ready, backward })?)
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
    let ready = Ready::new(op, &card, values, (images, n, n));
    let backward = move |grad: &Tensor| {
        let grad = Source::<f64>::of(op, grad)?;
        Ok(tensor(graph::cost_gradient(&card, &costs, grad.view)?, &card.0, (images, n, d)))
    };
    Ok(x.apply_op1(Unary { ready, backward })?)
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
        let ready = Ready::new(op, &card, values, (b, n, c));
        let backward = move |_: [bool; 2], grad: &Tensor| {
            let grad = Source::<T>::of(op, grad)?;
            let views = (tokens.view, edges.view, factors.view);
            let (dh, dw) = graph::aggregate_gradient(&card, views, grad.view, sizes)?;
            Ok((Some(tensor(dh, &card.0, (b, n, c))), Some(tensor(dw, &card.0, (b, n, k)))))
        };
        Ok(h.apply_op2(weights, Binary { ready, backward })?)
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
        let ready = Ready::new(op, &card, loss, sizes.0);
        let backward = move |grad: &Tensor| {
            let grad = Source::<T>::of(op, grad)?;
            Ok(tensor(cotap::gradient(&card, &slopes, grad.view, sizes)?, &card.0, sizes))
        };
        Ok(p.apply_op1(Unary { ready, backward })?)
    }
    by_dtype!(op, p, typed(op, p, q, taus))
}
