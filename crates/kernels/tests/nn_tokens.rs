//! Layer normalisation, linear maps, attention, smooth activations and channel ops against plain float64 loops and
//! central differences.

use candle_core::{DType, Device, Tensor, Var};
use kernels::Error;
use kernels::nn::{
    attention, gated, gelu, global_mean, inner_products, layer_norm, layer_norm_map, linear, scaled_residual, silu,
};
use random::{Axis, Seeds};
use testkit::gradient::directional_error;
use testkit::tolerance::{FINITE_DIFFERENCE, IDENTITY_F64, ORACLE_F32, assert_close};

const EPS: f64 = 1e-6;

fn draw(n: usize, path: u64) -> Vec<f64> {
    let mut stream = Seeds::new(31).stream(Axis::Test, &[path]);
    (0..n).map(|_| f64::from(stream.normal() as f32)).collect()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Inputs by shape, the op, and the op as a plain loop.
struct Problem<'a> {
    name: &'a str,
    shapes: Vec<Vec<usize>>,
    run: &'a (dyn Fn(&[Tensor]) -> kernels::Result<Tensor> + Sync),
    plain: &'a (dyn Fn(&[Vec<f64>]) -> Vec<f64> + Sync),
}

impl Problem<'_> {
    fn tensors(&self, inputs: &[Vec<f64>], dtype: DType) -> Vec<Var> {
        let var = |(values, shape): (&Vec<f64>, &Vec<usize>)| {
            let tensor = Tensor::from_slice(values, shape.as_slice(), &Device::Cpu).unwrap();
            Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap()
        };
        inputs.iter().zip(&self.shapes).map(var).collect()
    }

    /// Result, and gradients of its inner product with `g`.
    fn run(&self, inputs: &[Vec<f64>], g: &[f64], dtype: DType) -> (Vec<f64>, Vec<Vec<f64>>) {
        let vars = self.tensors(inputs, dtype);
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let y = (self.run)(&tensors).unwrap();
        let cotangent = Tensor::from_slice(g, y.shape(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let grads = (&y * cotangent).unwrap().sum_all().unwrap().backward().unwrap();
        (values(&y), vars.iter().map(|v| values(grads.get(v).expect("a gradient"))).collect())
    }

    fn check(&self) {
        let inputs: Vec<Vec<f64>> =
            self.shapes.iter().zip(1..).map(|(shape, path)| draw(shape.iter().product(), path)).collect();
        let want = (self.plain)(&inputs);
        let g = draw(want.len(), 99);
        let (y, grads) = self.run(&inputs, &g, DType::F64);
        assert_close(self.name, &y, &want, want.len(), IDENTITY_F64);
        let mut stream = Seeds::new(5).stream(Axis::Test, &[]);
        for (at, gradient) in grads.iter().enumerate() {
            let mut f = |x: &[f64]| {
                let mut inputs = inputs.clone();
                inputs[at] = x.to_vec();
                (self.plain)(&inputs).iter().zip(&g).map(|(y, g)| y * g).sum::<f64>()
            };
            let error = directional_error(&mut f, &inputs[at], gradient, 1e-5, 3, &mut stream);
            assert!(error < FINITE_DIFFERENCE, "{}: gradient {at} is off by {error:.2e}", self.name);
        }
        let (y32, grads32) = self.run(&inputs, &g, DType::F32);
        assert_close(self.name, &y32, &want, want.len(), ORACLE_F32.value);
        for (got, want) in grads32.iter().zip(&grads) {
            assert_close(self.name, got, want, want.len(), ORACLE_F32.gradient);
        }
        let on_threads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| self.run(&inputs, &g, DType::F32))
        };
        assert_eq!(on_threads(1), (y32, grads32), "{}: one thread", self.name);
        assert_eq!(on_threads(1), on_threads(3), "{}: three threads", self.name);
    }
}

