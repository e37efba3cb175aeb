//! A small network trained for a few steps, on the device and by the CPU's ops: forward, backward, clipping, optimiser.

use candle_core::backprop::GradStore;
use random::{Axis, Seeds};
use testkit::tolerance::{TRAINED_BF16, TRAINED_F32, TRAINED_F64};

use super::super::tests::in_every_order;
use super::optimisers::norm_and_factor;
use super::*;
use crate::Result;
use crate::cuda::train::Maps;
use crate::cuda::train::activation::{Activation, add};
use crate::cuda::train::cast::narrow;
use crate::cuda::train::conv::{self, Conv};
use crate::cuda::train::linear::Linear;
use crate::cuda::train::norm::Statistics;
use crate::cuda::train::optim::{Adam, Slot, Table};
use crate::cuda::train::pool::{MaxPool, global_mean, global_mean_gradient};
use crate::nn::{self, Conv2dConfig};
use crate::optim::{AdamW, AdamWConfig, Parameter, Sgd, SgdConfig, clip_scale, gradient_norm};

const STEPS: usize = 4;
const RATE: f64 = 0.02;
const MOMENTUM: f64 = 0.9;
const MOST: f64 = 1.0;
const EPS: f64 = 1e-5;
const BATCH: usize = 5;
const COLOURS: usize = 3;
const HEIGHT: usize = 9;
const WIDTH: usize = 8;
const CHANNELS: usize = 6;
const OUTPUTS: usize = 4;
/// Height after pooling.
const HIGH: usize = 5;
/// Width after pooling.
const WIDE: usize = 4;
const POOL: MaxPool = MaxPool {
    planes: BATCH * CHANNELS,
    height: HEIGHT,
    width: WIDTH,
    oh: HIGH,
    ow: WIDE,
    kernel: 3,
    stride: 2,
    padding: 1,
};
const LINEAR: Linear = Linear { tokens: BATCH, inputs: CHANNELS, outputs: OUTPUTS };
/// Shapes of the parameters: weights of a convolution, gamma, beta, weights of a depthwise one, weights and bias of a linear
/// map.
const SHAPES: [&[usize]; 6] =
    [&[CHANNELS, COLOURS, 3, 3], &[CHANNELS], &[CHANNELS], &[CHANNELS, 1, 3, 3], &[OUTPUTS, CHANNELS], &[OUTPUTS]];

fn same_size(groups: usize, height: usize, width: usize) -> Conv {
    let config = Conv2dConfig { padding: 1, groups, ..Conv2dConfig::default() };
    let c_in = if groups == 1 { COLOURS } else { CHANNELS };
    Conv { batch: BATCH, c_in, height, width, c_out: CHANNELS, kh: 3, kw: 3, oh: height, ow: width, config }
}

