//! Optimisers and moving averages of all parameters at once.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use random::{Axis, Seeds};
use testkit::tolerance::OPTIMISER_F64;

use super::super::Order;
use super::super::tests::in_every_order;
use super::*;
use crate::Result;
use crate::cuda::train::optim::{Adam, Slot, Table};
use crate::optim::{AdamW, AdamWConfig, Ema, Parameter, Sgd, SgdConfig, clip_scale, gradient_norm};

/// Lengths of parameters: within a chunk, a chunk, and a few.
const LENGTHS: [usize; 4] = [1, 33, 4096, 9000];
const STEPS: usize = 3;
/// The gradients' norm is about 100 and 200 in turn: one step is clipped, the next is not.
const MOST: f64 = 150.0;

/// Parameters and the gradients of each step.
struct Problem {
    start: Vec<Vec<f64>>,
    gradients: Vec<Vec<Vec<f64>>>,
}

impl Problem {
    fn new<S: Activations>(seed: u64) -> Self {
        let mut stream = Seeds::new(seed).stream(Axis::Test, &[]);
        let mut all = |factor: f64| -> Vec<Vec<f64>> {
            let scaled = |v: Vec<f64>| v.into_iter().map(|x| S::of(factor * x).wide()).collect();
            LENGTHS.iter().map(|&n| scaled(draw::<S>(n, &mut stream))).collect()
        };
        let start = all(1.0);
        Self { start, gradients: (0..STEPS).map(|step| all(1.0 + (step % 2) as f64)).collect() }
    }

    fn parameters(&self) -> Vec<Parameter> {
        let one = |(k, values): (usize, &Vec<f64>)| Parameter {
            name: k.to_string(),
            var: variable(values, &[values.len()]),
            decay: k % 2 == 1,
        };
        self.start.iter().enumerate().map(one).collect()
    }

    fn grads(&self, step: usize, params: &[Parameter]) -> GradStore {
        let terms = params.iter().zip(&self.gradients[step]).map(|(p, g)| {
            let g = Tensor::from_slice(g, g.len(), p.var.device()).unwrap();
            (p.var.as_tensor() * g).unwrap().sum_all().unwrap()
        });
        terms.reduce(|a, b| (a + b).unwrap()).unwrap().backward().unwrap()
    }
}

fn bar<S: Activations>() -> f64 {
    if S::NAME == "f64" { OPTIMISER_F64 } else { S::BAR.value }
}

/// Memory of all parameters: values, moments, bfloat16 copies.
struct Held<S> {
    values: Vec<Memory<S>>,
    first: Vec<Memory<S>>,
    second: Vec<Memory<S>>,
    copies: Vec<Memory<Bf16>>,
}

impl<S: Activations<Sum = S>> Held<S> {
    fn new(device: &Emulator, problem: &Problem) -> Self {
        let zeros = || LENGTHS.iter().map(|&n| upload(device, &vec![0.0; n])).collect();
        let values = problem.start.iter().map(|v| upload(device, v)).collect();
        let copies = LENGTHS.iter().map(|&n| device.empty(n).unwrap()).collect();
        Self { values, first: zeros(), second: zeros(), copies }
    }

    fn slots(&self, device: &Emulator, gradients: &[Memory<S>], settings: impl Fn(usize) -> [f64; 3]) -> Vec<Slot<S>> {
        let one = |k: usize| {
            let [shrink, rate, root] = settings(k);
            Slot {
                first: device.view(&self.first[k]),
                second: device.view(&self.second[k]),
                copy: Some(device.view(&self.copies[k])),
                shrink,
                rate,
                root,
                ..Slot::new(device.view(&self.values[k]), device.view(&gradients[k]))
            }
        };
        (0..LENGTHS.len()).map(one).collect()
    }

    fn numbers(&self, device: &Emulator) -> Vec<f64> {
        let values: Vec<f64> = self.values.iter().flat_map(|v| numbers(device, v)).collect();
        let copies: Vec<f64> = self.copies.iter().flat_map(|v| numbers(device, v)).collect();
        let rounded: Vec<f64> = values.iter().map(|v| Bf16::of(*v).wide()).collect();
        assert_eq!(copies, rounded, "copies in bfloat16");
        values
    }
}

/// All steps on the device.
fn run<S: Activations<Sum = S>>(
    device: &Emulator,
    problem: &Problem,
    settings: impl Fn(usize, usize) -> [f64; 3],
    step: impl Fn(&Table<Emulator, S>, View<f64>) -> Result<()>,
) -> Result<Vec<f64>> {
    let held = Held::<S>::new(device, problem);
    for (at, gradients) in problem.gradients.iter().enumerate() {
        let gradients: Vec<Memory<S>> = gradients.iter().map(|g| upload(device, g)).collect();
        let table = Table::new(device, &held.slots(device, &gradients, |k| settings(at, k)))?;
        let factor = table.factor(device, MOST)?;
        step(&table, device.view(&factor).from(1))?;
    }
    Ok(held.numbers(device))
}

