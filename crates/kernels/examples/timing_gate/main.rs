//! The timing gate: each kernel against a straightforward float64 implementation in this process.
//!
//! Kernel and reference run in turn on one thread, many times; each turn gives a ratio of their times. What slows the
//! machine slows both, so that the ratio stays where it is. The verdict uses the 97 % interval of the median ratio by
//! order statistics: a kernel is slow only when the whole interval lies above its stored bound. The bounds are about
//! twice the ratios that were measured when they were stored (AVX2, one thread of a busy machine).
//!
//! Exit codes: 0 every kernel is within its bound, 40 a kernel is slow, 41 nothing was measured: the clock does not
//! advance, or an interval around a bound is so wide that it says nothing. `--only NAME` runs one kernel, `--scale X` multiplies the
//! bounds (to see the gate fail).

mod reference;

use std::process::ExitCode;
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
use kernels::cotap::cotap;
use kernels::spd::{self, Metric};
use kernels::transport::{SinkhornConfig, sinkhorn};
use random::{Axis, Seeds, Stream};

/// Turns of kernel and reference; odd.
const TURNS: usize = 41;
/// Ranks (from 0) of the ends of the interval: the median of 41 lies between the 14th and the 28th with 97.2 %.
const ENDS: (usize, usize) = (13, 27);
/// A turn shorter than this is below what the clock and the caches allow, in seconds.
const SHORTEST: f64 = 1e-4;
/// An interval around the bound whose ends differ by more than this factor says nothing.
const WIDEST: f64 = 3.0;
/// How often a kernel that is not within its bound is measured.
const ATTEMPTS: usize = 3;
/// Exit code: a kernel is slow.
const SLOW: u8 = 40;
/// Exit code: nothing was measured.
const NOTHING: u8 = 41;

/// A kernel, its reference on the same inputs, and the largest ratio of their times that is let through.
struct Gate {
    name: &'static str,
    bound: f64,
    kernel: Box<dyn Fn() -> f64>,
    reference: Box<dyn Fn() -> f64>,
    /// Relative difference of the two checksums that float32 interfaces and other algorithms explain.
    agree: f64,
}

fn stream() -> Stream {
    Seeds::new(11).stream(Axis::Test, &[])
}

fn variable(values: &[f64], shape: &[usize], dtype: DType) -> Var {
    let tensor = Tensor::from_slice(values, shape, &Device::Cpu).and_then(|t| t.to_dtype(dtype));
    tensor.and_then(|t| Var::from_tensor(&t)).expect("a variable")
}

/// Sum of the value and of all gradients of `Σ y`: it keeps the work and is compared.
fn checksum(y: &Tensor, inputs: &[&Var]) -> f64 {
    let total = |t: &Tensor| -> f64 {
        t.to_dtype(DType::F64).and_then(|t| t.sum_all()).and_then(|t| t.to_scalar()).expect("a number")
    };
    let grads = y.sum_all().and_then(|loss| loss.backward()).expect("gradients");
    total(y) + inputs.iter().map(|x| total(grads.get(x).expect("a gradient"))).sum::<f64>()
}

fn gates() -> Vec<Gate> {
    vec![spd_log(), bw_distance(), le_distance(), sinkhorn_plan(), cotap_list()]
}

fn spd_log() -> Gate {
    let (n, d) = (24, 32);
    let a = testkit::spd::batch(n, d, 0.5, 2.0, &mut stream());
    let x = variable(&a, &[n, d, d], DType::F64);
    Gate {
        name: "spd_log",
        bound: 0.45,
        kernel: Box::new(move || checksum(&spd::log(&x).expect("logarithms"), &[&x])),
        reference: Box::new(move || a.chunks(d * d).map(|m| reference::log(m, d)).sum()),
        agree: 1e-9,
    }
}

fn distances(name: &'static str, metric: Metric, bound: f64, reference: fn(&[f64], &[f64], usize) -> f64) -> Gate {
    let (n, d) = (4, 24);
    let mut stream = stream();
    let (a, b) = (testkit::spd::batch(n, d, 0.5, 2.0, &mut stream), testkit::spd::batch(n, d, 0.5, 2.0, &mut stream));
    let (x, y) = (variable(&a, &[n, d, d], DType::F64), variable(&b, &[n, d, d], DType::F64));
    Gate {
        name,
        bound,
        kernel: Box::new(move || checksum(&spd::distance(metric, &x, &y).expect("distances"), &[&x, &y])),
        reference: Box::new(move || {
            let pairs = a.chunks(d * d).flat_map(|left| b.chunks(d * d).map(move |right| (left, right)));
            pairs.map(|(left, right)| reference(left, right, d)).sum()
        }),
        agree: 1e-9,
    }
}

fn bw_distance() -> Gate {
    distances("bw_distance", Metric::BuresWasserstein, 0.2, reference::bures_wasserstein)
}

fn le_distance() -> Gate {
    distances("le_distance", Metric::LogEuclidean, 0.25, reference::log_euclidean)
}

