//! What a record must be before a table is made from it.

use records::{Record, Scores, Status};

use crate::error::ReportError;
use crate::table::{Metric, Row};

/// Checks a record and makes its row.
pub(crate) fn row(record: &Record) -> Result<Row<'_>, ReportError> {
    let trial = || record.trial.clone();
    match (&record.status, &record.scores) {
        (Status::Done, None) => return Err(ReportError::DoneWithoutScores { trial: trial() }),
        (Status::Done, Some(scores)) => check_scores(record, scores)?,
        (_, None) => {}
        (status, Some(_)) => {
            return Err(ReportError::ScoresWithoutDone { trial: trial(), status: status.word() });
        }
    }
    let best = record.best.iter().map(|b| ("best.top1", b.top1));
    let cost = record.cost.iter().flat_map(|c| {
        [
            ("cost.step_ms", c.step_ms),
            ("cost.images_per_s", c.images_per_s),
            ("cost.peak_memory_mb", c.peak_memory_mb),
            ("cost.seconds", c.seconds),
        ]
    });
    let optional = record.cost.iter().flat_map(|c| {
        let waiting = c.input_wait_share.map(|value| ("cost.input_wait_share", value));
        waiting.into_iter().chain(c.peak_device_memory_mb.map(|value| ("cost.peak_device_memory_mb", value)))
    });
    for (field, value) in best.chain(cost).chain(optional) {
        check_finite(record, field, value)?;
    }
    for point in &record.curve {
        let named = point.terms.iter().chain(&point.diagnostics).map(|(name, &value)| (name.as_str(), value));
        let own = [
            ("curve.loss", point.loss),
            ("curve.learning_rate", point.learning_rate),
            ("curve.gradient_norm", point.gradient_norm),
        ];
        let test = point.test_top1.map(|value| ("curve.test_top1", value));
        for (field, value) in own.into_iter().chain(test).chain(named) {
            check_finite(record, field, value)?;
        }
    }
    Ok(Row { record, scores: record.scores.as_ref() })
}

fn check_scores(record: &Record, scores: &Scores) -> Result<(), ReportError> {
    for metric in Metric::ALL {
        let Some(value) = metric.of(scores) else { continue };
        check_finite(record, metric.name(), value)?;
        if metric != Metric::Nll && !(0.0..=1.0).contains(&value) {
            let (trial, field) = (record.trial.clone(), metric.name().to_owned());
            return Err(ReportError::NotAFraction { trial, field, value });
        }
    }
    let Scores { correct, total, top1, .. } = *scores;
    // The quotient of two whole numbers is the same float64 wherever it is made.
    if total == 0 || top1 != correct as f64 / total as f64 {
        return Err(ReportError::Accuracy { trial: record.trial.clone(), top1, correct, total });
    }
    Ok(())
}

fn check_finite(record: &Record, field: &str, value: f64) -> Result<(), ReportError> {
    if value.is_finite() {
        return Ok(());
    }
    Err(ReportError::NotFinite { trial: record.trial.clone(), field: field.to_owned(), value })
}
