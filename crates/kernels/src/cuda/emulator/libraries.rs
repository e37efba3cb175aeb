//! What surrounds the libraries of a device, with libraries that are this crate's own code.

use std::cell::Cell;

use random::{Axis, Seeds};
use testkit::tolerance::{ACTIVATIONS_BF16, ORACLE_F64, assert_close};

use super::super::device::{Argument, Bf16, Device, Launch, Number, Stored, View, no_library};
use super::super::spd;
use super::super::train::conv::{self, Conv, Pass};
use super::witnesses::{matrices, normal};
use super::{Emulator, Memory, Order};
use crate::nn::{Conv2dConfig, ConvLibrary};
use crate::spd::eigen::Eigen;
use crate::spd::function::Function;
use crate::{Error, Result};

const EMULATOR: Emulator = Emulator(Order::OddFirst);

/// The emulator with libraries.
struct Aided {
    /// Whether a matrix of a batch has no eigenvectors, as far as the library knows.
    fails: fn(usize) -> bool,
    calls: Cell<usize>,
}

impl Aided {
    fn new(fails: fn(usize) -> bool) -> Self {
        Self { fails, calls: Cell::new(0) }
    }
}

/// The numbers that a view shows.
fn numbers<'a, T: Number>(view: View<T>) -> &'a mut [T] {
    // SAFETY: the views of these tests are those of buffers of the emulator, which are alive and looked at by nobody else.
    unsafe { std::slice::from_raw_parts_mut(view.address() as *mut T, view.len()) }
}

impl Device for Aided {
    type Buffer<T: Number> = Memory<T>;

    fn empty<T: Number>(&self, len: usize) -> Result<Memory<T>> {
        EMULATOR.empty(len)
    }

    fn upload<T: Number>(&self, values: &[T]) -> Result<Memory<T>> {
        EMULATOR.upload(values)
    }

    fn download<T: Number>(&self, buffer: &Memory<T>) -> Result<Vec<T>> {
        EMULATOR.download(buffer)
    }

    fn view<T: Number>(&self, buffer: &Memory<T>) -> View<T> {
        EMULATOR.view(buffer)
    }

    fn launch(&self, kernel: &'static str, launch: Launch, arguments: &[Argument]) -> Result<()> {
        EMULATOR.launch(kernel, launch, arguments)
    }

    /// By own kernels, without the bias; filters' gradients rounded to the type of the activations.
    fn convolve<T: Stored>(
        &self,
        op: &'static str,
        pass: Pass,
        ([a, b], to): ([View<T>; 2], View<T>),
        conv: &Conv,
    ) -> Result<bool> {
        self.calls.set(self.calls.get() + 1);
        let conv = &Conv { config: Conv2dConfig { library: ConvLibrary::Own, ..conv.config }, ..*conv };
        let result = match pass {
            Pass::Forward => EMULATOR.download(&conv::forward(&EMULATOR, op, (a, b), None, conv)?)?,
            Pass::BackwardData => EMULATOR.download(&conv::backward(&EMULATOR, op, (a, b), conv)?)?,
            Pass::BackwardFilter => {
                let gw = conv::filter::<_, T>(&EMULATOR, op, (a, b), conv)?;
                let view = EMULATOR.view(&gw);
                let (address, len) = (view.address(), view.len());
                if size_of::<T>() == 2 {
                    let wide = numbers(View::<f32>::new(address, len));
                    let narrow = numbers(View::<u16>::new(to.address(), len));
                    narrow.iter_mut().zip(wide).for_each(|(to, from)| *to = rounded(*from));
                    return Ok(true);
                }
                numbers(View::<T>::new(address, len)).to_vec()
            }
        };
        numbers(to).copy_from_slice(&result);
        Ok(true)
    }

    fn has_eigenvectors(&self, _: &'static str) -> Result<bool> {
        Ok(true)
    }

    /// In falling order of the eigenvalues, every other one turned around: a basis is all that is promised.
    fn eigenvectors(
        &self,
        _: &'static str,
        (all, values, failed): (View<f64>, View<f64>, View<u32>),
        (n, d): (usize, usize),
    ) -> Result<()> {
        self.calls.set(self.calls.get() + 1);
        assert_eq!((all.len(), values.len(), failed.len()), (n * d * d, n * d, n));
        for (k, matrix) in numbers(all).chunks_exact_mut(d * d).enumerate() {
            assert!(matrix.iter().all(|x| x.is_finite()), "a library is given numbers alone");
            assert!((0..d * d).all(|at| matrix[at] == matrix[at % d * d + at / d]), "and symmetric matrices");
            numbers(failed)[k] = u32::from((self.fails)(k));
            if (self.fails)(k) {
                matrix.fill(f64::NAN);
                continue;
            }
            let eigen = Eigen::new(matrix, d).unwrap();
            let rows = eigen.vectors.chunks_exact(d).rev().zip([1.0, -1.0].into_iter().cycle());
            let turned: Vec<f64> = rows.flat_map(|(row, sign)| row.iter().map(move |x| sign * x)).collect();
            matrix.copy_from_slice(&turned);
        }
        Ok(())
    }
}

