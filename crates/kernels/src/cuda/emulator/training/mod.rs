//! Training ops against the CPU's in float64, on the same numbers: in float32, float64 and bfloat16.

mod casts;
mod convs;
mod network;
mod norms;
mod optimisers;
mod pointwise;
mod tokens;

use candle_core::{Tensor, Var};
use random::Stream;
use testkit::tolerance::{ACTIVATIONS_BF16, ORACLE_F32, ORACLE_F64, Tolerance, assert_close};

use super::super::device::{Bf16, Device, Stored, View};
use super::witnesses::{gradients, normal, values, variable};
use super::{Emulator, Memory};

/// A type of activations.
trait Activations: Stored + std::fmt::Debug + PartialEq {
    const NAME: &'static str;
    const BAR: Tolerance;
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
}

impl Activations for f32 {
    const NAME: &'static str = "f32";
    const BAR: Tolerance = ORACLE_F32;

    fn of(x: f64) -> Self {
        x as Self
    }

    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Activations for f64 {
    const NAME: &'static str = "f64";
    const BAR: Tolerance = ORACLE_F64;

    fn of(x: f64) -> Self {
        x
    }

    fn wide(self) -> f64 {
        self
    }
}

impl Activations for Bf16 {
    const NAME: &'static str = "bf16";
    const BAR: Tolerance = ACTIVATIONS_BF16;

    /// To the nearest number that has eight bits, ties to even.
    fn of(x: f64) -> Self {
        let bits = (x as f32).to_bits();
        Self(((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16)
    }

    fn wide(self) -> f64 {
        f64::from(f32::from_bits(u32::from(self.0) << 16))
    }
}

/// Numbers that `T` can hold.
fn draw<T: Activations>(n: usize, stream: &mut Stream) -> Vec<f64> {
    normal(n, stream).into_iter().map(|x| T::of(x).wide()).collect()
}

fn upload<T: Activations>(device: &Emulator, values: &[f64]) -> Memory<T> {
    let values: Vec<T> = values.iter().map(|&x| T::of(x)).collect();
    device.upload(&values).unwrap()
}

fn numbers<T: Activations>(device: &Emulator, memory: &Memory<T>) -> Vec<f64> {
    device.download(memory).unwrap().into_iter().map(T::wide).collect()
}

/// Results and gradients by name, each compared as a whole.
#[track_caller]
fn compare<T: Activations>(what: &str, got: &[(&str, Vec<f64>)], want: &[(&str, Vec<f64>)]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for ((name, got), (expected, want)) in got.iter().zip(want) {
        assert_eq!(name, expected, "{what}");
        let bar = if name.starts_with('y') { T::BAR.value } else { T::BAR.gradient };
        assert_close(&format!("{what}, {}, {name}", T::NAME), got, want, want.len(), bar);
    }
}

/// A test in all three types.
macro_rules! in_every_type {
    ($($name:ident: $check:ident),* $(,)?) => {$(
        #[test]
        #[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
        fn $name() {
            $check::<f32>();
            $check::<f64>();
            $check::<$crate::cuda::device::Bf16>();
        }
    )*};
}
use in_every_type;
