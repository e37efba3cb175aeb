//! Stochastic gradient descent with momentum.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};

use super::{
    GradientNorm, Parameter, check_at_least, check_momentum, check_parameters, clipped, gradient_norm, gradient_of,
    host_copy, on_cpu, take_state, usable,
};
use crate::Result;
#[cfg(feature = "cuda")]
use crate::cuda::tensors::optim::{Entry, Factor, Kept, Step, step};
use crate::nn::buffers::{Held, Real, by_dtype};

const OP: &str = "sgd";

/// Settings of [`Sgd`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdConfig {
    /// Learning rate, for callers without a schedule.
    pub learning_rate: f64,
    /// Decay of the velocity; 0 for plain gradient descent.
    pub momentum: f64,
    /// L2 penalty, added to the gradient of decaying parameters.
    pub weight_decay: f64,
    /// Whether the step looks ahead along the velocity (Nesterov).
    pub nesterov: bool,
}

/// Gradient descent with momentum, as PyTorch's: `g ← g + λp`, `u ← μu + g`, `p ← p − η u`, or
/// `p ← p − η (g + μu)` with `nesterov`. A parameter without a gradient is left alone.
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    params: Vec<Parameter>,
    velocities: Vec<Tensor>,
    step: u64,
    #[cfg(feature = "cuda")]
    kept: Kept,
}

impl Sgd {
    /// Velocities of zero for `params`.
    ///
    /// # Errors
    /// [`crate::Error::Attribute`] for settings outside their range, [`crate::Error::Dtype`], and two parameters of
    /// one name.
    pub fn new(params: Vec<Parameter>, config: SgdConfig) -> Result<Self> {
        check_at_least(OP, "learning_rate", config.learning_rate, 0.0, "a finite number of at least 0")?;
        check_momentum(OP, "momentum", config.momentum)?;
        check_at_least(OP, "weight_decay", config.weight_decay, 0.0, "a finite number of at least 0")?;
        check_parameters(OP, &params)?;
        let zeros = |p: &Parameter| Ok(Tensor::zeros(p.var.shape(), p.var.dtype(), p.var.device())?);
        let velocities = params.iter().map(zeros).collect::<Result<_>>()?;
        Ok(Self {
            config,
            params,
            velocities,
            step: 0,
            #[cfg(feature = "cuda")]
            kept: Kept::default(),
        })
    }

    /// The settings.
    pub fn config(&self) -> &SgdConfig {
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
        let config = SgdConfig { learning_rate, ..self.config };
        for ((parameter, velocity), gradient) in self.params.iter().zip(&mut self.velocities).zip(&gradients) {
            if let Some(gradient) = gradient {
                *velocity = update(&config, parameter, velocity, gradient, scale)?;
            }
        }
        self.step += 1;
        Ok(())
    }

    /// One update with the gradients scaled down to a norm of at most `max_norm`, as by [`super::clip_scale`]; `None` leaves
    /// them as they are. A norm that is not finite changes neither parameters nor velocities.
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
        let config = &self.config;
        let all = self.params.iter().zip(&self.velocities).zip(&gradients);
        let entries = all.filter_map(|((parameter, velocity), gradient)| {
            Some(Entry {
                state: [Some(velocity), None],
                shrink: if parameter.decay { config.weight_decay } else { 0.0 },
                rate: learning_rate,
                ..Entry::new(&parameter.var, gradient.as_ref()?)
            })
        });
        let how = Step::Sgd { momentum: config.momentum, nesterov: config.nesterov };
        let norm = step(OP, &entries.collect::<Vec<_>>(), how, scale, &mut self.kept)?;
        self.step += 1;
        Ok(norm)
    }

    /// `sgd.velocity.<name>` of each parameter: what a later [`Self::load_state`] needs besides
    /// [`Self::step_count`].
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        // On the CPU a step makes new velocities; on a card it changes them.
        let kept = |v: &Tensor| if v.device().is_cpu() { Ok(v.clone()) } else { host_copy(v) };
        let named = self.params.iter().zip(&self.velocities);
        let named = named.map(|(p, v)| (format!("sgd.velocity.{}", p.name), kept(v).expect("memory for a copy")));
        named.collect()
    }

    /// Continues from a saved state. Entries whose name does not start with `sgd.` are ignored.
    ///
    /// # Errors
    /// [`super::StateError`] unless the state has exactly the entries of these parameters; nothing is changed then.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>, step: u64) -> Result<()> {
        let saved = take_state("sgd.", state, &self.state())?;
        let load = |p: &Parameter| -> Result<Tensor> {
            let velocity = usable(OP, saved[format!("sgd.velocity.{}", p.name).as_str()])?;
            Ok(velocity.copy()?.to_device(p.var.device())?)
        };
        self.velocities = self.params.iter().map(load).collect::<Result<_>>()?;
        self.step = step;
        Ok(())
    }
}

/// Sets the parameter and gives its new velocity.
fn update(
    config: &SgdConfig,
    parameter: &Parameter,
    velocity: &Tensor,
    gradient: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    let decay = if parameter.decay { config.weight_decay } else { 0.0 };
    let old = on_cpu(OP, &parameter.var)?;
    let (p, u) = by_dtype!(old, T => {
        let (ps, gs, us) = (Held::new(&old), Held::new(gradient), Held::new(velocity));
        let mut p = ps.slice::<T>()?.to_vec();
        let mut u = us.slice::<T>()?.to_vec();
        for ((p, u), g) in p.iter_mut().zip(&mut u).zip(gs.slice::<T>()?) {
            let g = g.up() * scale + decay * p.up();
            let speed = config.momentum * u.up() + g;
            let direction = if config.nesterov { g + config.momentum * speed } else { speed };
            *p = T::down(p.up() - config.learning_rate * direction);
            *u = T::down(speed);
        }
        let tensor = |values: Vec<T>| Tensor::from_vec(values, old.shape(), &Device::Cpu);
        Ok((tensor(p)?, tensor(u)?))
    })?;
    parameter.var.set(&p.to_device(parameter.var.device())?)?;
    Ok(u)
}
