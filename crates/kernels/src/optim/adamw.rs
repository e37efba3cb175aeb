//! AdamW.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::{
    GradientNorm, Parameter, check_at_least, check_momentum, check_parameters, clipped, gradient_norm, gradient_of,
    host_copy, take_state, usable, with_values,
};
use crate::Result;
#[cfg(feature = "cuda")]
use crate::cuda::tensors::optim::{Entry, Factor, Kept, Step, step};
#[cfg(feature = "cuda")]
use crate::cuda::train::optim::Adam;
use crate::even::Even;
use crate::nn::buffers::{Held, Real, by_dtype};
use crate::nn::wide::{Loop, wide};

const OP: &str = "adamw";
/// Values that one task updates.
const CHUNK: usize = 8 * 1024;

/// Settings of [`AdamW`]; [`Default`] gives PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Learning rate, for callers without a schedule.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; a step shrinks decaying parameters by `learning_rate · weight_decay`.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2 }
    }
}

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2; PyTorch's order of operations):
/// `p ← (1 − ηλ) p`, `m ← β₁m + (1 − β₁)g`, `v ← β₂v + (1 − β₂)g²`,
/// `p ← p − η/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + eps)`, with `t` the steps that this parameter had a gradient in.
///
/// A parameter without a gradient is left alone: value, decay, moments and `t`.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    params: Vec<Parameter>,
    slots: Vec<Slot>,
    step: u64,
    #[cfg(feature = "cuda")]
    kept: Kept,
}

#[derive(Debug)]
struct Slot {
    first: Tensor,
    second: Tensor,
    step: u64,
}

impl AdamW {
    /// Moments of zero for `params`.
    ///
    /// # Errors
    /// [`crate::Error::Attribute`] for settings outside their range, [`crate::Error::Dtype`], and two parameters of
    /// one name.
    pub fn new(params: Vec<Parameter>, config: AdamWConfig) -> Result<Self> {
        check_at_least(OP, "learning_rate", config.learning_rate, 0.0, "a finite number of at least 0")?;
        check_momentum(OP, "beta1", config.beta1)?;
        check_momentum(OP, "beta2", config.beta2)?;
        check_at_least(OP, "eps", config.eps, 0.0, "a finite number of at least 0")?;
        check_at_least(OP, "weight_decay", config.weight_decay, 0.0, "a finite number of at least 0")?;
        check_parameters(OP, &params)?;
        let slots = params.iter().map(Slot::new).collect::<Result<_>>()?;
        Ok(Self {
            config,
            params,
            slots,
            step: 0,
            #[cfg(feature = "cuda")]
            kept: Kept::default(),
        })
    }

    /// The settings.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    /// The parameters, in the order they were given.
    pub fn parameters(&self) -> &[Parameter] {
        &self.params
    }

    /// Steps made.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// One update with these gradients.
    ///
    /// # Errors
    /// A gradient whose shape or dtype is not its parameter's.
    pub fn step(&mut self, grads: &GradStore, learning_rate: f64) -> Result<()> {
        self.step_scaled(grads, learning_rate, 1.0)
    }

    /// One update with the gradients times `scale`, such as [`super::clip_scale`] gives.
    ///
    /// # Errors
    /// Those of [`Self::step`], found before anything is changed.
    pub fn step_scaled(&mut self, grads: &GradStore, learning_rate: f64, scale: f64) -> Result<()> {
        #[cfg(feature = "cuda")]
        if self.on_card() {
            return self.step_on_card(grads, learning_rate, Factor::Given(scale)).map(drop);
        }
        let gradients = self.gradients(grads)?;
        let config = AdamWConfig { learning_rate, ..self.config };
        self.params.par_iter().zip(&mut self.slots).zip(&gradients).try_for_each(|((parameter, slot), gradient)| {
            match gradient {
                Some(gradient) => slot.update(&config, parameter, gradient, scale),
                None => Ok(()),
            }
        })?;
        self.step += 1;
        Ok(())
    }

