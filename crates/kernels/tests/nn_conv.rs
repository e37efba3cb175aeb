//! Convolution against plain float64 loops, central differences, and itself on other thread counts.

use candle_core::{DType, Device, Tensor, Var};
use kernels::Error;
use kernels::nn::{Conv2dConfig, Flow, conv2d};
use random::{Axis, Seeds, Stream};
use testkit::gradient::directional_error;
use testkit::tolerance::{CLOSE_SUM_F32, FINITE_DIFFERENCE, IDENTITY_F64, ORACLE_F32, PLAIN_SUM_F32, assert_close};

/// One problem: sizes and how the kernel moves.
#[derive(Debug, Clone, Copy)]
struct Problem {
    x: [usize; 4],
    w: [usize; 4],
    config: Conv2dConfig,
    bias: bool,
}

fn problem(x: [usize; 4], w: [usize; 4], [stride, padding, dilation, groups]: [usize; 4], bias: bool) -> Problem {
    Problem { x, w, config: Conv2dConfig { stride, padding, dilation, groups, ..Conv2dConfig::default() }, bias }
}

fn problems() -> Vec<Problem> {
    vec![
        problem([2, 3, 7, 5], [4, 3, 3, 3], [1, 1, 1, 1], true),
        problem([3, 3, 17, 13], [5, 3, 7, 7], [2, 3, 1, 1], false),
        problem([1, 2, 1, 1], [3, 2, 1, 1], [1, 0, 1, 1], true),
        problem([9, 4, 5, 6], [6, 4, 1, 1], [1, 0, 1, 1], false),
        problem([9, 4, 5, 6], [6, 4, 1, 1], [2, 0, 1, 1], true),
        problem([2, 4, 9, 8], [6, 2, 3, 2], [3, 2, 2, 2], true),
        problem([17, 6, 8, 8], [4, 3, 3, 3], [1, 1, 1, 2], false),
        problem([2, 5, 9, 7], [5, 1, 3, 3], [1, 1, 1, 5], true),
        problem([3, 3, 8, 9], [6, 1, 5, 3], [2, 2, 2, 3], false),
        problem([1, 2, 20, 19], [3, 2, 3, 3], [4, 0, 3, 1], false),
        problem([2, 3, 4, 4], [2, 3, 6, 6], [1, 1, 1, 1], false),
        problem([4, 4, 6, 6], [4, 2, 1, 1], [1, 0, 1, 2], true),
        // 1×1 on small maps, merged over the batch, in more than one task; on maps too large for that.
        problem([3, 5, 3, 4], [300, 5, 1, 1], [1, 0, 1, 1], true),
        problem([2, 140, 2, 3], [3, 140, 1, 1], [1, 0, 1, 1], false),
        problem([2, 3, 12, 11], [4, 3, 1, 1], [1, 0, 1, 1], true),
        // Of the pixels that a stride meets, in groups too.
        problem([2, 4, 7, 5], [6, 2, 1, 1], [3, 0, 1, 2], true),
        problem([2, 3, 25, 24], [5, 3, 1, 1], [2, 0, 1, 1], false),
        // Large enough for minimal filters.
        problem([4, 64, 37, 31], [72, 64, 3, 3], [1, 1, 1, 1], true),
        // Depthwise: rows of one vector, of two, of more than four; turned round with and without padding.
        problem([2, 3, 7, 14], [3, 1, 5, 5], [1, 2, 1, 3], true),
        problem([1, 2, 5, 37], [2, 1, 7, 7], [1, 3, 1, 2], false),
        problem([2, 2, 9, 9], [2, 1, 3, 3], [1, 0, 2, 2], true),
        problem([1, 2, 6, 7], [2, 1, 3, 3], [1, 3, 1, 2], false),
        problem([2, 3, 11, 35], [3, 1, 5, 5], [2, 2, 1, 3], true),
    ]
}

fn draw(n: usize, stream: &mut Stream) -> Vec<f64> {
    // Representable in float32, so that both dtypes are given the same problem.
    (0..n).map(|_| f64::from(stream.normal() as f32)).collect()
}

struct Data {
    x: Vec<f64>,
    w: Vec<f64>,
    b: Vec<f64>,
}

impl Problem {
    fn data(&self, index: usize) -> Data {
        let mut stream = Seeds::new(11).stream(Axis::Test, &[index as u64]);
        let bias = if self.bias { self.w[0] } else { 0 };
        let (x, w) = (self.x.iter().product(), self.w.iter().product());
        Data { x: draw(x, &mut stream), w: draw(w, &mut stream), b: draw(bias, &mut stream) }
    }

