//! Against the oracle files.

use candle_core::{DType, Tensor, Var};
use kernels::spd::Metric;
use losses::pac_mcl::pac_mcl;
use losses::supcon::supcon;
use losses::triplet::triplet;
use losses::{Alignment, Negatives};
use testkit::oracle::{Array, Case, cases};
use testkit::spd::symmetrise;
use testkit::tolerance::{ORACLE_F32, ORACLE_F64, Tolerance, assert_close};

use crate::support::{tensor, value, values};

const DTYPES: [(DType, Tolerance); 2] = [(DType::F64, ORACLE_F64), (DType::F32, ORACLE_F32)];

fn var(array: &Array, dtype: DType) -> Var {
    Var::from_tensor(&tensor(&array.values, &array.shape).to_dtype(dtype).unwrap()).unwrap()
}

fn labels(case: &Case) -> Vec<u32> {
    case.tensor("labels").indices().into_iter().map(|l| l as u32).collect()
}

/// Compares loss and gradients; the batch entries of a gradient are its last `item` values.
fn compare(case: &Case, loss: &Tensor, inputs: &[(&str, &Var)], item: usize, bar: Tolerance) {
    let what = |name: &str| format!("{}.{} {name}", case.op, case.case);
    assert_close(&what("loss"), &[value(loss)], &case.tensor("loss").values, 1, bar.value);
    let gradients = loss.backward().unwrap();
    for (name, var) in inputs {
        let mut got = values(gradients.get(var).unwrap_or_else(|| panic!("{}: none", what(name))));
        if case.op == "pac_mcl" {
            let d = *var.dims().last().unwrap();
            got.chunks_mut(d * d).for_each(|part| symmetrise(part, d));
        }
        assert_close(&what(name), &got, &case.tensor(name).values, item, bar.gradient);
    }
}

#[test]
fn supervised_contrastive() {
    for case in cases("supcon", "") {
        for (dtype, bar) in DTYPES {
            let z = var(case.tensor("z"), dtype);
            let loss = supcon(&z, &labels(&case), case.number("temperature")).unwrap();
            compare(&case, &loss, &[("grad_z", &z)], z.dims()[1], bar);
        }
    }
}

#[test]
fn triplets() {
    for case in cases("triplet", "") {
        for (dtype, bar) in DTYPES {
            let [a, p, n] = ["anchor", "positive", "negative"].map(|name| var(case.tensor(name), dtype));
            let loss = triplet(&a, &p, &n, case.number("margin")).unwrap();
            let inputs = [("grad_anchor", &a), ("grad_positive", &p), ("grad_negative", &n)];
            compare(&case, &loss, &inputs, a.dims()[1], bar);
        }
    }
}

#[test]
fn part_aware_contrast() {
    for case in cases("pac_mcl", "") {
        let metric = match case.text("metric") {
            "le" => Metric::LogEuclidean,
            "bw" => Metric::BuresWasserstein,
            other => panic!("metric {other}"),
        };
        let alignment = match case.text("align") {
            "nearest" => Alignment::Nearest,
            "mutual" => Alignment::Mutual,
            "hungarian" => Alignment::Hungarian,
            other => panic!("align {other}"),
        };
        for (dtype, bar) in DTYPES {
            let (a, b) = (var(case.tensor("anchor"), dtype), var(case.tensor("positive"), dtype));
            let margin = case.number("margin");
            let out = pac_mcl(metric, alignment, Negatives::Hardest, margin, &a, &b, &labels(&case)).unwrap();
            assert_eq!(out.matches, case.tensor("match").indices(), "{}", case.case);
            if let Some(active) = case.attributes.get("active_share") {
                assert_eq!(out.diagnostics["active_share"], active.parse::<f64>().unwrap(), "{}", case.case);
            }
            let d = a.dims()[3];
            compare(&case, &out.loss, &[("grad_anchor", &a), ("grad_positive", &b)], d * d, bar);
        }
    }
}