    /// One update with the gradients scaled down to a norm of at most `max_norm`, as by [`super::clip_scale`]; `None` leaves
    /// them as they are. A norm that is not finite changes neither parameters nor moments.
    ///
    /// On a card the norm and the factor stay there and nobody waits: read [`GradientNorm::value`] where the host waits
    /// anyway. The step is then counted before its norm is known; where it was not finite, load a saved state before going
    /// on. On the CPU no step is counted.
    ///
    /// # Errors
    /// Those of [`Self::step`], and [`crate::Error::Attribute`] for a `max_norm` that is not positive; found before anything
    /// is changed.
    pub fn step_clipped(
        &mut self,
        grads: &GradStore,
        learning_rate: f64,
        max_norm: Option<f64>,
    ) -> Result<GradientNorm> {
        clipped::check(max_norm)?;
        #[cfg(feature = "cuda")]
        if self.on_card() {
            let most = Factor::Most(max_norm.unwrap_or(f64::INFINITY));
            return GradientNorm::on_card(self.step_on_card(grads, learning_rate, most)?);
        }
        let norm = gradient_norm(&self.params, grads)?;
        clipped::step(norm, max_norm, |scale| self.step_scaled(grads, learning_rate, scale))
    }

    /// The gradient of each parameter, checked against it.
    fn gradients(&self, grads: &GradStore) -> Result<Vec<Option<Tensor>>> {
        self.params.iter().map(|p| gradient_of(OP, p, grads)).collect()
    }

    #[cfg(feature = "cuda")]
    fn on_card(&self) -> bool {
        self.params.first().is_some_and(|p| p.var.device().is_cuda())
    }

    /// One launch over all parameters that have a gradient; the norm where `scale` asks for it.
    #[cfg(feature = "cuda")]
    fn step_on_card(&mut self, grads: &GradStore, learning_rate: f64, scale: Factor) -> Result<Option<Tensor>> {
        let gradients = self.gradients(grads)?;
        let config = AdamWConfig { learning_rate, ..self.config };
        let all = self.params.iter().zip(&self.slots).zip(&gradients);
        let entries = all.filter_map(|((parameter, slot), gradient)| {
            let rule = Rule::new(&config, parameter, slot.step + 1, 1.0);
            Some(Entry {
                state: [Some(&slot.first), Some(&slot.second)],
                shrink: rule.shrink,
                rate: rule.rate,
                root: rule.root,
                ..Entry::new(&parameter.var, gradient.as_ref()?)
            })
        });
        let how = Step::AdamW(Adam { beta1: config.beta1, beta2: config.beta2, eps: config.eps });
        let norm = step(OP, &entries.collect::<Vec<_>>(), how, scale, &mut self.kept)?;
        let made = self.slots.iter_mut().zip(&gradients).filter(|(_, gradient)| gradient.is_some());
        made.for_each(|(slot, _)| slot.step += 1);
        self.step += 1;
        Ok(norm)
    }

    /// Everything that a later [`Self::load_state`] needs besides [`Self::step_count`]: `adamw.exp_avg.<name>`,
    /// `adamw.exp_avg_sq.<name>` and `adamw.step.<name>` of each parameter. Copies: later steps do not change them.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = self.like();
        for tensor in state.values_mut() {
            *tensor = host_copy(tensor).expect("memory for a copy");
        }
        state
    }

    /// [`Self::state`] that shares memory with the moments.
    fn like(&self) -> BTreeMap<String, Tensor> {
        let mut state = BTreeMap::new();
        for (parameter, slot) in self.params.iter().zip(&self.slots) {
            for (key, tensor) in slot.tensors() {
                state.insert(format!("adamw.{key}.{}", parameter.name), tensor);
            }
        }
        state
    }

    /// Continues from a saved state. Entries whose name does not start with `adamw.` are ignored.
    ///
    /// # Errors
    /// [`super::StateError`] unless the state has exactly the entries of these parameters; nothing is changed then.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>, step: u64) -> Result<()> {
        let saved = take_state("adamw.", state, &self.like())?;
        let mut slots = Vec::with_capacity(self.slots.len());
        for parameter in &self.params {
            let of = |key: &str| saved[format!("adamw.{key}.{}", parameter.name).as_str()];
            slots.push(Slot {
                first: usable(OP, of("exp_avg"))?.copy()?.to_device(parameter.var.device())?,
                second: usable(OP, of("exp_avg_sq"))?.copy()?.to_device(parameter.var.device())?,
                step: of("step").to_device(&Device::Cpu)?.to_scalar::<i64>()? as u64,
            });
        }
        (self.slots, self.step) = (slots, step);
        Ok(())
    }
}

