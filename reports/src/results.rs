//! `results.csv`: a row per trial.

use records::Record;

use crate::error::ReportError;
use crate::markdown::one_line;
use crate::table::{Layout, Metric, Row, ScoreTable};

/// The columns of `results.csv`. Accuracies, F1, recalls, precision, ECE and chance are fractions; `nll` is in nats.
pub const COLUMNS: [&str; 38] = [
    "trial",
    "cell",
    "suite",
    "method",
    "dataset",
    "backbone",
    "seed",
    "status",
    "top1",
    "top5",
    "macro_f1",
    "nll",
    "ece",
    "recall_at_1",
    "recall_at_4",
    "map_at_r",
    "best_top1",
    "best_epoch",
    "step_ms",
    "images_per_s",
    "peak_memory_mb",
    "params",
    "seconds",
    "params_train_only",
    "steps",
    "resumed_at_step",
    "attempt",
    "correct",
    "total",
    "chance",
    "classes",
    "train_images",
    "test_images",
    "weights",
    "predictions_sha256",
    "loss",
    "gradient_norm",
    "detail",
];

/// The columns that measure time, memory or what interrupted the trial. A trial that was stopped and resumed, or done
/// again on the same kind of machine, gives the same row except for these.
pub const TIMING_COLUMNS: [&str; 6] =
    ["step_ms", "images_per_s", "peak_memory_mb", "seconds", "resumed_at_step", "attempt"];

/// A further column, at the end, where a trial ran on a card: the most of its memory that the trial's tensors held, MiB.
pub const DEVICE_MEMORY_COLUMN: &str = "peak_device_memory_mb";

/// A row per trial (its latest attempt), in the order of the layout (method, dataset, backbone), then by seed.
///
/// Numbers are written in the shortest form that reads back as the same float64, fields that do not exist are empty.
/// `chance` is `1 / classes`; `loss` and `gradient_norm` are means over the last epoch; `detail` is what went wrong,
/// on one line.
///
/// # Errors
/// See [`ScoreTable::new`].
pub fn results_csv(records: &[Record], layout: &Layout) -> Result<String, ReportError> {
    let table = ScoreTable::new(records, layout)?;
    let mut rows = vec![COLUMNS.map(str::to_owned).to_vec()];
    rows.extend(table.rows().map(fields));
    let device_memory: Vec<Option<f64>> = table.rows().map(device_memory).collect();
    if device_memory.iter().any(Option::is_some) {
        rows[0].push(DEVICE_MEMORY_COLUMN.to_owned());
        rows[1..].iter_mut().zip(device_memory).for_each(|(row, value)| row.push(field(value)));
    }
    to_csv(&rows)
}

/// Rows as CSV text.
pub(crate) fn to_csv(rows: &[Vec<String>]) -> Result<String, ReportError> {
    let mut writer = csv::Writer::from_writer(vec![]);
    for row in rows {
        writer.write_record(row)?;
    }
    let bytes = writer.into_inner().map_err(|e| csv::Error::from(e.into_error()))?;
    Ok(String::from_utf8(bytes).expect("made from strings"))
}

/// A value, or an empty field. `f64` prints as the shortest decimal that reads back as the same value.
pub(crate) fn field(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |v| v.to_string())
}

fn device_memory(row: Row<'_>) -> Option<f64> {
    row.record.cost.as_ref()?.peak_device_memory_mb
}

/// The fields of a trial, in the order of [`COLUMNS`].
fn fields(row: Row<'_>) -> Vec<String> {
    let (r, scores, data) = (row.record, row.scores, row.record.data.as_ref());
    let cost = r.cost.as_ref();
    let last = r.curve.last();
    let mut fields: Vec<String> =
        [&r.trial, &r.cell, &r.suite, &r.method, &r.dataset, &r.backbone].map(String::clone).to_vec();
    fields.extend([r.seed.to_string(), r.status.word().to_owned()]);
    fields.extend(Metric::ALL.map(|metric| field(scores.and_then(|s| metric.of(s)))));
    fields.extend([
        field(r.best.map(|b| b.top1)),
        field(r.best.map(|b| b.epoch)),
        field(cost.map(|c| c.step_ms)),
        field(cost.map(|c| c.images_per_s)),
        field(cost.map(|c| c.peak_memory_mb)),
        field(cost.map(|c| c.params)),
        field(cost.map(|c| c.seconds)),
        field(cost.map(|c| c.params_train_only)),
        field(cost.map(|c| c.steps)),
        field(cost.map(|c| c.resumed_at_step)),
        r.attempt.to_string(),
        field(scores.map(|s| s.correct)),
        field(scores.map(|s| s.total)),
        field(data.filter(|d| d.classes > 0).map(|d| 1.0 / d.classes as f64)),
        field(data.map(|d| d.classes)),
        field(data.map(|d| d.train)),
        field(data.map(|d| d.test)),
        field(r.weights.as_ref()),
        field(r.predictions.as_ref().map(|p| &p.sha256)),
        field(last.map(|p| p.loss)),
        field(last.map(|p| p.gradient_norm)),
        one_line(&r.status.detail()),
    ]);
    fields
}
