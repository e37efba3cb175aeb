//! Values inside a network, whose gradients are handed from op to op.
//!
//! candle gives every tensor a gradient of zeros and adds to it, on one thread. Most values inside a network have one
//! consumer, so their gradient is simply what that consumer computed; where there are several, the sum is one pass in place.
//! candle's graph still orders the backward pass, but its nodes hold one number each: the values and their gradients lie
//! beside it.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Shape, Tensor, WithDType};

use super::buffers::{Held, Real, beside, by_dtype, copied};
use super::gradient::{Derivative, Gradient, Slot};
use super::pair::Pairs;
use crate::Result;

/// A value inside a network: maps or tokens, float32 or float64, on a card bfloat16 too.
///
/// [`Flow::of`] enters it and [`Flow::tensor`] leaves it; in between, its methods are the ops of this module, with the same
/// numbers. Parameters stay tensors, and `backward` of a loss finds their gradients as ever. On other devices than the CPU
/// every method is the op on tensors.
///
/// One backward pass at a time may run through a network: gradients on their way belong to the values.
#[derive(Debug, Clone)]
pub struct Flow {
    value: Tensor,
    way: Way,
    /// What rounding the numbers left over, for ops that take it.
    rest: Option<Arc<Vec<f32>>>,
}

/// How the gradient of a value goes back.
#[derive(Debug, Clone)]
enum Way {
    /// By candle alone: the value is a node of its graph.
    Candle,
    /// Nobody asks for it.
    Nowhere,
    /// Through a slot; the node is a single number of candle's graph.
    Slot { node: Tensor, slot: Arc<Slot> },
}

/// An argument of an op.
pub(super) enum Arg<'a> {
    Flow(&'a Flow),
    Parameter(&'a Tensor),
}

/// What a backward pass needs of an argument.
enum Saved {
    Flow(Tensor, Option<Arc<Slot>>),
    /// It is in candle's graph.
    Parameter,
    /// The op has fewer arguments.
    Missing,
}

/// A single number for candle's graph.
fn node() -> candle_core::Result<Tensor> {
    Tensor::zeros(1, DType::F32, &candle_core::Device::Cpu)
}

/// The storage of [`node`].
fn node_storage() -> (CpuStorage, Shape) {
    (CpuStorage::F32(vec![0.0]), Shape::from(1))
}

impl Flow {
    /// Enters a network.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        if !tensor.device().is_cpu() || !matches!(tensor.dtype(), DType::F32 | DType::F64) {
            return Ok(Self { value: tensor.clone(), way: Way::Candle, rest: None });
        }
        let tensor = tensor.contiguous()?;
        let value = tensor.detach();
        if !tensor.track_op() {
            return Ok(Self { value, way: Way::Nowhere, rest: None });
        }
        let slot = Arc::new(Slot::default());
        let node = tensor.apply_op1(Enter { slot: slot.clone() })?;
        Ok(Self { value, way: Way::Slot { node, slot }, rest: None })
    }

    /// Leaves the network: a tensor of candle's graph.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn tensor(&self) -> Result<Tensor> {
        match &self.way {
            Way::Candle | Way::Nowhere => Ok(self.value.clone()),
            Way::Slot { node, slot } => Ok(node.apply_op1(Leave { value: self.value.clone(), slot: slot.clone() })?),
        }
    }

    /// Sizes.
    pub fn dims(&self) -> &[usize] {
        self.value.dims()
    }

    /// The dtype of parameters and masks beside this value: its own, or float32 beside bfloat16.
    pub fn parameter_dtype(&self) -> DType {
        beside(self.value.dtype())
    }

    /// The numbers, without their history.
    pub fn value(&self) -> Tensor {
        self.value.detach()
    }

    pub(super) fn tensor_of(&self) -> &Tensor {
        &self.value
    }

    /// Whether somebody asks for its gradient.
    pub(super) fn tracked(&self) -> bool {
        match &self.way {
            Way::Candle => self.value.track_op(),
            Way::Nowhere => false,
            Way::Slot { .. } => true,
        }
    }

    /// A value of candle's graph.
    pub(super) fn of_candle(value: Tensor) -> Self {
        Self { value, way: Way::Candle, rest: None }
    }

    /// What rounding the numbers left over, if it is kept.
    pub(super) fn rest(&self) -> Option<&[f32]> {
        self.rest.as_ref().map(|rest| rest.as_slice())
    }

    /// The tensor to apply candle's ops to, for a value that goes by candle alone.
    pub(super) fn by_candle(&self) -> Option<&Tensor> {
        matches!(self.way, Way::Candle).then_some(&self.value)
    }
}

/// Applies an op of one argument.
pub(super) fn apply1<C: CustomOp1 + Derivative + 'static>(op: C, x: &Flow) -> Result<Flow> {
    let y = x.value.apply_op1_no_bwd(&op)?;
    record(op, y, &[Arg::Flow(x)])
}

/// Applies an op of two arguments.
pub(super) fn apply2<C: CustomOp2 + Derivative + 'static>(op: C, args: [Arg; 2]) -> Result<Flow> {
    let y = args[0].value()?.apply_op2_no_bwd(&args[1].value()?, &op)?;
    record(op, y, &args)
}

/// Applies an op of three arguments.
pub(super) fn apply3<C: CustomOp3 + Derivative + 'static>(op: C, args: [Arg; 3]) -> Result<Flow> {
    let y = args[0].value()?.apply_op3_no_bwd(&args[1].value()?, &args[2].value()?, &op)?;
    record(op, y, &args)
}

