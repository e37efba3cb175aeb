//! Optimisers and moving averages of all parameters at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::backprop::GradStore;
use random::{Axis, Seeds};
use testkit::tolerance::OPTIMISER_F64;

use super::super::Order;
use super::super::tests::in_every_order;
use super::*;
use crate::Result;
use crate::cuda::train::optim::{Adam, Chunks, Slot, Table, factor};
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

/// The norm of a table's gradients, and the factor that brings it down to `most`.
pub(super) fn norm_and_factor<S: Activations<Sum = S>>(
    device: &Emulator,
    table: &Table<Emulator, S>,
    most: f64,
) -> Result<Memory<f64>> {
    let parts = device.empty::<f64>(table.parts())?;
    table.squares(device, device.view(&parts))?;
    factor(device, device.view(&parts), most)
}

/// All steps on the device.
fn run<S: Activations<Sum = S>>(
    device: &Emulator,
    problem: &Problem,
    settings: impl Fn(usize, usize) -> [f64; 3],
    step: impl Fn(&Table<Emulator, S>, View<f64>) -> Result<()>,
) -> Result<Vec<f64>> {
    let held = Held::<S>::new(device, problem);
    let mut kept = None;
    for (at, gradients) in problem.gradients.iter().enumerate() {
        let gradients: Vec<Memory<S>> = gradients.iter().map(|g| upload(device, g)).collect();
        let table = Table::new(device, &held.slots(device, &gradients, |k| settings(at, k)), 1.0, &mut kept)?;
        let factor = norm_and_factor(device, &table, MOST)?;
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
        let slots = held.slots(&device, &gradients, |_| [1.0, 0.1, 1.0]);
        let table = Table::new(&device, &slots, 1.0, &mut None).unwrap();
        let factor = norm_and_factor(&device, &table, MOST).unwrap();
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

/// A factor that the host knows comes with the table.
fn given_factors<S: Activations<Sum = S>>() {
    let problem = Problem::new::<S>(65);
    let config = SgdConfig { learning_rate: 0.05, momentum: 0.9, weight_decay: 0.1, nesterov: false };
    let params = problem.parameters();
    let mut host = Sgd::new(params.clone(), config).unwrap();
    (0..STEPS).for_each(|at| host.step_scaled(&problem.grads(at, &params), 0.05, 0.25).unwrap());
    let want: Vec<f64> = params.iter().flat_map(|p| values(&p.var)).collect();
    let got = in_every_order(|device| {
        let (held, mut kept) = (Held::<S>::new(device, &problem), None);
        for gradients in &problem.gradients {
            let gradients: Vec<Memory<S>> = gradients.iter().map(|g| upload(device, g)).collect();
            let slots = held.slots(device, &gradients, |k| [if k % 2 == 1 { 0.1 } else { 0.0 }, 0.05, 1.0]);
            let table = Table::new(device, &slots, 0.25, &mut kept)?;
            table.sgd(device, table.scale(device), 0.9, false)?;
        }
        Ok(held.numbers(device))
    });
    assert_close(S::NAME, &got.unwrap(), &want, want.len(), bar::<S>());
}

/// Parameters of both types have one norm, and without a largest norm its factor is 1.
#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn one_norm_of_both_types() {
    let device = Emulator(Order::Forward);
    let (single, double) = (Problem::new::<f32>(66), Problem::new::<f64>(67));
    let (held, other) = (Held::<f32>::new(&device, &single), Held::<f64>::new(&device, &double));
    let gradients: Vec<Memory<f32>> = single.gradients[0].iter().map(|g| upload(&device, g)).collect();
    let others: Vec<Memory<f64>> = double.gradients[0].iter().map(|g| upload(&device, g)).collect();
    let settings = |_| [1.0, 0.1, 1.0];
    let one = Table::new(&device, &held.slots(&device, &gradients, settings), 1.0, &mut None).unwrap();
    let two = Table::new(&device, &other.slots(&device, &others, settings), 1.0, &mut None).unwrap();
    let parts = device.empty::<f64>(one.parts() + two.parts()).unwrap();
    one.squares(&device, device.view(&parts)).unwrap();
    two.squares(&device, device.view(&parts).from(one.parts())).unwrap();
    let squares = |problem: &Problem| problem.gradients[0].concat().iter().map(|g| g * g).sum::<f64>();
    let norm = (squares(&single) + squares(&double)).sqrt();
    for most in [0.5, f64::INFINITY] {
        let said = device.download(&factor(&device, device.view(&parts), most).unwrap()).unwrap();
        let want = [norm, if most == 0.5 { most / (norm + 1e-6) } else { 1.0 }];
        assert_close("norm and factor", &said, &want, 2, OPTIMISER_F64);
    }
}

/// Chunks are uploaded again only where lengths differ.
#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn chunks_are_kept() {
    let device = Emulator(Order::Forward);
    let mut kept = None;
    let first = Chunks::of(&device, vec![5000, 3], &mut kept).unwrap();
    assert!(Arc::ptr_eq(&first, &Chunks::of(&device, vec![5000, 3], &mut kept).unwrap()));
    let other = Chunks::of(&device, vec![3, 5000], &mut kept).unwrap();
    assert!(!Arc::ptr_eq(&first, &other));
    assert!(Arc::ptr_eq(&other, &Chunks::of(&device, vec![3, 5000], &mut kept).unwrap()));
    assert!(!Arc::ptr_eq(&other, &Chunks::of(&device, vec![3], &mut kept).unwrap()));
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
    factors_with_the_table: given_factors,
    moving_averages: averages,
    no_step_after_a_divergence: divergence,
}
