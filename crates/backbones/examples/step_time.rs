//! Time of a training step (forward, backward, AdamW) of a narrow residual network:
//! `cargo run -p backbones --example step_time -- [batch] [pixels] [steps]`.
#![expect(clippy::print_stdout, reason = "the times are what it is for")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::time::{Duration, Instant};

use backbones::{Backbone, BackboneConfig, BatchStatistics, BlockKind, ParameterStore, ResnetConfig};
use candle_core::{DType, Device, Tensor};
use kernels::optim::{AdamW, AdamWConfig};
use random::{Axis, Seeds};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let mut next = |default: usize| arguments.next().unwrap_or(Ok(default));
    let (batch, pixels, steps) = (next(32)?, next(64)?, next(30)?);
    let config = BackboneConfig::Resnet(ResnetConfig {
        blocks: [1, 1, 1, 1],
        widths: [16, 24, 32, 64],
        stem_width: 16,
        strides: [1, 2, 1, 1],
        block: BlockKind::Basic,
    });
    let seeds = Seeds::new(1);
    let store = ParameterStore::new(seeds, DType::F32, &Device::Cpu);
    let backbone = Backbone::new(&config, store.var_builder())?;
    let mut optimiser = AdamW::new(store.parameters(), AdamWConfig::default())?;
    let mut stream = seeds.stream(Axis::Test, &[]);
    let values: Vec<f32> = (0..batch * 3 * pixels * pixels).map(|_| stream.normal() as f32).collect();
    let x = Tensor::from_vec(values, (batch, 3, pixels, pixels), &Device::Cpu)?;

    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..steps + 3 {
        let start = Instant::now();
        let y = backbone.forward_t(&x, BatchStatistics::Train)?;
        let forward = start.elapsed();
        let grads = y.sqr()?.mean_all()?.backward()?;
        let backward = start.elapsed();
        optimiser.step(&grads, 1e-3)?;
        let all = start.elapsed();
        [forward, backward - forward, all - backward].iter().zip(&mut times).for_each(|(t, times)| times.push(*t));
    }
    let mut total = 0.0;
    for (name, times) in ["forward", "backward", "adamw"].iter().zip(&mut times) {
        times.drain(..3);
        times.sort();
        let median = times[times.len() / 2].as_secs_f64() * 1e3;
        total += median;
        println!("{name:9} {median:7.2} ms");
    }
    let work = 3.0 * config.flops(pixels) as f64 * batch as f64;
    println!("step      {total:7.2} ms, {:.1} GFLOP/s, {} parameters", work / total / 1e6, store.count());
    Ok(())
}
