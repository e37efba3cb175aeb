//! Cross entropy: the methods `ce` and `ce-two-view`, and the first two terms of every other method.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use crate::ops::{label_count, log_softmax, matrix_dims};
use crate::settings::Check;
use crate::{LossError, Result};

/// `ce`: cross entropy of the anchor view alone. `L = CE(anchor)`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(default, deny_unknown_fields)]
pub struct CeConfig {
    /// Probability that is spread evenly over all classes, in `[0, 1)`; default 0.
    pub label_smoothing: f64,
}

impl CeConfig {
    pub(crate) fn validate(&self, check: Check) -> Result<()> {
        check.smoothing(self.label_smoothing)
    }
}

/// `ce-two-view`: cross entropy of both views. `L = CE(anchor) + λ·CE(positive)`: what the second view alone is worth.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct CeTwoViewConfig {
    /// Weight of the cross entropy of the positive view; default 1.
    pub lambda: f64,
    /// Label smoothing in `[0, 1)`; default 0.
    pub label_smoothing: f64,
}

impl Default for CeTwoViewConfig {
    fn default() -> Self {
        Self { lambda: 1.0, label_smoothing: 0.0 }
    }
}

impl CeTwoViewConfig {
    pub(crate) fn validate(&self, check: Check) -> Result<()> {
        check.weight("lambda", self.lambda)?;
        check.smoothing(self.label_smoothing)
    }
}

/// Softmax cross entropy with label smoothing, mean over the batch:
/// `mean_i [ −(1−ε)·log p_i(y_i) − (ε/K)·Σ_c log p_i(c) ]` for `logits` `[B,K]` and labels in `0..K`
/// (Szegedy et al., "Rethinking the Inception Architecture", 2016, section 7; PyTorch's `CrossEntropyLoss`).
///
/// # Errors
/// [`LossError::Label`] for a label that is no class, [`LossError::Shape`] for shapes that do not fit.
pub fn cross_entropy(logits: &Tensor, labels: &[u32], smoothing: f64) -> Result<Tensor> {
    let (n, classes) = matrix_dims("cross_entropy", "logits", logits)?;
    label_count("cross_entropy", labels, n)?;
    if let Some((entry, &label)) = labels.iter().enumerate().find(|&(_, &l)| l as usize >= classes) {
        return Err(LossError::Label { entry, label, classes });
    }
    let log_p = log_softmax(logits)?;
    let index = Tensor::from_vec(labels.to_vec(), (n, 1), logits.device())?;
    let own = log_p.gather(&index, 1)?.mean_all()?.neg()?;
    if smoothing == 0.0 {
        return Ok(own);
    }
    let spread = log_p.mean(D::Minus1)?.mean_all()?.neg()?;
    Ok(((own * (1.0 - smoothing))? + (spread * smoothing)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use testkit::tolerance::{IDENTITY_F64, assert_close};

    #[test]
    fn is_its_definition() {
        let rows = [[0.3, -1.0, 2.0], [1.5, 0.2, -0.7]];
        let labels = [2u32, 1];
        let logits = Tensor::new(&rows, &Device::Cpu).unwrap();
        for smoothing in [0.0, 0.1] {
            let want: f64 = rows
                .iter()
                .zip(labels)
                .map(|(row, y)| {
                    let log_sum = row.iter().map(|x: &f64| x.exp()).sum::<f64>().ln();
                    row.iter()
                        .enumerate()
                        .map(|(c, x)| {
                            let target = smoothing / 3.0 + if c == y as usize { 1.0 - smoothing } else { 0.0 };
                            -target * (x - log_sum)
                        })
                        .sum::<f64>()
                })
                .sum::<f64>()
                / 2.0;
            let got = cross_entropy(&logits, &labels, smoothing).unwrap().to_scalar::<f64>().unwrap();
            assert_close("cross entropy", &[got], &[want], 1, IDENTITY_F64);
        }
    }

    #[test]
    fn refuses_what_is_no_class() {
        let logits = Tensor::new(&[[0.0f64, 1.0]], &Device::Cpu).unwrap();
        assert!(matches!(cross_entropy(&logits, &[2], 0.0), Err(LossError::Label { entry: 0, label: 2, classes: 2 })));
        assert!(matches!(cross_entropy(&logits, &[0, 1], 0.0), Err(LossError::Shape { .. })));
    }
}
