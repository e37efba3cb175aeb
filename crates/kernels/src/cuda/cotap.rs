//! The CoTAP ranking loss.

use super::device::{Device, Float, Launch, View, arguments};
use super::flag::Flag;
use crate::Result;

/// Items of the longest list whose pairs are all looked at. A guess: a sort of fewer takes longer to launch.
const PAIRS: usize = 8192;
const THREADS: usize = 256;
/// Float64 numbers of a `Ranked` and a `Running` of `ranked.cu`.
const RANKED: usize = 5;
const RUNNING: usize = 3;

/// Losses of `k` lists of `n` items, see [`crate::cotap::cotap`], and their gradients before the product with those of the
/// losses.
///
/// # Errors
/// Values that are not finite.
pub(crate) fn cotap<D: Device, T: Float>(
    device: &D,
    op: &'static str,
    (p, q): (View<T>, View<T>),
    (k, n): (usize, usize),
    taus: (f64, f64),
) -> Result<(D::Buffer<T>, D::Buffer<f64>)> {
    let by = if n <= PAIRS { by_pairs } else { by_ranks };
    let (terms, gradient) = by(device, op, (p, q), (k, n), taus)?;
    let loss = device.empty::<T>(k)?;
    let sum = Launch { blocks: k, threads: THREADS, shared: 32 };
    let arguments = arguments![device.view(&terms), device.view(&loss), n];
    device.launch(T::version("cotap_loss_f32", "cotap_loss_f64"), sum, arguments)?;
    Ok((loss, gradient))
}

/// Parts of the losses, and gradients.
type Parts<D> = (<D as Device>::Buffer<f64>, <D as Device>::Buffer<f64>);

/// By looking at every pair.
pub(super) fn by_pairs<D: Device, T: Float>(
    device: &D,
    op: &'static str,
    (p, q): (View<T>, View<T>),
    (k, n): (usize, usize),
    (tau1, tau2): (f64, f64),
) -> Result<Parts<D>> {
    let [terms, weights, gradient] = [device.empty(k * n)?, device.empty(k * n)?, device.empty(k * n)?];
    let flag = Flag::new(device, k)?;
    let (word, details) = flag.views(device);
    // A warp an item.
    let blocks = n.div_ceil(THREADS / 32);
    let launch = Launch { blocks: k * blocks, threads: THREADS, shared: 0 };
    let [parts, of, to] = [&terms, &weights, &gradient].map(|v| device.view(v));
    let kernel = T::version("cotap_below_f32", "cotap_below_f64");
    device.launch(kernel, launch, arguments![p, q, parts, of, to, word, details, n, blocks, tau1, tau2])?;
    flag.check(device, op, ["p", "q"], k)?;
    let kernel = T::version("cotap_above_f32", "cotap_above_f64");
    device.launch(kernel, launch, arguments![p, q, of, to, n, blocks, tau2])?;
    Ok((terms, gradient))
}

/// By sorting.
pub(super) fn by_ranks<D: Device, T: Float>(
    device: &D,
    op: &'static str,
    (p, q): (View<T>, View<T>),
    (k, n): (usize, usize),
    (tau1, tau2): (f64, f64),
) -> Result<Parts<D>> {
    let blocks = n.div_ceil(THREADS);
    let launch = Launch { blocks: k * blocks, threads: THREADS, shared: 0 };
    let (keys, ids) = sorted(device, op, (p, q), (k, n), launch)?;
    let [terms, gradient, mean] = [device.empty(k * n)?, device.empty(k * n)?, device.empty(k)?];
    let items = device.empty::<f64>(k * n * RANKED)?;
    let [mut from, mut to] = [device.empty::<f64>(k * n * RUNNING)?, device.empty::<f64>(k * n * RUNNING)?];
    let (keys, ids) = (device.view(&keys), device.view(&ids));
    let [parts, out, mean, items] = [&terms, &gradient, &mean, &items].map(|v| device.view(v));
    let one = Launch { blocks: k, threads: THREADS, shared: 32 };
    device.launch(T::version("ranked_mean_f32", "ranked_mean_f64"), one, arguments![p, mean, n])?;
    let kernel = T::version("ranked_items_f32", "ranked_items_f64");
    device.launch(kernel, launch, arguments![p, keys, ids, mean, items, device.view(&from), n, blocks])?;
    for length in lengths(n) {
        let (a, b) = (device.view(&from), device.view(&to));
        device.launch("ranked_below", launch, arguments![a, b, items, mean, n, blocks, length, tau2])?;
        std::mem::swap(&mut from, &mut to);
    }
    let (a, b) = (device.view(&from), device.view(&to));
    device.launch("ranked_weights", launch, arguments![keys, mean, a, items, b, parts, n, blocks, tau1])?;
    std::mem::swap(&mut from, &mut to);
    let whole = n.next_power_of_two();
    for length in lengths(n) {
        let (a, b) = (device.view(&from), device.view(&to));
        device.launch("ranked_above", launch, arguments![a, b, items, mean, n, blocks, length, whole, tau2])?;
        std::mem::swap(&mut from, &mut to);
    }
    device.launch("ranked_finish", launch, arguments![items, out, n, blocks])?;
    Ok((terms, gradient))
}

/// Lengths of the blocks that are merged, level by level.
fn lengths(n: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(1), |length| Some(2 * length)).take_while(move |length| *length < n)
}

/// Values of `q` in rising order, and which items they are.
fn sorted<D: Device, T: Float>(
    device: &D,
    op: &'static str,
    (p, q): (View<T>, View<T>),
    (k, n): (usize, usize),
    launch: Launch,
) -> Result<(D::Buffer<f64>, D::Buffer<u32>)> {
    let [mut keys, mut to_keys] = [device.empty::<f64>(k * n)?, device.empty::<f64>(k * n)?];
    let [mut ids, mut to_ids] = [device.empty::<u32>(k * n)?, device.empty::<u32>(k * n)?];
    let flag = Flag::new(device, k)?;
    let (word, details) = flag.views(device);
    let blocks = n.div_ceil(THREADS);
    let kernel = T::version("ranked_start_f32", "ranked_start_f64");
    let arguments = arguments![p, q, device.view(&keys), device.view(&ids), word, details, n, blocks];
    device.launch(kernel, launch, arguments)?;
    flag.check(device, op, ["p", "q"], k)?;
    for length in lengths(n) {
        let (a, b) = (device.view(&keys), device.view(&to_keys));
        let (c, d) = (device.view(&ids), device.view(&to_ids));
        device.launch("ranked_sort", launch, arguments![a, c, b, d, n, blocks, length])?;
        std::mem::swap(&mut keys, &mut to_keys);
        std::mem::swap(&mut ids, &mut to_ids);
    }
    Ok((keys, ids))
}

/// The gradient of the student's similarities for that of the losses.
pub(crate) fn gradient<D: Device, T: Float>(
    device: &D,
    gradient: &D::Buffer<f64>,
    grad: View<T>,
    (k, n): (usize, usize),
) -> Result<D::Buffer<T>> {
    let out = device.empty::<T>(k * n)?;
    let launch = Launch { blocks: k, threads: THREADS, shared: 0 };
    let kernel = T::version("cotap_scale_f32", "cotap_scale_f64");
    device.launch(kernel, launch, arguments![device.view(gradient), grad, device.view(&out), n])?;
    Ok(out)
}