impl Number for u16 {}

/// To the nearest bfloat16, ties to even.
fn rounded(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// A function of matrices, its gradient, and the eigenvalues.
fn function<D: Device>(device: &D, function: Function, (a, g): (&[f64], &[f64]), d: usize) -> Result<[Vec<f64>; 3]> {
    let (a, g) = (device.upload(a)?, device.upload(g)?);
    let batch = spd::Batch { n: device.view(&a).len() / (d * d), d };
    let (y, eigen) = spd::function(device, "op", function, device.view(&a), batch)?;
    let gradient = spd::function_gradient(device, function, &eigen, device.view(&g))?;
    Ok([device.download(&y)?, device.download(&gradient)?, device.download(&eigen.values)?])
}

/// Two matrices with eigenvalues over some decades, one with two eigenvalues, one close to the identity.
fn problems(d: usize, decades: f64) -> (Vec<f64>, Vec<f64>) {
    let mut stream = Seeds::new(93).stream(Axis::Test, &[d as u64]);
    let mut all = matrices(2, d, decades, &mut stream);
    let repeated: Vec<f64> = (0..d).map(|k| if k < d / 3 { 0.5 } else { 3.0 }).collect();
    all.extend(testkit::spd::with_spectrum(&repeated, &mut stream));
    let close: Vec<f64> = (0..d).map(|k| 1.0 + 1e-9 * k as f64).collect();
    all.extend(testkit::spd::with_spectrum(&close, &mut stream));
    let g = normal(all.len(), &mut stream);
    (all, g)
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn eigenvectors_of_a_library_end_as_own_ones() {
    for (of, d, decades) in [(Function::Log, 66, 9.0), (Function::InvSqrt, 65, 4.0), (Function::Exp, 65, 4.0)] {
        let (a, g) = problems(d, decades);
        let own = function(&EMULATOR, of, (&a, &g), d).unwrap();
        let aided = Aided::new(|_| false);
        let got = function(&aided, of, (&a, &g), d).unwrap();
        assert_eq!(aided.calls.get(), 1);
        assert!(got != own, "d = {d}, {of:?}: the library's eigenvectors make no difference at all");
        let bars = [ORACLE_F64.value, ORACLE_F64.gradient, ORACLE_F64.value];
        for ((got, own), bar) in got.iter().zip(&own).zip(bars) {
            assert_close(&format!("d = {d}, {of:?}"), got, own, own.len() / 4, bar);
        }
        assert!(got[2].chunks_exact(d).all(<[f64]>::is_sorted));
        // Where the library gave up, as without it; the others as with it.
        let some = function(&Aided::new(|k| k == 1), of, (&a, &g), d).unwrap();
        for (k, some) in some.iter().enumerate() {
            let each = own[k].len() / 4;
            assert!(some[each..2 * each] == own[k][each..2 * each] && some[..each] == got[k][..each]);
        }
    }
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn small_matrices_need_no_library() {
    let (a, g) = problems(8, 3.0);
    let aided = Aided::new(|_| false);
    assert!(
        function(&aided, Function::Log, (&a, &g), 8).unwrap()
            == function(&EMULATOR, Function::Log, (&a, &g), 8).unwrap()
    );
    assert_eq!(aided.calls.get(), 0);
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn what_is_refused_with_a_library_too() {
    let d = 65;
    let (good, g) = problems(d, 2.0);
    let error = |at: usize, value: f64| {
        let mut a = good.clone();
        a[d * d + at] = value;
        function(&Aided::new(|_| false), Function::Log, (&a, &g), d).unwrap_err()
    };
    assert!(matches!(error(3, f64::NAN), Error::NonFinite { batch: 1, .. }));
    assert!(matches!(error(3, 7.0), Error::NotSymmetric { batch: 1, .. }));
    assert!(matches!(error(0, -9.0), Error::NotPositiveDefinite { batch: 1, eigenvalue, .. } if eigenvalue < -8.0));
}

/// All three passes, with the bias and its gradient left out of the library.
fn passes<D: Device, T: Stored>(device: &D, conv: &Conv, bits: [&[T]; 3], bias: &[T::Sum]) -> Vec<Vec<f64>> {
    let [x, w, g] = bits.map(|values| device.upload(values).unwrap());
    let [x, w, g] = [&x, &w, &g].map(|memory| device.view(memory));
    let bias = device.upload(bias).unwrap();
    let y = conv::forward(device, "op", (x, w), Some(device.view(&bias)), conv).unwrap();
    let plain = conv::forward(device, "op", (x, w), None, conv).unwrap();
    let gx = conv::backward(device, "op", (g, w), conv).unwrap();
    let gw = conv::filter::<_, T>(device, "op", (x, g), conv).unwrap();
    let mut out: Vec<Vec<f64>> = [y, plain, gx].iter().map(|m| wide(&device.download(m).unwrap())).collect();
    out.push(wide(&device.download(&gw).unwrap()));
    out
}

/// In float64.
fn wide<T: Stored>(values: &[T]) -> Vec<f64> {
    let bytes = |x: &T| -> f64 {
        // SAFETY: a number of as many bytes as it is read for; the three types differ in their sizes.
        unsafe {
            let at = std::ptr::from_ref(x);
            match size_of::<T>() {
                2 => f64::from(f32::from_bits(u32::from(at.cast::<u16>().read()) << 16)),
                4 => f64::from(at.cast::<f32>().read()),
                _ => at.cast::<f64>().read(),
            }
        }
    };
    values.iter().map(bytes).collect()
}

fn convolved<T: Stored>(of: fn(f64) -> T, sum: fn(f64) -> T::Sum) {
    let mut stream = Seeds::new(94).stream(Axis::Test, &[]);
    for (groups, calls) in [(1, 4), (2, 4), (4, 0)] {
        for library in [ConvLibrary::Automatic, ConvLibrary::Cudnn, ConvLibrary::CudnnFast, ConvLibrary::Own] {
            let config = Conv2dConfig { stride: 2, padding: 1, groups, library, ..Conv2dConfig::default() };
            let (batch, c_in, height, width, c_out, oh, ow) = (3, 4, 9, 7, 8, 5, 4);
            let conv = Conv { batch, c_in, height, width, c_out, kh: 3, kw: 3, oh, ow, config };
            let sizes = [batch * c_in * height * width, c_out * c_in / groups * 9, batch * c_out * oh * ow];
            let [x, w, g] = sizes.map(|n| normal(n, &mut stream).into_iter().map(of).collect::<Vec<T>>());
            let bias: Vec<T::Sum> = normal(c_out, &mut stream).into_iter().map(sum).collect();
            let aided = Aided::new(|_| false);
            let got = passes(&aided, &conv, [&x, &w, &g], &bias);
            let plain = Conv { config: Conv2dConfig { library: ConvLibrary::Own, ..config }, ..conv };
            let want = passes(&EMULATOR, &plain, [&x, &w, &g], &bias);
            assert_eq!(aided.calls.get(), if library == ConvLibrary::Own { 0 } else { calls }, "{config:?}");
            for (got, want) in got.iter().zip(&want) {
                if size_of::<T>() == 2 {
                    assert_close(&format!("{config:?}"), got, want, want.len(), ACTIVATIONS_BF16.value);
                } else {
                    assert!(got == want, "{config:?}");
                }
            }
        }
    }
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn convolutions_by_a_library() {
    convolved::<f32>(|x| x as f32, |x| x as f32);
    convolved::<f64>(|x| x, |x| x);
    convolved::<Bf16>(|x| Bf16(rounded(x as f32)), |x| x as f32);
}

#[test]
fn no_library_was_built_in() {
    let conv = |library| {
        let config = Conv2dConfig { library, ..Conv2dConfig::default() };
        Conv { batch: 1, c_in: 1, height: 1, width: 1, c_out: 1, kh: 1, kw: 1, oh: 1, ow: 1, config }
    };
    for library in [ConvLibrary::Automatic, ConvLibrary::Own] {
        assert!(!no_library("conv2d", &conv(library)).unwrap());
    }
    for library in [ConvLibrary::Cudnn, ConvLibrary::CudnnFast] {
        let said = no_library("conv2d", &conv(library)).unwrap_err();
        assert!(matches!(said, Error::Library { .. }));
        assert_eq!(
            said.to_string(),
            "conv2d: cuDNN was asked for and cannot be used: this program was built without it. Build with the feature \
             `cudnn`, or ask for ConvLibrary::Own"
        );
    }
}
