//! Max pooling, batch normalisation and rectifiers against plain float64 loops and central differences.

use candle_core::{DType, Device, Tensor, Var};
use kernels::Error;
use kernels::nn::{
    add_relu, batch_norm_eval, batch_norm_relu_eval, batch_norm_relu_train, batch_norm_train, max_pool2d, relu,
};
use random::{Axis, Seeds};
use testkit::gradient::directional_error;
use testkit::tolerance::{FINITE_DIFFERENCE, IDENTITY_F64, ORACLE_F32, assert_close};

const EPS: f64 = 1e-5;

fn draw(n: usize, path: u64) -> Vec<f64> {
    let mut stream = Seeds::new(21).stream(Axis::Test, &[path]);
    (0..n).map(|_| f64::from(stream.normal() as f32)).collect()
}

fn tensor(v: &[f64], shape: &[usize]) -> Tensor {
    Tensor::from_slice(v, shape, &Device::Cpu).unwrap()
}

fn var(v: &[f64], shape: &[usize], dtype: DType) -> Var {
    Var::from_tensor(&tensor(v, shape).to_dtype(dtype).unwrap()).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// `Σ y·g` as a tensor to differentiate.
fn dot(y: &Tensor, g: &[f64]) -> Tensor {
    (y * tensor(g, y.dims()).to_dtype(y.dtype()).unwrap()).unwrap().sum_all().unwrap()
}

/// Value and gradient of a max pooling by its definition, the first largest value taking the gradient.
fn naive_pool(x: &[f64], shape: [usize; 4], [k, s, p]: [usize; 3], g: impl Fn(usize) -> f64) -> (Vec<f64>, Vec<f64>) {
    let [b, c, h, w] = shape;
    let (oh, ow) = ((h + 2 * p - k) / s + 1, (w + 2 * p - k) / s + 1);
    let (mut y, mut gx) = (Vec::new(), vec![0.0; x.len()]);
    for map in 0..b * c {
        for (oy, ox) in (0..oh * ow).map(|n| (n / ow, n % ow)) {
            let mut best: Option<usize> = None;
            for (iy, ix) in (0..k * k).map(|n| (oy * s + n / k, ox * s + n % k)) {
                if iy < p || ix < p || iy - p >= h || ix - p >= w {
                    continue;
                }
                let at = map * h * w + (iy - p) * w + ix - p;
                if best.is_none_or(|best| x[at] > x[best]) {
                    best = Some(at);
                }
            }
            let best = best.expect("a window with a pixel");
            gx[best] += g(y.len());
            y.push(x[best]);
        }
    }
    (y, gx)
}

#[test]
fn max_pool_is_its_definition_ties_included() {
    let cases =
        [([2, 3, 7, 9], [3, 2, 1]), ([1, 1, 5, 5], [2, 2, 0]), ([9, 2, 6, 6], [3, 1, 1]), ([1, 2, 4, 3], [3, 3, 0])];
    for (index, (shape, setting)) in cases.into_iter().enumerate() {
        let n = shape.iter().product();
        let smooth = draw(n, index as u64);
        // Values from a set of three: most windows have ties.
        let tied: Vec<f64> = smooth.iter().map(|v| v.round().clamp(-1.0, 1.0)).collect();
        for x in [smooth, tied, vec![f64::NEG_INFINITY; n]] {
            for dtype in [DType::F64, DType::F32] {
                let x_var = var(&x, &shape, dtype);
                let y = max_pool2d(&x_var, setting[0], setting[1], setting[2]).unwrap();
                // Small whole numbers, so that sums of gradients are exact in either dtype.
                let g = |at: usize| (at % 7) as f64 - 2.0;
                let (want, gradient) = naive_pool(&x, shape, setting, g);
                assert_eq!(values(&y), want, "{shape:?} {setting:?}");
                let cotangent: Vec<f64> = (0..want.len()).map(g).collect();
                let loss = if x[0].is_finite() { dot(&y, &cotangent) } else { continue };
                let grads = loss.backward().unwrap();
                assert_eq!(values(grads.get(&x_var).unwrap()), gradient, "{shape:?} {setting:?}");
            }
        }
    }
}

#[test]
fn max_pool_lets_nan_through_and_refuses_what_does_not_fit() {
    let mut x = draw(16, 3);
    x[5] = f64::NAN;
    let y = values(&max_pool2d(&tensor(&x, &[1, 1, 4, 4]), 2, 2, 0).unwrap());
    assert!(y[0].is_nan() && y[1..].iter().all(|v| v.is_finite()), "{y:?}");
    let x = tensor(&draw(16, 4), &[1, 1, 4, 4]);
    assert!(matches!(max_pool2d(&x, 0, 1, 0), Err(Error::Attribute { name: "kernel", .. })));
    assert!(matches!(max_pool2d(&x, 2, 0, 0), Err(Error::Attribute { name: "stride", .. })));
    assert!(matches!(max_pool2d(&x, 3, 1, 2), Err(Error::Attribute { name: "padding", .. })));
    assert!(matches!(max_pool2d(&x, 5, 1, 0), Err(Error::Shape { name: "x", .. })));
    assert!(matches!(max_pool2d(&x.flatten_all().unwrap(), 2, 1, 0), Err(Error::Shape { name: "x", .. })));
}

/// Mean and biased variance of each channel, by the definition.
fn naive_moments(x: &[f64], c: usize, map: usize) -> (Vec<f64>, Vec<f64>) {
    let of = |channel: usize| -> (f64, f64) {
        let v: Vec<f64> = (0..x.len()).filter(|at| at / map % c == channel).map(|at| x[at]).collect();
        let mean = v.iter().sum::<f64>() / v.len() as f64;
        (mean, v.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / v.len() as f64)
    };
    (0..c).map(of).unzip()
}

fn naive_norm(x: &[f64], map: usize, gamma: &[f64], beta: &[f64], mean: &[f64], var: &[f64], relu: bool) -> Vec<f64> {
    let one = |(at, x): (usize, &f64)| {
        let c = at / map % gamma.len();
        let y = gamma[c] * (x - mean[c]) / (var[c] + EPS).sqrt() + beta[c];
        if relu { y.max(0.0) } else { y }
    };
    x.iter().enumerate().map(one).collect()
}

const SHAPES: [&[usize]; 4] = [&[3, 4, 5, 3], &[2, 1, 1, 1], &[7, 3], &[2, 2, 9, 8]];

/// Runs a normalisation in train or eval mode on (x, gamma, beta).
fn norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, given: Option<&(Tensor, Tensor)>, relu: bool) -> Tensor {
    match (given, relu) {
        (None, false) => batch_norm_train(x, gamma, beta, EPS).unwrap().y,
        (None, true) => batch_norm_relu_train(x, gamma, beta, EPS).unwrap().y,
        (Some((m, v)), false) => batch_norm_eval(x, gamma, beta, m, v, EPS).unwrap(),
        (Some((m, v)), true) => batch_norm_relu_eval(x, gamma, beta, m, v, EPS).unwrap(),
    }
}