/// Layer normalisation of values `stride` apart.
fn plain_norm(x: &[f64], gamma: &[f64], beta: &[f64], stride: usize) -> Vec<f64> {
    let c = gamma.len();
    let mut y = vec![0.0; x.len()];
    for first in (0..x.len()).filter(|at| (at / stride).is_multiple_of(c)) {
        let at: Vec<usize> = (0..c).map(|c| first + c * stride).collect();
        let mean = at.iter().map(|at| x[*at]).sum::<f64>() / c as f64;
        let var = at.iter().map(|at| (x[*at] - mean).powi(2)).sum::<f64>() / c as f64;
        for (channel, at) in at.into_iter().enumerate() {
            y[at] = gamma[channel] * (x[at] - mean) / (var + EPS).sqrt() + beta[channel];
        }
    }
    y
}

#[test]
fn layer_norm_is_its_definition() {
    for shape in [vec![5, 7], vec![2, 3, 33], vec![700, 96]] {
        let c = *shape.last().unwrap();
        let run = |t: &[Tensor]| layer_norm(&t[0], &t[1], &t[2], EPS);
        let plain = |v: &[Vec<f64>]| plain_norm(&v[0], &v[1], &v[2], 1);
        Problem { name: "layer_norm", shapes: vec![shape, vec![c], vec![c]], run: &run, plain: &plain }.check();
    }
    for shape in [[2, 5, 3, 3], [3, 9, 11, 7], [1, 4, 1, 2]] {
        let run = |t: &[Tensor]| layer_norm_map(&t[0], &t[1], &t[2], EPS);
        let plain = |v: &[Vec<f64>]| plain_norm(&v[0], &v[1], &v[2], shape[2] * shape[3]);
        let shapes = vec![shape.to_vec(), vec![shape[1]], vec![shape[1]]];
        Problem { name: "layer_norm_map", shapes, run: &run, plain: &plain }.check();
    }
}

#[test]
fn linear_is_its_definition() {
    for (x, outputs) in [(vec![1, 3], 2), (vec![2, 5, 7], 9), (vec![300, 6], 100)] {
        let inputs = *x.last().unwrap();
        let run = |t: &[Tensor]| linear(&t[0], &t[1], &t[2]);
        let plain = |v: &[Vec<f64>]| -> Vec<f64> {
            let token = |x: &[f64]| -> Vec<f64> {
                let rows = v[1].chunks(inputs).zip(&v[2]);
                rows.map(|(w, b)| b + w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>()).collect()
            };
            v[0].chunks(inputs).flat_map(token).collect()
        };
        let shapes = vec![x, vec![outputs, inputs], vec![outputs]];
        Problem { name: "linear", shapes, run: &run, plain: &plain }.check();
    }
}

#[test]
fn inner_products_are_their_definition() {
    // Few results and many, one pair of matrices and more, rows alone, and deeper than what is summed at once.
    for [count, n, m, depth] in
        [[1, 1, 1, 1], [1, 5, 3, 40], [3, 1, 9, 33], [2, 20, 1, 7], [4, 17, 19, 530], [1, 130, 70, 1100]]
    {
        let run = |t: &[Tensor]| inner_products(&t[0], &t[1]);
        let plain = |v: &[Vec<f64>]| -> Vec<f64> {
            let of = |(a, b): (&[f64], &[f64])| -> Vec<f64> {
                let row = |a: &[f64]| -> Vec<f64> {
                    b.chunks(depth).map(|b| a.iter().zip(b).map(|(a, b)| a * b).sum()).collect()
                };
                a.chunks(depth).flat_map(row).collect()
            };
            v[0].chunks(n * depth).zip(v[1].chunks(m * depth)).flat_map(of).collect()
        };
        let shapes = vec![vec![count, n, depth], vec![count, m, depth]];
        Problem { name: "inner_products", shapes, run: &run, plain: &plain }.check();
    }
    // The Gram matrix: both arguments are one tensor, whose gradient is the sum of both.
    let x = Var::from_tensor(&Tensor::from_vec(draw(12, 3), (1, 3, 4), &Device::Cpu).unwrap()).unwrap();
    let gradient = inner_products(&x, &x).unwrap().sum_all().unwrap().backward().unwrap();
    let column = |d: usize| 2.0 * values(&x).iter().skip(d).step_by(4).sum::<f64>();
    let want: Vec<f64> = (0..12).map(|i| column(i % 4)).collect();
    assert_close("Gram", &values(gradient.get(&x).unwrap()), &want, 12, IDENTITY_F64);
}

