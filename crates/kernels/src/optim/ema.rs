//! Exponential moving averages of parameters.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use rayon::prelude::*;

use super::{check_at_least, on_cpu, take_state, usable, with_values};
use crate::Result;
use crate::even::Even;
use crate::nn::buffers::{Held, Real, by_dtype};

const OP: &str = "ema";
/// Values that one task updates.
const CHUNK: usize = 16 * 1024;

/// Exponential moving average of named tensors, `a ← d·a + (1 − d)·x`: a mean teacher (Tarvainen and Valpola 2017).
///
/// The averages are updated in place, so a network built once from [`Self::tensors`] always computes with the current
/// ones.
#[derive(Debug)]
pub struct Ema {
    averages: BTreeMap<String, Var>,
    #[cfg(feature = "cuda")]
    kept: crate::cuda::tensors::optim::Kept,
}

impl Ema {
    /// Averages that start at these values (copied).
    ///
    /// # Errors
    /// [`crate::Error::Dtype`] for anything but float32 and float64.
    pub fn new(tensors: &BTreeMap<String, Tensor>) -> Result<Self> {
        let start = |(name, tensor): (&String, &Tensor)| {
            let copy = usable(OP, tensor)?.detach().copy()?;
            Ok((name.clone(), Var::from_tensor(&copy)?))
        };
        Ok(Self {
            averages: tensors.iter().map(start).collect::<Result<_>>()?,
            #[cfg(feature = "cuda")]
            kept: Default::default(),
        })
    }

    /// One step towards `tensors`, which must have the names, shapes and dtypes of the averages.
    ///
    /// # Errors
    /// [`super::StateError`] where names, shapes or dtypes differ; [`crate::Error::Attribute`] unless `decay` is in `[0, 1]`.
    pub fn update(&mut self, tensors: &BTreeMap<String, Tensor>, decay: f64) -> Result<()> {
        check_at_least(OP, "decay", decay, 0.0, "a number in [0, 1]")?;
        check_at_least(OP, "1 - decay", 1.0 - decay, 0.0, "a number in [0, 1]")?;
        let tensors = take_state("", tensors, &self.tensors())?;
        #[cfg(feature = "cuda")]
        if self.averages.values().next().is_some_and(|average| average.device().is_cuda()) {
            use crate::cuda::tensors::optim::{Entry, Factor, Step, step};
            let all = self.averages.iter().map(|(name, average)| Entry::new(average, tensors[name.as_str()]));
            let how = Step::Ema { decay };
            return step(OP, &all.collect::<Vec<_>>(), how, Factor::Given(1.0), &mut self.kept).map(drop);
        }
        for (name, average) in &self.averages {
            let new = on_cpu(OP, tensors[name.as_str()])?;
            by_dtype!(new, T => {
                let held = Held::new(&new);
                let new = held.slice::<T>()?;
                with_values::<T, ()>(average, |old| {
                    old.par_chunks_mut(CHUNK).zip(new.par_chunks(CHUNK)).evenly(1).for_each(|(old, new)| {
                        let mix = |(a, x): (&mut T, &T)| *a = T::down(decay * a.up() + (1.0 - decay) * x.up());
                        old.iter_mut().zip(new).for_each(mix);
                    });
                })
            })?;
        }
        Ok(())
    }

    /// The averages by name, detached: no gradient flows into them. They share memory with `self`, so they change with
    /// every [`Self::update`].
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.averages.iter().map(|(name, average)| (name.clone(), average.as_detached_tensor())).collect()
    }

    /// Copies of the averages as `ema.<name>`.
    ///
    /// # Errors
    /// What the tensor library refuses.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        self.averages
            .iter()
            .map(|(name, average)| Ok((format!("ema.{name}"), average.as_detached_tensor().copy()?)))
            .collect()
    }

    /// Continues from a saved state. Entries whose name does not start with `ema.` are ignored.
    ///
    /// # Errors
    /// [`super::StateError`] unless the state has exactly these averages; nothing is changed then.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let saved = take_state("ema.", state, &self.state()?)?;
        for (name, average) in &self.averages {
            let tensor = saved[format!("ema.{name}").as_str()];
            average.set(&tensor.detach().to_device(average.device())?.copy()?)?;
        }
        Ok(())
    }
}
