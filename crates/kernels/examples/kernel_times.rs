//! Times of the kernels, value and gradient, at the sizes and on the inputs of the peers' script:
//! `cargo run -p kernels --example kernel_times -- [repeats] [part of a name] [cpu|cuda]`.
//! Prints `work,median_ms,min_ms,max_ms,peak_rss_mb`.
#![expect(clippy::print_stdout, reason = "the times are what it is for")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::error::Error;
use std::time::Instant;

use candle_core::{Device, Tensor, Var};
use kernels::cotap::cotap;
use kernels::spd::{self, Metric, Prepared};
use kernels::transport::{SinkhornConfig, sinkhorn};
use random::{Axis, Seeds, Stream};

type Outcome = Result<(), Box<dyn Error>>;

struct Timer {
    part: String,
    device: Device,
}

impl Timer {
    fn measure(&self, name: &str, repeats: usize, mut work: impl FnMut() -> Outcome) -> Outcome {
        if !name.contains(&self.part) {
            return Ok(());
        }
        // Launches come back before the work is done.
        let mut work = || work().and_then(|()| Ok(self.device.synchronize()?));
        work()?;
        let mut times = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            let start = Instant::now();
            work()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let (median, last) = (times[times.len() / 2], times[times.len() - 1]);
        println!("{name},{median:.2},{:.2},{last:.2},{}", times[0], peak_mb());
        Ok(())
    }
}

/// Peak resident memory in MB, where the system tells it.
fn peak_mb() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kb = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|v| v.split_whitespace().next());
    kb.and_then(|kb| kb.parse::<f64>().ok()).map_or(String::new(), |kb| format!("{:.0}", kb / 1024.0))
}

fn variable(shape: &[usize], mut draw: impl FnMut() -> f64) -> Result<Var, candle_core::Error> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw() as f32).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// The same numbers on a device.
fn on(device: &Device, tensor: &Tensor) -> Result<Var, candle_core::Error> {
    Var::from_tensor(&tensor.detach().to_device(device)?)
}

/// Covariances of `2d` Gaussian samples, plus `1e-4 I`.
fn samples(n: usize, d: usize, stream: &mut Stream) -> Result<Var, candle_core::Error> {
    let x = variable(&[n, d, 2 * d], || stream.normal())?;
    let identity = (Tensor::eye(d, candle_core::DType::F32, &Device::Cpu)? * 1e-4)?;
    let square = (x.matmul(&x.t()?)? / (2 * d) as f64)?;
    Var::from_tensor(&square.broadcast_add(&identity)?)
}

/// Covariances of the `tokens` tokens of images, each under six attentions that are not far from uniform, as in training.
fn parts(n: usize, tokens: usize, d: usize, stream: &mut Stream) -> Result<Tensor, Box<dyn Error>> {
    let basis = variable(&[d, d], || stream.normal())?;
    let level = variable(&[n / 6, 1, 1, d], || stream.normal())?;
    let x = variable(&[n / 6, 1, tokens, d], || stream.normal())?.broadcast_add(&level)?.relu()?;
    let x = x.broadcast_as((n / 6, 6, tokens, d))?.contiguous()?.reshape((n, tokens, d))?;
    let logits = variable(&[n, tokens], || 2.0 * stream.normal())?;
    let x = (x.broadcast_matmul(&basis)? * (1.0 / d as f64).sqrt())?;
    Ok(spd::covariance(&x, &logits, 1e-4)?.detach())
}

fn gradient(y: &Tensor) -> Outcome {
    std::hint::black_box(y.backward()?);
    Ok(())
}

fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let repeats = arguments.next().map_or(Ok(5), |a| a.parse())?;
    let part = arguments.next().unwrap_or_default();
    let device = match arguments.next().as_deref() {
        None | Some("cpu") => Device::Cpu,
        Some("cuda") => Device::new_cuda(0)?,
        Some(other) => return Err(format!("`{other}` is neither cpu nor cuda").into()),
    };
    let timer = Timer { part, device: device.clone() };
    let mut stream = Seeds::new(1).stream(Axis::Test, &[]);
    println!("work,median_ms,min_ms,max_ms,peak_rss_mb");
    let (a, b) = (samples(512, 64, &mut stream)?, samples(64, 64, &mut stream)?);
    let (a, b) = (on(&device, &a)?, on(&device, &b)?);
    timer.measure("spd_log 512x64x64 fwd+bwd", repeats, || gradient(&spd::log(&a)?.sqr()?.sum_all()?))?;
    let (cost, weights) =
        (variable(&[64, 196, 196], || stream.uniform())?, variable(&[64, 196, 196], || stream.uniform())?);
    let (cost, weights) = (on(&device, &cost)?, on(&device, &weights)?.detach());
    let config = SinkhornConfig { eps: 0.1, iterations: 20 };
    timer.measure("sinkhorn 64x196x196 it20 fwd+bwd", repeats, || {
        gradient(&(sinkhorn(&cost, config)? * &weights)?.sum_all()?)
    })?;
    for n in [2401, 38416] {
        let (p, q) = (variable(&[1, n], || stream.normal().tanh())?, variable(&[1, n], || stream.normal().tanh())?);
        let (p, q) = (on(&device, &p)?, on(&device, &q)?);
        timer.measure(&format!("cotap {n} fwd+bwd"), repeats, || gradient(&cotap(&p, &q, -0.2, 0.5)?.mean_all()?))?;
    }
    let x = Var::from_tensor(&a.narrow(0, 0, 64)?)?;
    timer.measure("bw_distance 64x64 d64 fwd+bwd", (repeats / 2).max(2), || {
        gradient(&spd::distance(Metric::BuresWasserstein, &x, &b)?.sum_all()?)
    })?;
    training(&timer, repeats, &mut stream)
}

/// What the part-aware loss asks of this crate at batch 16, 6 parts, d 64.
fn training(timer: &Timer, repeats: usize, stream: &mut Stream) -> Outcome {
    let (images, each) = (16, 6);
    let n = images * each;
    let (a, b) = (parts(n, 64, 64, stream)?, parts(n, 64, 64, stream)?);
    let (a, b) = (on(&timer.device, &a)?, on(&timer.device, &b)?);
    let metric = Metric::BuresWasserstein;
    timer.measure("prepare 2x96 d64 bw", repeats, || {
        std::hint::black_box((Prepared::new(metric, &a)?, Prepared::new(metric, &b)?));
        Ok(())
    })?;
    let (x, y) = (Prepared::new(metric, &a)?, Prepared::new(metric, &b)?);
    let own: Vec<(usize, usize)> = (0..n * each).map(|at| (at / each, at / each / each * each + at % each)).collect();
    timer.measure("align 16x6x6 d64 bw", repeats, || {
        assert!(x.distances(&y, &own)?.iter().all(|d| d.is_finite()));
        Ok(())
    })?;
    timer.measure("hardest 96x90 d64 bw", repeats, || {
        assert_eq!(x.nearest_in_groups(&y, each, 1, |i, j| i != j)?.len(), n);
        Ok(())
    })?;
    let pairs: Vec<(usize, usize)> = (0..2 * n).map(|k| (k % n, (k * 7 + k / n) % n)).collect();
    timer.measure("pair_distance 192 d64 bw fwd+bwd", repeats, || {
        gradient(&spd::pair_distance(&a, &b, &pairs, &x, &y)?.sum_all()?)
    })
}
