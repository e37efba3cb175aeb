//! `summary.csv`: a row per cell, and the means over datasets.

use records::Record;

use crate::error::ReportError;
use crate::results::{field, to_csv};
use crate::stats::{Interval, mean, sample_std, t_interval, wilson_interval};
use crate::table::{CellRows, Layout, Metric, ScoreTable, Setting};

/// What stands in the `dataset` column of a mean over all datasets; its `cell` is empty.
pub const MEAN_OVER_DATASETS: &str = "(mean over datasets)";

/// A row per cell in the order of the layout, then a row per method and backbone with the means over all datasets if
/// there is more than one.
///
/// Columns: `method,dataset,backbone,cell,n,trials,failed`, where `n` counts the done trials, `trials` those with a
/// record, and `failed` those neither done nor skipped; then for each score `<name>_mean,<name>_std` (sample standard
/// deviation over seeds, empty for `n < 2`); after those of `top1` also `top1_low,top1_high,interval`: for `n ≥ 2` the
/// Student-t 95 % interval of the mean over seeds (`t over seeds`, not clipped to 0..1), for one seed Wilson's
/// 95 % interval over its test images (`wilson over images`). They answer different questions: the first how much
/// another set of seeds would move the mean, the second how much another set of test images would move this one model.
///
/// In a mean over datasets `n` counts the seeds done on every dataset, and all its numbers are over those seeds alone.
///
/// # Errors
/// See [`ScoreTable::new`]; also [`ReportError::TwoCells`].
pub fn summary_csv(records: &[Record], layout: &Layout) -> Result<String, ReportError> {
    let table = ScoreTable::new(records, layout)?;
    table.check_names()?;
    let mut rows = vec![header()];
    rows.extend(table.cells.iter().map(cell_row));
    if table.datasets.len() > 1 {
        for method in &table.methods {
            rows.extend(table.backbones.iter().filter_map(|backbone| mean_row(&table, method, backbone)));
        }
    }
    to_csv(&rows)
}

fn header() -> Vec<String> {
    let mut header: Vec<String> =
        ["method", "dataset", "backbone", "cell", "n", "trials", "failed"].map(str::to_owned).to_vec();
    for metric in Metric::ALL {
        header.extend([format!("{}_mean", metric.name()), format!("{}_std", metric.name())]);
        if metric == Metric::Top1 {
            header.extend(["top1_low", "top1_high", "interval"].map(str::to_owned));
        }
    }
    header
}

fn cell_row(cell: &CellRows<'_>) -> Vec<String> {
    let one_image_set = match cell.done().collect::<Vec<_>>()[..] {
        [(_, scores)] => wilson_interval(scores.correct, scores.total),
        _ => None,
    };
    let counts = [cell.done().count(), cell.rows.len(), cell.failed()];
    numbers(cell.setting, cell.cell, counts, one_image_set, |metric| cell.values(metric))
}

/// None if there is no record of the method with the backbone.
fn mean_row(table: &ScoreTable<'_>, method: &str, backbone: &str) -> Option<Vec<String>> {
    let cells: Vec<&CellRows<'_>> =
        table.cells.iter().filter(|c| c.setting.method == method && c.setting.backbone == backbone).collect();
    if cells.is_empty() {
        return None;
    }
    let n = table.means_over_datasets(method, backbone, Metric::Top1).len();
    let trials = cells.iter().map(|c| c.rows.len()).sum();
    let failed = cells.iter().map(|c| c.failed()).sum();
    let setting = Setting { method, dataset: MEAN_OVER_DATASETS, backbone };
    let values = |metric| table.means_over_datasets(method, backbone, metric);
    Some(numbers(setting, "", [n, trials, failed], None, values))
}

fn numbers(
    setting: Setting<'_>,
    cell: &str,
    counts: [usize; 3],
    over_images: Option<Interval>,
    values: impl Fn(Metric) -> Vec<f64>,
) -> Vec<String> {
    let mut row = [setting.method, setting.dataset, setting.backbone, cell].map(str::to_owned).to_vec();
    row.extend(counts.map(|count| count.to_string()));
    for metric in Metric::ALL {
        let values = values(metric);
        row.extend([field(mean(&values)), field(sample_std(&values))]);
        if metric == Metric::Top1 {
            let over_seeds = t_interval(&values).map(|i| (i, "t over seeds"));
            let interval = over_seeds.or(over_images.map(|i| (i, "wilson over images")));
            row.extend([field(interval.map(|i| i.0.low)), field(interval.map(|i| i.0.high))]);
            row.push(field(interval.map(|i| i.1)));
        }
    }
    row
}
