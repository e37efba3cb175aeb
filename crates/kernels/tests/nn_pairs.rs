//! Ops on pairs of float32 against the same ops in float64, whose results they are to give rounded once.

use candle_core::{DType, Device, Tensor, Var};
use kernels::nn::{Conv2dConfig, Flow, conv2d};
use random::{Axis, Seeds};
use testkit::tolerance::{ORACLE_F32, ROUNDED_F32, relative_error};

const EPS: f64 = 1e-5;

/// Numbers that float32 has, so that both dtypes are given the same problem.
fn tensor(shape: &[usize], dtype: DType, path: u64) -> Tensor {
    let mut stream = Seeds::new(61).stream(Axis::Test, &[path]);
    let numbers: Vec<f64> = (0..shape.iter().product()).map(|_| f64::from(stream.normal() as f32)).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest deviation of a number, relative to it; numbers that all but cancel may be off by a little more.
fn deviation(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let of = |(got, want): (&f64, &f64)| (got - want).abs() / want.abs().max(1e-5);
    got.iter().zip(want).map(of).fold(0.0, f64::max)
}

fn config([stride, padding, dilation, groups]: [usize; 4]) -> Conv2dConfig {
    Conv2dConfig { stride, padding, dilation, groups, ..Conv2dConfig::default() }
}

#[test]
fn convolutions_round_once() {
    let problems: [([usize; 4], [usize; 4], [usize; 4]); 10] = [
        ([2, 3, 17, 13], [5, 3, 7, 7], [2, 3, 1, 1]),
        ([2, 8, 9, 8], [6, 4, 3, 2], [3, 2, 2, 2]),
        ([5, 6, 4, 4], [4, 3, 3, 3], [1, 1, 1, 2]),
        ([40, 6, 4, 4], [7, 6, 3, 3], [1, 1, 1, 1]),
        // Columns in several strips, with a stride and with a last strip of fewer rows.
        ([2, 90, 35, 33], [4, 90, 5, 5], [2, 2, 1, 1]),
        ([2, 60, 21, 18], [6, 30, 7, 7], [1, 4, 2, 2]),
        // 1×1: a map of more than one strip, small maps side by side, more of them than one product takes, a stride.
        ([2, 420, 31, 29], [9, 420, 1, 1], [1, 0, 1, 1]),
        ([3, 700, 3, 4], [8, 700, 1, 1], [1, 0, 1, 1]),
        ([60, 8, 3, 3], [4, 4, 1, 1], [1, 0, 1, 2]),
        ([3, 4, 9, 7], [6, 4, 1, 1], [2, 0, 1, 1]),
    ];
    for (x, w, how) in problems {
        let of = |dtype| {
            let weight = Var::from_tensor(&tensor(&w, dtype, 2)).unwrap();
            let y = Flow::of(&tensor(&x, dtype, 1)).unwrap().conv2d_paired(&weight, config(how)).unwrap();
            (values(&y.value()), values(&y.add(&y).unwrap().value()))
        };
        let (want, got) = (of(DType::F64), of(DType::F32));
        let error = deviation(&got.0, &want.0);
        assert!(error <= ROUNDED_F32, "{x:?} by {w:?}, {how:?}: off by {error:.2e}");
        // Twice the number, from the pair.
        assert!(deviation(&got.1, &want.1) <= ROUNDED_F32, "{x:?} by {w:?}, {how:?}: the sum");
    }
}

/// Channels with a large mean, then a residual block as a network has it; `paired` or plain.
fn network(dtype: DType, paired: bool) -> (Vec<f64>, Vec<Vec<f64>>) {
    let shapes: [&[usize]; 7] =
        [&[32, 4, 3, 3], &[32, 8, 3, 3], &[20, 32, 1, 1], &[20, 32, 1, 1], &[32], &[20], &[32, 32, 3, 3]];
    let vars: Vec<Var> =
        shapes.iter().zip(10..).map(|(s, at)| Var::from_tensor(&tensor(s, dtype, at)).unwrap()).collect();
    let conv = |x: &Flow, at: usize, how| {
        let how = config(how);
        if paired { x.conv2d_paired(&vars[at], how) } else { x.conv2d(&vars[at], None, how) }.unwrap()
    };
    let norm = |x: Flow, at: usize, relu| x.batch_norm_train(&vars[at], &vars[at], EPS, relu).unwrap().y;
    let images = (tensor(&[4, 4, 18, 17], DType::F32, 1) + 300.0).unwrap().to_dtype(dtype).unwrap();
    let stem = norm(conv(&Flow::of(&images).unwrap(), 0, [1, 0, 1, 1]), 4, true).max_pool2d(3, 2, 1).unwrap();
    let inner = norm(conv(&stem, 6, [1, 1, 1, 1]), 4, true);
    let inner = norm(conv(&inner, 1, [2, 1, 1, 4]), 4, true);
    let y = norm(conv(&inner, 2, [1, 0, 1, 1]), 5, false);
    let y = y.add_relu(&norm(conv(&stem, 3, [2, 0, 1, 1]), 5, false)).unwrap().tensor().unwrap();
    let loss = (&y * tensor(y.dims(), dtype, 99)).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    (values(&y), vars.iter().map(|var| values(grads.get(var).expect("a gradient"))).collect())
}

#[test]
fn a_network_of_pairs_is_that_of_float64_rounded_once() {
    let (want, plain, got) = (network(DType::F64, true), network(DType::F32, false), network(DType::F32, true));
    assert!(want.0.contains(&0.0) && want.0.iter().any(|v| *v > 0.0), "rectifiers are open and shut");
    let error = deviation(&got.0, &want.0);
    assert!(error <= ROUNDED_F32, "off by {error:.2e}");
    let of_plain = deviation(&plain.0, &want.0);
    assert!(of_plain > 100.0 * ROUNDED_F32, "the problem is too easy: float32 alone is off by {of_plain:.2e}");
    for (at, (got, want)) in got.1.iter().zip(&want.1).enumerate() {
        let error = relative_error(got, want, want.len());
        assert!(error <= ORACLE_F32.gradient, "gradient {at} is off by {error:.2e}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| network(DType::F32, true))
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn it_is_the_plain_convolution_where_pairs_are_of_no_use() {
    let how = config([1, 1, 1, 1]);
    // Nobody asks for gradients.
    let (x, weight) = (tensor(&[2, 3, 6, 5], DType::F32, 1), tensor(&[4, 3, 3, 3], DType::F32, 2));
    let y = Flow::of(&x).unwrap().conv2d_paired(&weight, how).unwrap().tensor().unwrap();
    assert!(!y.track_op());
    assert_eq!(values(&y), values(&conv2d(&x, &weight, None, how).unwrap()));
    // Float64.
    let (x, weight) =
        (x.to_dtype(DType::F64).unwrap(), Var::from_tensor(&weight.to_dtype(DType::F64).unwrap()).unwrap());
    let y = Flow::of(&x).unwrap().conv2d_paired(&weight, how).unwrap();
    assert_eq!(values(&y.value()), values(&conv2d(&x, &weight, None, how).unwrap()));
    // Depthwise.
    let how = config([1, 1, 1, 3]);
    let (x, weight) =
        (tensor(&[2, 3, 6, 5], DType::F32, 1), Var::from_tensor(&tensor(&[3, 1, 3, 3], DType::F32, 2)).unwrap());
    let y = Flow::of(&x).unwrap().conv2d_paired(&weight, how).unwrap();
    assert_eq!(values(&y.value()), values(&conv2d(&x, &weight, None, how).unwrap()));
}

#[test]
fn ops_that_take_no_pairs_take_the_rounded_numbers() {
    let weight = Var::from_tensor(&tensor(&[4, 3, 3, 3], DType::F32, 2)).unwrap();
    let y = Flow::of(&tensor(&[2, 3, 6, 5], DType::F32, 1)).unwrap();
    let y = y.conv2d_paired(&weight, config([1, 1, 1, 1])).unwrap();
    let rounded = Flow::of(&y.value()).unwrap();
    assert_eq!(values(&y.silu().unwrap().value()), values(&rounded.silu().unwrap().value()));
    assert_eq!(values(&y.global_mean().unwrap().value()), values(&rounded.global_mean().unwrap().value()));
}
