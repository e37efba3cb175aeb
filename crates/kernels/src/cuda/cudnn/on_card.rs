//! cuDNN against own kernels on a card, in all three types of activations. Where there is none, they say so.

use candle_core::CudaDevice;
use candle_core::backend::BackendDevice;
use random::{Axis, Seeds};
use testkit::tolerance::{ACTIVATIONS_BF16, ORACLE_F32, ORACLE_F64, Tolerance, assert_close};

use super::super::card::Card;
use super::super::device::{Bf16, Device, Stored};
use super::super::train::conv::{self, Conv};
use super::found;
use crate::nn::{Conv2dConfig, ConvLibrary};

/// The first card, if cuDNN is there too.
#[expect(clippy::print_stderr, reason = "a comparison that was not made must be seen")]
fn card() -> Option<Card> {
    let card = match CudaDevice::new(0) {
        Ok(card) => Card(card),
        Err(error) => {
            eprintln!("no card, nothing compared: {error}");
            return None;
        }
    };
    match found(&card) {
        Ok(_) => Some(card),
        Err(why) => {
            eprintln!("no cuDNN, nothing compared: {why}");
            None
        }
    }
}

/// A type of activations, and numbers of it.
trait Activations: Stored + PartialEq {
    const BARS: Tolerance;
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
}

impl Activations for f32 {
    const BARS: Tolerance = ORACLE_F32;

    fn of(x: f64) -> Self {
        x as Self
    }

    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Activations for f64 {
    const BARS: Tolerance = ORACLE_F64;

    fn of(x: f64) -> Self {
        x
    }

    fn wide(self) -> f64 {
        self
    }
}

impl Activations for Bf16 {
    const BARS: Tolerance = ACTIVATIONS_BF16;

    fn of(x: f64) -> Self {
        let bits = (x as f32).to_bits();
        Self(((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16)
    }

    fn wide(self) -> f64 {
        f64::from(f32::from_bits(u32::from(self.0) << 16))
    }
}

/// The result with a bias, and the gradients of images and weights.
fn passes<T: Activations>(card: &Card, conv: &Conv) -> [Vec<f64>; 3]
where
    T::Sum: Activations,
{
    let mut stream = Seeds::new(96).stream(Axis::Test, &[]);
    let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| stream.normal()).collect() };
    let Conv { batch, c_in, height, width, c_out, kh, kw, oh, ow, config } = *conv;
    let sizes = [batch * c_in * height * width, c_out * c_in / config.groups * kh * kw, batch * c_out * oh * ow];
    let [x, w, g] = sizes.map(|n| card.upload(&draw(n).into_iter().map(T::of).collect::<Vec<T>>()).unwrap());
    let bias = card.upload(&draw(c_out).into_iter().map(T::Sum::of).collect::<Vec<_>>()).unwrap();
    let [x, w, g] = [&x, &w, &g].map(|memory| card.view(memory));
    let y = conv::forward(card, "conv2d", (x, w), Some(card.view(&bias)), conv).unwrap();
    let gx = conv::backward(card, "conv2d", (g, w), conv).unwrap();
    let gw = conv::filter::<_, T>(card, "conv2d", (x, g), conv).unwrap();
    let [y, gx] = [&y, &gx].map(|memory| card.download(memory).unwrap().into_iter().map(T::wide).collect());
    [y, gx, card.download(&gw).unwrap().into_iter().map(T::Sum::wide).collect()]
}

fn compared<T: Activations>()
where
    T::Sum: Activations,
{
    let Some(card) = card() else { return };
    let problems = [
        ([8, 3, 64, 64], [64, 3, 7, 7], [2, 3, 1, 1]),
        ([4, 64, 28, 28], [128, 64, 3, 3], [1, 1, 1, 1]),
        ([4, 128, 14, 14], [256, 128, 1, 1], [2, 0, 1, 1]),
        ([3, 8, 9, 11], [12, 4, 3, 2], [1, 2, 2, 2]),
    ];
    for ([batch, c_in, height, width], [c_out, _, kh, kw], [stride, padding, dilation, groups]) in problems {
        let by = |library| {
            let config = Conv2dConfig { stride, padding, dilation, groups, library, ..Conv2dConfig::default() };
            let [oh, ow] = [(height, kh), (width, kw)].map(|(n, k)| config.output_size(n, k).unwrap());
            passes::<T>(&card, &Conv { batch, c_in, height, width, c_out, kh, kw, oh, ow, config })
        };
        let (got, want) = (by(ConvLibrary::Cudnn), by(ConvLibrary::Own));
        for ((got, want), bar) in got.iter().zip(&want).zip([T::BARS.value, T::BARS.gradient, T::BARS.gradient]) {
            let what = format!("{batch}x{c_in}x{height}x{width} by {c_out} of {kh}x{kw}, {groups} groups");
            assert_close(&what, got, want, want.len(), bar);
        }
        assert!(got == by(ConvLibrary::Cudnn), "other bits the second time");
    }
}

#[test]
fn float32() {
    compared::<f32>();
}

#[test]
fn float64() {
    compared::<f64>();
}

#[test]
fn bfloat16() {
    compared::<Bf16>();
}
