//! Batch and layer normalisation.

use random::{Axis, Seeds};

use super::super::tests::in_every_order;
use super::*;
use crate::cuda::train::norm::Statistics;
use crate::cuda::train::{Maps, layer_norm};
use crate::nn;

const EPS: f64 = 1e-5;

/// Inputs of a norm: values with a mean and a spread of their own in every channel, gamma, beta, the result's gradient.
struct Problem {
    maps: Maps,
    x: Vec<f64>,
    gamma: Vec<f64>,
    beta: Vec<f64>,
    g: Vec<f64>,
}

impl Problem {
    fn new<T: Activations>(maps: Maps, stream: &mut Stream) -> Self {
        let shift = normal(maps.channels, stream);
        let x = draw::<T>(maps.len(), stream).into_iter().enumerate();
        let x = x.map(|(i, v)| T::of(v + 3.0 * shift[i / maps.map % maps.channels]).wide()).collect();
        let [gamma, beta] = [1.0, 0.0].map(|centre| {
            draw::<T>(maps.channels, stream).into_iter().map(|v| T::of(centre + 0.5 * v).wide()).collect()
        });
        Self { maps, x, gamma, beta, g: draw::<T>(maps.len(), stream) }
    }

    fn variables(&self, dims: &[usize]) -> [Var; 3] {
        let channels = [self.maps.channels];
        [variable(&self.x, dims), variable(&self.gamma, &channels), variable(&self.beta, &channels)]
    }
}

/// Sizes: of one pixel, of odd ones, of several pieces.
const MAPS: [[usize; 3]; 5] = [[5, 3, 1], [2, 4, 35], [3, 2, 9], [1, 70, 4], [7, 1, 5000]];

fn batch_norms<T: Activations>()
where
    T::Sum: Activations,
{
    let mut stream = Seeds::new(43).stream(Axis::Test, &[]);
    for [batch, channels, map] in MAPS {
        for relu in [false, true] {
            let problem = Problem::new::<T>(Maps { batch, channels, map }, &mut stream);
            let [x, gamma, beta] = problem.variables(&[batch, channels, map, 1]);
            let train = if relu { nn::batch_norm_relu_train } else { nn::batch_norm_train };
            let out = train(&x, &gamma, &beta, EPS).unwrap();
            let [mean, variance] = out.moments.read().unwrap();
            let [dx, dg, db]: [Vec<f64>; 3] = gradients(&out.y, &problem.g, &[&x, &gamma, &beta]).try_into().unwrap();
            let want = [
                ("y", values(&out.y)),
                ("y mean", mean),
                ("y variance", variance),
                ("x", dx),
                ("sums", [db, dg].concat()),
            ];
            let got = in_every_order(|device| of_batch::<T>(device, &problem, relu)).unwrap();
            compare::<T>(&format!("{:?}, rectified {relu}", problem.maps), &got, &want);
        }
    }
}