#[test]
fn batch_norm_has_the_values_of_its_definition() {
    for (index, shape) in SHAPES.into_iter().enumerate() {
        let (n, c) = (shape.iter().product::<usize>(), shape[1]);
        let map: usize = shape[2..].iter().product();
        let x: Vec<f64> = draw(n, 30 + index as u64).iter().map(|v| f64::from((3.0 * v + 5.0) as f32)).collect();
        let (gamma, beta) = (draw(c, 40), draw(c, 41));
        let (mean, variance) = naive_moments(&x, c, map);
        let given: (Vec<f64>, Vec<f64>) = (draw(c, 42), draw(c, 43).iter().map(|v| v.abs() + 0.5).collect());
        for (dtype, bar) in [(DType::F64, IDENTITY_F64), (DType::F32, ORACLE_F32.value)] {
            let [xt, gt, bt] = [var(&x, shape, dtype), var(&gamma, &[c], dtype), var(&beta, &[c], dtype)];
            let out = batch_norm_train(&xt, &gt, &bt, EPS).unwrap();
            assert_eq!(out.moments.count(), n / c);
            let [got_mean, got_variance] = out.moments.read().unwrap();
            assert_close("mean", &got_mean, &mean, c, IDENTITY_F64);
            assert_close("variance", &got_variance, &variance, c, IDENTITY_F64);
            let running = [var(&given.0, &[c], dtype), var(&given.1, &[c], dtype)];
            out.moments.follow(&running[0], &running[1], 0.1).unwrap();
            let all = (n / c) as f64;
            let unbiased: Vec<f64> = variance.iter().map(|v| v * all / (all - 1.0)).collect();
            for (running, (old, new)) in running.iter().zip([(&given.0, &mean), (&given.1, &unbiased)]) {
                let want: Vec<f64> = old.iter().zip(new).map(|(old, new)| 0.9 * old + 0.1 * new).collect();
                assert_close("running average", &values(running), &want, c, bar);
            }
            let given_t = (tensor(&given.0, &[c]), tensor(&given.1, &[c]));
            for relu in [false, true] {
                let want = naive_norm(&x, map, &gamma, &beta, &mean, &variance, relu);
                let got = values(&norm(&xt, &gt, &bt, None, relu));
                assert_close(&format!("train {shape:?} {dtype:?}"), &got, &want, n, bar);
                let want = naive_norm(&x, map, &gamma, &beta, &given.0, &given.1, relu);
                let got = values(&norm(&xt, &gt, &bt, Some(&given_t), relu));
                assert_close(&format!("eval {shape:?} {dtype:?}"), &got, &want, n, bar);
            }
        }
    }
}

