//! Ranking losses, by pairs and by sorting, against the CPU's.

use random::{Axis, Seeds};
use testkit::tolerance::{ORACLE_F64, assert_close};

use super::super::cotap;
use super::super::device::Device;
use super::witnesses::{gradients, normal, values, variable};
use super::{Emulator, Order};

const EMULATOR: Emulator = Emulator(Order::OddFirst);

/// Lists longer than a block, several at a time, with ties in both orders.
#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn several_ranking_losses() {
    let mut stream = Seeds::new(36).stream(Axis::Test, &[]);
    let (k, n, taus) = (3, 300, (0.1, 0.5));
    let mut list = || (0..k * n).map(|_| (4.0 * stream.normal()).round() / 4.0).collect::<Vec<f64>>();
    let (p, q) = (list(), list());
    let g = normal(k, &mut stream);
    let (x, y) = (variable(&p, &[k, n]), variable(&q, &[k, n]));
    let want = crate::cotap::cotap(&x, &y, taus.0, taus.1).unwrap();
    let grads = gradients(&want, &g, &[&x]);
    let [p, q, g] = [p, q, g].map(|v| EMULATOR.upload(&v).unwrap());
    let views = (EMULATOR.view(&p), EMULATOR.view(&q));
    let (loss, slopes) = cotap::cotap(&EMULATOR, "op", views, (k, n), taus).unwrap();
    let grad = cotap::gradient::<_, f64>(&EMULATOR, &slopes, EMULATOR.view(&g), (k, n)).unwrap();
    assert_close("losses", &EMULATOR.download(&loss).unwrap(), &values(&want), 1, ORACLE_F64.value);
    assert_close("gradients", &EMULATOR.download(&grad).unwrap(), &grads[0], n, ORACLE_F64.gradient);
}

/// Lists of every kind of length by sorting: one item, powers of two and what is next to them, several blocks.
#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn ranking_losses_by_sorting() {
    let mut stream = Seeds::new(39).stream(Axis::Test, &[]);
    for n in [1, 2, 3, 8, 9, 63, 300, 1025] {
        for ties in [false, true] {
            let (k, taus) = (2, (-0.2, 0.5));
            let mut list = || -> Vec<f64> {
                let values = normal(k * n, &mut stream).into_iter();
                values.map(|v| if ties { (4.0 * v).round() / 4.0 } else { v }).collect()
            };
            let (p, q) = (list(), list());
            let (x, y) = (variable(&p, &[k, n]), variable(&q, &[k, n]));
            let want = crate::cotap::cotap(&x, &y, taus.0, taus.1).unwrap();
            let grads = gradients(&want, &[1.0, 1.0], &[&x]);
            let [p, q] = [p, q].map(|v| EMULATOR.upload(&v).unwrap());
            let views = (EMULATOR.view(&p), EMULATOR.view(&q));
            let (terms, grad) = cotap::by_ranks(&EMULATOR, "cotap", views, (k, n), taus).unwrap();
            let losses: Vec<f64> = EMULATOR.download(&terms).unwrap().chunks(n).map(|v| v.iter().sum()).collect();
            let what = format!("{n} items, ties {ties}");
            assert_close(&what, &losses, &values(&want), 1, ORACLE_F64.value);
            assert_close(&what, &EMULATOR.download(&grad).unwrap(), &grads[0], k * n, ORACLE_F64.gradient);
        }
    }
}
