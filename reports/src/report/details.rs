//! Per method: other scores, costs, diagnostics.

use std::collections::BTreeSet;

use records::{Cost, Record};

use crate::markdown::{Table, code, escape};
use crate::stats::{mean, median};
use crate::table::{CellRows, Metric, ScoreTable, Setting};

use super::{NOTHING, REFERENCE_METHOD, by_method, general, method_columns, method_names, percent};

/// Scores beside top-1, means over seeds and datasets.
pub(super) fn other_scores(table: &ScoreTable<'_>) -> Option<String> {
    const SHOWN: [(Metric, &str); 7] = [
        (Metric::Top5, "top-5, %"),
        (Metric::MacroF1, "macro-F1, %"),
        (Metric::Nll, "NLL, nats"),
        (Metric::Ece, "ECE, %"),
        (Metric::RecallAt1, "Recall@1, %"),
        (Metric::RecallAt4, "Recall@4, %"),
        (Metric::MapAtR, "mAP@R, %"),
    ];
    let right = ["n"].into_iter().chain(SHOWN.map(|(_, heading)| heading));
    let mut out = Table::new(method_columns(table), right.collect::<Vec<_>>());
    let mut partial = false;
    for (method, backbone, cells) in by_method(table) {
        if cells.iter().all(|c| c.done().count() == 0) {
            continue;
        }
        let mut row = method_names(table, method, backbone);
        row.push(table.means_over_datasets(method, backbone, Metric::Top1).len().to_string());
        row.extend(SHOWN.map(|(metric, _)| match mean(&table.means_over_datasets(method, backbone, metric)) {
            Some(value) if metric == Metric::Nll => format!("{value:.3}"),
            Some(value) => percent(value),
            None => {
                partial = true;
                NOTHING.to_owned()
            }
        }));
        out.push(row);
    }
    let over =
        if table.datasets.len() > 1 { "all datasets and the n seeds that are done on all of them" } else { "n seeds" };
    let mut note = format!(
        "Means over {over}. Smaller is better for NLL\n(negative log-likelihood) and ECE (expected calibration error, \
         15 bins). The last three rank the test images by the\ncosine of their features.\n"
    );
    if partial {
        note += &format!("{NOTHING}: not defined, or no seed is done on all datasets; `summary.csv` has every cell.\n");
    }
    (!out.is_empty()).then(|| format!("## Other scores, last epoch\n\n{note}\n{}", out.render()))
}

/// Time, memory and size of each method: medians over its done trials.
pub(super) fn costs(table: &ScoreTable<'_>) -> Option<String> {
    let overhead = format!("× {}", escape(REFERENCE_METHOD));
    let has_reference = by_method(table)
        .iter()
        .any(|(method, _, cells)| *method == REFERENCE_METHOD && cells.iter().any(|c| costs_of(c).next().is_some()));
    let mut right = vec!["n".to_owned(), "step, ms".to_owned()];
    right.extend(has_reference.then_some(overhead));
    let on_cards = table.cells.iter().flat_map(costs_of).any(|(_, cost)| cost.peak_device_memory_mb.is_some());
    right.extend(["images/s", "peak memory, MiB"].map(str::to_owned));
    right.extend(on_cards.then(|| "of the card".to_owned()));
    right.extend(["trial, s", "params", "in training only"].map(str::to_owned));
    let mut out = Table::new(method_columns(table).into_iter().map(str::to_owned).collect::<Vec<_>>(), right);
    let (mut resumed, mut smaller, mut all) = (0, 0, 0);
    for (method, backbone, cells) in by_method(table) {
        let costs: Vec<&Cost> = cells.iter().flat_map(|c| costs_of(c)).map(|(_, cost)| cost).collect();
        all += costs.len();
        smaller += costs.iter().filter(|c| c.smaller_algorithms > 0).count();
        resumed += costs.iter().filter(|c| c.resumed_at_step > 0).count();
        let middle = |of: &dyn Fn(&Cost) -> f64| median(&costs.iter().map(|c| of(c)).collect::<Vec<_>>());
        let Some(step) = middle(&|c| c.step_ms) else { continue };
        let mut row = method_names(table, method, backbone);
        row.extend([costs.len().to_string(), format!("{step:.1}")]);
        if has_reference {
            let ratio = median(&step_ratios(table, &cells));
            row.push(ratio.map_or_else(|| NOTHING.to_owned(), |r| format!("{r:.2}")));
        }
        let number = |value: Option<f64>, decimals: usize| {
            value.map_or_else(|| NOTHING.to_owned(), |v| format!("{v:.decimals$}"))
        };
        row.extend([number(middle(&|c| c.images_per_s), 1), number(middle(&|c| c.peak_memory_mb), 0)]);
        if on_cards {
            let of_card: Vec<f64> = costs.iter().filter_map(|c| c.peak_device_memory_mb).collect();
            row.push(number(median(&of_card), 0));
        }
        row.extend([
            number(middle(&|c| c.seconds), 1),
            thousands(middle(&|c| c.params as f64)),
            thousands(middle(&|c| c.params_train_only as f64)),
        ]);
        out.push(row);
    }
    let mut note =
        String::from("Medians over the n done trials of all datasets. A step leaves the loading of data out.");
    if has_reference {
        note += &format!(
            "\n`× {REFERENCE_METHOD}` is the step time over that of `{REFERENCE_METHOD}` on the same dataset with the same \
             seed."
        );
    }
    if resumed > 0 {
        note += &format!("\nResumed: {resumed} of {all} trials, whose times are of their last part.");
    }
    if smaller > 0 {
        note += &format!(
            "\nShort of memory: {smaller} of {all} trials, some of whose convolutions ran by algorithms of cuDNN with less \
             workspace. With more memory their last\nbits might differ."
        );
    }
    (!out.is_empty()).then(|| format!("## Costs\n\n{note}\n\n{}", out.render()))
}

