//! Values inside a network: numbers and gradients are those of the ops on tensors, wherever several ways meet.

use candle_core::{DType, Device, Tensor, Var};
use kernels::Error;
use kernels::nn::{self, Conv2dConfig, Flow};
use random::{Axis, Seeds};
use testkit::gradient::directional_error;
use testkit::tolerance::FINITE_DIFFERENCE;

const EPS: f64 = 1e-5;

fn draw(shape: &[usize], path: u64) -> Vec<f64> {
    let mut stream = Seeds::new(47).stream(Axis::Test, &[path]);
    (0..shape.iter().product()).map(|_| f64::from(stream.normal() as f32)).collect()
}

fn tensor(shape: &[usize], dtype: DType, path: u64) -> Tensor {
    Tensor::from_vec(draw(shape, path), shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

type OnTensors<'a> = dyn Fn(&[Tensor]) -> kernels::Result<Tensor> + Sync + 'a;
type OnFlows<'a> = dyn Fn(&[Flow], &[Tensor]) -> kernels::Result<Flow> + Sync + 'a;

/// An op, and what it takes: values inside the network first, then parameters.
struct Case<'a> {
    name: &'a str,
    flows: Vec<Vec<usize>>,
    parameters: Vec<Vec<usize>>,
    on_tensors: &'a OnTensors<'a>,
    on_flows: &'a OnFlows<'a>,
}

impl Case<'_> {
    fn vars(&self, dtype: DType) -> Vec<Var> {
        let shapes = self.flows.iter().chain(&self.parameters);
        shapes.zip(1..).map(|(shape, path)| Var::from_tensor(&tensor(shape, dtype, path)).unwrap()).collect()
    }

    /// Result, and gradients of its inner product with a constant, through both.
    fn run(&self, dtype: DType, by_flows: bool) -> (Vec<f64>, Vec<Vec<f64>>) {
        let vars = self.vars(dtype);
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let y = if by_flows {
            let (flows, parameters) = tensors.split_at(self.flows.len());
            let flows: Vec<Flow> = flows.iter().map(|t| Flow::of(t).unwrap()).collect();
            (self.on_flows)(&flows, parameters).unwrap().tensor().unwrap()
        } else {
            (self.on_tensors)(&tensors).unwrap()
        };
        let g = tensor(y.dims(), dtype, 99);
        let grads = (&y * g).unwrap().sum_all().unwrap().backward().unwrap();
        (values(&y), vars.iter().map(|v| values(grads.get(v).expect("a gradient"))).collect())
    }

    fn check(&self) {
        for dtype in [DType::F32, DType::F64] {
            let on_threads = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| self.run(dtype, true))
            };
            let want = self.run(dtype, false);
            assert!(want.1.iter().flatten().any(|g| *g != 0.0), "{}: every gradient is zero", self.name);
            assert_eq!(on_threads(1), want, "{} in {dtype:?}, one thread", self.name);
            assert_eq!(on_threads(3), want, "{} in {dtype:?}, three threads", self.name);
        }
    }
}

fn check<'a>(
    name: &'a str,
    flows: &[&[usize]],
    parameters: &[&[usize]],
    on_tensors: &'a OnTensors<'a>,
    on_flows: &'a OnFlows<'a>,
) {
    let shapes = |all: &[&[usize]]| all.iter().map(|shape| shape.to_vec()).collect();
    Case { name, flows: shapes(flows), parameters: shapes(parameters), on_tensors, on_flows }.check();
}

#[test]
fn maps_have_the_numbers_of_the_ops_on_tensors() {
    let map: &[usize] = &[3, 4, 7, 5];
    let odd = Conv2dConfig { stride: 2, padding: 1, ..Conv2dConfig::default() };
    let grouped = Conv2dConfig { padding: 2, dilation: 2, groups: 2, ..Conv2dConfig::default() };
    let depthwise = Conv2dConfig { padding: 1, groups: 4, ..Conv2dConfig::default() };
    for (config, weight) in [(odd, [5, 4, 3, 3]), (grouped, [6, 2, 3, 3]), (depthwise, [4, 1, 3, 3])] {
        let bias = [weight[0]];
        check("conv2d", &[map], &[&weight, &bias], &|t| nn::conv2d(&t[0], &t[1], Some(&t[2]), config), &|x, p| {
            x[0].conv2d(&p[0], Some(&p[1]), config)
        });
        check("conv2d, no bias", &[map], &[&weight], &|t| nn::conv2d(&t[0], &t[1], None, config), &|x, p| {
            x[0].conv2d(&p[0], None, config)
        });
    }
    let pointwise = Conv2dConfig::default();
    check("1×1", &[map], &[&[6, 4, 1, 1]], &|t| nn::conv2d(&t[0], &t[1], None, pointwise), &|x, p| {
        x[0].conv2d(&p[0], None, pointwise)
    });
    check("max_pool2d", &[map], &[], &|t| nn::max_pool2d(&t[0], 3, 2, 1), &|x, _| x[0].max_pool2d(3, 2, 1));
    check("layer_norm_map", &[map], &[&[4], &[4]], &|t| nn::layer_norm_map(&t[0], &t[1], &t[2], EPS), &|x, p| {
        x[0].layer_norm_map(&p[0], &p[1], EPS)
    });
    check("global_mean", &[map], &[], &|t| nn::global_mean(&t[0]), &|x, _| x[0].global_mean());
    check("gated", &[map, &[3, 4]], &[], &|t| nn::gated(&t[0], &t[1]), &|x, _| x[0].gated(&x[1]));
    check("scaled_residual", &[map, map], &[&[4]], &|t| nn::scaled_residual(&t[0], &t[1], &t[2]), &|x, p| {
        x[0].scaled_residual(&x[1], &p[0])
    });
    check("relu", &[map], &[], &|t| nn::relu(&t[0]), &|x, _| x[0].relu());
    check("silu", &[map], &[], &|t| nn::silu(&t[0]), &|x, _| x[0].silu());
    check("add_relu", &[map, map], &[], &|t| nn::add_relu(&t[0], &t[1]), &|x, _| x[0].add_relu(&x[1]));
    check("add", &[map, map], &[], &|t| Ok((&t[0] + &t[1])?), &|x, _| x[0].add(&x[1]));
}

