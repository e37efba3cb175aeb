//! Convolution, max pooling.

use random::{Axis, Seeds};

use super::super::tests::in_every_order;
use super::*;
use crate::cuda::train::conv::{self, Conv};
use crate::cuda::train::pool::MaxPool;
use crate::nn::{Conv2dConfig, conv2d, max_pool2d};

/// Sizes of images, of weights, and stride, padding, dilation, groups.
const CONVOLUTIONS: [([usize; 4], [usize; 4], [usize; 4]); 22] = [
    ([2, 3, 7, 5], [4, 3, 3, 3], [1, 1, 1, 1]),
    ([3, 3, 17, 13], [5, 3, 7, 7], [2, 3, 1, 1]),
    ([1, 2, 1, 1], [3, 2, 1, 1], [1, 0, 1, 1]),
    ([9, 4, 5, 6], [6, 4, 1, 1], [1, 0, 1, 1]),
    ([9, 4, 5, 6], [6, 4, 1, 1], [2, 0, 1, 1]),
    ([2, 4, 9, 8], [6, 2, 3, 2], [3, 2, 2, 2]),
    ([2, 4, 11, 10], [4, 4, 4, 3], [4, 3, 2, 1]),
    // Pieces of the filter's gradient; several tiles of rows; of columns of the filter; of terms.
    ([17, 6, 8, 8], [4, 3, 3, 3], [1, 1, 1, 2]),
    ([3, 5, 3, 4], [150, 5, 1, 1], [1, 0, 1, 1]),
    ([2, 140, 2, 3], [3, 140, 1, 1], [1, 0, 1, 1]),
    ([1, 9, 6, 6], [70, 9, 3, 3], [1, 1, 1, 1]),
    ([1, 2, 20, 19], [3, 2, 3, 3], [4, 0, 3, 1]),
    ([2, 3, 4, 4], [2, 3, 6, 6], [1, 1, 1, 1]),
    ([2, 3, 12, 11], [4, 3, 1, 1], [3, 1, 1, 1]),
    // Depthwise, with one and with several outputs a channel, wide kernels, pieces.
    ([2, 5, 9, 7], [5, 1, 3, 3], [1, 1, 1, 5]),
    ([3, 3, 8, 9], [6, 1, 5, 3], [2, 2, 2, 3]),
    ([1, 2, 12, 11], [2, 1, 9, 9], [1, 4, 1, 2]),
    ([2, 2, 9, 9], [2, 1, 3, 3], [1, 0, 2, 2]),
    ([1, 2, 6, 7], [2, 1, 3, 3], [1, 3, 1, 2]),
    ([5, 2, 30, 29], [2, 1, 3, 3], [1, 1, 1, 2]),
    ([2, 3, 11, 15], [3, 1, 5, 5], [3, 2, 1, 3]),
    // One input channel without groups.
    ([2, 1, 9, 8], [7, 1, 3, 3], [2, 1, 1, 1]),
];

fn convolutions<T: Activations>()
where
    T::Sum: Activations,
{
    let mut stream = Seeds::new(41).stream(Axis::Test, &[]);
    for ([batch, c_in, height, width], of_w, [stride, padding, dilation, groups]) in CONVOLUTIONS {
        let ([c_out, cg, kh, kw], of_x) = (of_w, [batch, c_in, height, width]);
        let config = Conv2dConfig { stride, padding, dilation, groups, ..Conv2dConfig::default() };
        let [oh, ow] = [(height, kh), (width, kw)].map(|(n, k)| config.output_size(n, k).unwrap());
        let sizes = Conv { batch, c_in, height, width, c_out, kh, kw, oh, ow, config };
        let x = draw::<T>(batch * c_in * height * width, &mut stream);
        let w = draw::<T>(c_out * cg * kh * kw, &mut stream);
        let (b, g) = (draw::<T>(c_out, &mut stream), draw::<T>(batch * c_out * oh * ow, &mut stream));
        let [vx, vw, vb] = [variable(&x, &of_x), variable(&w, &of_w), variable(&b, &[c_out])];
        let y = conv2d(&vx, &vw, Some(&vb), config).unwrap();
        let [dx, dw, db]: [Vec<f64>; 3] = gradients(&y, &g, &[&vx, &vw, &vb]).try_into().unwrap();
        let want = [("y", values(&y)), ("x", dx), ("w", dw), ("b", db)];
        let got = in_every_order(|device| {
            let [x, w, g] = [&x, &w, &g].map(|v| upload::<T>(device, v));
            let b = upload::<T::Sum>(device, &b);
            let [x, w, g] = [&x, &w, &g].map(|v| device.view(v));
            let y = conv::forward(device, "op", (x, w), Some(device.view(&b)), &sizes)?;
            let dx = conv::backward(device, "op", (g, w), &sizes)?;
            let dw = conv::filter::<_, T>(device, "op", (x, g), &sizes)?;
            let db = conv::bias::<_, T>(device, g, &sizes)?;
            let [y, dx] = [&y, &dx].map(|v| numbers(device, v));
            let [dw, db] = [&dw, &db].map(|v| numbers(device, v));
            Ok([("y", y), ("x", dx), ("w", dw), ("b", db)])
        });
        compare::<T>(&format!("{of_x:?} by {of_w:?}, {config:?}"), &got.unwrap(), &want);
    }
}

