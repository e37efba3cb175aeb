//! Clipped steps on the CPU: the same bits as a norm, its factor and a scaled step.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use kernels::optim::{AdamW, AdamWConfig, GradientNorm, Parameter, Sgd, SgdConfig, clip_scale, gradient_norm};
use kernels::{Error, Result};
use random::{Axis, Seeds};

const SIZES: [usize; 3] = [7, 20000, 1];
const SGD: SgdConfig = SgdConfig { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.01, nesterov: true };

fn draw(n: usize, path: &[u64]) -> Vec<f64> {
    let mut stream = Seeds::new(37).stream(Axis::Test, path);
    (0..n).map(|_| stream.normal()).collect()
}

fn parameters(dtype: DType) -> Vec<Parameter> {
    let parameter = |(index, n): (usize, &usize)| {
        let tensor = Tensor::from_vec(draw(*n, &[0, index as u64]), *n, &Device::Cpu).unwrap();
        Parameter::new(index.to_string(), Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap())
    };
    SIZES.iter().enumerate().map(parameter).collect()
}

/// Gradients of a step, the last number of the second one times `factor`; the first parameter has none in step 1.
fn grads(params: &[Parameter], step: u64, factor: f64) -> GradStore {
    let with = params.iter().enumerate().skip(usize::from(step == 1));
    let terms = with.map(|(index, p)| {
        let mut g = draw(SIZES[index], &[1, step, index as u64]);
        if index == 1 {
            g[SIZES[1] - 1] *= factor;
        }
        let g = Tensor::from_vec(g, p.var.shape(), &Device::Cpu).unwrap().to_dtype(p.var.dtype()).unwrap();
        (p.var.as_tensor() * g).unwrap().sum_all().unwrap()
    });
    terms.reduce(|a, b| (a + b).unwrap()).unwrap().backward().unwrap()
}

enum Optimiser {
    Adam(AdamW),
    Descent(Sgd),
}

impl Optimiser {
    fn new(adam: bool, params: &[Parameter]) -> Self {
        match adam {
            true => Self::Adam(AdamW::new(params.to_vec(), AdamWConfig::default()).unwrap()),
            false => Self::Descent(Sgd::new(params.to_vec(), SGD).unwrap()),
        }
    }

    fn clipped(&mut self, grads: &GradStore, most: Option<f64>) -> Result<GradientNorm> {
        match self {
            Self::Adam(adam) => adam.step_clipped(grads, 0.05, most),
            Self::Descent(descent) => descent.step_clipped(grads, 0.05, most),
        }
    }

    fn scaled(&mut self, grads: &GradStore, scale: f64) {
        match self {
            Self::Adam(adam) => adam.step_scaled(grads, 0.05, scale).unwrap(),
            Self::Descent(descent) => descent.step_scaled(grads, 0.05, scale).unwrap(),
        }
    }

    /// Steps, parameters and state, bit for bit.
    fn bits(&self) -> (u64, Vec<u64>) {
        let (steps, params, state): (u64, _, BTreeMap<String, Tensor>) = match self {
            Self::Adam(adam) => (adam.step_count(), adam.parameters(), adam.state()),
            Self::Descent(descent) => (descent.step_count(), descent.parameters(), descent.state()),
        };
        let all = params.iter().map(|p| p.var.as_tensor()).chain(state.values());
        let values = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        (steps, all.flat_map(values).map(f64::to_bits).collect())
    }
}

#[test]
fn as_norm_factor_and_step() {
    for (adam, dtype) in [(true, DType::F32), (true, DType::F64), (false, DType::F32), (false, DType::F64)] {
        let (ours, theirs) = (parameters(dtype), parameters(dtype));
        let (mut one, mut other) = (Optimiser::new(adam, &ours), Optimiser::new(adam, &theirs));
        let mut clipped = 0;
        for (step, most) in [(0, Some(100.0)), (1, Some(1000.0)), (2, None)] {
            let norm = one.clipped(&grads(&ours, step, 1.0), most).unwrap();
            let grads = grads(&theirs, step, 1.0);
            let want = gradient_norm(&theirs, &grads).unwrap();
            let scale = most.map_or(1.0, |most| clip_scale(want, most).unwrap());
            clipped += usize::from(scale < 1.0);
            other.scaled(&grads, scale);
            assert_eq!(norm.value().unwrap().to_bits(), want.to_bits());
            assert_eq!(norm.tensor().to_scalar::<f64>().unwrap().to_bits(), want.to_bits());
            assert_eq!(one.bits(), other.bits(), "{dtype:?}, step {step}");
        }
        assert_eq!(clipped, 1, "one step is clipped");
    }
}

#[test]
fn a_divergence_changes_nothing() {
    for adam in [true, false] {
        let params = parameters(DType::F32);
        let mut optimiser = Optimiser::new(adam, &params);
        optimiser.clipped(&grads(&params, 0, 1.0), None).unwrap();
        let before = optimiser.bits();
        for bad in [f64::NAN, f64::INFINITY] {
            for most in [Some(1.0), None] {
                let norm = optimiser.clipped(&grads(&params, 2, bad), most).unwrap().value().unwrap();
                assert!(!norm.is_finite(), "{norm}");
                assert_eq!(optimiser.bits(), before);
            }
        }
    }
}

#[test]
fn norms_that_are_not_positive_are_refused() {
    for adam in [true, false] {
        let params = parameters(DType::F32);
        let mut optimiser = Optimiser::new(adam, &params);
        let before = optimiser.bits();
        for most in [0.0, -1.0, f64::NAN] {
            let error = optimiser.clipped(&grads(&params, 0, 1.0), Some(most)).unwrap_err();
            assert!(matches!(error, Error::Attribute { name: "max_norm", .. }), "{error}");
            assert_eq!(optimiser.bits(), before);
        }
    }
}
