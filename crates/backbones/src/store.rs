//! Parameters and buffers by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use kernels::optim::Parameter;
use random::{Axis, Seeds};

use crate::{Error, Misfits, Result};

/// Parameters that weight decay leaves alone whatever their shape, as in timm.
const UNDECAYED: [&str; 2] = ["cls_token", "pos_embed"];

/// Parameters and buffers of a model, created as its layers ask for them.
///
/// A new tensor is drawn from the stream of [`Axis::Init`] that bears its name, so its values depend on the seed and the
/// name alone: neither on the order in which layers are built nor on which other layers there are. Clones share the
/// tensors.
#[derive(Debug, Clone)]
pub struct ParameterStore {
    seeds: Seeds,
    dtype: DType,
    device: Device,
    vars: Arc<Mutex<BTreeMap<String, Var>>>,
}

impl ParameterStore {
    /// An empty store.
    pub fn new(seeds: Seeds, dtype: DType, device: &Device) -> Self {
        Self { seeds, dtype, device: device.clone(), vars: Arc::default() }
    }

    /// A builder over this store: asking it for a tensor creates it.
    pub fn var_builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), self.dtype, self.device.clone())
    }

    /// The dtype of the tensors.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device of the tensors.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn vars(&self) -> MutexGuard<'_, BTreeMap<String, Var>> {
        // The map is never left half changed, so what a panicking thread held is still good.
        self.vars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an optimiser trains: everything but the buffers, by name. Parameters with at least two dimensions decay,
    /// apart from a ViT's class token and position embedding.
    pub fn parameters(&self) -> Vec<Parameter> {
        let vars = self.vars();
        let trained = vars.iter().filter(|(name, _)| !is_buffer(name));
        let parameter = |(name, var): (&String, &Var)| {
            let mut parameter = Parameter::new(name.clone(), var.clone());
            parameter.decay &= !UNDECAYED.contains(&name.as_str());
            parameter
        };
        trained.map(parameter).collect()
    }

    /// [`Self::parameters`] without those that [`crate::Backbone::frozen`] names.
    pub fn trained(&self, frozen: &BTreeSet<String>) -> Vec<Parameter> {
        self.parameters().into_iter().filter(|parameter| !frozen.contains(&parameter.name)).collect()
    }

    /// The running statistics of normalisations, by name.
    pub fn buffers(&self) -> BTreeMap<String, Var> {
        let vars = self.vars();
        vars.iter().filter(|(name, _)| is_buffer(name)).map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// All parameters and buffers by name, detached. They share memory with the store, so they change when it is
    /// trained: write or copy them to keep them.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.vars().iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    /// Numbers in the trainable parameters.
    pub fn count(&self) -> usize {
        let vars = self.vars();
        vars.iter().filter(|(name, _)| !is_buffer(name)).map(|(_, var)| var.elem_count()).sum()
    }

    /// Sets every parameter and buffer to the tensor of its name, converted to the store's dtype.
    ///
    /// # Errors
    /// [`Error::Load`] unless names and shapes are exactly those of the store; nothing is changed then.
    pub fn load(&self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let vars = self.vars();
        let mut misfits = Misfits {
            missing: vars.keys().filter(|name| !tensors.contains_key(*name)).cloned().collect(),
            unexpected: tensors.keys().filter(|name| !vars.contains_key(*name)).cloned().collect(),
            ..Misfits::default()
        };
        for (name, tensor) in tensors {
            let Some(var) = vars.get(name) else { continue };
            if tensor.dims() != var.dims() {
                misfits.misshaped.push((name.clone(), tensor.dims().to_vec(), var.dims().to_vec()));
            }
            if !tensor.dtype().is_float() {
                misfits.not_floats.push((name.clone(), tensor.dtype()));
            }
        }
        if !misfits.is_empty() {
            return Err(Error::Load(misfits));
        }
        for (name, var) in vars.iter() {
            // A copy: a variable cannot be set from its own memory, such as `tensors` of this store.
            let tensor = tensors[name].to_device(&self.device)?.to_dtype(self.dtype)?.copy()?;
            var.set(&tensor)?;
        }
        Ok(())
    }

    /// Sets tensors that the store has, of its dtype and their shapes; the others keep their values.
    pub(crate) fn set(&self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let vars = self.vars();
        for (name, tensor) in tensors {
            if let Some(var) = vars.get(name) {
                var.set(&tensor.to_device(&self.device)?)?;
            }
        }
        Ok(())
    }

    fn create(&self, shape: &Shape, name: &str, init: Init) -> candle_core::Result<Var> {
        let mut stream = self.seeds.named_stream(Axis::Init, name);
        let n = shape.elem_count();
        let values: Vec<f64> = match init {
            Init::Const(value) => vec![value; n],
            Init::Randn { mean, stdev } => (0..n).map(|_| mean + stdev * stream.normal()).collect(),
            Init::Uniform { lo, up } => (0..n).map(|_| stream.range(lo, up)).collect(),
            Init::Kaiming { dist, fan, non_linearity } => {
                let std = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
                match dist {
                    NormalOrUniform::Normal => (0..n).map(|_| std * stream.normal()).collect(),
                    NormalOrUniform::Uniform => {
                        let bound = 3f64.sqrt() * std;
                        (0..n).map(|_| stream.range(-bound, bound)).collect()
                    }
                }
            }
        };
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device)?;
        Var::from_tensor(&tensor)
    }
}

/// Whether a tensor follows the batches instead of the gradient.
pub(crate) fn is_buffer(name: &str) -> bool {
    name.ends_with("running_mean") || name.ends_with("running_var")
}

impl SimpleBackend for ParameterStore {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        if dtype != self.dtype || !device.same_device(&self.device) {
            candle_core::bail!(
                "`{name}` is asked for as {dtype:?} on {:?}, but this store holds {:?} on {:?}",
                device.location(),
                self.dtype,
                self.device.location()
            )
        }
        if let Some(var) = self.vars().get(name) {
            if var.shape() != &shape {
                candle_core::bail!("`{name}` has shape {:?}, asked for as {shape:?}", var.shape())
            }
            return Ok(var.as_tensor().clone());
        }
        let var = self.create(&shape, name, init)?;
        let tensor = var.as_tensor().clone();
        self.vars().insert(name.to_owned(), var);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _dtype: DType, _device: &Device) -> candle_core::Result<Tensor> {
        match self.vars().get(name) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => candle_core::bail!("`{name}` is not in the parameter store"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.vars().contains_key(name)
    }
}
