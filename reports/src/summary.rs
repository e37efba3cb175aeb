//! `summary.csv`: a row per cell, and the means over datasets.

use records::Record;

use crate::error::ReportError;
use crate::results::{field, to_csv};
use crate::stats::{Interval, mean, sample_std, t_interval, wilson_interval};
use crate::table::{CellRows, Group, Layout, Metric, ScoreTable, Setting};

/// What stands in the `dataset` column of a mean over all datasets; its `cell` is empty.
pub const MEAN_OVER_DATASETS: &str = "(mean over datasets)";

/// A row per cell in the order of the layout, then a row per group, method and backbone with the means over the group's
/// members ([`crate::Group::label`] in the column `dataset`), then a row per method and backbone with the means over all
/// datasets if there is more than one; there a whole group counts as one dataset.
///
/// Columns: `method,dataset,backbone,cell,n,trials,failed`, where `n` counts the done trials, `trials` those with a
/// record, and `failed` those neither done nor skipped; then for each score `<name>_mean,<name>_std` (sample standard
/// deviation over seeds, empty for `n < 2`); after those of `top1` also `top1_low,top1_high,interval`: for `n ≥ 2` the
/// Student-t 95 % interval of the mean over seeds (`t over seeds`, not clipped to 0..1), for one seed Wilson's
/// 95 % interval over its test images (`wilson over images`). They answer different questions: the first how much
/// another set of seeds would move the mean, the second how much another set of test images would move this one model.
///
/// In a mean over datasets or members `n` counts the seeds done on every one of them, and all its numbers are over those
/// seeds alone; without any the numbers are empty.
///
/// # Errors
/// See [`ScoreTable::new`]; also [`ReportError::TwoCells`].
pub fn summary_csv(records: &[Record], layout: &Layout) -> Result<String, ReportError> {
    let table = ScoreTable::new(records, layout)?;
    table.check_names()?;
    let mut rows = vec![header()];
    rows.extend(table.cells.iter().map(cell_row));
    for group in &layout.groups {
        for method in &table.methods {
            rows.extend(table.backbones.iter().filter_map(|backbone| group_row(&table, group, method, backbone)));
        }
    }
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
    let setting = Setting { method, dataset: MEAN_OVER_DATASETS, backbone };
    Some(mean_numbers(setting, &cells, |metric| table.means_over_datasets(method, backbone, metric)))
}

/// None if there is no record of the method with the backbone on any member.
fn group_row(table: &ScoreTable<'_>, group: &Group, method: &str, backbone: &str) -> Option<Vec<String>> {
    let cells = table.members(group, method, backbone);
    if cells.is_empty() {
        return None;
    }
    let label = group.label();
    let setting = Setting { method, dataset: &label, backbone };
    Some(mean_numbers(setting, &cells, |metric| table.group_means(group, method, backbone, metric)))
}

fn mean_numbers(setting: Setting<'_>, cells: &[&CellRows<'_>], values: impl Fn(Metric) -> Vec<f64>) -> Vec<String> {
    let trials = cells.iter().map(|cell| cell.rows.len()).sum();
    let failed = cells.iter().map(|cell| cell.failed()).sum();
    numbers(setting, "", [values(Metric::Top1).len(), trials, failed], None, values)
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
