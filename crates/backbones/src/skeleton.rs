//! Tensors of the right shapes without their memory, to ask a network about its sizes and names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::{Backbone, BackboneConfig, Result};

/// Shapes by the names that were asked for.
type Shapes = Arc<Mutex<BTreeMap<String, Vec<usize>>>>;

struct Skeleton {
    asked: Shapes,
}

impl SimpleBackend for Skeleton {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(name.to_owned(), shape.dims().to_vec());
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("`{name}` has no shape in a skeleton")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

fn builder_into(asked: &Shapes) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Skeleton { asked: Arc::clone(asked) }), DType::F32, Device::Cpu)
}

/// A builder of one zero, seen in every shape.
pub(crate) fn builder() -> VarBuilder<'static> {
    builder_into(&Shapes::default())
}

/// Name and shape of every parameter and buffer of a backbone.
pub(crate) fn tensors_of(config: &BackboneConfig) -> Result<BTreeMap<String, Vec<usize>>> {
    let asked = Shapes::default();
    Backbone::new(config, builder_into(&asked))?;
    let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut asked))
}