type Named = Vec<(&'static str, Vec<f64>)>;

fn of_batch<T: Activations>(device: &Emulator, problem: &Problem, relu: bool) -> crate::Result<Named>
where
    T::Sum: Activations,
{
    let [x, g] = [&problem.x, &problem.g].map(|v| upload::<T>(device, v));
    let [gamma, beta] = [&problem.gamma, &problem.beta].map(|v| upload::<T::Sum>(device, v));
    let (x, g, gamma) = (device.view(&x), device.view(&g), device.view(&gamma));
    let statistics = Statistics::of_batch(device, x, problem.maps, EPS)?;
    let y = statistics.forward(device, "op", x, (gamma, device.view(&beta)), problem.maps, relu)?;
    let rectified = relu.then(|| device.view(&y));
    let grads = statistics.backward(device, "op", (x, rectified, g), gamma, problem.maps)?;
    let [mean, variance, sums] = [&statistics.mean, &statistics.variance, &grads.sums].map(|v| numbers(device, v));
    let (y, gx) = (numbers(device, &y), numbers(device, &grads.x));
    Ok(vec![("y", y), ("y mean", mean), ("y variance", variance), ("x", gx), ("sums", sums)])
}

fn given_statistics<T: Activations>()
where
    T::Sum: Activations,
{
    let mut stream = Seeds::new(44).stream(Axis::Test, &[]);
    for (relu, [batch, channels, map]) in [(false, [2, 5, 6]), (true, [1, 3, 1])] {
        let problem = Problem::new::<T>(Maps { batch, channels, map }, &mut stream);
        let mean = draw::<T>(channels, &mut stream);
        let variance: Vec<f64> = draw::<T>(channels, &mut stream).iter().map(|v| T::of(v * v).wide()).collect();
        let [x, gamma, beta] = problem.variables(&[batch, channels, map, 1]);
        let [m, v] = [&mean, &variance].map(|v| variable(v, &[channels]));
        let eval = if relu { nn::batch_norm_relu_eval } else { nn::batch_norm_eval };
        let y = eval(&x, &gamma, &beta, &m, &v, EPS).unwrap();
        let [dx, dg, db]: [Vec<f64>; 3] = gradients(&y, &problem.g, &[&x, &gamma, &beta]).try_into().unwrap();
        let want = [("y", values(&y)), ("x", dx), ("sums", [db, dg].concat())];
        let got = in_every_order(|device| {
            let [x, g] = [&problem.x, &problem.g].map(|v| upload::<T>(device, v));
            let [gamma, beta, mean, variance] =
                [&problem.gamma, &problem.beta, &mean, &variance].map(|v| upload::<T::Sum>(device, v));
            let (x, g, gamma) = (device.view(&x), device.view(&g), device.view(&gamma));
            let running = (device.view(&mean), device.view(&variance));
            let statistics = Statistics::given(device, running, EPS)?;
            let y = statistics.forward(device, "op", x, (gamma, device.view(&beta)), problem.maps, relu)?;
            let rectified = relu.then(|| device.view(&y));
            let grads = statistics.backward(device, "op", (x, rectified, g), gamma, problem.maps)?;
            let (y, gx, sums) = (numbers(device, &y), numbers(device, &grads.x), numbers(device, &grads.sums));
            Ok([("y", y), ("x", gx), ("sums", sums)])
        });
        compare::<T>(&format!("{:?}, given, rectified {relu}", problem.maps), &got.unwrap(), &want);
    }
}

/// Running averages after two batches, on the device and by the CPU.
fn running_averages<T: Activations>()
where
    T::Sum: Activations,
{
    let mut stream = Seeds::new(46).stream(Axis::Test, &[]);
    for [batch, channels, map] in [[2, 3, 1], [2, 300, 5]] {
        let problems = [(); 2].map(|()| Problem::new::<T>(Maps { batch, channels, map }, &mut stream));
        let start = [draw::<T>(channels, &mut stream), draw::<T>(channels, &mut stream)];
        let running = start.each_ref().map(|v| variable(v, &[channels]));
        for problem in &problems {
            let [x, gamma, beta] = problem.variables(&[batch, channels, map, 1]);
            let out = nn::batch_norm_train(&x, &gamma, &beta, EPS).unwrap();
            out.moments.follow(&running[0], &running[1], 0.1).unwrap();
        }
        let want = [("y mean", values(&running[0])), ("y variance", values(&running[1]))];
        let got = in_every_order(|device| {
            let running = start.each_ref().map(|v| upload::<T::Sum>(device, v));
            for problem in &problems {
                let x = upload::<T>(device, &problem.x);
                let statistics = Statistics::of_batch(device, device.view(&x), problem.maps, EPS)?;
                let views = (device.view(&running[0]), device.view(&running[1]));
                statistics.follow(device, views, 0.1, batch * map)?;
            }
            Ok([("y mean", numbers(device, &running[0])), ("y variance", numbers(device, &running[1]))])
        });
        compare::<T>(&format!("running, {channels} channels"), &got.unwrap(), &want);
    }
}

fn layer_norms<T: Activations>()
where
    T::Sum: Activations,
{
    let mut stream = Seeds::new(45).stream(Axis::Test, &[]);
    // Lists: shorter and longer than a warp, several pieces of tokens; maps.
    for [batch, channels, map] in [[3, 5, 1], [9, 70, 1], [600, 33, 1], [2, 7, 20], [2, 40, 150], [1, 3, 300]] {
        let maps = Maps { batch, channels, map };
        let problem = Problem::new::<T>(maps, &mut stream);
        let dims: &[usize] = if map == 1 { &[batch, channels] } else { &[batch, channels, map, 1] };
        let [x, gamma, beta] = problem.variables(dims);
        let op = if map == 1 { nn::layer_norm } else { nn::layer_norm_map };
        let y = op(&x, &gamma, &beta, EPS).unwrap();
        let [dx, dg, db]: [Vec<f64>; 3] = gradients(&y, &problem.g, &[&x, &gamma, &beta]).try_into().unwrap();
        let want = [("y", values(&y)), ("x", dx), ("sums", [db, dg].concat())];
        let got = in_every_order(|device| {
            let [x, g] = [&problem.x, &problem.g].map(|v| upload::<T>(device, v));
            let [gamma, beta] = [&problem.gamma, &problem.beta].map(|v| upload::<T::Sum>(device, v));
            let (x, g, gamma) = (device.view(&x), device.view(&g), device.view(&gamma));
            let (y, moments) = layer_norm::forward(device, "op", x, (gamma, device.view(&beta)), maps, EPS)?;
            let grads = moments.backward(device, "op", (x, g), gamma, maps)?;
            let (y, gx, sums) = (numbers(device, &y), numbers(device, &grads.x), numbers(device, &grads.sums));
            Ok([("y", y), ("x", gx), ("sums", sums)])
        });
        compare::<T>(&format!("layers of {maps:?}"), &got.unwrap(), &want);
    }
}

in_every_type! {
    batch_norm_with_its_own_statistics: batch_norms,
    batch_norm_with_given_statistics: given_statistics,
    averages_that_follow_batches: running_averages,
    layer_norm_of_tokens_and_maps: layer_norms,
}