#[test]
fn batch_norms_have_the_numbers_of_the_ops_on_tensors() {
    let map: &[usize] = &[3, 4, 7, 5];
    for relu in [false, true] {
        let train = if relu { nn::batch_norm_relu_train } else { nn::batch_norm_train };
        check("train", &[map], &[&[4], &[4]], &|t| Ok(train(&t[0], &t[1], &t[2], EPS)?.y), &|x, p| {
            Ok(x[0].batch_norm_train(&p[0], &p[1], EPS, relu)?.y)
        });
        let eval = if relu { nn::batch_norm_relu_eval } else { nn::batch_norm_eval };
        let given = |like: &Tensor| {
            let mean = tensor(&[4], like.dtype(), 7);
            [mean.clone(), (mean.sqr().unwrap() + 0.5).unwrap()]
        };
        let on_tensors = |t: &[Tensor]| {
            let [mean, var] = given(&t[0]);
            eval(&t[0], &t[1], &t[2], &mean, &var, EPS)
        };
        check("eval", &[map], &[&[4], &[4]], &on_tensors, &|x, p| {
            let [mean, var] = given(&p[0]);
            x[0].batch_norm_eval(&p[0], &p[1], [&mean, &var], EPS, relu)
        });
    }
    let x = tensor(map, DType::F64, 1);
    let [gamma, beta] = [2, 3].map(|path| tensor(&[4], DType::F64, path));
    let want = nn::batch_norm_train(&x, &gamma, &beta, EPS).unwrap();
    let got = Flow::of(&x).unwrap().batch_norm_train(&gamma, &beta, EPS, false).unwrap();
    assert_eq!(got.moments.read().unwrap(), want.moments.read().unwrap());
    assert_eq!(got.moments.count(), want.moments.count());
}

#[test]
fn tokens_have_the_numbers_of_the_ops_on_tensors() {
    let tokens: &[usize] = &[3, 5, 12];
    check("linear", &[tokens], &[&[7, 12], &[7]], &|t| nn::linear(&t[0], &t[1], &t[2]), &|x, p| {
        x[0].linear(&p[0], &p[1])
    });
    // More tokens and outputs than one piece has.
    check("long linear", &[&[1001, 6]], &[&[397, 6], &[397]], &|t| nn::linear(&t[0], &t[1], &t[2]), &|x, p| {
        x[0].linear(&p[0], &p[1])
    });
    check("layer_norm", &[tokens], &[&[12], &[12]], &|t| nn::layer_norm(&t[0], &t[1], &t[2], EPS), &|x, p| {
        x[0].layer_norm(&p[0], &p[1], EPS)
    });
    check("attention", &[tokens], &[], &|t| nn::attention(&t[0], 2), &|x, _| x[0].attention(2));
    check("gelu", &[tokens], &[], &|t| nn::gelu(&t[0]), &|x, _| x[0].gelu());
}

