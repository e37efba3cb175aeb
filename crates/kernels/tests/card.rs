//! Training ops and optimisers on a card against the same on the CPU, and against themselves. Without a card they say so.
#![cfg(feature = "cuda")]

mod card_common;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use kernels::Result;
use kernels::nn::{self, Conv2dConfig, Flow};
use kernels::optim::{AdamW, AdamWConfig, Ema, Parameter, Sgd, SgdConfig, clip_scale, gradient_norm};
use random::{Axis, Seeds};
use testkit::tolerance::{ACTIVATIONS_BF16, ATTENTION_BF16, ORACLE_F32, ORACLE_F64, Tolerance, assert_close};

use card_common::card;

fn draw(shapes: &[&[usize]], path: u64) -> Vec<Vec<f64>> {
    let mut stream = Seeds::new(91).stream(Axis::Test, &[path]);
    shapes
        .iter()
        .map(|shape| (0..shape.iter().product()).map(|_| f64::from(stream.normal() as f32)).collect())
        .collect()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

type Op<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// The result and the gradients of all arguments for a fixed gradient of the result.
fn run(op: Op, shapes: &[&[usize]], dtype: DType, device: &Device) -> Vec<Vec<f64>> {
    let one = |(values, shape): (Vec<f64>, &&[usize])| {
        let tensor = Tensor::from_vec(values, *shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        Var::from_tensor(&tensor.to_device(device).unwrap()).unwrap()
    };
    let vars: Vec<Var> = draw(shapes, 0).into_iter().zip(shapes).map(one).collect();
    let args: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = op(&args).unwrap();
    let g = Tensor::from_vec(draw(&[y.dims()], 1).remove(0), y.shape(), &Device::Cpu).unwrap();
    let g = g.to_dtype(dtype).unwrap().to_device(device).unwrap();
    let grads = (&y * g).unwrap().sum_all().unwrap().backward().unwrap();
    let mut all = vec![values(&y)];
    all.extend(vars.iter().map(|var| values(grads.get(var.as_tensor()).unwrap())));
    all
}

/// An op on the card gives the CPU's numbers within the bars, and the same bits twice.
fn same(name: &str, card: &Device, shapes: &[&[usize]], op: Op) {
    for (dtype, Tolerance { value, gradient }) in [(DType::F32, ORACLE_F32), (DType::F64, ORACLE_F64)] {
        let want = run(op, shapes, dtype, &Device::Cpu);
        let got = run(op, shapes, dtype, card);
        for (index, (got, want)) in got.iter().zip(&want).enumerate() {
            let bar = if index == 0 { value } else { gradient };
            assert_close(&format!("{name} {shapes:?} {dtype:?}, {index}"), got, want, want.len(), bar);
        }
        assert!(got == run(op, shapes, dtype, card), "{name} {shapes:?} {dtype:?} gives other bits the second time");
    }
}

/// Numbers of a kind that bfloat16 holds, in `dtype`.
fn rounded(values: Vec<f64>, shape: &[usize], dtype: DType) -> Tensor {
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    tensor.to_dtype(DType::BF16).unwrap().to_dtype(dtype).unwrap()
}

/// The result and the gradients of all arguments in float32; `card` computes with bfloat16 activations, which the first
/// `activations` arguments are.
fn run_half(op: Op, shapes: &[&[usize]], activations: usize, card: Option<&Device>) -> Vec<Vec<f64>> {
    let device = card.unwrap_or(&Device::Cpu);
    let one = |(values, shape): (Vec<f64>, &&[usize])| {
        Var::from_tensor(&rounded(values, shape, DType::F32).to_device(device).unwrap()).unwrap()
    };
    let vars: Vec<Var> = draw(shapes, 0).into_iter().zip(shapes).map(one).collect();
    let arg = |(index, var): (usize, &Var)| {
        let half = card.is_some() && index < activations;
        nn::cast(var, if half { DType::BF16 } else { DType::F32 }).unwrap()
    };
    let args: Vec<Tensor> = vars.iter().enumerate().map(arg).collect();
    let y = op(&args).unwrap();
    assert_eq!(y.dtype(), args[0].dtype());
    let y = nn::cast(&y, DType::F32).unwrap();
    let g = rounded(draw(&[y.dims()], 1).remove(0), y.dims(), DType::F32).to_device(device).unwrap();
    let grads = (&y * g).unwrap().sum_all().unwrap().backward().unwrap();
    let mut all = vec![values(&y)];
    all.extend(vars.iter().map(|var| {
        let gradient = grads.get(var.as_tensor()).unwrap();
        assert_eq!(gradient.dtype(), DType::F32);
        values(gradient)
    }));
    all
}

/// An op with bfloat16 activations on the card gives the CPU's float32 numbers within bfloat16's bars, and the same bits twice.
fn same_half(name: &str, card: &Device, shapes: &[&[usize]], activations: usize, op: Op) {
    same_half_within(ACTIVATIONS_BF16, name, card, shapes, activations, op);
}

/// The same within other bars.
fn same_half_within(bars: Tolerance, name: &str, card: &Device, shapes: &[&[usize]], activations: usize, op: Op) {
    let want = run_half(op, shapes, activations, None);
    let got = run_half(op, shapes, activations, Some(card));
    let Tolerance { value, gradient } = bars;
    for (index, (got, want)) in got.iter().zip(&want).enumerate() {
        let bar = if index == 0 { value } else { gradient };
        assert_close(&format!("{name} {shapes:?} bfloat16, {index}"), got, want, want.len(), bar);
    }
    assert!(got == run_half(op, shapes, activations, Some(card)), "{name} {shapes:?} gives other bits the second time");
}

#[test]
fn bfloat16() {
    let Some(card) = card() else { return };
    let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
    let (x, c) = (&[3, 40, 14, 14][..], &[40][..]);
    same_half("conv2d", &card, &[x, &[64, 40, 3, 3], &[64]], 1, &|a| nn::conv2d(&a[0], &a[1], Some(&a[2]), config));
    let depthwise = Conv2dConfig { groups: 40, ..config };
    same_half("depthwise", &card, &[x, &[40, 1, 3, 3]], 1, &|a| nn::conv2d(&a[0], &a[1], None, depthwise));
    same_half("max_pool2d", &card, &[x], 1, &|a| nn::max_pool2d(&a[0], 3, 2, 1));
    same_half("batch_norm_train", &card, &[x, c, c], 1, &|a| Ok(nn::batch_norm_train(&a[0], &a[1], &a[2], 1e-5)?.y));
    same_half("batch_norm_relu_eval", &card, &[x, c, c], 1, &|a| {
        let running = Tensor::full(0.5f32, c, a[0].device())?;
        nn::batch_norm_relu_eval(&a[0], &a[1], &a[2], &running, &running, 1e-5)
    });
    same_half("layer_norm_map", &card, &[x, c, c], 1, &|a| nn::layer_norm_map(&a[0], &a[1], &a[2], 1e-5));
    same_half("global_mean", &card, &[x], 1, &|a| nn::global_mean(&a[0]));
    same_half("gated", &card, &[x, &x[..2]], 2, &|a| nn::gated(&a[0], &a[1]));
    same_half("scaled_residual", &card, &[x, x, c], 2, &|a| nn::scaled_residual(&a[0], &a[1], &a[2]));
    same_half("gelu", &card, &[x], 1, &|a| nn::gelu(&a[0]));
    same_half("silu", &card, &[x], 1, &|a| nn::silu(&a[0]));
    same_half("add", &card, &[x, x], 2, &|a| Flow::of(&a[0])?.add(&Flow::of(&a[1])?)?.tensor());
    same_half("masked", &card, &[x], 1, &|a| {
        let mask = Tensor::from_vec(vec![0.0f32, 1.25, 1.25], (3, 1, 1, 1), a[0].device())?;
        Flow::of(&a[0])?.masked(&mask)?.tensor()
    });
    let (x, c) = (&[2, 197, 96][..], &[96][..]);
    same_half("layer_norm", &card, &[x, c, c], 1, &|a| nn::layer_norm(&a[0], &a[1], &a[2], 1e-6));
    same_half("linear", &card, &[x, &[70, 96], &[70]], 1, &|a| nn::linear(&a[0], &a[1], &a[2]));
    same_half_within(ATTENTION_BF16, "attention", &card, &[&[2, 197, 3 * 96]], 1, &|a| nn::attention(&a[0], 3));
}

/// Running averages follow a batch on the card as on the CPU; only reading waits.
#[test]
fn running_averages() {
    let Some(card) = card() else { return };
    let sizes: [&[usize]; 5] = [&[4, 6, 5, 3], &[6], &[6], &[6], &[6]];
    for (dtype, bar) in [(DType::F32, ORACLE_F32.value), (DType::F64, ORACLE_F64.value)] {
        let followed = |device: &Device| {
            let vars: Vec<Var> = (draw(&sizes, 7).into_iter().zip(&sizes))
                .map(|(values, shape)| {
                    let tensor = Tensor::from_vec(values, *shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                    Var::from_tensor(&tensor.to_device(device).unwrap()).unwrap()
                })
                .collect();
            let moments = nn::batch_norm_train(&vars[0], &vars[1], &vars[2], 1e-5).unwrap().moments;
            moments.follow(&vars[3], &vars[4], 0.1).unwrap();
            let mut all = moments.read().unwrap().concat();
            all.extend([&vars[3], &vars[4]].into_iter().flat_map(|v| values(v)));
            all
        };
        let (got, want) = (followed(&card), followed(&Device::Cpu));
        assert_close(&format!("{dtype:?}"), &got, &want, want.len(), bar);
    }
}

#[test]
fn convolutions() {
    let Some(card) = card() else { return };
    let problems: [(&[usize], &[usize], [usize; 4]); 8] = [
        (&[2, 3, 17, 13], &[5, 3, 7, 7], [2, 3, 1, 1]),
        (&[2, 64, 14, 14], &[96, 64, 3, 3], [1, 1, 1, 1]),
        (&[4, 32, 9, 9], &[130, 32, 1, 1], [1, 0, 1, 1]),
        (&[4, 32, 9, 9], &[70, 32, 1, 1], [2, 0, 1, 1]),
        (&[2, 4, 9, 8], &[6, 2, 3, 2], [3, 2, 2, 2]),
        (&[2, 16, 12, 11], &[16, 1, 5, 5], [1, 2, 1, 16]),
        (&[3, 3, 8, 9], &[6, 1, 5, 3], [2, 2, 2, 3]),
        (&[16, 8, 28, 28], &[8, 8, 3, 3], [1, 1, 1, 1]),
    ];
    for (x, w, [stride, padding, dilation, groups]) in problems {
        let config = Conv2dConfig { stride, padding, dilation, groups, ..Conv2dConfig::default() };
        same("conv2d", &card, &[x, w, &w[..1]], &|a| nn::conv2d(&a[0], &a[1], Some(&a[2]), config));
        same("conv2d", &card, &[x, w], &|a| nn::conv2d(&a[0], &a[1], None, config));
    }
}

#[test]
fn ops_on_maps() {
    let Some(card) = card() else { return };
    for x in [&[2, 3, 9, 7][..], &[3, 40, 14, 14], &[16, 2, 30, 31]] {
        let (c, gate) = (&x[1..2], &x[..2]);
        same("max_pool2d", &card, &[x], &|a| nn::max_pool2d(&a[0], 3, 2, 1));
        same("batch_norm_train", &card, &[x, c, c], &|a| Ok(nn::batch_norm_train(&a[0], &a[1], &a[2], 1e-5)?.y));
        same("batch_norm_relu_train", &card, &[x, c, c], &|a| {
            Ok(nn::batch_norm_relu_train(&a[0], &a[1], &a[2], 1e-5)?.y)
        });
        same("batch_norm_relu_eval", &card, &[x, c, c], &|a| {
            let running = Tensor::full(0.5, c, a[0].device())?.to_dtype(a[0].dtype())?;
            nn::batch_norm_relu_eval(&a[0], &a[1], &a[2], &running, &running, 1e-5)
        });
        same("layer_norm_map", &card, &[x, c, c], &|a| nn::layer_norm_map(&a[0], &a[1], &a[2], 1e-5));
        same("global_mean", &card, &[x], &|a| nn::global_mean(&a[0]));
        same("gated", &card, &[x, gate], &|a| nn::gated(&a[0], &a[1]));
        same("scaled_residual", &card, &[x, x, c], &|a| nn::scaled_residual(&a[0], &a[1], &a[2]));
        same("relu", &card, &[x], &|a| nn::relu(&a[0]));
        same("gelu", &card, &[x], &|a| nn::gelu(&a[0]));
        same("silu", &card, &[x], &|a| nn::silu(&a[0]));
        same("add_relu", &card, &[x, x], &|a| nn::add_relu(&a[0], &a[1]));
    }
}

#[test]
fn ops_on_tokens() {
    let Some(card) = card() else { return };
    for (tokens, channels) in [(5, 12), (197, 96)] {
        let (x, c) = (&[2, tokens, channels][..], &[channels][..]);
        same("layer_norm", &card, &[x, c, c], &|a| nn::layer_norm(&a[0], &a[1], &a[2], 1e-6));
        same("linear", &card, &[x, &[70, channels], &[70]], &|a| nn::linear(&a[0], &a[1], &a[2]));
        same("attention", &card, &[&[2, tokens, 3 * channels]], &|a| nn::attention(&a[0], 3));
    }
}

/// Arguments that are not contiguous, and one that begins in the middle of its memory.
#[test]
fn views() {
    let Some(card) = card() else { return };
    let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
    same("conv2d of views", &card, &[&[4, 7, 6, 3], &[5, 3, 3, 3]], &|a| {
        nn::conv2d(&a[0].permute((0, 3, 1, 2))?.narrow(0, 1, 2)?, &a[1].transpose(2, 3)?, None, config)
    });
}

const SIZES: [&[usize]; 3] = [&[3, 2, 3, 3], &[5], &[40, 300]];

/// What three clipped steps of the optimisers and of an average leave, with a parameter that has no gradient once.
fn trained(dtype: DType, device: &Device) -> Vec<f64> {
    let tensor = |(values, shape): (Vec<f64>, &&[usize])| {
        let tensor = Tensor::from_vec(values, *shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        tensor.to_device(device).unwrap()
    };
    let mut left = Vec::new();
    for which in 0..2 {
        let start: Vec<Tensor> = draw(&SIZES, 2).into_iter().zip(&SIZES).map(tensor).collect();
        let one = |(k, start): (usize, &Tensor)| Parameter::new(k.to_string(), Var::from_tensor(start).unwrap());
        let params: Vec<Parameter> = start.iter().enumerate().map(one).collect();
        let named = || -> BTreeMap<String, Tensor> {
            params.iter().map(|p| (p.name.clone(), p.var.as_detached_tensor())).collect()
        };
        let mut average = Ema::new(&named()).unwrap();
        let mut adam = AdamW::new(params.clone(), AdamWConfig::default()).unwrap();
        let config = SgdConfig { learning_rate: 0.01, momentum: 0.9, weight_decay: 0.01, nesterov: true };
        let mut descent = Sgd::new(params.clone(), config).unwrap();
        for step in 0..3 {
            let gradients: Vec<Tensor> = draw(&SIZES, 3 + step).into_iter().zip(&SIZES).map(tensor).collect();
            let terms = params.iter().zip(&gradients).skip(usize::from(step == 1));
            let terms = terms.map(|(p, g)| (p.var.as_tensor() * g).unwrap().sum_all().unwrap());
            let grads = terms.reduce(|a, b| (a + b).unwrap()).unwrap().backward().unwrap();
            let known = gradient_norm(&params, &grads).unwrap();
            let most = [Some(5.0), None][usize::from(step == 2)];
            let norm = match which {
                0 => adam.step_clipped(&grads, 0.01, most).unwrap(),
                _ => descent.step_clipped(&grads, 0.01, most).unwrap(),
            };
            left.extend([known, norm.value().unwrap()]);
            match which {
                0 => adam.step_scaled(&grads, 0.01, clip_scale(known, 5.0).unwrap()).unwrap(),
                _ => descent.step_scaled(&grads, 0.01, clip_scale(known, 5.0).unwrap()).unwrap(),
            }
            average.update(&named(), 0.9).unwrap();
        }
        left.extend(params.iter().flat_map(|p| values(&p.var)));
        left.extend(average.tensors().values().flat_map(values));
        let states = adam.state().into_values().chain(descent.state().into_values());
        left.extend(states.filter(|t| t.dtype() == dtype).flat_map(|t| values(&t)));
    }
    left
}

#[test]
fn optimisers() {
    let Some(card) = card() else { return };
    for (dtype, bar) in [(DType::F32, ORACLE_F32.value), (DType::F64, ORACLE_F64.value)] {
        let (got, want) = (trained(dtype, &card), trained(dtype, &Device::Cpu));
        assert_close(&format!("{dtype:?}"), &got, &want, want.len(), bar);
        assert!(got == trained(dtype, &card), "{dtype:?} gives other bits the second time");
    }
}

/// Gradients that are not finite change neither parameters nor state, on the card as on the CPU.
#[test]
fn divergence() {
    let Some(card) = card() else { return };
    for bad in [f32::NAN, f32::INFINITY] {
        let start = Tensor::from_vec(vec![1.0f32, 2.0, 3.0], 3, &card).unwrap();
        let params = vec![Parameter::new("p", Var::from_tensor(&start).unwrap())];
        let g = Tensor::from_vec(vec![1.0f32, bad, 1.0], 3, &card).unwrap();
        let grads = (params[0].var.as_tensor() * g).unwrap().sum_all().unwrap().backward().unwrap();
        let mut adam = AdamW::new(params.clone(), AdamWConfig::default()).unwrap();
        let config = SgdConfig { learning_rate: 0.01, momentum: 0.9, weight_decay: 0.01, nesterov: true };
        let mut descent = Sgd::new(params.clone(), config).unwrap();
        assert!(!adam.step_clipped(&grads, 0.1, Some(1.0)).unwrap().value().unwrap().is_finite());
        assert!(!descent.step_clipped(&grads, 0.1, None).unwrap().value().unwrap().is_finite());
        assert_eq!(values(&params[0].var), [1.0, 2.0, 3.0]);
        let states = adam.state().into_iter().chain(descent.state()).filter(|(name, _)| !name.contains("step"));
        assert!(states.into_iter().all(|(_, state)| values(&state) == [0.0; 3]));
    }
}
