//! Top-1 of the last epoch, and beside it the best epoch on test.

use std::collections::BTreeSet;

use crate::markdown::{Table, escape};
use crate::stats::{mean, median, sample_std};
use crate::table::{CellRows, Metric, ScoreTable, Setting};

use super::{NOTHING, list, method_columns, method_names, percent, with_spread};

/// The table method × dataset, one for each backbone.
pub(super) fn headline(table: &ScoreTable<'_>) -> String {
    let mut out = String::from("## Top-1 accuracy, last epoch, %\n\n");
    out += &seeds(table);
    for backbone in &table.backbones {
        if table.backbones.len() > 1 {
            out += &format!("\n### {}\n", escape(backbone));
        }
        out += &format!("\n{}", matrix(table, backbone));
    }
    let mut notes = vec!["*chance* is a guess among the classes, *one image* what a single test image is worth."];
    if table.datasets.len() > 1 {
        notes.push("*mean* is over the datasets, for seeds that are done on all of them.");
    }
    out += &format!("\n{}\n", notes.join("\n"));
    out
}

/// How many seeds there are, and what may be concluded from so many.
fn seeds(table: &ScoreTable<'_>) -> String {
    let counts: BTreeSet<usize> = table.cells.iter().map(|c| c.done().count()).filter(|&n| n > 0).collect();
    let seeds: BTreeSet<u64> = table.cells.iter().flat_map(CellRows::done).map(|(r, _)| r.seed).collect();
    let named = format!("{} {}", if seeds.len() == 1 { "seed" } else { "seeds" }, list(&seeds));
    match (counts.first(), counts.last()) {
        (None, _) | (_, None) => "**No trial is done.**\n".to_owned(),
        (_, Some(1)) => format!(
            "**One seed per cell** ({named}). Two methods may differ by the luck of the seed alone, and a single seed \
             cannot tell:\nno method can be called better than another from this table. That needs more seeds.\n"
        ),
        (Some(low), Some(high)) if low == high => {
            format!(
                "n = {high} done trials per cell ({named}). Means and spreads only: no test was made, no verdict is given.\n"
            )
        }
        (Some(low), Some(high)) => format!(
            "Between {low} and {high} done trials per cell ({named}); a cell with fewer than the suite asks for says \
             so.\nMeans and spreads only: no test was made, no verdict is given. A cell with n = 1 has no spread,\n\
             and no method can be called better from it.\n"
        ),
    }
}

fn matrix(table: &ScoreTable<'_>, backbone: &str) -> String {
    let several = table.datasets.len() > 1;
    let mut columns: Vec<String> = table.datasets.iter().map(|d| escape(d)).collect();
    if several {
        columns.push("mean".to_owned());
    }
    let mut out = Table::new(vec!["method".to_owned()], columns);
    for method in &table.methods {
        let mut row = vec![escape(method)];
        row.extend(table.datasets.iter().map(|dataset| {
            let setting = Setting { method, dataset, backbone };
            table.cell(setting).map_or_else(|| "missing".to_owned(), |cell| top1(cell, table.layout.seeds.len()))
        }));
        if several {
            row.push(mean_over_datasets(table, method, backbone));
        }
        out.push(row);
    }
    out.push(fact_row(table, "*chance*", several, |classes, _| 1.0 / classes as f64));
    out.push(fact_row(table, "*one image*", false, |_, test| 1.0 / test as f64));
    out.render()
}

/// A cell's mean and spread; what became of it where nothing is done.
fn top1(cell: &CellRows<'_>, expected: usize) -> String {
    let values = cell.values(Metric::Top1);
    let Some(centre) = mean(&values) else {
        let words: BTreeSet<&str> = cell.rows.iter().map(|r| r.record.status.word()).collect();
        return list(words).replace('_', " ");
    };
    let text = with_spread(100.0 * centre, sample_std(&values).map(|s| 100.0 * s), 2);
    if values.len() < expected { format!("{text} (n = {})", values.len()) } else { text }
}

fn mean_over_datasets(table: &ScoreTable<'_>, method: &str, backbone: &str) -> String {
    let values = table.means_over_datasets(method, backbone, Metric::Top1);
    let Some(centre) = mean(&values) else { return NOTHING.to_owned() };
    let text = with_spread(100.0 * centre, sample_std(&values).map(|s| 100.0 * s), 2);
    if values.len() < table.layout.seeds.len() { format!("{text} (n = {})", values.len()) } else { text }
}

/// A row made from the datasets' (classes, test images), in %. Where records disagree, all values are shown.
fn fact_row(table: &ScoreTable<'_>, name: &str, with_mean: bool, share: impl Fn(u64, u64) -> f64) -> Vec<String> {
    let mut row = vec![name.to_owned()];
    let mut single = vec![];
    for dataset in &table.datasets {
        let found: BTreeSet<(u64, u64)> = table
            .rows()
            .filter(|r| r.record.dataset == *dataset)
            .filter_map(|r| r.record.data.as_ref())
            .filter(|data| data.classes > 0 && data.test > 0)
            .map(|data| (data.classes, data.test))
            .collect();
        let shares: Vec<f64> = found.iter().map(|&(classes, test)| share(classes, test)).collect();
        let mut texts: Vec<String> = shares.iter().map(|&s| percent(s)).collect();
        texts.dedup();
        single.extend((texts.len() == 1).then(|| shares[0]));
        row.push(if texts.is_empty() { NOTHING.to_owned() } else { texts.join(" / ") });
    }
    if table.datasets.len() > 1 {
        let all = with_mean && single.len() == table.datasets.len();
        let centre = mean(&single).filter(|_| all);
        row.push(centre.map_or_else(|| if with_mean { NOTHING.to_owned() } else { String::new() }, percent));
    }
    row
}

/// Best epoch on test beside the last epoch, over the trials that have both.
pub(super) fn best_on_test(table: &ScoreTable<'_>) -> Option<String> {
    let mut left = method_columns(table);
    left.push("dataset");
    let mut out = Table::new(left, ["last epoch", "best on test", "gain, points", "best epoch"]);
    for cell in &table.cells {
        let both: Vec<(f64, f64, f64)> = cell
            .done()
            .filter_map(|(record, scores)| record.best.map(|b| (scores.top1, b.top1, b.epoch as f64)))
            .collect();
        let last: Vec<f64> = both.iter().map(|b| b.0).collect();
        let best: Vec<f64> = both.iter().map(|b| b.1).collect();
        let epochs: Vec<f64> = both.iter().map(|b| b.2).collect();
        let (Some(last), Some(best), Some(epoch)) = (mean(&last), mean(&best), median(&epochs)) else { continue };
        let mut row = method_names(table, cell.setting.method, cell.setting.backbone);
        row.push(escape(cell.setting.dataset));
        row.extend([percent(last), percent(best), percent(best - last), epoch.to_string()]);
        out.push(row);
    }
    let note = "\
Selected on the test split, for comparison with results that were reported in this way: never a result of its own.
Means over seeds; *best epoch* is the median over seeds, among the epochs at which the test split was evaluated.";
    (!out.is_empty()).then(|| format!("## Best epoch on the test split, top-1, %\n\n{note}\n\n{}", out.render()))
}
