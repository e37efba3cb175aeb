//! Float32 and bfloat16 in each other, and masks.

use random::{Axis, Seeds};

use super::super::Order;
use super::super::tests::in_every_order;
use super::*;
use crate::cuda::train::cast::{masked, narrow, widen};

/// The bits of bfloat16 numbers that the device makes of float32 ones.
fn narrowed(values: &[f32]) -> Vec<u16> {
    let device = Emulator(Order::Forward);
    let x = device.upload(values).unwrap();
    let y = narrow(&device, "narrow", device.view(&x)).unwrap();
    device.download(&y).unwrap().into_iter().map(|y| y.0).collect()
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn every_bfloat16_comes_back() {
    let device = Emulator(Order::Forward);
    let all: Vec<Bf16> = (0..=u16::MAX).map(Bf16).collect();
    let x = device.upload(&all).unwrap();
    let wide = device.download(&widen(&device, "widen", device.view(&x)).unwrap()).unwrap();
    assert!(wide.iter().zip(&all).all(|(wide, x)| wide.to_bits() == u32::from(x.0) << 16));
    for (back, (x, wide)) in narrowed(&wide).into_iter().zip(all.iter().zip(&wide)) {
        // Of NaN only that it is one, of this sign.
        let same = if wide.is_nan() { back == x.0 | 0x40 } else { back == x.0 };
        assert!(same, "{:#06x} becomes {back:#06x}", x.0);
    }
}

/// Between two neighbours: to the nearest, from the middle to the even one.
#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn numbers_between_bfloat16_are_rounded() {
    for low in [0x0000u16, 0x0001, 0x007f, 0x0080, 0x3f80, 0x3f81, 0x7f7e, 0x7f7f, 0x8000, 0xbf80, 0xbf81, 0xff7f] {
        let rest = [0x0001u32, 0x7fff, 0x8000, 0x8001, 0xffff];
        let values: Vec<f32> = rest.iter().map(|rest| f32::from_bits(u32::from(low) << 16 | rest)).collect();
        let even = low + low % 2;
        assert_eq!(narrowed(&values), [low, low, even, low + 1, low + 1], "above {low:#06x}");
    }
    let special = [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, -0.0, f32::from_bits(0x7f80_0001)];
    assert_eq!(narrowed(&special), [0x7f80, 0xff80, 0x7f80, 0xff80, 0x8000, 0x7fc0]);
}

/// A mask of the shape of the value, and one number an image.
fn masks<T: Activations>()
where
    T::Sum: Activations,
{
    const BATCH: usize = 3;
    let mut stream = Seeds::new(49).stream(Axis::Test, &[]);
    let x = draw::<T>(BATCH * 700, &mut stream);
    for count in [BATCH, x.len()] {
        let mask: Vec<f64> = (0..count).map(|_| if stream.chance(0.4) { 0.0 } else { 1.25 }).collect();
        let each = x.len() / count;
        let want = [("y", x.iter().enumerate().map(|(i, x)| x * mask[i / each]).collect())];
        let got = in_every_order(|device| {
            let (x, mask) = (upload::<T>(device, &x), upload::<T::Sum>(device, &mask));
            Ok([("y", numbers(device, &masked::<_, T>(device, "op", device.view(&x), device.view(&mask))?))])
        });
        compare::<T>(&format!("{count} numbers"), &got.unwrap(), &want);
    }
}

in_every_type! { masks_of_values_and_images: masks }
