//! Sums over the steps of an epoch, from which its point of the curve is made.

use std::collections::BTreeMap;

use losses::Numbers;
use records::EpochPoint;

/// Sums over the steps of an epoch.
#[derive(Default)]
pub(super) struct Sums {
    steps: u64,
    loss: f64,
    norm: f64,
    rate: f64,
    terms: BTreeMap<String, f64>,
    diagnostics: BTreeMap<String, (f64, u64)>,
}

impl Sums {
    /// Adds a step.
    pub(super) fn add(&mut self, numbers: &Numbers, norm: f64, rate: f64) {
        self.steps += 1;
        self.loss += numbers.total;
        self.norm += norm;
        self.rate = rate;
        for (name, value) in &numbers.terms {
            *self.terms.entry(name.clone()).or_default() += value;
        }
        for (name, &value) in &numbers.diagnostics {
            let (sum, count) = self.diagnostics.entry(name.clone()).or_insert((initial(name), 0));
            *sum = if is_minimum(name) { sum.min(value) } else { *sum + value };
            *count += 1;
        }
    }

    pub(super) fn point(&self, epoch: u64, test_top1: Option<f64>) -> EpochPoint {
        let steps = self.steps.max(1) as f64;
        let diagnostic = |(name, (sum, count)): (&String, &(f64, u64))| {
            (name.clone(), if is_minimum(name) { *sum } else { sum / (*count).max(1) as f64 })
        };
        EpochPoint {
            epoch,
            loss: self.loss / steps,
            terms: self.terms.iter().map(|(name, sum)| (name.clone(), sum / steps)).collect(),
            learning_rate: self.rate,
            gradient_norm: self.norm / steps,
            diagnostics: self.diagnostics.iter().map(diagnostic).collect(),
            test_top1,
        }
    }
}

/// A diagnostic whose smallest value over the epoch counts, not its mean.
fn is_minimum(name: &str) -> bool {
    name.ends_with("_min")
}

fn initial(name: &str) -> f64 {
    if is_minimum(name) { f64::INFINITY } else { 0.0 }
}

/// The median of numbers, 0 of none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]),
    }
}