    fn output(&self) -> [usize; 4] {
        let size = |n, k| self.config.output_size(n, k).expect("the kernel fits");
        [self.x[0], self.w[0], size(self.x[2], self.w[2]), size(self.x[3], self.w[3])]
    }

    /// Calls `f(index in y, index in x, index in w)` for every product of the definition.
    fn each_product(&self, mut f: impl FnMut(usize, usize, usize)) {
        let ([batch, c_in, h, w], [c_out, cg, kh, kw]) = (self.x, self.w);
        let [_, _, oh, ow] = self.output();
        let Conv2dConfig { stride, padding, dilation, groups, .. } = self.config;
        for (b, o, p, q) in itertools4(batch, c_out, oh, ow) {
            for (c, i, j, _) in itertools4(cg, kh, kw, 1) {
                let (y, x) = (p * stride + i * dilation, q * stride + j * dilation);
                if y < padding || x < padding || y - padding >= h || x - padding >= w {
                    continue;
                }
                let channel = o / (c_out / groups) * cg + c;
                let at = ((b * c_in + channel) * h + y - padding) * w + x - padding;
                f(((b * c_out + o) * oh + p) * ow + q, at, ((o * cg + c) * kh + i) * kw + j);
            }
        }
    }

    fn naive(&self, data: &Data) -> Vec<f64> {
        let [_, c_out, oh, ow] = self.output();
        let mut y = vec![0.0; self.output().iter().product()];
        if self.bias {
            y.iter_mut().enumerate().for_each(|(at, y)| *y = data.b[at / (oh * ow) % c_out]);
        }
        self.each_product(|y_at, x_at, w_at| y[y_at] += data.x[x_at] * data.w[w_at]);
        y
    }

    fn run(&self, data: &Data, dtype: DType) -> (Vec<f64>, [Vec<f64>; 3]) {
        let device = Device::Cpu;
        let var = |v: &[f64], shape: &[usize]| {
            Var::from_tensor(&Tensor::from_slice(v, shape, &device).unwrap().to_dtype(dtype).unwrap()).unwrap()
        };
        let (x, w) = (var(&data.x, &self.x), var(&data.w, &self.w));
        let b = self.bias.then(|| var(&data.b, &[self.w[0]]));
        let y = conv2d(&x, &w, b.as_ref().map(|b| b.as_tensor()), self.config).unwrap();
        assert_eq!(y.dims(), self.output());
        let cotangent = Tensor::from_vec(self.cotangent(), &self.output(), &device).unwrap().to_dtype(dtype).unwrap();
        let grads = (&y * cotangent).unwrap().sum_all().unwrap().backward().unwrap();
        let gb = b.map(|b| values(grads.get(&b).unwrap())).unwrap_or_default();
        (values(&y), [values(grads.get(&x).unwrap()), values(grads.get(&w).unwrap()), gb])
    }

    fn cotangent(&self) -> Vec<f64> {
        draw(self.output().iter().product(), &mut Seeds::new(12).stream(Axis::Test, &[]))
    }
}

fn itertools4(a: usize, b: usize, c: usize, d: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..a * b * c * d).map(move |n| (n / (b * c * d), n / (c * d) % b, n / d % c, n % d))
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn values_and_gradients_are_those_of_the_definition() {
    for (index, problem) in problems().into_iter().enumerate() {
        let data = problem.data(index);
        let want = problem.naive(&data);
        let g = problem.cotangent();
        let (mut gx, mut gw) = (vec![0.0; data.x.len()], vec![0.0; data.w.len()]);
        problem.each_product(|y, x, w| {
            gx[x] += g[y] * data.w[w];
            gw[w] += g[y] * data.x[x];
        });
        let [_, c_out, oh, ow] = problem.output();
        let mut gb = vec![0.0; data.b.len()];
        if problem.bias {
            g.iter().enumerate().for_each(|(at, g)| gb[at / (oh * ow) % c_out] += g);
        }
        for (dtype, value, gradient) in
            [(DType::F64, IDENTITY_F64, IDENTITY_F64), (DType::F32, ORACLE_F32.value, ORACLE_F32.gradient)]
        {
            let (y, grads) = problem.run(&data, dtype);
            assert_close(&format!("{problem:?} {dtype:?} y"), &y, &want, want.len(), value);
            for (name, got, want) in [("x", &grads[0], &gx), ("w", &grads[1], &gw), ("b", &grads[2], &gb)] {
                if !want.is_empty() {
                    assert_close(&format!("{problem:?} {dtype:?} ∂{name}"), got, want, want.len(), gradient);
                }
            }
        }
    }
}

