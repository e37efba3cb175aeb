//! Time of a forward pass and of a training step (forward, backward, AdamW) of an architecture, as CSV:
//! `cargo run -p backbones --example step_time -- ARCH BATCH PIXELS STEPS [cpu|cuda [float32|bfloat16 [deterministic|fast]]]`.
//!
//! With `-` for STEPS it waits: for every line `forward` or `train` of its input it runs that once and prints the milliseconds,
//! so that `ci/peers/steps.py` can have it and others run in turn.
#![expect(clippy::print_stdout, reason = "the times are what it is for")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::time::Instant;

use backbones::{
    Algorithms, Backbone, BackboneConfig, BatchStatistics, BlockKind, ParameterStore, Precision, ResnetConfig,
    TimmConfig,
};
use candle_core::{DType, Device, Tensor};
use kernels::optim::{AdamW, AdamWConfig};
use random::{Axis, Seeds};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "usage: step_time ARCH BATCH PIXELS STEPS [cpu|cuda [float32|bfloat16 [deterministic|fast]]] (ARCH: a name of timm, or \
     `narrow`)";

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [arch, batch, pixels, steps, more @ ..] = arguments.as_slice() else { return Err(USAGE.into()) };
    let (batch, pixels): (usize, usize) = (batch.parse()?, pixels.parse()?);
    let steps: Option<usize> = if steps == "-" { None } else { Some(steps.parse()?) };
    let (device, precision, algorithms) = place(more)?;
    let config = config_of(arch, pixels);
    let seeds = Seeds::new(1);
    let store = ParameterStore::new(seeds, DType::F32, &device);
    let mut backbone = Backbone::new(&config, store.var_builder())?;
    backbone.set_precision(precision)?;
    backbone.set_algorithms(algorithms)?;
    let mut optimiser = AdamW::new(store.parameters(), AdamWConfig::default())?;
    let mut stream = seeds.stream(Axis::Test, &[]);
    let values: Vec<f32> = (0..batch * 3 * pixels * pixels).map(|_| stream.normal() as f32).collect();
    let x = Tensor::from_vec(values, (batch, 3, pixels, pixels), &device)?;

    // A pass that nobody differentiates keeps no graph: detached parameters.
    let tensors = store.tensors().into_iter().collect();
    let mut plain = Backbone::new(&config, candle_nn::VarBuilder::from_tensors(tensors, DType::F32, &device))?;
    plain.set_precision(precision)?;
    plain.set_algorithms(algorithms)?;
    let forward = || {
        plain.forward_t(&x, BatchStatistics::TrainFrozen)?;
        Ok(device.synchronize()?)
    };
    let train = || {
        let grads = backbone.forward_t(&x, BatchStatistics::Train)?.sqr()?.mean_all()?.backward()?;
        optimiser.step(&grads, 1e-3)?;
        Ok(device.synchronize()?)
    };
    let Some(steps) = steps else { return wait(forward, train) };
    println!("work,median_ms,min_ms,max_ms,peak_rss_mb");
    measure(&format!("{arch} b{batch} {pixels} forward"), steps, forward)?;
    measure(&format!("{arch} b{batch} {pixels} train step"), steps, train)
}

/// Runs what each line of the input asks for and prints the milliseconds that it took.
fn wait(mut forward: impl FnMut() -> Outcome<()>, mut train: impl FnMut() -> Outcome<()>) -> Outcome<()> {
    for line in std::io::stdin().lines() {
        let start = Instant::now();
        match line?.as_str() {
            "forward" => forward()?,
            "train" => train()?,
            other => return Err(format!("`{other}` is neither `forward` nor `train`").into()),
        }
        println!("{:.3}", start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

/// The device, precision and algorithms that the last arguments name.
fn place(arguments: &[String]) -> Outcome<(Device, Precision, Algorithms)> {
    let names: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (device, precision, algorithms) = match names[..] {
        [] => ("cpu", "float32", "deterministic"),
        [device] => (device, "float32", "deterministic"),
        [device, precision] => (device, precision, "deterministic"),
        [device, precision, algorithms] => (device, precision, algorithms),
        _ => return Err(USAGE.into()),
    };
    let device = match device {
        "cpu" => Device::Cpu,
        "cuda" => Device::new_cuda(0)?,
        _ => return Err(USAGE.into()),
    };
    let all = [Precision::Float32, Precision::BFloat16];
    let precision = all.into_iter().find(|known| known.to_string() == precision).ok_or(USAGE)?;
    let all = [Algorithms::Deterministic, Algorithms::Fast];
    let algorithms = all.into_iter().find(|known| known.to_string() == algorithms).ok_or(USAGE)?;
    Ok((device, precision, algorithms))
}

fn config_of(arch: &str, pixels: usize) -> BackboneConfig {
    if arch == "narrow" {
        return BackboneConfig::Resnet(ResnetConfig {
            blocks: [1, 1, 1, 1],
            widths: [16, 24, 32, 64],
            stem_width: 16,
            strides: [1, 2, 1, 1],
            block: BlockKind::Basic,
            groups: 1,
            base_width: 64,
        });
    }
    let image_size = arch.starts_with("vit_").then_some(pixels);
    BackboneConfig::Timm(TimmConfig { image_size, ..TimmConfig::named(arch) })
}

/// Prints median, least and largest time of `steps` runs after one to warm up.
fn measure(work: &str, steps: usize, mut run: impl FnMut() -> Outcome<()>) -> Outcome<()> {
    run()?;
    let mut times = Vec::new();
    for _ in 0..steps.max(1) {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let (median, last) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{work},{median:.1},{:.1},{last:.1},{:.0}", times[0], peak_megabytes());
    Ok(())
}

/// Largest resident memory so far, by Linux's account of the process; NaN elsewhere.
fn peak_megabytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kilobytes.map_or(f64::NAN, |kb| kb / 1024.0)
}