fn costs_of<'a>(cell: &CellRows<'a>) -> impl Iterator<Item = (&'a Record, &'a Cost)> {
    cell.done()
        .filter_map(|(record, _)| record.cost.as_ref().map(|cost| (record, cost)))
        .collect::<Vec<_>>()
        .into_iter()
}

/// Step times over those of the reference method, trial by trial.
fn step_ratios(table: &ScoreTable<'_>, cells: &[&CellRows<'_>]) -> Vec<f64> {
    let mut ratios = vec![];
    for cell in cells {
        let Some(reference) = table.cell(Setting { method: REFERENCE_METHOD, ..cell.setting }) else { continue };
        for (record, cost) in costs_of(cell) {
            let same_seed = costs_of(reference).find(|(r, _)| r.seed == record.seed);
            ratios.extend(same_seed.filter(|(_, c)| c.step_ms > 0.0).map(|(_, c)| cost.step_ms / c.step_ms));
        }
    }
    ratios
}

/// A whole number with separators.
fn thousands(value: Option<f64>) -> String {
    let Some(value) = value else { return NOTHING.to_owned() };
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// What methods say about themselves at the end of the last epoch.
pub(super) fn diagnostics(table: &ScoreTable<'_>) -> Option<String> {
    let last = |record: &Record, name: &str| record.curve.last().and_then(|p| p.diagnostics.get(name)).copied();
    let names: BTreeSet<&str> = table
        .cells
        .iter()
        .flat_map(CellRows::done)
        .filter_map(|(record, _)| record.curve.last())
        .flat_map(|point| point.diagnostics.keys().map(String::as_str))
        .collect();
    let mut left = method_columns(table);
    left.push("dataset");
    let right = names.iter().map(|name| code(name)).chain(["gradient norm".to_owned()]);
    let mut out = Table::new(left.into_iter().map(str::to_owned).collect::<Vec<_>>(), right.collect::<Vec<_>>());
    for cell in &table.cells {
        let records: Vec<&Record> = cell.done().map(|(record, _)| record).collect();
        let shown = |values: Vec<f64>| median(&values).map_or_else(|| NOTHING.to_owned(), general);
        if !records.iter().any(|r| r.curve.last().is_some_and(|p| !p.diagnostics.is_empty())) {
            continue;
        }
        let mut row = method_names(table, cell.setting.method, cell.setting.backbone);
        row.push(escape(cell.setting.dataset));
        row.extend(names.iter().map(|name| shown(records.iter().filter_map(|r| last(r, name)).collect())));
        row.push(shown(records.iter().filter_map(|r| r.curve.last()).map(|p| p.gradient_norm).collect()));
        out.push(row);
    }
    let note = "Of the training images of the last epoch; medians over seeds. The gradient norm is before clipping.";
    (!out.is_empty()).then(|| format!("## Diagnostics, last epoch\n\n{note}\n\n{}", out.render()))
}
