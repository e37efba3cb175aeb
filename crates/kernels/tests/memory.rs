//! Peaks of memory beyond the inputs, counted where it is allocated. One test alone in its process: all threads count.
#![expect(clippy::print_stdout, reason = "the numbers, for `--nocapture`")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Device, Tensor, Var};
use kernels::cotap::cotap;
use kernels::transport::{SinkhornConfig, sinkhorn};
use random::{Axis, Seeds};

/// A megabyte.
const MB: usize = 1_000_000;

/// The system's allocator, counting the bytes that are in use and the most that ever were.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(used, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(used, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that were in use during the work, beyond those before it; the work returns what is to be in it.
fn extra(work: impl FnOnce() -> f64) -> usize {
    let before = USED.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = work();
    assert!(result.is_finite() && result != 0.0, "{result}");
    PEAK.load(Ordering::Relaxed) - before
}

/// Value and gradient with everything that is kept between them, results and candle's own tensors included.
#[test]
fn value_and_gradient_stay_small() {
    let mut stream = Seeds::new(5).stream(Axis::Test, &[]);
    let mut single = |shape: &[usize], draw: fn(&mut random::Stream) -> f64| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw(&mut stream) as f32).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let size = |tensor: &Tensor| f64::from(tensor.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap());

    let (shape, config) = ([64, 196, 196], SinkhornConfig { eps: 0.1, iterations: 20 });
    let cost = Var::from_tensor(&single(&shape, |s| s.uniform())).unwrap();
    let weights = single(&shape, |s| s.uniform());
    let graph = |plan: Tensor| {
        let loss = (plan * &weights).unwrap().sum_all().unwrap();
        size(loss.backward().unwrap().get(&cost).unwrap())
    };
    // The results and candle's own tensors around them: what an op costs that needs nothing beyond.
    let frame = extra(|| graph(cost.affine(0.5, 0.0).unwrap()));
    let own = extra(|| graph(sinkhorn(&cost, config).unwrap())).saturating_sub(frame);
    // The scalings of all iterations are 4 MB.
    assert!((4 * MB..=60 * MB).contains(&own), "sinkhorn 64x196x196: {:.1} MB", own as f64 / MB as f64);
    println!(
        "sinkhorn 64x196x196: {:.1} MB beyond the {:.1} MB around it",
        own as f64 / MB as f64,
        frame as f64 / MB as f64
    );

    let n = 196 * 196;
    let p = Var::from_tensor(&single(&[1, n], |s| s.normal().tanh())).unwrap();
    let q = single(&[1, n], |s| s.normal().tanh());
    let used = extra(|| {
        let loss = cotap(&p, &q, -0.2, 0.5).unwrap().mean_all().unwrap();
        size(loss.backward().unwrap().get(&p).unwrap())
    });
    assert!((4 * n..=64 * MB).contains(&used), "cotap {n}: {:.1} MB", used as f64 / MB as f64);
    println!("cotap {n}: {:.1} MB, results included", used as f64 / MB as f64);
}