#[test]
fn a_mask_has_the_shape_of_the_value_or_a_number_an_image() {
    let shape: &[usize] = &[3, 5, 4];
    for mask_shape in [vec![3, 5, 4], vec![3, 1, 1]] {
        let mask = |like: DType| tensor(&mask_shape, like, 17);
        let on_tensors = |t: &[Tensor]| Ok(t[0].broadcast_mul(&mask(t[0].dtype()))?);
        check("masked", &[shape], &[], &on_tensors, &|x, _| x[0].masked(&mask(x[0].value().dtype())));
    }
    let x = Flow::of(&tensor(shape, DType::F32, 1)).unwrap();
    let refused = x.masked(&tensor(&[1, 5, 1], DType::F32, 2));
    assert!(matches!(refused, Err(Error::Shape { op: "masked", name: "mask", .. })), "{refused:?}");
    assert!(matches!(x.masked(&tensor(shape, DType::F64, 2)), Err(Error::Dtype { op: "masked", .. })));
    let refused = x.add(&Flow::of(&tensor(&[3, 5], DType::F32, 2)).unwrap());
    assert!(matches!(refused, Err(Error::Shape { op: "add", name: "b", .. })), "{refused:?}");
}

/// A block with several consumers of its values: the input goes three ways, the hidden map two.
fn block(x: &Tensor, weight: &Tensor, gamma: &Tensor, beta: &Tensor) -> Tensor {
    let x = Flow::of(x).unwrap();
    let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
    let hidden = x.conv2d(weight, None, config).unwrap().batch_norm_train(gamma, beta, EPS, false).unwrap().y;
    let gate = hidden.global_mean().unwrap();
    let y = hidden.gated(&gate).unwrap().add(&x).unwrap();
    y.scaled_residual(&x.silu().unwrap(), gamma).unwrap().tensor().unwrap()
}

#[test]
fn where_ways_meet_gradients_are_central_differences() {
    let shapes: [&[usize]; 4] = [&[2, 3, 5, 4], &[3, 3, 3, 3], &[3], &[3]];
    let inputs: Vec<Vec<f64>> = shapes.iter().zip(1..).map(|(shape, path)| draw(shape, path)).collect();
    let run = |inputs: &[Vec<f64>]| {
        let var = |(v, shape): (&Vec<f64>, &&[usize])| {
            Var::from_tensor(&Tensor::from_slice(v, *shape, &Device::Cpu).unwrap()).unwrap()
        };
        let vars: Vec<Var> = inputs.iter().zip(&shapes).map(var).collect();
        let y = block(&vars[0], &vars[1], &vars[2], &vars[3]);
        let loss = (&y * tensor(y.dims(), DType::F64, 99)).unwrap().sum_all().unwrap();
        (vars, loss)
    };
    let (vars, loss) = run(&inputs);
    let grads = loss.backward().unwrap();
    let mut stream = Seeds::new(5).stream(Axis::Test, &[]);
    for (at, var) in vars.iter().enumerate() {
        let mut f = |x: &[f64]| {
            let mut inputs = inputs.clone();
            inputs[at] = x.to_vec();
            run(&inputs).1.to_scalar::<f64>().unwrap()
        };
        let error = directional_error(&mut f, &inputs[at], &values(grads.get(var).unwrap()), 1e-5, 3, &mut stream);
        assert!(error < FINITE_DIFFERENCE, "gradient {at} is off by {error:.2e}");
    }
    // A second pass through the same graph finds nothing that the first one left.
    let again = loss.backward().unwrap();
    for var in &vars {
        assert_eq!(values(again.get(var).unwrap()), values(grads.get(var).unwrap()));
    }
}

#[test]
fn what_nobody_trains_gets_no_gradient_and_leaves_no_graph() {
    let [x, weight, bias] = [(&[4, 6][..], 1), (&[5, 6], 2), (&[5], 3)].map(|(s, path)| tensor(s, DType::F32, path));
    let y = Flow::of(&x).unwrap().linear(&weight, &bias).unwrap().tensor().unwrap();
    assert!(!y.track_op());
    assert_eq!(values(&y), values(&nn::linear(&x, &weight, &bias).unwrap()));
    // A parameter behind constants is trained; the constants are not.
    let bias = Var::from_tensor(&bias).unwrap();
    let y = Flow::of(&x).unwrap().linear(&weight, &bias).unwrap().relu().unwrap().tensor().unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(grads.get_ids().count(), 1);
    let want = nn::relu(&nn::linear(&x, &weight, &bias).unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(values(grads.get(&bias).unwrap()), values(want.get(&bias).unwrap()));
}

#[test]
fn a_tensor_that_comes_and_goes_keeps_its_history() {
    let x = Var::from_tensor(&tensor(&[3, 4], DType::F64, 1)).unwrap();
    let strided = x.t().unwrap();
    let flow = Flow::of(&(strided * 2.0).unwrap().t().unwrap()).unwrap();
    assert_eq!(flow.dims(), &[3, 4]);
    assert!(!flow.value().track_op());
    // It leaves twice, and both ways count.
    let y = (flow.tensor().unwrap() + flow.tensor().unwrap().sqr().unwrap()).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    let want: Vec<f64> = values(&x).iter().map(|x| 2.0 + 8.0 * x).collect();
    for (got, want) in values(grads.get(&x).unwrap()).iter().zip(want) {
        assert!((got - want).abs() < 1e-12 * want.abs().max(1.0), "{got}, expected {want}");
    }
}