fn sinkhorn_plan() -> Gate {
    let n = 64;
    let mut stream = stream();
    let cost: Vec<f64> = (0..n * n).map(|_| stream.range(0.0, 2.0)).collect();
    let g: Vec<f64> = (0..n * n).map(|_| stream.range(0.0, 1.0) * (n * n) as f64).collect();
    let (x, weights) = (variable(&cost, &[1, n, n], DType::F64), variable(&g, &[1, n, n], DType::F64));
    let config = SinkhornConfig { eps: 0.1, iterations: 20 };
    Gate {
        name: "sinkhorn",
        bound: 0.12,
        kernel: Box::new(move || {
            let plan = sinkhorn(&x, config).expect("a plan");
            // Σ g P and its gradient, squared: the gradient of a plan sums to 0.
            let loss = (plan * weights.as_tensor()).and_then(|t| t.sum_all()).expect("a loss");
            let grads = loss.backward().expect("gradients");
            let size = grads.get(&x).and_then(|g| g.sqr().and_then(|t| t.sum_all()).ok()).expect("a gradient");
            let number = |t: &Tensor| t.to_scalar::<f64>().expect("a number");
            number(&loss) + number(&size).sqrt()
        }),
        reference: Box::new(move || reference::sinkhorn(&cost, &g, n, config.eps, config.iterations)),
        agree: 1e-9,
    }
}

fn cotap_list() -> Gate {
    let n = 1500;
    let mut stream = stream();
    let mut list = || -> Vec<f64> { (0..n).map(|_| stream.range(0.0, 1.0)).collect() };
    let (p, q) = (list(), list());
    let (x, y) = (variable(&p, &[1, n], DType::F64), variable(&q, &[1, n], DType::F64));
    Gate {
        name: "cotap",
        bound: 0.05,
        // The gradient sums to 0; the loss remains.
        kernel: Box::new(move || checksum(&cotap(&x, &y, -0.2, 0.5).expect("a loss"), &[&x])),
        reference: Box::new(move || reference::cotap(&p, &q, -0.2, 0.5)),
        agree: 1e-9,
    }
}

#[expect(clippy::disallowed_methods, reason = "the program measures time")]
fn seconds(work: &dyn Fn() -> f64) -> (f64, f64) {
    let start = Instant::now();
    let sum = std::hint::black_box(work());
    (start.elapsed().as_secs_f64(), sum)
}

/// What one gate came to.
struct Verdict {
    line: String,
    code: u8,
}

fn judge(gate: &Gate, scale: f64) -> Verdict {
    let bound = gate.bound * scale;
    // The first turn warms caches and is compared, not timed.
    let (ours, theirs) = ((gate.kernel)(), (gate.reference)());
    assert!((ours / theirs - 1.0).abs() <= gate.agree, "{}: {ours} is not the reference's {theirs}", gate.name);
    // Short kernels repeat until a turn is long enough for the clock.
    let once = seconds(&*gate.kernel).0.max(1e-9);
    let repeats = (50.0 * SHORTEST / once).ceil().clamp(1.0, 1e4);
    let work = || (0..repeats as usize).map(|_| (gate.kernel)()).sum::<f64>();
    let mut turns: Vec<(f64, f64)> = (0..TURNS).map(|_| (seconds(&work).0, seconds(&*gate.reference).0)).collect();
    let too_short = turns.iter().any(|(ours, theirs)| *ours < SHORTEST || *theirs < SHORTEST);
    turns.iter_mut().for_each(|(ours, _)| *ours /= repeats);
    let sorted = |f: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = turns.iter().map(f).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let ratios = sorted(|(ours, theirs)| ours / theirs);
    let (low, middle, high) = (ratios[ENDS.0], ratios[TURNS / 2], ratios[ENDS.1]);
    let (code, word) = match () {
        () if too_short => (NOTHING, "nothing measured"),
        () if high <= bound => (0, "ok"),
        () if low > bound => (SLOW, "SLOW"),
        () if high <= WIDEST * low => (0, "ok"),
        () => (NOTHING, "nothing measured"),
    };
    let (ours, theirs) = (sorted(|t| t.0)[TURNS / 2] * 1e3, sorted(|t| t.1)[TURNS / 2] * 1e3);
    let name = gate.name;
    let line =
        format!("{name:<12} {ours:>9.3} ms  {theirs:>9.3} ms  {middle:.4} [{low:.4}, {high:.4}]  {bound:.4}  {word}");
    Verdict { line, code }
}

/// `--only NAME` and `--scale X`.
fn arguments() -> Result<(Option<String>, f64), String> {
    let (mut only, mut scale) = (None, 1.0);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("`{word}` needs a value"))?;
        match word.as_str() {
            "--only" => only = Some(value),
            "--scale" => scale = value.parse().map_err(|_| format!("`{value}` is no number"))?,
            other => return Err(format!("unknown argument `{other}`: there are --only NAME and --scale X")),
        }
    }
    Ok((only, scale))
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a program")]
fn main() -> ExitCode {
    let (only, scale) = match arguments() {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("one thread");
    println!("kernel          kernel ms      reference ms  ratio [97 % interval]    bound   verdict");
    let mut codes = Vec::new();
    for gate in gates().into_iter().filter(|gate| only.as_deref().is_none_or(|name| name == gate.name)) {
        let mut verdict = judge(&gate, scale);
        for _ in 1..ATTEMPTS {
            if verdict.code == 0 {
                break;
            }
            // Once more: something else may have had the machine.
            println!("{}; again", verdict.line);
            verdict = judge(&gate, scale);
        }
        println!("{}", verdict.line);
        codes.push(verdict.code);
    }
    // Slow before nothing measured: the first is a finding.
    let worst = [SLOW, NOTHING].into_iter().find(|code| codes.contains(code));
    ExitCode::from(if codes.is_empty() { NOTHING } else { worst.unwrap_or(0) })
}