/// All steps on the host, each with its gradients and their factor.
fn on_the_host(problem: &Problem, params: &[Parameter], mut step: impl FnMut(&GradStore, f64)) -> Vec<f64> {
    let mut clipped = 0;
    for at in 0..STEPS {
        let grads = problem.grads(at, params);
        let scale = clip_scale(gradient_norm(params, &grads).unwrap(), MOST).unwrap();
        clipped += usize::from(scale < 1.0);
        step(&grads, scale);
    }
    assert_eq!(clipped, 1, "some steps are clipped, and some are not");
    params.iter().flat_map(|p| values(&p.var)).collect()
}

fn adamw<S: Activations<Sum = S>>() {
    let problem = Problem::new::<S>(61);
    let config = AdamWConfig { learning_rate: 0.05, weight_decay: 0.1, ..AdamWConfig::default() };
    let params = problem.parameters();
    let mut host = AdamW::new(params.clone(), config).unwrap();
    let want = on_the_host(&problem, &params, |grads, scale| host.step_scaled(grads, 0.05, scale).unwrap());
    let settings = |at: usize, k: usize| {
        let t = at as i32 + 1;
        let shrink = if k % 2 == 1 { 1.0 - 0.05 * 0.1 } else { 1.0 };
        [shrink, 0.05 / (1.0 - config.beta1.powi(t)), (1.0 - config.beta2.powi(t)).sqrt()]
    };
    let adam = Adam { beta1: config.beta1, beta2: config.beta2, eps: config.eps };
    let got = in_every_order(|device| run::<S>(device, &problem, settings, |table, f| table.adamw(device, f, adam)));
    assert_close(S::NAME, &got.unwrap(), &want, want.len(), bar::<S>());
}

fn descent<S: Activations<Sum = S>>() {
    let problem = Problem::new::<S>(62);
    for nesterov in [false, true] {
        let config = SgdConfig { learning_rate: 0.05, momentum: 0.9, weight_decay: 0.1, nesterov };
        let params = problem.parameters();
        let mut host = Sgd::new(params.clone(), config).unwrap();
        let want = on_the_host(&problem, &params, |grads, scale| host.step_scaled(grads, 0.05, scale).unwrap());
        let settings = |_, k: usize| [if k % 2 == 1 { 0.1 } else { 0.0 }, 0.05, 1.0];
        let got = in_every_order(|device| {
            run::<S>(device, &problem, settings, |table, f| table.sgd(device, f, 0.9, nesterov))
        });
        assert_close(S::NAME, &got.unwrap(), &want, want.len(), bar::<S>());
    }
}

fn averages<S: Activations<Sum = S>>() {
    let problem = Problem::new::<S>(63);
    let named = |all: &[Vec<f64>]| -> BTreeMap<String, Tensor> {
        let one = |(k, v): (usize, &Vec<f64>)| (k.to_string(), variable(v, &[v.len()]).as_detached_tensor());
        all.iter().enumerate().map(one).collect()
    };
    let mut host = Ema::new(&named(&problem.start)).unwrap();
    problem.gradients.iter().for_each(|next| host.update(&named(next), 0.9).unwrap());
    let want: Vec<f64> = host.tensors().values().flat_map(values).collect();
    let got =
        in_every_order(|device| run::<S>(device, &problem, |_, _| [0.0, 0.0, 1.0], |table, _| table.ema(device, 0.9)));
    assert_close(S::NAME, &got.unwrap(), &want, want.len(), bar::<S>());
}

/// A gradient that is not finite changes nothing, and the norm says so.
fn divergence<S: Activations<Sum = S>>() {
    let device = Emulator(Order::Forward);
    let problem = Problem::new::<S>(64);
    for bad in [f64::NAN, f64::INFINITY] {
        let held = Held::<S>::new(&device, &problem);
        let mut gradients: Vec<Memory<S>> = problem.gradients[0].iter().map(|g| upload(&device, g)).collect();
        let mut last = problem.gradients[0][3].clone();
        last[5000] = bad;
        gradients[3] = device.upload(&last.iter().map(|&g| S::of(g)).collect::<Vec<S>>()).unwrap();
        let table = Table::new(&device, &held.slots(&device, &gradients, |_| [1.0, 0.1, 1.0])).unwrap();
        let factor = table.factor(&device, MOST).unwrap();
        let scale = device.view(&factor).from(1);
        table.adamw(&device, scale, Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 }).unwrap();
        table.sgd(&device, scale, 0.9, false).unwrap();
        let numbers_of = |all: &[Memory<S>]| all.iter().flat_map(|v| numbers(&device, v)).collect::<Vec<f64>>();
        assert_eq!(numbers_of(&held.values), problem.start.concat());
        assert!(numbers_of(&held.first).iter().chain(&numbers_of(&held.second)).all(|v| *v == 0.0));
        let said = device.download(&factor).unwrap();
        assert!(!said[0].is_finite() && said[1].is_nan(), "{said:?}");
    }
}

/// A test in both types of parameters.
macro_rules! in_both {
    ($($name:ident: $check:ident),* $(,)?) => {$(
        #[test]
        #[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
        fn $name() {
            $check::<f32>();
            $check::<f64>();
        }
    )*};
}

in_both! {
    steps_of_adamw: adamw,
    steps_of_gradient_descent: descent,
    moving_averages: averages,
    no_step_after_a_divergence: divergence,
}