#[test]
fn batch_norm_gradients_are_central_differences() {
    for (index, shape) in SHAPES.into_iter().enumerate() {
        let (n, c) = (shape.iter().product::<usize>(), shape[1]);
        let given = (tensor(&draw(c, 50), &[c]), tensor(&draw(c, 51), &[c]).sqr().unwrap());
        let point: Vec<f64> = draw(n + 2 * c, 52 + index as u64);
        let g = draw(n, 60 + index as u64);
        for (given, relu) in [(None, false), (None, true), (Some(&given), false), (Some(&given), true)] {
            let split = |p: &[f64]| {
                [
                    var(&p[..n], shape, DType::F64),
                    var(&p[n..n + c], &[c], DType::F64),
                    var(&p[n + c..], &[c], DType::F64),
                ]
            };
            let [x, gamma, beta] = split(&point);
            let grads = dot(&norm(&x, &gamma, &beta, given, relu), &g).backward().unwrap();
            let gradient = [&x, &gamma, &beta].map(|v| values(grads.get(v).unwrap())).concat();
            let mut f = |p: &[f64]| {
                let [x, gamma, beta] = split(p);
                dot(&norm(&x, &gamma, &beta, given, relu), &g).to_scalar().unwrap()
            };
            let mut stream = Seeds::new(22).stream(Axis::Test, &[index as u64]);
            let error = directional_error(&mut f, &point, &gradient, 1e-6, 4, &mut stream);
            assert!(error < FINITE_DIFFERENCE, "{shape:?} relu {relu} given {}: {error:.2e}", given.is_some());
        }
    }
}

#[test]
fn batch_norm_refuses_single_values_and_wrong_shapes() {
    let (one, two) = (tensor(&[1.0], &[1]), tensor(&[1.0, 1.0], &[2]));
    let single = batch_norm_train(&tensor(&[3.0], &[1, 1, 1, 1]), &one, &one, EPS);
    assert!(matches!(single, Err(Error::Shape { name: "x", .. })), "{single:?}");
    let x = tensor(&[1.0, 2.0], &[2, 1]);
    assert!(matches!(batch_norm_train(&x, &two, &one, EPS), Err(Error::Shape { name: "gamma", .. })));
    assert!(matches!(batch_norm_eval(&x, &one, &one, &two, &one, EPS), Err(Error::Shape { name: "running_mean", .. })));
    assert!(matches!(batch_norm_train(&x, &one, &one, 0.0), Err(Error::Attribute { name: "eps", .. })));
}

#[test]
fn rectifiers_have_gradient_zero_at_zero() {
    let (a, b) = (var(&[-1.0, 0.0, 2.0, 3.0], &[4], DType::F32), var(&[0.5, 0.0, -2.0, 1.0], &[4], DType::F32));
    let y = relu(&a).unwrap();
    assert_eq!(values(&y), [0.0, 0.0, 2.0, 3.0]);
    let grads = dot(&y, &[1.0, 2.0, 3.0, 4.0]).backward().unwrap();
    assert_eq!(values(grads.get(&a).unwrap()), [0.0, 0.0, 3.0, 4.0]);
    let y = add_relu(&a, &b).unwrap();
    assert_eq!(values(&y), [0.0, 0.0, 0.0, 4.0]);
    let grads = dot(&y, &[1.0, 2.0, 3.0, 4.0]).backward().unwrap();
    assert_eq!(values(grads.get(&a).unwrap()), [0.0, 0.0, 0.0, 4.0]);
    assert_eq!(values(grads.get(&b).unwrap()), [0.0, 0.0, 0.0, 4.0]);
    assert!(values(&relu(&tensor(&[f64::NAN], &[1])).unwrap())[0].is_nan());
    assert!(matches!(add_relu(&a, &tensor(&[1.0], &[1]).to_dtype(DType::F32).unwrap()), Err(Error::Shape { .. })));
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let x = var(&draw(16 * 8 * 15 * 15, 70), &[16, 8, 15, 15], DType::F32);
            let [gamma, beta] = [71, 72].map(|path| var(&draw(8, path), &[8], DType::F32));
            let y = batch_norm_relu_train(&x, &gamma, &beta, EPS).unwrap().y;
            let y = max_pool2d(&add_relu(&y, &x).unwrap(), 3, 2, 1).unwrap();
            let grads = dot(&y, &draw(y.elem_count(), 73)).backward().unwrap();
            [values(&y), values(grads.get(&x).unwrap()), values(grads.get(&gamma).unwrap())]
        })
    };
    assert_eq!(run(1), run(2));
}

#[test]
fn batch_norm_in_float32_is_rounded_once() {
    let (shape, channels) = ([6, 5, 7, 3], 5);
    let wide: Vec<f64> = draw(6 * 5 * 21, 40).iter().map(|v| f64::from((3.0 + 0.2 * v) as f32)).collect();
    let (gamma, beta) = (draw(channels, 41), draw(channels, 42));
    let run = |dtype| {
        let [x, gamma, beta] = [(&wide, &shape[..]), (&gamma, &[channels][..]), (&beta, &[channels][..])]
            .map(|(v, shape)| tensor(v, shape).to_dtype(dtype).unwrap());
        values(&batch_norm_train(&x, &gamma, &beta, EPS).unwrap().y)
    };
    for (got, want) in run(DType::F32).iter().zip(run(DType::F64)) {
        // Half a unit in the last place, and what float64 is off by.
        assert!((got - want).abs() <= want.abs() * 2f64.powi(-24) + 1e-12, "{got} {want}");
    }
}
