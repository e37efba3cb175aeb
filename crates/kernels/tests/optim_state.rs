//! Optimisers against plain float64 loops; saved state continues with the same bits.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use kernels::optim::{
    AdamW, AdamWConfig, CosineSchedule, Ema, Parameter, Sgd, SgdConfig, clip_scale, cosine_decay, gradient_norm,
};
use random::{Axis, Seeds};
use testkit::tolerance::{OPTIMISER_F64, assert_close};

const SIZES: [(&str, &[usize]); 3] = [("conv.weight", &[3, 2, 3, 3]), ("bn.weight", &[5]), ("head.weight", &[4, 9])];

fn draw(n: usize, path: &[u64]) -> Vec<f64> {
    let mut stream = Seeds::new(31).stream(Axis::Test, path);
    (0..n).map(|_| stream.normal()).collect()
}

fn parameters(dtype: DType) -> Vec<Parameter> {
    let parameter = |(index, (name, shape)): (usize, &(&str, &[usize]))| {
        let values = draw(shape.iter().product(), &[0, index as u64]);
        let tensor = Tensor::from_vec(values, *shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        Parameter::new(*name, Var::from_tensor(&tensor).unwrap())
    };
    SIZES.iter().enumerate().map(parameter).collect()
}

fn gradient(step: u64, index: usize) -> Vec<f64> {
    draw(SIZES[index].1.iter().product(), &[1, step, index as u64])
}

/// A gradient store with the gradients of `step` for the parameters that `has` names.
fn grads(params: &[Parameter], step: u64, has: impl Fn(usize) -> bool) -> GradStore {
    let mut loss = Tensor::zeros((), params[0].var.dtype(), &Device::Cpu).unwrap();
    for (index, p) in params.iter().enumerate().filter(|(index, _)| has(*index)) {
        let g = Tensor::from_vec(gradient(step, index), p.var.shape(), &Device::Cpu).unwrap();
        let term = (p.var.as_tensor() * g.to_dtype(p.var.dtype()).unwrap()).unwrap().sum_all().unwrap();
        loss = (loss + term).unwrap();
    }
    loss.backward().unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(params: &[Parameter]) -> Vec<u64> {
    params.iter().flat_map(|p| values(&p.var)).map(f64::to_bits).collect()
}

/// AdamW as PyTorch documents it, on one number.
struct Plain {
    p: f64,
    m: f64,
    v: f64,
    t: i32,
}

impl Plain {
    fn step(&mut self, c: &AdamWConfig, g: f64, lr: f64, decay: bool) {
        self.t += 1;
        if decay {
            self.p -= lr * c.weight_decay * self.p;
        }
        self.m = c.beta1 * self.m + (1.0 - c.beta1) * g;
        self.v = c.beta2 * self.v + (1.0 - c.beta2) * g.powi(2);
        let m_hat = self.m / (1.0 - c.beta1.powi(self.t));
        let v_hat = self.v / (1.0 - c.beta2.powi(self.t));
        self.p -= lr * m_hat / (v_hat.sqrt() + c.eps);
    }
}

#[test]
fn adamw_is_its_definition_over_twenty_steps() {
    let config = AdamWConfig { weight_decay: 0.05, ..AdamWConfig::default() };
    let params = parameters(DType::F64);
    let start = |p: &Parameter| values(&p.var).into_iter().map(|p| Plain { p, m: 0.0, v: 0.0, t: 0 }).collect();
    let mut plain: Vec<Vec<Plain>> = params.iter().map(start).collect();
    let mut adamw = AdamW::new(params.clone(), config).unwrap();
    for step in 0..20 {
        let lr = 1e-2 / (step + 1) as f64;
        // The second parameter has a gradient in every third step only; clipping by half throughout.
        let has = |index: usize| index != 1 || step % 3 == 0;
        adamw.step_scaled(&grads(&params, step, has), lr, 0.5).unwrap();
        for (index, plain) in plain.iter_mut().enumerate().filter(|(index, _)| has(*index)) {
            for (plain, g) in plain.iter_mut().zip(gradient(step, index)) {
                plain.step(&config, 0.5 * g, lr, SIZES[index].1.len() > 1);
            }
        }
    }
    assert_eq!(adamw.step_count(), 20);
    for (parameter, plain) in params.iter().zip(&plain) {
        let want: Vec<f64> = plain.iter().map(|p| p.p).collect();
        assert_close(&parameter.name, &values(&parameter.var), &want, want.len(), OPTIMISER_F64);
    }
}

#[test]
fn a_parameter_without_a_gradient_is_left_alone() {
    let params = parameters(DType::F32);
    let before = values(&params[0].var);
    let mut adamw = AdamW::new(params.clone(), AdamWConfig { weight_decay: 0.5, ..AdamWConfig::default() }).unwrap();
    adamw.step(&grads(&params, 0, |index| index != 0), 0.1).unwrap();
    assert_eq!(values(&params[0].var), before);
    assert!(values(&adamw.state()["adamw.exp_avg.conv.weight"]).iter().all(|v| *v == 0.0));
    assert!(values(&adamw.state()["adamw.exp_avg.head.weight"]).iter().all(|v| *v != 0.0));
}

#[test]
fn adamw_continues_from_its_state_with_the_same_bits() {
    let config = AdamWConfig { weight_decay: 0.05, ..AdamWConfig::default() };
    for dtype in [DType::F32, DType::F64] {
        let params = parameters(dtype);
        let mut straight = AdamW::new(params.clone(), config).unwrap();
        for step in 0..5 {
            straight.step(&grads(&params, step, |_| true), 1e-2).unwrap();
        }
        let resumed_params: Vec<Parameter> = params
            .iter()
            .map(|p| {
                Parameter::new(p.name.clone(), Var::from_tensor(&p.var.as_detached_tensor().copy().unwrap()).unwrap())
            })
            .collect();
        let mut resumed = AdamW::new(resumed_params.clone(), config).unwrap();
        resumed.load_state(&straight.state(), straight.step_count()).unwrap();
        for step in 5..10 {
            straight.step(&grads(&params, step, |_| true), 1e-2).unwrap();
            resumed.step(&grads(&resumed_params, step, |_| true), 1e-2).unwrap();
        }
        assert_eq!(bits(&params), bits(&resumed_params));
        assert_eq!(resumed.step_count(), 10);
    }
}

#[test]
fn a_saved_state_and_its_source_go_their_own_ways() {
    let params = parameters(DType::F32);
    let mut adamw = AdamW::new(params.clone(), AdamWConfig::default()).unwrap();
    adamw.step(&grads(&params, 0, |_| true), 1e-2).unwrap();
    let saved = adamw.state();
    let before: Vec<Vec<f64>> = saved.values().map(values).collect();
    let mut other = AdamW::new(parameters(DType::F32), AdamWConfig::default()).unwrap();
    other.load_state(&saved, 1).unwrap();
    adamw.step(&grads(&params, 1, |_| true), 1e-2).unwrap();
    for (name, (tensor, before)) in saved.iter().zip(&before).map(|((name, tensor), before)| (name, (tensor, before))) {
        assert_eq!(&values(tensor), before, "{name} in the saved state");
        assert_eq!(&values(&other.state()[name]), before, "{name} in the one that loaded it");
    }
    let moved = adamw.state().iter().any(|(name, tensor)| values(tensor) != values(&saved[name]));
    assert!(moved, "the second step changed no moment");
}

#[test]
fn a_state_of_other_parameters_is_refused_by_name() {
    let mut adamw = AdamW::new(parameters(DType::F32), AdamWConfig::default()).unwrap();
    let mut state = adamw.state();
    let moved = state.remove("adamw.exp_avg.bn.weight").unwrap();
    state.insert("adamw.exp_avg.bn.gamma".into(), moved);
    state.insert("adamw.exp_avg_sq.bn.weight".into(), Tensor::zeros(6, DType::F32, &Device::Cpu).unwrap());
    state.insert("layer1.weight".into(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
    let message = adamw.load_state(&state, 3).unwrap_err().to_string();
    for part in [
        "missing [\"adamw.exp_avg.bn.weight\"]",
        "unexpected [\"adamw.exp_avg.bn.gamma\"]",
        "exp_avg_sq.bn.weight: F32 [6]",
    ] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    assert!(!message.contains("layer1"), "{message}");
    assert_eq!(adamw.step_count(), 0);
}

#[test]
fn sgd_is_its_definition_and_continues() {
    let config = SgdConfig { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.01, nesterov: true };
    let params = parameters(DType::F64);
    let mut want: Vec<Vec<(f64, f64)>> =
        params.iter().map(|p| values(&p.var).into_iter().map(|p| (p, 0.0)).collect()).collect();
    let mut sgd = Sgd::new(params.clone(), config).unwrap();
    for step in 0..20 {
        if step == 7 {
            let state = sgd.state();
            sgd = Sgd::new(params.clone(), config).unwrap();
            sgd.load_state(&state, 7).unwrap();
        }
        sgd.step(&grads(&params, step, |_| true), 0.1).unwrap();
        for (index, want) in want.iter_mut().enumerate() {
            let decay = if SIZES[index].1.len() > 1 { 0.01 } else { 0.0 };
            for ((p, u), g) in want.iter_mut().zip(gradient(step, index)) {
                let g = g + decay * *p;
                *u = 0.9 * *u + g;
                *p -= 0.1 * (g + 0.9 * *u);
            }
        }
    }
    assert_eq!(sgd.step_count(), 20);
    for (parameter, want) in params.iter().zip(&want) {
        let want: Vec<f64> = want.iter().map(|(p, _)| *p).collect();
        assert_close(&parameter.name, &values(&parameter.var), &want, want.len(), OPTIMISER_F64);
    }
}

#[test]
fn the_gradient_norm_counts_every_gradient_and_clips() {
    let params = parameters(DType::F64);
    let store = grads(&params, 0, |index| index != 1);
    let want = [0, 2].into_iter().flat_map(|index| gradient(0, index)).map(|g| g * g).sum::<f64>().sqrt();
    let norm = gradient_norm(&params, &store).unwrap();
    assert_close("norm", &[norm], &[want], 1, OPTIMISER_F64);
    assert_eq!(clip_scale(norm, 2.0 * norm).unwrap(), 1.0);
    assert_close("scale", &[clip_scale(3.0, 1.5).unwrap()], &[1.5 / 3.000001], 1, OPTIMISER_F64);
    assert!(
        clip_scale(f64::NAN, 1.0).is_err() && clip_scale(f64::INFINITY, 1.0).is_err() && clip_scale(1.0, 0.0).is_err()
    );
}

#[test]
fn settings_outside_their_range_are_refused() {
    let with = |config| AdamW::new(parameters(DType::F32), config).is_err();
    assert!(with(AdamWConfig { beta1: 1.0, ..AdamWConfig::default() }));
    assert!(with(AdamWConfig { weight_decay: -1.0, ..AdamWConfig::default() }));
    assert!(with(AdamWConfig { eps: f64::NAN, ..AdamWConfig::default() }));
    let twice = [parameters(DType::F32), parameters(DType::F32)].concat();
    assert!(AdamW::new(twice, AdamWConfig::default()).unwrap_err().to_string().contains("`conv.weight`"));
    assert!(CosineSchedule::new(0.1, 11, 10, 0.0).is_err());
    assert!(CosineSchedule::new(0.1, 1, 10, 0.2).is_err());
}

#[test]
fn the_schedule_warms_up_and_follows_a_cosine() {
    let schedule = CosineSchedule::new(0.8, 4, 12, 0.1).unwrap();
    let got: Vec<f64> = (0..14).map(|s| schedule.at(s)).collect();
    let c = std::f64::consts::FRAC_1_SQRT_2;
    let mid = |cos: f64| 0.1 + 0.35 * (1.0 + cos);
    assert_close("warm-up", &got[..4], &[0.2, 0.4, 0.6, 0.8], 4, OPTIMISER_F64);
    assert_close("cosine", &[got[4], got[6], got[8], got[10]], &[0.8, mid(c), mid(0.0), mid(-c)], 4, OPTIMISER_F64);
    assert_eq!(&got[12..], [0.1, 0.1]);
    assert!(got[4..].windows(2).all(|w| w[1] <= w[0]), "{got:?}");
    assert_eq!(CosineSchedule::new(0.8, 0, 0, 0.1).unwrap().at(0), 0.1);
    assert_eq!((cosine_decay(0.9997, 0, 10), cosine_decay(0.9997, 10, 10)), (0.9997, 1.0));
    assert_close("momentum", &[cosine_decay(0.9997, 5, 10)], &[0.99985], 1, OPTIMISER_F64);
}

#[test]
fn averages_move_in_place_and_continue() {
    let tensors = |path: u64| -> BTreeMap<String, Tensor> {
        let tensor = |(index, (name, shape)): (usize, &(&str, &[usize]))| {
            let values = draw(shape.iter().product(), &[path, index as u64]);
            (name.to_string(), Tensor::from_vec(values, *shape, &Device::Cpu).unwrap())
        };
        SIZES.iter().enumerate().map(tensor).collect()
    };
    let (start, one, two) = (tensors(2), tensors(3), tensors(4));
    let mut ema = Ema::new(&start).unwrap();
    let view = ema.tensors();
    ema.update(&one, 0.9).unwrap();
    let saved = ema.state().unwrap();
    ema.update(&two, 0.75).unwrap();
    let mut resumed = Ema::new(&start).unwrap();
    resumed.load_state(&saved).unwrap();
    resumed.update(&two, 0.75).unwrap();
    for (name, _) in SIZES {
        let [s, a, b] = [&start, &one, &two].map(|t| values(&t[name]));
        let want: Vec<f64> = (0..s.len()).map(|i| 0.75 * (0.9 * s[i] + 0.1 * a[i]) + 0.25 * b[i]).collect();
        assert_close(name, &values(&view[name]), &want, want.len(), OPTIMISER_F64);
        assert_eq!(values(&view[name]), values(&resumed.tensors()[name]));
        assert!(!view[name].is_variable());
    }
    assert!(ema.update(&BTreeMap::new(), 0.9).is_err());
    assert!(ema.update(&one, 1.5).is_err());
}
