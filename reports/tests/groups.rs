//! Datasets that are reported as one: SoyAgeing, the mean of its five stages.

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use records::Record;
use reports::{Group, Layout, report_markdown, results_csv, summary_csv};
use support::{context, done, failed, layout, strings};

const STAGES: [&str; 5] = ["soyageing-r1", "soyageing-r3", "soyageing-r4", "soyageing-r5", "soyageing-r6"];
const LABEL: &str = "soyageing (mean of 5 stages)";

fn group(members: &[&str]) -> Group {
    Group { name: "soyageing".into(), noun: "stages".into(), members: strings(members), size: 5 }
}

fn a_layout(methods: &[&str], datasets: &[&str], seeds: &[u64], members: &[&str]) -> Layout {
    Layout { groups: vec![group(members)], ..layout(methods, datasets, seeds) }
}

/// Every stage, with as many right images as `correct` says.
fn stages(method: &str, seed: u64, correct: [u64; 5]) -> Vec<Record> {
    STAGES.iter().zip(correct).map(|(stage, correct)| done(method, stage, seed, correct)).collect()
}

/// The rows of a CSV file by column.
fn rows(csv: &str) -> Vec<BTreeMap<String, String>> {
    csv::Reader::from_reader(csv.as_bytes()).deserialize().map(Result::unwrap).collect()
}

/// The cells of a line of the report's first table, under their headings.
fn first_table(report: &str, method: &str) -> BTreeMap<String, String> {
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let lines: Vec<&str> = report.lines().skip_while(|line| !line.starts_with("| method")).collect();
    let line = lines.iter().find(|line| cells(line)[1] == method).unwrap();
    cells(lines[0]).into_iter().zip(cells(line)).collect()
}

#[test]
fn report_and_summary_of_stages() {
    let mut records = stages("ce", 42, [300, 120, 60, 240, 180]);
    records.extend(stages("ce", 43, [330, 120, 90, 240, 120]));
    // Seed 44 lacks two stages.
    records.extend(stages("ce", 44, [600, 600, 600, 0, 0]).into_iter().take(3));
    records.extend((42..45).map(|seed| done("ce", "cotton80", seed, 24)));
    // Never more than three stages for one seed.
    records.extend(stages("supcon", 42, [10, 20, 30, 0, 0]).into_iter().take(3));
    records.push(failed("supcon", STAGES[3], 42, "no"));
    records.extend(stages("supcon", 43, [0, 0, 0, 40, 50]).into_iter().skip(3));
    records.push(done("dsot", "cotton80", 42, 12));
    let datasets = [&["cotton80"], &STAGES[..]].concat();
    let layout = a_layout(&["ce", "supcon", "dsot"], &datasets, &[42, 43, 44], &STAGES);
    insta::assert_snapshot!("report_of_stages", report_markdown(&records, &layout, &context()).unwrap());
    insta::assert_snapshot!("summary_of_stages", summary_csv(&records, &layout).unwrap());
    assert!(!results_csv(&records, &layout).unwrap().contains("mean"), "a trial a row, and nothing else");
}

#[test]
fn the_mean_over_datasets_counts_soyageing_once() {
    let mut records = stages("ce", 42, [60, 60, 60, 60, 60]);
    records.push(done("ce", "cotton80", 42, 120));
    let datasets = [&["cotton80"], &STAGES[..]].concat();
    let mean = |members: &[&str]| {
        let layout = a_layout(&["ce"], &datasets, &[42], members);
        let report = report_markdown(&records, &layout, &context()).unwrap();
        first_table(&report, "ce")["mean"].clone()
    };
    assert_eq!(mean(&STAGES), "30.00", "50 % and 10 %");
    // Where the suite has fewer stages there is no such mean, and they count one by one.
    assert_eq!(mean(&STAGES[..4]), "16.67");
}

#[test]
fn a_suite_with_some_stages_says_how_many() {
    let mut records = stages("ce", 42, [60, 60, 60, 60, 60]);
    records.truncate(2);
    let layout = a_layout(&["ce"], &STAGES[..2], &[42], &STAGES[..2]);
    let report = report_markdown(&records, &layout, &context()).unwrap();
    let line = first_table(&report, "ce");
    assert_eq!((line[LABEL].as_str(), line["mean"].as_str()), ("2 of 5 stages", "10.00"));
    let summary = summary_csv(&records, &layout).unwrap();
    let row = rows(&summary).into_iter().find(|row| row["dataset"] == LABEL).unwrap();
    assert_eq!((row["n"].as_str(), row["trials"].as_str(), row["top1_mean"].as_str()), ("0", "2", ""));
}

proptest! {
    /// Whatever is done of two methods, five stages and four seeds: a mean is over the seeds that have all five stages, and
    /// without one the report says how many stages there are.
    #[test]
    fn only_whole_seeds_make_a_mean(
        trials in prop::collection::btree_map((0usize..2, 0usize..5, 0u64..4), (prop::bool::weighted(0.9), 0u64..=600), 0..40)
    ) {
        let methods = ["ce", "supcon"];
        let records: Vec<Record> = trials.iter().map(|(&(method, stage, seed), &(succeeds, correct))| {
            let (method, stage) = (methods[method], STAGES[stage]);
            if succeeds { done(method, stage, seed, correct) } else { failed(method, stage, seed, "no") }
        }).collect();
        let layout = a_layout(&methods, &STAGES, &[0, 1, 2, 3], &STAGES);
        let report = report_markdown(&records, &layout, &context()).unwrap();
        let summary = rows(&summary_csv(&records, &layout).unwrap());
        for (number, method) in methods.into_iter().enumerate() {
            let of_seed = |seed: u64| -> Vec<f64> {
                let share = |stage| trials.get(&(number, stage, seed)).filter(|t| t.0).map(|t| t.1 as f64 / 600.0);
                (0..5).filter_map(share).collect()
            };
            let seeds: Vec<Vec<f64>> = (0..4).map(of_seed).collect();
            let whole: Vec<f64> = seeds.iter().filter(|s| s.len() == 5).map(|s| s.iter().sum::<f64>() / 5.0).collect();
            let row = summary.iter().find(|row| row["dataset"] == LABEL && row["method"] == method);
            let cell = &first_table(&report, method)[LABEL];
            if !trials.keys().any(|key| key.0 == number) {
                prop_assert!(row.is_none());
                prop_assert_eq!(cell, "missing");
                continue;
            }
            let row = row.unwrap();
            prop_assert_eq!(&row["n"], &whole.len().to_string());
            if whole.is_empty() {
                prop_assert!(row["top1_mean"].is_empty() && row["top5_mean"].is_empty() && row["interval"].is_empty());
                let most = seeds.iter().map(Vec::len).max().unwrap();
                prop_assert_eq!(cell, &format!("{most} of 5 stages"));
            } else {
                let mean = whole.iter().sum::<f64>() / whole.len() as f64;
                prop_assert!((row["top1_mean"].parse::<f64>().unwrap() - mean).abs() < 1e-12);
                let shown: f64 = cell.split_whitespace().next().unwrap().parse().unwrap();
                prop_assert!((shown - 100.0 * mean).abs() < 0.005 + 1e-9, "{cell} {mean}");
                prop_assert_eq!(cell.contains("(n = "), whole.len() < 4);
                let std = (whole.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / (whole.len() as f64 - 1.0)).sqrt();
                prop_assert_eq!(row["top1_std"].is_empty(), whole.len() < 2);
                if whole.len() > 1 {
                    prop_assert!((row["top1_std"].parse::<f64>().unwrap() - std).abs() < 1e-12);
                }
            }
        }
    }
}