#[test]
fn attention_is_its_definition() {
    for [batch, tokens, heads, width] in [[1, 1, 1, 2], [2, 5, 3, 4], [3, 19, 2, 8]] {
        let dim = heads * width;
        let run = |t: &[Tensor]| attention(&t[0], heads);
        let plain = |v: &[Vec<f64>]| -> Vec<f64> {
            let at = |b: usize, n: usize, part: usize, h: usize| ((b * tokens + n) * 3 + part) * dim + h * width;
            let vector = |at: usize| &v[0][at..at + width];
            let mut out = Vec::new();
            for (b, n, h) in (0..batch * tokens * heads).map(|i| (i / heads / tokens, i / heads % tokens, i % heads)) {
                let dot = |m| -> f64 {
                    let (q, k) = (vector(at(b, n, 0, h)), vector(at(b, m, 1, h)));
                    q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (width as f64).sqrt()
                };
                let weights: Vec<f64> = (0..tokens).map(|m| dot(m).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..width {
                    out.push((0..tokens).map(|m| weights[m] / total * vector(at(b, m, 2, h))[d]).sum());
                }
            }
            out
        };
        let shapes = vec![vec![batch, tokens, 3 * dim]];
        Problem { name: "attention", shapes, run: &run, plain: &plain }.check();
    }
}

#[test]
fn attention_of_far_scores_is_finite() {
    let qkv = Tensor::from_vec(vec![1e4f32, 1e4, 1.0, -1e4, -1e4, 2.0], (1, 2, 3), &Device::Cpu).unwrap();
    assert_eq!(values(&attention(&qkv, 1).unwrap()), [1.0, 2.0]);
}

#[test]
fn activations_are_their_definitions() {
    // Φ by the series of the error function, which converges for these arguments.
    let distribution = |x: f64| {
        let z = x / std::f64::consts::SQRT_2;
        let mut term = z;
        let mut sum = z;
        for n in 1..120 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        0.5 + sum / std::f64::consts::PI.sqrt()
    };
    let run = |t: &[Tensor]| gelu(&t[0]);
    let plain = |v: &[Vec<f64>]| -> Vec<f64> { v[0].iter().map(|x| x * distribution(*x)).collect() };
    Problem { name: "gelu", shapes: vec![vec![3, 1001]], run: &run, plain: &plain }.check();
    let run = |t: &[Tensor]| silu(&t[0]);
    let plain = |v: &[Vec<f64>]| -> Vec<f64> { v[0].iter().map(|x| x / (1.0 + (-x).exp())).collect() };
    Problem { name: "silu", shapes: vec![vec![20_000]], run: &run, plain: &plain }.check();
    // Far out they are 0 and the identity, and NaN stays NaN.
    let far = Tensor::from_vec(vec![-200f32, -40.0, 40.0, 200.0, f32::NAN], 5, &Device::Cpu).unwrap();
    for y in [gelu(&far).unwrap(), silu(&far).unwrap()] {
        let y = values(&y);
        assert!(y[0].abs() < 1e-9 && y[1].abs() < 1e-9 && y[2] == 40.0 && y[3] == 200.0 && y[4].is_nan(), "{y:?}");
    }
}

#[test]
fn channel_ops_are_their_definitions() {
    for shape in [[2, 3, 4, 5], [1, 1, 1, 1], [9, 20, 3, 7]] {
        let [batch, c, map] = [shape[0], shape[1], shape[2] * shape[3]];
        let run = |t: &[Tensor]| global_mean(&t[0]);
        let plain =
            |v: &[Vec<f64>]| -> Vec<f64> { v[0].chunks(map).map(|m| m.iter().sum::<f64>() / map as f64).collect() };
        Problem { name: "global_mean", shapes: vec![shape.to_vec()], run: &run, plain: &plain }.check();

        let run = |t: &[Tensor]| gated(&t[0], &t[1]);
        let plain = |v: &[Vec<f64>]| -> Vec<f64> {
            v[0].iter().enumerate().map(|(at, x)| x / (1.0 + (-v[1][at / map]).exp())).collect()
        };
        Problem { name: "gated", shapes: vec![shape.to_vec(), vec![batch, c]], run: &run, plain: &plain }.check();

        let run = |t: &[Tensor]| scaled_residual(&t[0], &t[1], &t[2]);
        let plain = |v: &[Vec<f64>]| -> Vec<f64> {
            let pairs = v[0].iter().zip(&v[1]).enumerate();
            pairs.map(|(at, (shortcut, x))| shortcut + v[2][at / map % c] * x).collect()
        };
        let shapes = vec![shape.to_vec(), shape.to_vec(), vec![c]];
        Problem { name: "scaled_residual", shapes, run: &run, plain: &plain }.check();
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let doubles = |shape: &[usize]| Tensor::zeros(shape, DType::F64, &Device::Cpu).unwrap();
    let shape = |result: kernels::Result<Tensor>, want: &str| {
        assert!(matches!(&result, Err(Error::Shape { name, .. }) if *name == want), "{result:?}");
    };
    let dtype = |result: kernels::Result<Tensor>| assert!(matches!(result, Err(Error::Dtype { .. })), "{result:?}");
    shape(layer_norm(&zeros(&[2, 3]), &zeros(&[2]), &zeros(&[3]), EPS), "gamma");
    shape(layer_norm(&zeros(&[0, 3]), &zeros(&[3]), &zeros(&[3]), EPS), "x");
    shape(layer_norm_map(&zeros(&[2, 3]), &zeros(&[3]), &zeros(&[3]), EPS), "x");
    dtype(layer_norm(&zeros(&[2, 3]), &doubles(&[3]), &zeros(&[3]), EPS));
    let eps = layer_norm(&zeros(&[2, 3]), &zeros(&[3]), &zeros(&[3]), 0.0);
    assert!(matches!(eps, Err(Error::Attribute { name: "eps", .. })), "{eps:?}");
    shape(linear(&zeros(&[2, 3]), &zeros(&[4, 2]), &zeros(&[4])), "x");
    shape(linear(&zeros(&[2, 3]), &zeros(&[4, 3]), &zeros(&[3])), "bias");
    shape(linear(&zeros(&[2, 3]), &zeros(&[4, 3, 1, 1]), &zeros(&[4])), "weight");
    dtype(linear(&zeros(&[2, 3]), &zeros(&[4, 3]), &doubles(&[4])));
    shape(inner_products(&zeros(&[2, 3]), &zeros(&[1, 4, 3])), "a");
    shape(inner_products(&zeros(&[1, 2, 3]), &zeros(&[2, 4, 3])), "b");
    dtype(inner_products(&zeros(&[1, 2, 3]), &doubles(&[1, 4, 3])));
    shape(attention(&zeros(&[2, 3, 8]), 2), "qkv");
    assert!(matches!(attention(&zeros(&[2, 3, 6]), 0), Err(Error::Attribute { name: "heads", .. })));
    shape(gated(&zeros(&[2, 3, 1, 1]), &zeros(&[3, 2])), "gate");
    dtype(gated(&zeros(&[2, 3, 1, 1]), &doubles(&[2, 3])));
    shape(scaled_residual(&zeros(&[2, 3, 1, 2]), &zeros(&[2, 3, 1, 1]), &zeros(&[3])), "shortcut");
    shape(scaled_residual(&zeros(&[2, 3, 1, 1]), &zeros(&[2, 3, 1, 1]), &zeros(&[2])), "scale");
    shape(global_mean(&zeros(&[2, 3])), "x");
    dtype(gelu(&Tensor::zeros(2, DType::U32, &Device::Cpu).unwrap()));
}
