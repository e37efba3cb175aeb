//! Top-1 of the last epoch, and beside it the best epoch on test.

use std::collections::{BTreeMap, BTreeSet};

use crate::markdown::{Table, escape};
use crate::stats::{mean, median, sample_std};
use crate::table::{CellRows, Group, Metric, ScoreTable, Setting};

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
    let groups = &table.layout.groups;
    if !groups.is_empty() {
        notes.push(
            "A column named as a mean is the mean over its datasets, seed by seed, for seeds that are done on all of them; \
             where\nthere is no such seed it says how many are done.",
        );
    }
    if table.datasets.len() > 1 {
        notes.push(if groups.iter().any(Group::is_whole) {
            "*mean* is over the datasets, for seeds that are done on all of them; those that have a mean of their own count \
             as one."
        } else {
            "*mean* is over the datasets, for seeds that are done on all of them."
        });
    }
    out += &format!("\n{}\n", notes.join("\n"));
    out
}

/// What a column of the first table shows.
enum Shown<'t> {
    Dataset(&'t str),
    Group(&'t Group),
    Mean,
}

/// The datasets, each group behind the last of its members, and the mean over all.
fn columns<'t>(table: &'t ScoreTable<'_>) -> Vec<Shown<'t>> {
    let mut columns = vec![];
    for (at, dataset) in table.datasets.iter().enumerate() {
        columns.push(Shown::Dataset(dataset));
        let last = |group: &&Group| {
            let place = |member: &String| table.datasets.iter().position(|dataset| dataset == member);
            group.members.iter().filter_map(place).max() == Some(at)
        };
        columns.extend(table.layout.groups.iter().filter(last).map(Shown::Group));
    }
    columns.extend((table.datasets.len() > 1).then_some(Shown::Mean));
    columns
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
    let columns = columns(table);
    let heading = |column: &Shown<'_>| match column {
        Shown::Dataset(dataset) => escape(dataset),
        Shown::Group(group) => escape(&group.label()),
        Shown::Mean => "mean".to_owned(),
    };
    let mut out = Table::new(vec!["method".to_owned()], columns.iter().map(heading).collect::<Vec<_>>());
    for method in &table.methods {
        let mut row = vec![escape(method)];
        row.extend(columns.iter().map(|column| match column {
            Shown::Dataset(dataset) => {
                let setting = Setting { method, dataset, backbone };
                table.cell(setting).map_or_else(|| "missing".to_owned(), |cell| top1(cell, table.layout.seeds.len()))
            }
            Shown::Group(group) => mean_over_group(table, group, method, backbone),
            Shown::Mean => {
                let values = table.means_over_datasets(method, backbone, Metric::Top1);
                over_seeds(table, &values).unwrap_or_else(|| NOTHING.to_owned())
            }
        }));
        out.push(row);
    }
    out.push(fact_row(table, &columns, "*chance*", |classes, _| 1.0 / classes as f64, mean));
    // One image of one member moves the mean over them by its share.
    let one_image = |shares: &[f64]| mean(shares).map(|share| share / shares.len() as f64);
    let mut row = fact_row(table, &columns, "*one image*", |_, test| 1.0 / test as f64, one_image);
    if let (Some(Shown::Mean), Some(last)) = (columns.last(), row.last_mut()) {
        last.clear();
    }
    out.push(row);
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

/// A mean over seeds of means over datasets, with spread; none without a seed.
fn over_seeds(table: &ScoreTable<'_>, values: &[f64]) -> Option<String> {
    let text = with_spread(100.0 * mean(values)?, sample_std(values).map(|s| 100.0 * s), 2);
    Some(if values.len() < table.layout.seeds.len() { format!("{text} (n = {})", values.len()) } else { text })
}

/// The mean over a group, or how many of its members are done.
fn mean_over_group(table: &ScoreTable<'_>, group: &Group, method: &str, backbone: &str) -> String {
    if table.members(group, method, backbone).is_empty() {
        return "missing".to_owned();
    }
    let values = table.group_means(group, method, backbone, Metric::Top1);
    over_seeds(table, &values).unwrap_or_else(|| {
        format!("{} of {} {}", table.members_done(group, method, backbone), group.size, escape(&group.noun))
    })
}

/// A row made from the datasets' (classes, test images), in %. Where records disagree, all values are shown. `together`
/// makes one of the values of a group's members.
fn fact_row(
    table: &ScoreTable<'_>,
    columns: &[Shown<'_>],
    name: &str,
    share: impl Fn(u64, u64) -> f64,
    together: impl Fn(&[f64]) -> Option<f64>,
) -> Vec<String> {
    let shares = |dataset: &str| -> Vec<f64> {
        let data = table.rows().filter(|r| r.record.dataset == dataset).filter_map(|r| r.record.data.as_ref());
        let found: BTreeSet<(u64, u64)> =
            data.filter(|d| d.classes > 0 && d.test > 0).map(|d| (d.classes, d.test)).collect();
        found.into_iter().map(|(classes, test)| share(classes, test)).collect()
    };
    // Where records disagree or there are none, there is no value to go on with.
    let single = |dataset: &str| {
        let mut shares = shares(dataset);
        shares.dedup();
        if let [share] = shares[..] { Some(share) } else { None }
    };
    let of_group = |group: &Group| {
        let each: Option<Vec<f64>> = group.members.iter().map(|member| single(member)).collect();
        each.filter(|_| group.is_whole()).and_then(|each| together(&each))
    };
    let shown = |value: Option<f64>| value.map_or_else(|| NOTHING.to_owned(), percent);
    let mut row = vec![name.to_owned()];
    for column in columns {
        row.push(match column {
            Shown::Dataset(dataset) => {
                let mut texts: Vec<String> = shares(dataset).iter().map(|&s| percent(s)).collect();
                texts.dedup();
                if texts.is_empty() { NOTHING.to_owned() } else { texts.join(" / ") }
            }
            Shown::Group(group) => shown(of_group(group)),
            Shown::Mean => {
                let whole = || table.layout.groups.iter().filter(|group| group.is_whole());
                let grouped = |dataset: &str| whole().any(|group| group.members.iter().any(|m| m == dataset));
                let alone = table.datasets.iter().filter(|dataset| !grouped(dataset)).map(|dataset| single(dataset));
                let each: Option<Vec<f64>> = alone.chain(whole().map(of_group)).collect();
                shown(each.and_then(|each| mean(&each)))
            }
        });
    }
    row
}

/// Best epoch on test beside the last epoch, over the trials that have both.
pub(super) fn best_on_test(table: &ScoreTable<'_>) -> Option<String> {
    let mut left = method_columns(table);
    left.push("dataset");
    let mut out = Table::new(left, ["last epoch", "best on test", "gain, points", "best epoch"]);
    for cell in &table.cells {
        let (seeds, epochs): (Vec<(f64, f64)>, Vec<f64>) =
            with_best(cell).map(|(_, both, epoch)| (both, epoch)).unzip();
        let Some((last, best)) = means(&seeds) else { continue };
        let epoch = median(&epochs).map_or_else(|| NOTHING.to_owned(), |epoch| epoch.to_string());
        let setting = cell.setting;
        out.push(best_row(table, (setting.method, setting.dataset, setting.backbone), (last, best), epoch));
    }
    for group in table.layout.groups.iter().filter(|group| group.is_whole()) {
        for method in &table.methods {
            for backbone in &table.backbones {
                let Some(both) = means(&best_of_group(table, group, method, backbone)) else { continue };
                out.push(best_row(table, (method, &group.label(), backbone), both, NOTHING.to_owned()));
            }
        }
    }
    let note = "\
Selected on the test split, for comparison with results that were reported in this way: never a result of its own.
Means over seeds; *best epoch* is the median over seeds, among the epochs at which the test split was evaluated.";
    (!out.is_empty()).then(|| format!("## Best epoch on the test split, top-1, %\n\n{note}\n\n{}", out.render()))
}

/// Seed, accuracies of the last and of the best epoch, and the best epoch, of the done trials that have both.
fn with_best<'t>(cell: &'t CellRows<'_>) -> impl Iterator<Item = (u64, (f64, f64), f64)> + 't {
    cell.done().filter_map(|(record, scores)| {
        record.best.map(|best| (record.seed, (scores.top1, best.top1), best.epoch as f64))
    })
}

/// For each seed that every member has: the mean over the members' last epochs, and over their best ones.
fn best_of_group(table: &ScoreTable<'_>, group: &Group, method: &str, backbone: &str) -> Vec<(f64, f64)> {
    let cells = table.members(group, method, backbone);
    let each: Vec<BTreeMap<u64, (f64, f64)>> =
        cells.iter().map(|cell| with_best(cell).map(|(seed, both, _)| (seed, both)).collect()).collect();
    let Some(first) = each.first().filter(|_| each.len() == group.size) else { return vec![] };
    let complete = first.keys().filter(|seed| each.iter().all(|one| one.contains_key(seed)));
    complete.filter_map(|seed| means(&each.iter().map(|one| one[seed]).collect::<Vec<_>>())).collect()
}

fn means(pairs: &[(f64, f64)]) -> Option<(f64, f64)> {
    let (first, second): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    mean(&first).zip(mean(&second))
}

fn best_row(
    table: &ScoreTable<'_>,
    (method, dataset, backbone): (&str, &str, &str),
    (last, best): (f64, f64),
    epoch: String,
) -> Vec<String> {
    let mut row = method_names(table, method, backbone);
    row.extend([escape(dataset), percent(last), percent(best), percent(best - last), epoch]);
    row
}
