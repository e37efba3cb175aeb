//! Backbones against parity files: three rows an architecture and dtype.
//!
//! `backbone_eval` has features and logits in eval mode; `backbone_train` the features in train mode and the median of the
//! gradients' errors; `backbone_worst` the same features and the worst gradient.

use std::path::Path;

use backbones::parity::{ParityBars, ParityCase, ParityErrors, parity_files};
use candle_core::Device;

use super::measure::Measured;
use super::{Precision, Row};
use crate::verify::OracleError;

/// Name and contents of the shipped files, made by `ci/backbones/generate.py`.
macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        &[$((
            $name,
            include_bytes!(concat!("../../../ci/backbones/data/", $name, ".json")) as &[u8],
            include_bytes!(concat!("../../../ci/backbones/data/", $name, ".safetensors")) as &[u8],
        )),+]
    };
}

const SHIPPED: &[(&str, &[u8], &[u8])] =
    shipped!["convnext_atto", "efficientnet_b0", "regnetx_002", "regnety_002", "resnet18", "vit_tiny_patch16_224",];

/// The set that the binary carries.
pub(crate) fn shipped() -> Result<Vec<ParityCase>, OracleError> {
    let folder = Path::new("ci/backbones/data");
    let parse = |(name, json, tensors): &(&str, &[u8], &[u8])| {
        Ok(ParityCase::parse(&folder.join(format!("{name}.json")), json, tensors)?)
    };
    SHIPPED.iter().map(parse).collect()
}

/// Every architecture of a folder.
pub(crate) fn folder(path: &Path) -> Result<Vec<ParityCase>, OracleError> {
    parity_files(path)?.iter().map(|json| Ok(ParityCase::read(json)?)).collect()
}

/// Runs every network in every dtype on `device`.
pub(crate) fn verify(cases: &[ParityCase], precisions: &[Precision], device: &Device) -> Vec<Row> {
    let pairs = cases.iter().flat_map(|case| precisions.iter().map(move |precision| (case, *precision)));
    pairs.flat_map(|(case, precision)| rows(case, precision, device)).collect()
}

fn rows(case: &ParityCase, precision: Precision, device: &Device) -> [Row; 3] {
    let bars = ParityBars::of(precision.dtype());
    let (errors, notes) = match case.run_on(precision.dtype(), device) {
        Ok(errors) => (errors, vec![]),
        Err(error) => (never(), vec![format!("refused: {error}")]),
    };
    let measured = |error, tolerance| Measured { error, tolerance };
    let train = measured(errors.features_train, bars.train);
    let row = |op, value, gradient| Row {
        op,
        case: case.arch().to_owned(),
        precision,
        value,
        gradient,
        notes: notes.clone(),
    };
    [
        row("backbone_eval", measured(errors.features_eval.max(errors.logits_eval), bars.eval), None),
        row("backbone_train", train, Some(measured(errors.median_gradient(), bars.median_gradient))),
        row("backbone_worst", train, Some(measured(errors.worst_gradient(), bars.worst_gradient))),
    ]
}

/// The errors of a network that did not answer: no tolerance lets them pass.
fn never() -> ParityErrors {
    let error = f64::INFINITY;
    ParityErrors { features_eval: error, logits_eval: error, features_train: error, gradients: vec![] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_in_the_binary_is_the_one_of_the_project() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ci/backbones/data");
        let names: Vec<String> = parity_files(&folder)
            .unwrap()
            .iter()
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, SHIPPED.iter().map(|(name, ..)| *name).collect::<Vec<_>>());
        for ((name, json, tensors), case) in SHIPPED.iter().zip(shipped().unwrap()) {
            assert_eq!(std::fs::read(folder.join(format!("{name}.json"))).unwrap(), *json);
            assert_eq!(std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap(), *tensors);
            assert_eq!(case.arch(), *name);
        }
    }

    #[test]
    fn a_network_that_does_not_answer_never_passes() {
        let errors = never();
        for bars in [Precision::F32, Precision::F64].map(|precision| ParityBars::of(precision.dtype())) {
            let median = Measured { error: errors.median_gradient(), tolerance: bars.median_gradient };
            let worst = Measured { error: errors.worst_gradient(), tolerance: bars.worst_gradient };
            assert!(!median.passes() && !worst.passes());
            assert!(!Measured { error: errors.features_eval, tolerance: bars.eval }.passes());
        }
    }
}