#[test]
fn gradients_are_central_differences() {
    for (index, problem) in problems().into_iter().enumerate() {
        let data = problem.data(index);
        let (_, [gx, gw, gb]) = problem.run(&data, DType::F64);
        let g = problem.cotangent();
        let mut stream = Seeds::new(13).stream(Axis::Test, &[index as u64]);
        let point: Vec<f64> = data.x.iter().chain(&data.w).chain(&data.b).copied().collect();
        let gradient: Vec<f64> = [gx, gw, gb].concat();
        let mut f = |p: &[f64]| {
            let (x, rest) = p.split_at(data.x.len());
            let (w, b) = rest.split_at(data.w.len());
            let device = Device::Cpu;
            let x = Tensor::from_slice(x, &problem.x, &device).unwrap();
            let w = Tensor::from_slice(w, &problem.w, &device).unwrap();
            let b = problem.bias.then(|| Tensor::from_slice(b, problem.w[0], &device).unwrap());
            let y = conv2d(&x, &w, b.as_ref(), problem.config).unwrap();
            values(&y).iter().zip(&g).map(|(y, g)| y * g).sum()
        };
        let error = directional_error(&mut f, &point, &gradient, 1e-5, 3, &mut stream);
        assert!(error < FINITE_DIFFERENCE, "{problem:?}: {error:.2e}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let with_threads = |n: usize, problem: &Problem, data: &Data| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        pool.install(|| problem.run(data, DType::F32))
    };
    for (index, problem) in problems().into_iter().enumerate() {
        let data = problem.data(index);
        let one = with_threads(1, &problem, &data);
        for threads in [2, 5] {
            assert_eq!(one, with_threads(threads, &problem, &data), "{problem:?} on {threads} threads");
        }
    }
}

/// `‖got − want‖ / ‖want‖`.
fn relative_error(got: &[f64], want: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(g, w)| g - w)) / norm(&mut want.iter().copied())
}

#[test]
fn float32_sums_lose_no_accuracy_with_depth() {
    // Whole and cut panels, tiles of all heights, a single block of depth, and several that hand on what rounding left over;
    // plain sums have an error of 1.9e-7 at 576 products and of 4e-7 at 4608.
    let problems = [
        problem([2, 64, 9, 11], [23, 64, 1, 1], [1, 0, 1, 1], true),
        problem([1, 64, 9, 20], [31, 64, 3, 3], [1, 1, 1, 1], false),
        problem([2, 512, 4, 5], [19, 512, 3, 3], [1, 1, 1, 1], false),
        problem([3, 2048, 2, 4], [41, 2048, 1, 1], [1, 0, 1, 1], false),
        problem([1, 100, 13, 13], [14, 50, 5, 5], [2, 2, 1, 2], false),
        problem([1, 700, 1, 8], [4, 700, 1, 5], [1, 0, 1, 1], false),
    ];
    #[cfg(target_arch = "x86_64")]
    let accurate = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let accurate = false;
    let bar = if accurate { CLOSE_SUM_F32 } else { PLAIN_SUM_F32 };
    for (index, problem) in problems.iter().enumerate() {
        let data = problem.data(100 + index);
        let error = relative_error(&problem.run(&data, DType::F32).0, &problem.naive(&data));
        assert!(error < bar, "{problem:?}: {error:e}");
    }
}