const fn maps(height: usize, width: usize) -> Maps {
    Maps { batch: BATCH, channels: CHANNELS, map: height * width }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Optimiser {
    AdamW,
    Descent,
}

/// Where training begins, and what the network is to give.
struct Problem {
    x: Vec<f64>,
    wanted: Vec<f64>,
    start: Vec<Vec<f64>>,
    optimiser: Optimiser,
}

impl Problem {
    fn new<T: Activations>(optimiser: Optimiser) -> Self {
        let mut stream = Seeds::new(71).stream(Axis::Test, &[]);
        let x = draw::<T>(BATCH * COLOURS * HEIGHT * WIDTH, &mut stream);
        let wanted = draw::<T>(BATCH * OUTPUTS, &mut stream);
        let mut one = |shape: &[usize]| -> Vec<f64> {
            let values = draw::<T>(shape.iter().product(), &mut stream);
            values.into_iter().map(|v| T::of(0.4 * v + 0.3).wide()).collect()
        };
        Self { x, wanted, start: SHAPES.iter().map(|shape| one(shape)).collect(), optimiser }
    }

    /// What the parameters have moved by.
    fn moved(&self, trained: Vec<Vec<f64>>) -> Vec<f64> {
        trained.concat().iter().zip(self.start.concat()).map(|(now, start)| now - start).collect()
    }

    /// `Σ (y − wanted)² / 2` of the network, by the CPU's ops.
    fn loss(&self, params: &[Parameter]) -> Tensor {
        let p: Vec<&Tensor> = params.iter().map(|p| p.var.as_tensor()).collect();
        let x = variable(&self.x, &[BATCH, COLOURS, HEIGHT, WIDTH]);
        let y = nn::conv2d(&x, p[0], None, same_size(1, 1, 1).config).unwrap();
        let y = nn::batch_norm_relu_train(&y, p[1], p[2], EPS).unwrap().y;
        let y = nn::max_pool2d(&y, POOL.kernel, POOL.stride, POOL.padding).unwrap();
        let y = nn::silu(&nn::conv2d(&y, p[3], None, same_size(CHANNELS, 1, 1).config).unwrap()).unwrap();
        let y = nn::linear(&nn::global_mean(&y).unwrap(), p[4], p[5]).unwrap();
        let away = y.sub(variable(&self.wanted, &[BATCH, OUTPUTS]).as_tensor()).unwrap();
        away.sqr().unwrap().sum_all().unwrap().affine(0.5, 0.0).unwrap()
    }

    fn on_the_host(&self) -> Vec<f64> {
        let one = |(k, (values, shape)): (usize, (&Vec<f64>, &&[usize]))| {
            Parameter::new(k.to_string(), variable(values, shape))
        };
        let params: Vec<Parameter> = self.start.iter().zip(&SHAPES).enumerate().map(one).collect();
        let config = AdamWConfig { learning_rate: RATE, weight_decay: 0.1, ..AdamWConfig::default() };
        let mut adam = AdamW::new(params.clone(), config).unwrap();
        let config = SgdConfig { learning_rate: RATE, momentum: MOMENTUM, weight_decay: 0.1, nesterov: true };
        let mut descent = Sgd::new(params.clone(), config).unwrap();
        for _ in 0..STEPS {
            let grads: GradStore = self.loss(&params).backward().unwrap();
            let scale = clip_scale(gradient_norm(&params, &grads).unwrap(), MOST).unwrap();
            assert!(scale < 1.0, "a step that is clipped");
            match self.optimiser {
                Optimiser::AdamW => adam.step_scaled(&grads, RATE, scale).unwrap(),
                Optimiser::Descent => descent.step_scaled(&grads, RATE, scale).unwrap(),
            }
        }
        self.moved(params.iter().map(|p| values(&p.var)).collect())
    }
}

/// The network's memory on the device.
struct Net<'a, T: Activations> {
    device: &'a Emulator,
    params: Vec<Memory<T::Sum>>,
    first: Vec<Memory<T::Sum>>,
    second: Vec<Memory<T::Sum>>,
    x: Memory<T>,
    /// With the other sign.
    wanted: Memory<T>,
}

