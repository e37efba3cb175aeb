//! Optimisers, schedule, clipping and averages against PyTorch's trajectories (`ci/optimizers/generate.py`), in float64.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use kernels::optim::{AdamW, AdamWConfig, CosineSchedule, Ema, Parameter, Sgd, SgdConfig, clip_scale, gradient_norm};
use serde_json::Value;
use testkit::tolerance::{TRAJECTORY_F64, assert_close};

const STEPS: u64 = 20;
/// The steps without a gradient for `late.weight`.
const LATE: u64 = 3;
/// In the generator's order, which the formula's seeds follow.
const SHAPES: [(&str, &[usize]); 4] =
    [("conv.weight", &[3, 2, 2, 2]), ("bn.weight", &[5]), ("bn.bias", &[5]), ("late.weight", &[2, 3])];

fn file() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/optimizers/trajectories.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// The generator's formula.
fn wave(seed: u64, shape: &[usize]) -> Tensor {
    let s = seed as f64;
    let value = |i: usize| (1.7 * s + 0.9 * i as f64).sin() + 0.3 * (0.2 * s * i as f64).cos();
    let values: Vec<f64> = (0..shape.iter().product()).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn parameters() -> Vec<Parameter> {
    let parameter = |(index, (name, shape)): (usize, &(&str, &[usize]))| {
        Parameter::new(*name, Var::from_tensor(&wave(index as u64 + 1, shape)).unwrap())
    };
    SHAPES.iter().enumerate().map(parameter).collect()
}

/// A gradient store with the formula's gradients of a step, counted from 1.
fn gradients(parameters: &[Parameter], step: u64) -> GradStore {
    let mut loss = Tensor::zeros((), DType::F64, &Device::Cpu).unwrap();
    for (index, parameter) in parameters.iter().enumerate() {
        if parameter.name == "late.weight" && step <= LATE {
            continue;
        }
        let gradient = wave(100 * step + index as u64 + 1, parameter.var.dims());
        loss = (loss + (parameter.var.as_tensor() * gradient).unwrap().sum_all().unwrap()).unwrap();
    }
    loss.backward().unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

enum Optimiser {
    AdamW(AdamW),
    Sgd(Sgd),
}

impl Optimiser {
    fn new(kind: &str, settings: &Value, parameters: Vec<Parameter>) -> Self {
        let number = |key: &str| settings[key].as_f64().unwrap_or_else(|| panic!("no `{key}`"));
        let (learning_rate, weight_decay) = (number("learning_rate"), number("weight_decay"));
        match kind {
            "adamw" => {
                let (beta1, beta2, eps) = (number("beta1"), number("beta2"), number("eps"));
                let config = AdamWConfig { learning_rate, beta1, beta2, eps, weight_decay };
                Self::AdamW(AdamW::new(parameters, config).unwrap())
            }
            "sgd" => {
                let nesterov = settings["nesterov"].as_bool().unwrap();
                let config = SgdConfig { learning_rate, momentum: number("momentum"), weight_decay, nesterov };
                Self::Sgd(Sgd::new(parameters, config).unwrap())
            }
            other => panic!("no optimiser `{other}`"),
        }
    }

    fn step(&mut self, gradients: &GradStore, rate: f64, scale: f64) {
        match self {
            Self::AdamW(adamw) => adamw.step_scaled(gradients, rate, scale).unwrap(),
            Self::Sgd(sgd) => sgd.step_scaled(gradients, rate, scale).unwrap(),
        }
    }
}

/// The rate of every step: the cosine schedule where the settings have one.
fn rates(settings: &Value) -> Vec<f64> {
    let base = settings["learning_rate"].as_f64().unwrap();
    match (settings["warmup_steps"].as_u64(), settings["min_learning_rate"].as_f64()) {
        (Some(warmup), Some(least)) => {
            let schedule = CosineSchedule::new(base, warmup, STEPS, least).unwrap();
            (0..STEPS).map(|step| schedule.at(step)).collect()
        }
        _ => vec![base; STEPS as usize],
    }
}

fn follow(name: &str, trajectory: &Value) {
    let settings = &trajectory["settings"];
    let parameters = parameters();
    let mut optimiser = Optimiser::new(trajectory["optimizer"].as_str().unwrap(), settings, parameters.clone());
    let tensors = || -> BTreeMap<String, Tensor> {
        parameters.iter().map(|p| (p.name.clone(), p.var.as_detached_tensor())).collect()
    };
    let mut ema = Ema::new(&tensors()).unwrap();
    let decay = settings["ema_decay"].as_f64().unwrap();
    let (mut norms, rates) = (Vec::new(), rates(settings));
    assert_close(&format!("{name} rates"), &rates, &numbers(&trajectory["rates"]), STEPS as usize, TRAJECTORY_F64);
    let mut compared = 0;
    for step in 1..=STEPS {
        let gradients = gradients(&parameters, step);
        let norm = gradient_norm(&parameters, &gradients).unwrap();
        let scale = clip_scale(norm, settings["max_norm"].as_f64().unwrap()).unwrap();
        optimiser.step(&gradients, rates[step as usize - 1], scale);
        ema.update(&tensors(), decay).unwrap();
        norms.push(norm);
        let Some(want) = trajectory["steps"].get(step.to_string()) else { continue };
        for (part, got) in [("parameters", tensors()), ("averages", ema.tensors())] {
            for (parameter, got) in got {
                let want = numbers(&want[part][&parameter]);
                let what = format!("{name} step {step} {part} {parameter}");
                assert_close(&what, &values(&got), &want, want.len(), TRAJECTORY_F64);
                compared += 1;
            }
        }
    }
    assert_close(&format!("{name} norms"), &norms, &numbers(&trajectory["norms"]), STEPS as usize, TRAJECTORY_F64);
    assert_eq!(compared, 4 * 2 * SHAPES.len(), "{name}");
}

#[test]
fn the_formula_has_the_generators_shapes() {
    let file = file();
    for (name, shape) in SHAPES {
        let want: Vec<usize> =
            file["shapes"][name].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect();
        assert_eq!(shape, want, "{name}");
    }
    assert_eq!(file["shapes"].as_object().unwrap().len(), SHAPES.len());
}

#[test]
fn twenty_steps_are_those_of_pytorch() {
    let file = file();
    let trajectories = file["trajectories"].as_object().unwrap();
    let names: Vec<&str> = trajectories.keys().map(String::as_str).collect();
    assert_eq!(names, ["adamw", "adamw-cosine", "sgd-plain", "sgd-momentum", "sgd-nesterov-cosine"]);
    for (name, trajectory) in trajectories {
        follow(name, trajectory);
    }
}