impl Slot {
    fn new(parameter: &Parameter) -> Result<Self> {
        let zeros = || Tensor::zeros(parameter.var.shape(), parameter.var.dtype(), parameter.var.device());
        Ok(Self { first: zeros()?, second: zeros()?, step: 0 })
    }

    fn tensors(&self) -> [(&'static str, Tensor); 3] {
        let step = Tensor::full(self.step as i64, (), &Device::Cpu).expect("a number fits into a tensor");
        [("exp_avg", self.first.clone()), ("exp_avg_sq", self.second.clone()), ("step", step)]
    }

    fn update(&mut self, config: &AdamWConfig, parameter: &Parameter, gradient: &Tensor, scale: f64) -> Result<()> {
        let step = self.step + 1;
        let rule = Rule::new(config, parameter, step, scale);
        by_dtype!(gradient, T => {
            let held = Held::new(gradient);
            let g = held.slice::<T>()?;
            with_values(&parameter.var, |p| {
                with_values(&self.first, |m| with_values(&self.second, |v| rule.apply::<T>(p, g, m, v)))
            })??
        })?;
        self.step = step;
        Ok(())
    }
}

/// The update of one parameter.
struct Rule {
    shrink: f64,
    beta1: f64,
    beta2: f64,
    rate: f64,
    root: f64,
    eps: f64,
    scale: f64,
}

impl Rule {
    /// For the step of this number, counted from 1.
    fn new(config: &AdamWConfig, parameter: &Parameter, step: u64, scale: f64) -> Self {
        let exponent = step.min(i32::MAX as u64) as i32;
        Self {
            shrink: if parameter.decay { 1.0 - config.learning_rate * config.weight_decay } else { 1.0 },
            beta1: config.beta1,
            beta2: config.beta2,
            rate: config.learning_rate / (1.0 - config.beta1.powi(exponent)),
            root: (1.0 - config.beta2.powi(exponent)).sqrt(),
            eps: config.eps,
            scale,
        }
    }

    /// Updates values, first and second moments in place.
    fn apply<T: Real>(&self, p: &mut [T], g: &[T], m: &mut [T], v: &mut [T]) {
        let chunks = p.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK)).zip(v.par_chunks_mut(CHUNK));
        chunks.zip(g.par_chunks(CHUNK)).evenly(1).for_each(|(((p, m), v), g)| wide(Update { rule: self, p, m, v, g }));
    }
}

/// One piece of an update.
struct Update<'a, T> {
    rule: &'a Rule,
    p: &'a mut [T],
    m: &'a mut [T],
    v: &'a mut [T],
    g: &'a [T],
}

impl<T: Real> Loop for Update<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Rule { shrink, beta1, beta2, rate, root, eps, scale } = *self.rule;
        for (((p, m), v), g) in self.p.iter_mut().zip(self.m).zip(self.v).zip(self.g) {
            let g = g.up() * scale;
            let first = m.up() + (1.0 - beta1) * (g - m.up());
            let second = beta2 * v.up() + (1.0 - beta2) * g * g;
            let size = second.sqrt() / root + eps;
            *p = T::down(p.up() * shrink - rate * first / size);
            (*m, *v) = (T::down(first), T::down(second));
        }
    }
}