/// Records an op whose result has been computed, with what rounding it left over.
pub(super) fn apply_pairs<D: Derivative + 'static>(op: D, y: Pairs, shape: &Shape, args: &[Arg]) -> Result<Flow> {
    let value = Tensor::from_vec(y.high, shape, &candle_core::Device::Cpu)?;
    Ok(Flow { rest: Some(Arc::new(y.rest)), ..record(op, value, args)? })
}

impl Arg<'_> {
    fn value(&self) -> candle_core::Result<Tensor> {
        match self {
            Arg::Flow(flow) => Ok(flow.value.clone()),
            Arg::Parameter(tensor) => tensor.contiguous(),
        }
    }

    /// What candle's graph sees, and what the backward pass needs.
    fn split(&self, constant: &Tensor) -> candle_core::Result<(Tensor, Saved)> {
        Ok(match self {
            Arg::Parameter(tensor) => (tensor.contiguous()?, Saved::Parameter),
            Arg::Flow(Flow { value, way: Way::Slot { node, slot }, .. }) => {
                (node.clone(), Saved::Flow(value.clone(), Some(slot.clone())))
            }
            Arg::Flow(Flow { value, .. }) => (constant.clone(), Saved::Flow(value.clone(), None)),
        })
    }
}

/// Puts an op into candle's graph, if anybody asks for its gradients.
fn record<D: Derivative + 'static>(op: D, y: Tensor, args: &[Arg]) -> Result<Flow> {
    let constant = node()?;
    let mut graph = [constant.clone(), constant.clone(), constant.clone()];
    let mut saved = [Saved::Missing, Saved::Missing, Saved::Missing];
    for ((graph, saved), arg) in graph.iter_mut().zip(&mut saved).zip(args) {
        (*graph, *saved) = arg.split(&constant)?;
    }
    if !graph.iter().any(Tensor::track_op) {
        return Ok(Flow { value: y, way: Way::Nowhere, rest: None });
    }
    let slot = Arc::new(Slot::default());
    let lifted = Lifted { op, args: saved, y: y.clone(), slot: slot.clone() };
    let [a, b, c] = graph;
    let node = a.apply_op3(&b, &c, lifted)?;
    Ok(Flow { value: y, way: Way::Slot { node, slot }, rest: None })
}

/// An op whose values lie beside candle's graph.
struct Lifted<D> {
    op: D,
    args: [Saved; 3],
    y: Tensor,
    slot: Arc<Slot>,
}

impl<D: Derivative> Lifted<D> {
    /// Takes the gradient of the result, puts those of the values into their slots, and returns what candle is to add:
    /// gradients of parameters, and for a value the number of its node.
    fn pull<T: Real>(&self, graph: [&Tensor; 3]) -> candle_core::Result<[Option<Tensor>; 3]> {
        let tensors: Vec<&Tensor> = (0..3)
            .map(|index| match &self.args[index] {
                Saved::Flow(value, _) => value,
                Saved::Parameter | Saved::Missing => graph[index],
            })
            .collect();
        let held: Vec<Held> = tensors.iter().map(|tensor| Held::new(tensor)).collect();
        let held_y = Held::new(&self.y);
        let (mut slices, mut want): ([&[T]; 3], [bool; 3]) = ([&[]; 3], [false; 3]);
        for index in 0..3 {
            want[index] = graph[index].track_op();
            if !matches!(self.args[index], Saved::Missing) {
                slices[index] = held[index].slice()?;
            }
        }
        let mut gradients = match self.slot.take::<T>() {
            Some(gy) => self.op.gradients(slices, held_y.slice()?, gy, want),
            None => [None, None, None],
        };
        let mut for_candle = [None, None, None];
        for index in 0..3 {
            for_candle[index] = match (&self.args[index], gradients[index].take()) {
                _ if !want[index] => None,
                (Saved::Flow(_, slot), gradient) => {
                    if let (Some(slot), Some(gradient)) = (slot, gradient) {
                        slot.put(gradient);
                    }
                    Some(node()?)
                }
                (_, Some(gradient)) => {
                    Some(Tensor::from_vec(gradient.into_vec(), graph[index].shape(), graph[index].device())?)
                }
                (_, None) => Some(graph[index].zeros_like()?),
            };
        }
        Ok(for_candle)
    }
}

impl<D: Derivative> CustomOp3 for Lifted<D> {
    fn name(&self) -> &'static str {
        "flow"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(node_storage())
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = by_dtype!(self.y, T => self.pull::<T>([a, b, c]))?;
        Ok((a, b, c))
    }
}

/// From a tensor to a node.
struct Enter {
    slot: Arc<Slot>,
}

impl CustomOp1 for Enter {
    fn name(&self) -> &'static str {
        "flow_of"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(node_storage())
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Tensor>> {
        by_dtype!(x, T => match self.slot.take::<T>() {
            Some(gradient) => Tensor::from_vec(gradient.into_vec(), x.shape(), x.device()),
            None => x.zeros_like(),
        })
        .map(Some)
    }
}

/// From a node to a tensor.
struct Leave {
    value: Tensor,
    slot: Arc<Slot>,
}

impl CustomOp1 for Leave {
    fn name(&self) -> &'static str {
        "flow_tensor"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let held = Held::new(&self.value);
        let values = by_dtype!(self.value, T => Ok(T::to_cpu_storage_owned(copied(held.slice::<T>()?))))?;
        Ok((values, self.value.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, gy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let gy = gy.contiguous()?;
        let held = Held::new(&gy);
        by_dtype!(y, T => {
            self.slot.put::<T>(Gradient::Alone(copied(held.slice()?)));
            Ok(())
        })?;
        node().map(Some)
    }
}
