//! Times of the kernels at the sizes that training uses, forward and backward.

use std::hint::black_box;

use candle_core::{DType, Device, Tensor, Var};
use criterion::{Criterion, criterion_group, criterion_main};
use kernels::cotap::cotap;
use kernels::spd::{self, Metric};
use kernels::transport::{SinkhornConfig, sinkhorn};
use random::{Axis, Seeds, Stream};

fn stream() -> Stream {
    Seeds::new(1).stream(Axis::Test, &[])
}

fn variable(values: Vec<f64>, shape: &[usize], dtype: DType) -> Var {
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).and_then(|t| t.to_dtype(dtype));
    Var::from_tensor(&tensor.expect("a tensor")).expect("a variable")
}

fn spd_batch(n: usize, d: usize, dtype: DType) -> Var {
    variable(testkit::spd::batch(n, d, 0.5, 2.0, &mut stream()), &[n, d, d], dtype)
}

/// Backward pass of the sum.
fn backward(y: &Tensor) {
    black_box(y.sum_all().and_then(|loss| loss.backward()).expect("a gradient"));
}

fn matrices(c: &mut Criterion) {
    let a = spd_batch(512, 64, DType::F32);
    c.bench_function("spd_log/512x64x64/f32/forward", |b| b.iter(|| spd::log(black_box(&a)).expect("a logarithm")));
    c.bench_function("spd_log/512x64x64/f32/forward_backward", |b| {
        b.iter(|| backward(&spd::log(black_box(&a)).expect("a logarithm")));
    });
    let (x, y) = (spd_batch(16, 64, DType::F32), spd_batch(16, 64, DType::F32));
    for (name, metric) in [("le", Metric::LogEuclidean), ("bw", Metric::BuresWasserstein)] {
        c.bench_function(&format!("{name}_distance/16x16/d64/f32/forward_backward"), |b| {
            b.iter(|| backward(&spd::distance(metric, black_box(&x), &y).expect("distances")));
        });
    }
}

fn transport(c: &mut Criterion) {
    let mut stream = stream();
    let n = 196;
    let cost = variable((0..64 * n * n).map(|_| stream.range(0.0, 2.0)).collect(), &[64, n, n], DType::F32);
    let config = SinkhornConfig { eps: 0.1, iterations: 20 };
    c.bench_function("sinkhorn/64x196x196/eps0.1/it20/f32/forward_backward", |b| {
        b.iter(|| backward(&sinkhorn(black_box(&cost), config).expect("a plan")));
    });
    for n in [2401, 38416] {
        let mut list = || variable((0..n).map(|_| stream.range(0.0, 1.0)).collect(), &[1, n], DType::F32);
        let (p, q) = (list(), list());
        c.bench_function(&format!("cotap/{n}/f32/forward_backward"), |b| {
            b.iter(|| backward(&cotap(black_box(&p), &q, -0.2, 0.5).expect("a loss")));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = matrices, transport
}
criterion_main!(benches);
