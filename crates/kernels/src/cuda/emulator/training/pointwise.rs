//! Activations, sums, gates, scaled residuals, means of maps.

use random::{Axis, Seeds};

use super::super::tests::in_every_order;
use super::*;
use crate::Result;
use crate::cuda::train::activation::{
    Activation, add, gated, gated_gradient, scaled_residual, scaled_residual_gradient,
};
use crate::cuda::train::{Maps, pool};
use crate::nn;

/// A length that fills no block.
const COUNT: usize = 2500;

fn activations<T: Activations>() {
    let mut stream = Seeds::new(46).stream(Axis::Test, &[]);
    type Op = fn(&Tensor) -> Result<Tensor>;
    let all: [(Activation, Op); 3] =
        [(Activation::Relu, nn::relu), (Activation::Gelu, nn::gelu), (Activation::Silu, nn::silu)];
    for (activation, op) in all {
        let mut x = draw::<T>(COUNT, &mut stream);
        x[..6].copy_from_slice(&[0.0, -0.0, 30.0, -30.0, 100.0, -100.0]);
        let g = draw::<T>(COUNT, &mut stream);
        let vx = variable(&x, &[COUNT]);
        let y = op(&vx).unwrap();
        let want = [("y", values(&y)), ("x", gradients(&y, &g, &[&vx]).remove(0))];
        let got = in_every_order(|device| {
            let [x, g] = [&x, &g].map(|v| upload::<T>(device, v));
            let y = activation.forward(device, "op", device.view(&x))?;
            let gx = activation.backward(device, "op", (device.view(&x), device.view(&g)))?;
            Ok([("y", numbers(device, &y)), ("x", numbers(device, &gx))])
        });
        compare::<T>(&format!("{activation:?}"), &got.unwrap(), &want);
    }
}

/// A residual block's end, and a table of positions that is added to every image.
fn sums<T: Activations>() {
    let mut stream = Seeds::new(47).stream(Axis::Test, &[]);
    let (a, b) = (draw::<T>(COUNT, &mut stream), draw::<T>(COUNT, &mut stream));
    for (period, relu) in [(COUNT, true), (COUNT, false), (COUNT / 5, true)] {
        let want = a.iter().enumerate().map(|(i, a)| {
            let sum = a + b[i % period];
            if relu { sum.max(0.0) } else { sum }
        });
        let want = [("y", want.collect())];
        let got = in_every_order(|device| {
            let [a, b] = [&a[..], &b[..period]].map(|v| upload::<T>(device, v));
            Ok([("y", numbers(device, &add(device, "op", (device.view(&a), device.view(&b)), relu)?))])
        });
        compare::<T>(&format!("sums over {period}"), &got.unwrap(), &want);
    }
}

const MAPS: [[usize; 3]; 3] = [[2, 3, 1], [3, 5, 49], [1, 11, 300]];

fn gates<T: Activations>() {
    let mut stream = Seeds::new(48).stream(Axis::Test, &[]);
    for [batch, channels, map] in MAPS {
        let maps = Maps { batch, channels, map };
        let (x, gate) = (draw::<T>(maps.len(), &mut stream), draw::<T>(batch * channels, &mut stream));
        let g = draw::<T>(maps.len(), &mut stream);
        let (vx, vgate) = (variable(&x, &[batch, channels, map, 1]), variable(&gate, &[batch, channels]));
        let y = nn::gated(&vx, &vgate).unwrap();
        let [dx, dgate]: [Vec<f64>; 2] = gradients(&y, &g, &[&vx, &vgate]).try_into().unwrap();
        let want = [("y", values(&y)), ("x", dx), ("gate", dgate)];
        let got = in_every_order(|device| {
            let [x, gate, g] = [&x, &gate, &g].map(|v| upload::<T>(device, v));
            let [x, gate, g] = [&x, &gate, &g].map(|v| device.view(v));
            let y = gated(device, "op", (x, gate), maps)?;
            let (gx, ggate) = gated_gradient(device, (x, gate, g), maps)?;
            Ok([("y", &y), ("x", &gx), ("gate", &ggate)].map(|(name, v)| (name, numbers(device, v))))
        });
        compare::<T>(&format!("gates of {maps:?}"), &got.unwrap(), &want);
    }
}

fn residuals<T: Activations>()
where
    T::Sum: Activations,
{
    let mut stream = Seeds::new(49).stream(Axis::Test, &[]);
    for [batch, channels, map] in MAPS {
        let maps = Maps { batch, channels, map };
        let dims = [batch, channels, map, 1];
        let [shortcut, x, g] = [(); 3].map(|()| draw::<T>(maps.len(), &mut stream));
        let scale = draw::<T>(channels, &mut stream);
        let [vs, vx] = [&shortcut, &x].map(|v| variable(v, &dims));
        let vscale = variable(&scale, &[channels]);
        let y = nn::scaled_residual(&vs, &vx, &vscale).unwrap();
        let [dx, dscale]: [Vec<f64>; 2] = gradients(&y, &g, &[&vx, &vscale]).try_into().unwrap();
        let want = [("y", values(&y)), ("x", dx), ("scale", dscale)];
        let got = in_every_order(|device| {
            let [shortcut, x, g] = [&shortcut, &x, &g].map(|v| upload::<T>(device, v));
            let scale = upload::<T::Sum>(device, &scale);
            let (x, g, scale) = (device.view(&x), device.view(&g), device.view(&scale));
            let y = scaled_residual(device, "op", (Some(device.view(&shortcut)), x), scale, maps)?;
            let (gx, gscale) = scaled_residual_gradient(device, "op", (x, g), scale, maps)?;
            let (y, gx) = (numbers(device, &y), numbers(device, &gx));
            Ok([("y", y), ("x", gx), ("scale", numbers(device, &gscale))])
        });
        compare::<T>(&format!("residuals of {maps:?}"), &got.unwrap(), &want);
    }
}

fn means<T: Activations>() {
    let mut stream = Seeds::new(50).stream(Axis::Test, &[]);
    for [batch, channels, map] in MAPS {
        let maps = Maps { batch, channels, map };
        let (x, g) = (draw::<T>(maps.len(), &mut stream), draw::<T>(batch * channels, &mut stream));
        let vx = variable(&x, &[batch, channels, map, 1]);
        let y = nn::global_mean(&vx).unwrap();
        let want = [("y", values(&y)), ("x", gradients(&y, &g, &[&vx]).remove(0))];
        let got = in_every_order(|device| {
            let [x, g] = [&x, &g].map(|v| upload::<T>(device, v));
            let y = pool::global_mean(device, device.view(&x), maps)?;
            let gx = pool::global_mean_gradient(device, "op", device.view(&g), maps)?;
            Ok([("y", numbers(device, &y)), ("x", numbers(device, &gx))])
        });
        compare::<T>(&format!("means of {maps:?}"), &got.unwrap(), &want);
    }
}

in_every_type! {
    activations_and_their_slopes: activations,
    sums_of_two: sums,
    gates_of_channels: gates,
    scaled_residuals: residuals,
    means_of_maps: means,
}