impl<'a, T: Activations> Net<'a, T>
where
    T::Sum: Activations<Sum = T::Sum>,
{
    fn new(device: &'a Emulator, problem: &Problem) -> Self {
        let zeros = || problem.start.iter().map(|v| upload(device, &vec![0.0; v.len()])).collect();
        let wanted: Vec<f64> = problem.wanted.iter().map(|v| -v).collect();
        Self {
            device,
            params: problem.start.iter().map(|v| upload(device, v)).collect(),
            first: zeros(),
            second: zeros(),
            x: upload(device, &problem.x),
            wanted: upload(device, &wanted),
        }
    }

    /// Parameter `k` as activations are multiplied by it: rounded from the master where they are bfloat16. It lives as long
    /// as the memory beside it.
    fn weights(&self, k: usize) -> Result<(View<T>, Option<Memory<Bf16>>)> {
        let master = self.device.view(&self.params[k]);
        if T::NAME != "bf16" {
            return Ok((View::new(master.address(), master.len()), None));
        }
        let rounded = narrow(self.device, "weights", View::new(master.address(), master.len()))?;
        Ok((View::new(self.device.view(&rounded).address(), master.len()), Some(rounded)))
    }

    fn param(&self, k: usize) -> View<T::Sum> {
        self.device.view(&self.params[k])
    }

    /// Gradients of all parameters.
    fn gradients(&self) -> Result<Vec<Memory<T::Sum>>> {
        let (device, x) = (self.device, self.device.view(&self.x));
        let ((w0, _held0), (w3, _held3), (w4, _held4)) = (self.weights(0)?, self.weights(3)?, self.weights(4)?);
        let (dense, depthwise) = (same_size(1, HEIGHT, WIDTH), same_size(CHANNELS, HIGH, WIDE));
        let (before, after) = (maps(HEIGHT, WIDTH), maps(HIGH, WIDE));
        let a = conv::forward(device, "conv", (x, w0), None, &dense)?;
        let a = device.view(&a);
        let statistics = Statistics::of_batch(device, a, before, EPS)?;
        let b = statistics.forward(device, "norm", a, (self.param(1), self.param(2)), before, true)?;
        let b = device.view(&b);
        let (c, chosen) = POOL.forward(device, "pool", b)?;
        let c = device.view(&c);
        let d = conv::forward(device, "conv", (c, w3), None, &depthwise)?;
        let d = device.view(&d);
        let e = Activation::Silu.forward(device, "silu", d)?;
        let f = global_mean(device, device.view(&e), after)?;
        let f = device.view(&f);
        let y = LINEAR.forward(device, "linear", (f, w4), Some(self.param(5)))?;

        let g = add(device, "loss", (device.view(&y), device.view(&self.wanted)), false)?;
        let g = device.view(&g);
        let (of_linear, of_bias) = (LINEAR.weight(device, "linear", (f, g))?, LINEAR.bias::<_, T>(device, g)?);
        let g = LINEAR.backward(device, "linear", (g, w4))?;
        let g = global_mean_gradient(device, "mean", device.view(&g), after)?;
        let g = Activation::Silu.backward(device, "silu", (d, device.view(&g)))?;
        let g = device.view(&g);
        let of_depthwise = conv::filter::<_, T>(device, "conv", (c, g), &depthwise)?;
        let g = conv::backward(device, "conv", (g, w3), &depthwise)?;
        let g = POOL.backward(device, "pool", (device.view(&chosen), device.view(&g)))?;
        let g = statistics.backward(device, "norm", (a, Some(b), device.view(&g)), self.param(1), before)?;
        let of_conv = conv::filter::<_, T>(device, "conv", (x, device.view(&g.x)), &dense)?;
        Ok(vec![of_conv, g.sums, of_depthwise, of_linear, of_bias])
    }

    /// One step of training.
    fn step(&self, optimiser: Optimiser, at: usize) -> Result<()> {
        let grads = self.gradients()?;
        let views: Vec<View<T::Sum>> = grads.iter().map(|g| self.device.view(g)).collect();
        // The norm's gradients lie in one buffer, beta's first.
        let views = [views[0], views[1].from(CHANNELS), views[1], views[2], views[3], views[4]];
        let t = at as i32 + 1;
        let slot = |(k, gradient): (usize, &View<T::Sum>)| {
            let decays = SHAPES[k].len() >= 2;
            let (shrink, rate, root) = match optimiser {
                Optimiser::Descent => (if decays { 0.1 } else { 0.0 }, RATE, 1.0),
                Optimiser::AdamW => {
                    let shrink = if decays { 1.0 - RATE * 0.1 } else { 1.0 };
                    (shrink, RATE / (1.0 - 0.9f64.powi(t)), (1.0 - 0.999f64.powi(t)).sqrt())
                }
            };
            let [first, second] = [&self.first[k], &self.second[k]].map(|v| self.device.view(v));
            Slot { first, second, shrink, rate, root, ..Slot::new(self.param(k), *gradient) }
        };
        let slots: Vec<Slot<T::Sum>> = views.iter().enumerate().map(slot).collect();
        let table = Table::new(self.device, &slots, 1.0, &mut None)?;
        let factor = norm_and_factor(self.device, &table, MOST)?;
        let factor = self.device.view(&factor).from(1);
        match optimiser {
            Optimiser::AdamW => table.adamw(self.device, factor, Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 }),
            Optimiser::Descent => table.sgd(self.device, factor, MOMENTUM, true),
        }
    }
}

fn trained<T: Activations>(optimiser: Optimiser, bar: f64)
where
    T::Sum: Activations<Sum = T::Sum>,
{
    let problem = Problem::new::<T>(optimiser);
    let got = in_every_order(|device| {
        let net = Net::<T>::new(device, &problem);
        (0..STEPS).try_for_each(|at| net.step(optimiser, at))?;
        Ok(net.params.iter().map(|v| numbers(device, v)).collect::<Vec<_>>())
    });
    let (got, want) = (problem.moved(got.unwrap()), problem.on_the_host());
    assert_close(&format!("{optimiser:?} in {}", T::NAME), &got, &want, want.len(), bar);
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn a_network_is_trained() {
    for optimiser in [Optimiser::Descent, Optimiser::AdamW] {
        trained::<f64>(optimiser, TRAINED_F64);
        trained::<f32>(optimiser, TRAINED_F32);
    }
    trained::<Bf16>(Optimiser::Descent, TRAINED_BF16);
}
