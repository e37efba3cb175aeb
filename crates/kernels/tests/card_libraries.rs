//! A card's libraries against own kernels and the CPU, and against themselves. Without a card or a library they say so.
#![cfg(feature = "cuda")]

mod card_common;

use candle_core::{DType, Device, Tensor, Var};
use kernels::libraries::{self, Libraries, Library};
use kernels::nn::{Conv2dConfig, ConvLibrary, conv2d};
use kernels::spd::{self, Metric};
use kernels::{Error, Result};
use random::{Axis, Seeds, Stream};
use testkit::tolerance::{ORACLE_F32, ORACLE_F64, PRODUCTS_TF32, Tolerance, assert_close};

const TYPES: [(DType, Tolerance); 2] = [(DType::F32, ORACLE_F32), (DType::F64, ORACLE_F64)];

/// The first card with its libraries; says where there is none.
#[expect(clippy::print_stderr, reason = "what was compared with what must be seen")]
fn card() -> Option<(Device, Libraries)> {
    let card = card_common::card()?;
    let libraries = libraries::of(&card).expect("a card has libraries");
    eprintln!("{libraries}");
    Some((card, libraries))
}

fn stream(path: u64) -> Stream {
    Seeds::new(95).stream(Axis::Test, &[path])
}

fn draw(shape: &[usize], stream: &mut Stream) -> Vec<f64> {
    (0..shape.iter().product()).map(|_| f64::from(stream.normal() as f32)).collect()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Arguments by value and shape.
type Arguments<'a> = &'a [(Vec<f64>, &'a [usize])];
type Op<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// The result and the gradients of all arguments for a fixed gradient of the result.
fn run(op: Op, arguments: Arguments, dtype: DType, device: &Device) -> Vec<Vec<f64>> {
    let tensor = |values: &[f64], shape: &[usize]| {
        let tensor = Tensor::from_slice(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        tensor.to_device(device).unwrap()
    };
    let one = |(values, shape): &(Vec<f64>, &[usize])| Var::from_tensor(&tensor(values, shape)).unwrap();
    let vars: Vec<Var> = arguments.iter().map(one).collect();
    let args: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = op(&args).unwrap();
    let g = tensor(&draw(y.dims(), &mut stream(1)), y.dims());
    let grads = (&y * g).unwrap().sum_all().unwrap().backward().unwrap();
    let mut all = vec![values(&y)];
    all.extend(vars.iter().map(|var| values(grads.get(var.as_tensor()).unwrap())));
    all
}

/// Values and gradients within the bars.
fn close(what: &str, got: &[Vec<f64>], want: &[Vec<f64>], bars: Tolerance) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let bar = if index == 0 { bars.value } else { bars.gradient };
        assert_close(&format!("{what}, {index}"), got, want, want.len(), bar);
    }
}

#[test]
fn convolutions() {
    let Some((card, libraries)) = card() else { return };
    let there = matches!(libraries.cudnn, Library::Version(_));
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
        let mut stream = stream(0);
        let all = [(draw(x, &mut stream), x), (draw(w, &mut stream), w), (draw(&w[..1], &mut stream), &w[..1])];
        for (arguments, (dtype, bars)) in [&all[..], &all[..2]].into_iter().flat_map(|a| TYPES.map(|t| (a, t))) {
            let by = |device: &Device, library| {
                let config = Conv2dConfig { stride, padding, dilation, groups, library, ..Conv2dConfig::default() };
                run(&|a| conv2d(&a[0], &a[1], a.get(2), config), arguments, dtype, device)
            };
            let what = format!("{x:?} by {w:?} {dtype:?}");
            let own = by(&card, ConvLibrary::Own);
            close(&what, &own, &by(&Device::Cpu, ConvLibrary::Own), bars);
            let automatic = by(&card, ConvLibrary::Automatic);
            close(&what, &automatic, &own, bars);
            assert!(automatic == by(&card, ConvLibrary::Automatic), "{what} gives other bits the second time");
            if there {
                assert!(automatic == by(&card, ConvLibrary::Cudnn), "{what}: asking for cuDNN changes its bits");
                close(&what, &by(&card, ConvLibrary::CudnnFast), &own, PRODUCTS_TF32);
            }
        }
    }
    assert_eq!(libraries::smaller_algorithms(), 0, "a card without room for a few megabytes");
}

/// A library that was asked for and is not there is an error that says what to do.
#[test]
fn cudnn_that_is_not_there() {
    let Some((card, libraries)) = card() else { return };
    if matches!(libraries.cudnn, Library::Version(_)) {
        return;
    }
    let one = Tensor::ones((1, 1, 2, 2), DType::F32, &card).unwrap();
    for library in [ConvLibrary::Cudnn, ConvLibrary::CudnnFast] {
        let refused = conv2d(&one, &one, None, Conv2dConfig { library, ..Conv2dConfig::default() });
        assert!(matches!(refused, Err(Error::Library { library: "cuDNN", .. })), "{refused:?}");
    }
}

/// Eigenvalues over six decades, a few of them many times, and all close to 1.
fn spectra(d: usize) -> [Vec<f64>; 3] {
    let decades = |k: usize| 10f64.powf(-6.0 * k as f64 / (d - 1) as f64);
    [
        (0..d).map(decades).collect(),
        (0..d).map(|k| [0.25, 1.0, 1.0, 3.0][k % 4]).collect(),
        (0..d).map(|k| 1.0 + 1e-7 * k as f64).collect(),
    ]
}

#[test]
fn large_matrices() {
    let Some((card, _)) = card() else { return };
    for d in [65, 96, 128] {
        let mut stream = stream(2);
        let a: Vec<f64> =
            spectra(d).iter().flat_map(|spectrum| testkit::spd::with_spectrum(spectrum, &mut stream)).collect();
        let ops: [(&str, Op); 4] = [
            ("log", &|a| spd::log(&a[0])),
            ("sqrt", &|a| spd::sqrt(&a[0])),
            ("inv_sqrt", &|a| spd::inv_sqrt(&a[0])),
            ("exp", &|a| spd::exp(&a[0])),
        ];
        let shape = [3, d, d];
        let arguments = [(a, &shape[..])];
        for (name, op) in ops {
            let want = run(op, &arguments, DType::F64, &Device::Cpu);
            let got = run(op, &arguments, DType::F64, &card);
            close(&format!("{name} of {d} rows"), &got, &want, ORACLE_F64);
            assert!(
                got == run(op, &arguments, DType::F64, &card),
                "{name} of {d} rows gives other bits the second time"
            );
        }
        for metric in [Metric::LogEuclidean, Metric::BuresWasserstein] {
            let distances = |device: &Device| {
                let a = Tensor::from_slice(&arguments[0].0, (3, d, d), device).unwrap();
                values(&spd::distance(metric, &a.narrow(0, 0, 1).unwrap(), &a.narrow(0, 1, 2).unwrap()).unwrap())
            };
            let what = format!("{metric:?}, {d} rows");
            assert_close(&what, &distances(&card), &distances(&Device::Cpu), 2, ORACLE_F64.value);
        }
    }
}