/// Without a bias nothing is added.
fn unbiased<T: Activations>()
where
    T::Sum: Activations,
{
    let device = Emulator(super::super::Order::Backward);
    for groups in [1, 2] {
        let config = Conv2dConfig { groups, ..Conv2dConfig::default() };
        let sizes = Conv { batch: 1, c_in: 2, height: 1, width: 2, c_out: 2, kh: 1, kw: 1, oh: 1, ow: 2, config };
        let (x, w) = (upload::<T>(&device, &[1.0, 2.0, 4.0, 8.0]), upload::<T>(&device, &[1.0, 2.0, 3.0, 4.0]));
        let y = conv::forward(&device, "op", (device.view(&x), device.view(&w)), None, &sizes).unwrap();
        let want = if groups == 1 { [9.0, 18.0, 19.0, 38.0] } else { [1.0, 2.0, 8.0, 16.0] };
        assert_eq!(numbers(&device, &y), want);
    }
}

fn pooling<T: Activations>() {
    let mut stream = Seeds::new(42).stream(Axis::Test, &[]);
    let problems = [
        ([2, 3, 9, 7], [3, 2, 1]),
        ([1, 2, 8, 8], [3, 1, 1]),
        ([2, 2, 6, 5], [2, 2, 0]),
        ([1, 1, 11, 10], [5, 2, 2]),
        ([1, 2, 7, 9], [2, 3, 1]),
        ([2, 30, 5, 5], [1, 1, 0]),
        ([1, 1, 3, 4], [3, 1, 0]),
    ];
    for (of_x, [kernel, stride, padding]) in problems {
        let [batch, channels, height, width] = of_x;
        // Halves: many windows have several largest values.
        let x: Vec<f64> =
            draw::<T>(of_x.iter().product(), &mut stream).iter().map(|v| (2.0 * v).round() / 2.0).collect();
        let vx = variable(&x, &of_x);
        let y = max_pool2d(&vx, kernel, stride, padding).unwrap();
        let (oh, ow) = (y.dim(2).unwrap(), y.dim(3).unwrap());
        let g = draw::<T>(y.elem_count(), &mut stream);
        let want = [("y", values(&y)), ("x", gradients(&y, &g, &[&vx]).remove(0))];
        let pool = MaxPool { planes: batch * channels, height, width, oh, ow, kernel, stride, padding };
        let got = in_every_order(|device| {
            let (x, g) = (upload::<T>(device, &x), upload::<T>(device, &g));
            let (y, chosen) = pool.forward(device, "op", device.view(&x))?;
            let gx = pool.backward(device, "op", (device.view(&chosen), device.view(&g)))?;
            Ok([("y", numbers(device, &y)), ("x", numbers(device, &gx))])
        });
        compare::<T>(&format!("{of_x:?}, window {kernel}, stride {stride}, padding {padding}"), &got.unwrap(), &want);
    }
}

/// NaN is the largest, and its gradient goes to the last one of a window; −∞ is chosen where there is nothing else.
#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn pooling_of_what_is_no_number() {
    let device = Emulator(super::super::Order::OddFirst);
    let (nan, least) = (f64::NAN, f64::NEG_INFINITY);
    let x = [nan, 1.0, nan, 2.0, least, least, least, least];
    let pool = MaxPool { planes: 2, height: 2, width: 2, oh: 1, ow: 1, kernel: 2, stride: 1, padding: 0 };
    let memory = upload::<f32>(&device, &x);
    let (y, chosen) = pool.forward(&device, "op", device.view(&memory)).unwrap();
    let y = numbers(&device, &y);
    assert!(y[0].is_nan() && y[1] == least);
    assert_eq!(device.download(&chosen).unwrap(), [2, 0]);
}

in_every_type! {
    convolution_and_its_gradients: convolutions,
    convolution_without_a_bias: unbiased,
    overlapping_windows: pooling,
}
