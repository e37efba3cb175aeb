//! Linear maps and attention.

use random::{Axis, Seeds};

use super::super::tests::in_every_order;
use super::*;
use crate::cuda::train::attention::Attention;
use crate::cuda::train::linear::Linear;
use crate::nn;

fn linear_maps<T: Activations>()
where
    T::Sum: Activations,
{
    let mut stream = Seeds::new(51).stream(Axis::Test, &[]);
    for (tokens, inputs, outputs) in [(1, 1, 1), (7, 5, 3), (70, 33, 65), (130, 100, 10), (3, 150, 130)] {
        let x = draw::<T>(tokens * inputs, &mut stream);
        let w = draw::<T>(outputs * inputs, &mut stream);
        let (b, g) = (draw::<T>(outputs, &mut stream), draw::<T>(tokens * outputs, &mut stream));
        let [vx, vw] = [variable(&x, &[tokens, inputs]), variable(&w, &[outputs, inputs])];
        let vb = variable(&b, &[outputs]);
        let y = nn::linear(&vx, &vw, &vb).unwrap();
        let [dx, dw, db]: [Vec<f64>; 3] = gradients(&y, &g, &[&vx, &vw, &vb]).try_into().unwrap();
        let want = [("y", values(&y)), ("x", dx), ("w", dw), ("b", db)];
        let linear = Linear { tokens, inputs, outputs };
        let got = in_every_order(|device| {
            let [x, w, g] = [&x, &w, &g].map(|v| upload::<T>(device, v));
            let b = upload::<T::Sum>(device, &b);
            let [x, w, g] = [&x, &w, &g].map(|v| device.view(v));
            let y = linear.forward(device, "op", (x, w), Some(device.view(&b)))?;
            let dx = linear.backward(device, "op", (g, w))?;
            let dw = linear.weight::<_, T>(device, "op", (x, g))?;
            let db = linear.bias::<_, T>(device, g)?;
            let [y, dx] = [&y, &dx].map(|v| numbers(device, v));
            let [dw, db] = [&dw, &db].map(|v| numbers(device, v));
            Ok([("y", y), ("x", dx), ("w", dw), ("b", db)])
        });
        compare::<T>(&format!("{linear:?}"), &got.unwrap(), &want);
    }
}

fn attention<T: Activations>() {
    let mut stream = Seeds::new(52).stream(Axis::Test, &[]);
    for (batch, tokens, heads, width) in [(1, 1, 1, 1), (2, 5, 3, 4), (2, 70, 2, 9), (1, 33, 1, 68)] {
        let attention = Attention { batch, tokens, heads, width };
        let dim = heads * width;
        let qkv = draw::<T>(batch * tokens * 3 * dim, &mut stream);
        let g = draw::<T>(batch * tokens * dim, &mut stream);
        let x = variable(&qkv, &[batch, tokens, 3 * dim]);
        let y = nn::attention(&x, heads).unwrap();
        let want = [("y", values(&y)), ("qkv", gradients(&y, &g, &[&x]).remove(0))];
        let got = in_every_order(|device| {
            let [qkv, g] = [&qkv, &g].map(|v| upload::<T>(device, v));
            let qkv = device.view(&qkv);
            let (y, weights) = attention.forward(device, "op", qkv)?;
            let grad = attention.backward(device, "op", (qkv, device.view(&weights)), device.view(&g))?;
            Ok([("y", numbers(device, &y)), ("qkv", numbers(device, &grad))])
        });
        compare::<T>(&format!("{attention:?}"), &got.unwrap(), &want);
    }
}

in_every_type! {
    linear_maps_and_their_gradients: linear_maps,
    attention_and_its_gradient: attention,
}