#[test]
fn plain_sums_are_those_of_arguments_that_nobody_tracks() {
    for (index, problem) in problems().into_iter().enumerate() {
        let data = problem.data(index);
        let tensor = |v: &[f64], shape: &[usize]| {
            Tensor::from_slice(v, shape, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
        };
        let (x, w) = (tensor(&data.x, &problem.x), tensor(&data.w, &problem.w));
        let want = values(&conv2d(&x, &w, None, problem.config).unwrap());
        let x = Var::from_tensor(&x).unwrap();
        let plain = Conv2dConfig { accurate: false, ..problem.config };
        assert_eq!(values(&conv2d(&x, &w, None, plain).unwrap()), want, "{problem:?}");
        let flow = Flow::of(x.as_tensor()).unwrap().conv2d(&w, None, plain).unwrap();
        assert_eq!(values(&flow.tensor().unwrap()), want, "{problem:?} in a flow");
    }
}

#[test]
fn a_gradient_that_is_tracked_alone_is_the_same() {
    for (index, problem) in problems().into_iter().enumerate() {
        let data = problem.data(index);
        for dtype in [DType::F32, DType::F64] {
            let (_, [gx, gw, _]) = problem.run(&data, dtype);
            let tensor = |v: &[f64], shape: &[usize]| {
                Tensor::from_slice(v, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
            };
            let (x, w) = (tensor(&data.x, &problem.x), tensor(&data.w, &problem.w));
            let cotangent = tensor(&problem.cotangent(), &problem.output());
            let gradient = |y: Tensor, of: &Var| {
                let grads = (y * &cotangent).unwrap().sum_all().unwrap().backward().unwrap();
                values(grads.get(of).unwrap())
            };
            let (vx, vw) = (Var::from_tensor(&x).unwrap(), Var::from_tensor(&w).unwrap());
            let alone = gradient(conv2d(&vx, &w, None, problem.config).unwrap(), &vx);
            assert_eq!(alone, gx, "{problem:?} {dtype:?} ∂x");
            let alone = gradient(conv2d(&x, &vw, None, problem.config).unwrap(), &vw);
            assert_eq!(alone, gw, "{problem:?} {dtype:?} ∂w");
        }
    }
}

#[test]
fn strided_arguments_are_read_where_they_are() {
    let problem = problem([2, 3, 6, 5], [4, 3, 3, 3], [1, 1, 1, 1], false);
    let data = problem.data(0);
    let device = Device::Cpu;
    let x = Tensor::from_slice(&data.x, &problem.x, &device).unwrap();
    let w = Tensor::from_slice(&data.w, &problem.w, &device).unwrap();
    let want = conv2d(&x, &w, None, problem.config).unwrap();
    // The same numbers behind a transposition, and behind an offset.
    let strided = x.transpose(1, 3).unwrap().contiguous().unwrap().transpose(1, 3).unwrap();
    let offset = Tensor::cat(&[&w, &w], 0).unwrap().narrow(0, 4, 4).unwrap();
    assert!(!strided.is_contiguous());
    let got = conv2d(&strided, &offset, None, problem.config).unwrap();
    assert_eq!(values(&got), values(&want));
    // A cotangent that is broadcast reaches the backward pass without its own memory.
    let var = Var::from_tensor(&x).unwrap();
    let sum = conv2d(&var, &w, None, problem.config).unwrap().sum_all().unwrap().backward().unwrap();
    let ones = (conv2d(&var, &w, None, problem.config).unwrap() * want.ones_like().unwrap()).unwrap();
    let explicit = ones.sum_all().unwrap().backward().unwrap();
    assert_eq!(values(sum.get(&var).unwrap()), values(explicit.get(&var).unwrap()));
}

#[test]
fn what_does_not_fit_is_refused() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let run = |x: &[usize], w: &[usize], config| conv2d(&zeros(x), &zeros(w), None, config);
    let plain = Conv2dConfig::default();
    let shape_of = |result: kernels::Result<Tensor>| match result {
        Err(Error::Shape { name, .. }) => name,
        other => panic!("expected a shape error, got {other:?}"),
    };
    assert_eq!(shape_of(run(&[2, 3, 4], &[4, 3, 1, 1], plain)), "x");
    assert_eq!(shape_of(run(&[2, 3, 4, 4], &[4, 2, 1, 1], plain)), "weight");
    assert_eq!(shape_of(run(&[2, 3, 4, 4], &[4, 3, 5, 1], plain)), "x");
    assert_eq!(shape_of(run(&[2, 3, 4, 4], &[4, 3, 1, 1], Conv2dConfig { groups: 2, ..plain })), "x");
    assert_eq!(shape_of(run(&[2, 4, 4, 4], &[3, 2, 1, 1], Conv2dConfig { groups: 2, ..plain })), "weight");
    let bias = conv2d(&zeros(&[1, 3, 4, 4]), &zeros(&[4, 3, 1, 1]), Some(&zeros(&[3])), plain);
    assert_eq!(shape_of(bias), "bias");
    let stride = run(&[1, 3, 4, 4], &[4, 3, 1, 1], Conv2dConfig { stride: 0, ..plain });
    assert!(matches!(stride, Err(Error::Attribute { name: "stride", .. })), "{stride:?}");
    let double = Tensor::zeros((4, 3, 1, 1), DType::F64, &Device::Cpu).unwrap();
    assert!(matches!(conv2d(&zeros(&[1, 3, 4, 4]), &double, None, plain), Err(Error::Dtype { .. })));
}
