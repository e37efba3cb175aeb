//! Properties of the files, and what is refused.

mod support;

use proptest::prelude::*;
use records::{Record, Status};
use reports::{
    COLUMNS, DEVICE_MEMORY_COLUMN, Layout, ReportError, ScoreTable, TIMING_COLUMNS, report_markdown, results_csv,
    summary_csv,
};
use support::{context, done, ended, failed, layout};

fn rows(csv: &str) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(csv.as_bytes());
    reader.records().map(|r| r.unwrap().iter().map(str::to_owned).collect()).collect()
}

/// Values of a column by its name.
fn column(csv: &str, name: &str) -> Vec<String> {
    let rows = rows(csv);
    let at = rows[0].iter().position(|c| c == name).unwrap();
    rows[1..].iter().map(|row| row[at].clone()).collect()
}

/// Any mixture of done and failed trials with up to two attempts, in any order, with names that need quoting.
fn records() -> impl Strategy<Value = Vec<Record>> {
    let what = (any::<bool>(), 0u64..=240, "[a-z,\"|\n ]{0,12}", 1u32..3);
    prop::collection::btree_map((0usize..3, 0usize..2, 0u64..4), what, 0..12)
        .prop_map(|trials| {
            let (methods, datasets) = (["ce", "a,b", "q\"|"], ["cotton80", "soylocal"]);
            let mut records = vec![];
            for ((m, d, seed), (succeeds, correct, message, attempts)) in trials {
                for attempt in 1..=attempts {
                    let mut record = match (attempt == attempts, succeeds) {
                        (true, true) => done(methods[m], datasets[d], seed, correct),
                        _ => failed(methods[m], datasets[d], seed, &message),
                    };
                    record.attempt = attempt;
                    records.push(record);
                }
            }
            records
        })
        .prop_shuffle()
}

fn a_layout() -> Layout {
    layout(&["q\"|", "ce"], &["soylocal"], &[0, 1])
}

proptest! {
    #[test]
    fn the_order_of_records_does_not_matter((first, second) in records().prop_flat_map(|r| (Just(r.clone()), Just(r).prop_shuffle()))) {
        let layout = a_layout();
        prop_assert_eq!(results_csv(&first, &layout).unwrap(), results_csv(&second, &layout).unwrap());
        prop_assert_eq!(summary_csv(&first, &layout).unwrap(), summary_csv(&second, &layout).unwrap());
        let report = |records: &[Record]| report_markdown(records, &layout, &context()).unwrap();
        prop_assert_eq!(report(&first), report(&second));
    }

    #[test]
    fn results_read_back(records in records()) {
        let layout = a_layout();
        let csv = results_csv(&records, &layout).unwrap();
        let rows = rows(&csv);
        let mut trials: Vec<&str> = records.iter().map(|r| r.trial.as_str()).collect();
        trials.sort_unstable();
        trials.dedup();
        prop_assert_eq!(rows.len(), 1 + trials.len());
        prop_assert_eq!(&rows[0], &COLUMNS);
        for row in &rows[1..] {
            let get = |name: &str| row[COLUMNS.iter().position(|c| *c == name).unwrap()].as_str();
            let record = records.iter().filter(|r| r.trial == get("trial")).max_by_key(|r| r.attempt).unwrap();
            prop_assert_eq!(get("method"), &record.method);
            prop_assert_eq!(get("attempt"), record.attempt.to_string());
            prop_assert_eq!(get("status"), record.status.word());
            prop_assert!(!get("detail").contains('\n'));
            match &record.scores {
                None => prop_assert!(get("top1").is_empty() && get("step_ms").is_empty() && get("weights").is_empty()),
                Some(scores) => {
                    // To the last bit.
                    prop_assert_eq!(get("top1").parse::<f64>().unwrap(), scores.top1);
                    prop_assert_eq!(get("map_at_r").parse::<f64>().ok(), scores.map_at_r);
                    prop_assert_eq!(get("nll").parse::<f64>().unwrap(), scores.nll);
                    prop_assert_eq!(get("step_ms").parse::<f64>().unwrap(), record.cost.as_ref().unwrap().step_ms);
                    prop_assert_eq!(get("weights"), record.weights.as_ref().unwrap().hex());
                }
            }
        }
        // The layout's methods first, in its order; then the other, then by dataset and seed.
        let rank = |row: &Vec<String>| {
            let method = ["q\"|", "ce", "a,b"].iter().position(|m| *m == row[3]).unwrap();
            (method, usize::from(row[4] != "soylocal"), row[6].parse::<u64>().unwrap())
        };
        prop_assert!(rows[1..].is_sorted_by_key(rank));
    }

    #[test]
    fn the_report_has_whole_tables_and_no_nan(records in records()) {
        let report = report_markdown(&records, &a_layout(), &context()).unwrap();
        let cells = || report.split('|').map(|cell| cell.trim().trim_start_matches('-'));
        prop_assert!(cells().all(|cell| cell != "NaN" && cell != "inf"));
        let lines: Vec<&str> = report.lines().collect();
        for pair in lines.windows(2).filter(|p| p[0].starts_with('|') && p[1].starts_with('|')) {
            // Bars that are not escaped end a cell.
            let bars = |line: &str| line.replace("\\\\", "").replace("\\|", "").matches('|').count();
            prop_assert_eq!(bars(pair[0]), bars(pair[1]), "{}\n{}", pair[0], pair[1]);
        }
    }
}

#[test]
fn columns_begin_as_promised() {
    let promised = "trial,cell,suite,method,dataset,backbone,seed,status,top1,top5,macro_f1,nll,ece,recall_at_1,\
                    recall_at_4,map_at_r,best_top1,best_epoch,step_ms,images_per_s,peak_memory_mb,params,seconds,";
    assert!(results_csv(&[], &Layout::default()).unwrap().starts_with(promised));
    assert!(TIMING_COLUMNS.iter().all(|c| COLUMNS.contains(c)));
}

#[test]
fn only_timing_columns_tell_a_resumed_trial() {
    let straight = done("ce", "cotton80", 1, 30);
    let mut resumed = straight.clone();
    let cost = resumed.cost.as_mut().unwrap();
    (cost.step_ms, cost.images_per_s, cost.peak_memory_mb, cost.seconds) = (7.0, 8.0, 9.0, 10.0);
    cost.resumed_at_step = 4;
    resumed.attempt = 2;
    let read = |record: Record| rows(&results_csv(&[record], &Layout::default()).unwrap());
    let (a, b) = (read(straight), read(resumed));
    let differing: Vec<&str> = (0..COLUMNS.len()).filter(|&i| a[1][i] != b[1][i]).map(|i| COLUMNS[i]).collect();
    let mut timing = TIMING_COLUMNS.to_vec();
    timing.sort_by_key(|c| COLUMNS.iter().position(|d| d == c));
    assert_eq!(differing, timing);
}

#[test]
fn the_interval_says_what_it_is() {
    // Three seeds: 60, 66 and 72 of 240, so mean 0.275, std 0.025, t₂ = 4.30265.
    let seeds = [(1, 60), (2, 66), (3, 72)].map(|(seed, correct)| done("ce", "cotton80", seed, correct));
    let csv = summary_csv(&seeds, &Layout::default()).unwrap();
    let number = |csv: &str, name: &str| column(csv, name)[0].parse::<f64>().unwrap();
    assert!((number(&csv, "top1_mean") - 0.275).abs() < 1e-12);
    assert!((number(&csv, "top1_std") - 0.025).abs() < 1e-12);
    let half = 4.302_652_73 * 0.025 / 3f64.sqrt();
    assert!((number(&csv, "top1_low") - (0.275 - half)).abs() < 1e-8);
    assert!((number(&csv, "top1_high") - (0.275 + half)).abs() < 1e-8);
    assert_eq!(column(&csv, "interval"), ["t over seeds"]);
    let csv = summary_csv(&seeds[..1], &Layout::default()).unwrap();
    assert_eq!(column(&csv, "interval"), ["wilson over images"]);
    // 60 of 240, with 40 digits elsewhere.
    assert!((number(&csv, "top1_low") - 0.199_446_539_171_746_5).abs() < 1e-14);
    assert!((number(&csv, "top1_high") - 0.308_430_420_799_032_9).abs() < 1e-14);
    assert_eq!(column(&csv, "top1_std"), [""]);
    let csv = summary_csv(&[failed("ce", "cotton80", 1, "no")], &Layout::default()).unwrap();
    assert_eq!((column(&csv, "interval"), column(&csv, "top1_mean")), (vec![String::new()], vec![String::new()]));
    assert_eq!((column(&csv, "n"), column(&csv, "trials"), column(&csv, "failed")), (one("0"), one("1"), one("1")));
}

fn one(text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

#[test]
fn means_over_datasets_use_complete_seeds_only() {
    let records = [done("ce", "cotton80", 1, 24), done("ce", "cotton80", 2, 240), done("ce", "soylocal", 1, 120)];
    let csv = summary_csv(&records, &Layout::default()).unwrap();
    assert_eq!(column(&csv, "dataset"), ["cotton80", "soylocal", "(mean over datasets)"]);
    // Seed 2 is not done on soylocal: the mean is (0.1 + 0.2) / 2.
    assert_eq!(column(&csv, "n"), ["2", "1", "1"]);
    assert!((column(&csv, "top1_mean")[2].parse::<f64>().unwrap() - 0.15).abs() < 1e-12);
    assert_eq!(column(&csv, "interval")[2], "");
}

#[test]
fn missing_trials_are_those_of_the_layout() {
    let records = [done("ce", "cotton80", 1, 24)];
    let layout = layout(&["ce", "dsot"], &["cotton80"], &[1, 2]);
    let table = ScoreTable::new(&records, &layout).unwrap();
    let missing: Vec<(&str, u64)> = table.missing().iter().map(|(s, seed)| (s.method, *seed)).collect();
    assert_eq!(missing, [("ce", 2), ("dsot", 1), ("dsot", 2)]);
}

fn refusal(records: &[Record]) -> ReportError {
    let error = results_csv(records, &Layout::default()).unwrap_err();
    assert!(report_markdown(records, &Layout::default(), &context()).is_err());
    error
}

#[test]
fn contradictions_are_refused() {
    let good = done("ce", "cotton80", 1, 24);
    let changed = |change: fn(&mut Record)| {
        let mut record = good.clone();
        change(&mut record);
        refusal(&[record])
    };
    assert!(matches!(changed(|r| r.scores = None), ReportError::DoneWithoutScores { .. }));
    let timed_out = changed(|r| r.status = Status::TimedOut { seconds: 1.0 });
    assert!(matches!(timed_out, ReportError::ScoresWithoutDone { status: "timed_out", .. }));
    let nan = changed(|r| r.scores.as_mut().unwrap().nll = f64::NAN);
    assert!(matches!(nan, ReportError::NotFinite { field, .. } if field == "nll"));
    let slow = changed(|r| r.cost.as_mut().unwrap().step_ms = f64::INFINITY);
    assert!(matches!(slow, ReportError::NotFinite { field, .. } if field == "cost.step_ms"));
    let loss = changed(|r| r.curve[0].loss = f64::NAN);
    assert!(matches!(loss, ReportError::NotFinite { field, .. } if field == "curve.loss"));
    let share = changed(|r| r.scores.as_mut().unwrap().ece = 12.5);
    assert!(matches!(share, ReportError::NotAFraction { field, .. } if field == "ece"));
    let count = changed(|r| r.scores.as_mut().unwrap().correct += 1);
    assert!(matches!(count, ReportError::Accuracy { correct: 25, total: 240, .. }));
    assert!(matches!(refusal(&[good.clone(), good.clone()]), ReportError::DuplicateAttempt { attempt: 1, .. }));
    let mut twin = good.clone();
    twin.trial.push('x');
    assert!(matches!(refusal(&[good, twin]), ReportError::DuplicateSeed { .. }));
}

#[test]
fn two_cells_of_the_same_names_are_rows_but_no_table() {
    let old = done("ce", "cotton80", 1, 24);
    let mut new = old.clone();
    new.cell = "ce.cotton80.narrow-0000000000".into();
    new.trial = "ce.cotton80.narrow-0000000000-s1".into();
    let records = [old, new];
    assert_eq!(column(&results_csv(&records, &Layout::default()).unwrap(), "top1"), ["0.1", "0.1"]);
    let refused = report_markdown(&records, &Layout::default(), &context()).unwrap_err();
    assert!(matches!(refused, ReportError::TwoCells { .. }), "{refused}");
    assert!(summary_csv(&records, &Layout::default()).is_err());
}

#[test]
fn different_data_is_said() {
    let mut records = [done("ce", "cotton80", 1, 24), done("ce", "cotton80", 2, 24)];
    let report = |records: &[Record]| report_markdown(records, &Layout::default(), &context()).unwrap();
    assert!(!report(&records).contains("did not all see the same data"));
    records[1].data.as_mut().unwrap().digest = records::Digest::of(b"another");
    assert!(report(&records).contains("did not all see the same data** for `cotton80`"));
    let skipped = [ended("ce", "cotton80", 1, Status::Skipped { reason: "no".into() })];
    assert!(report(&skipped).contains("**No trial is done.**"));
}

#[test]
fn memory_of_cards_is_shown_where_a_trial_ran_on_one() {
    let on_cpu = done("ce", "cotton80", 1, 30);
    let mut on_card = done("triplet", "cotton80", 1, 30);
    on_card.cost.as_mut().unwrap().peak_device_memory_mb = Some(1536.5);
    on_card.provenance.device = "cuda:1".into();
    on_card.provenance.card = Some("NVIDIA H100 80GB HBM3".into());
    on_card.provenance.driver = Some("580.65.06, CUDA 13.0".into());
    on_card.provenance.libraries = Some("cuDNN 9.21.0, cuSOLVER not built in".into());
    let alone = [on_cpu.clone()];
    assert!(!results_csv(&alone, &Layout::default()).unwrap().contains(DEVICE_MEMORY_COLUMN));
    assert!(!report_markdown(&alone, &Layout::default(), &context()).unwrap().contains("of the card"));
    let both = [on_cpu, on_card];
    let csv = results_csv(&both, &Layout::default()).unwrap();
    assert_eq!(rows(&csv)[0][COLUMNS.len()..], [DEVICE_MEMORY_COLUMN]);
    assert_eq!(column(&csv, DEVICE_MEMORY_COLUMN), ["", "1536.5"]);
    let report = report_markdown(&both, &Layout::default(), &context()).unwrap();
    let costs: Vec<&str> =
        report.lines().skip_while(|l| *l != "## Costs").filter(|l| l.starts_with('|')).take(4).collect();
    let cell = |line: usize, heading: &str| {
        let at = costs[0].split('|').position(|c| c.trim() == heading).unwrap();
        costs[line].split('|').nth(at).unwrap().trim().to_owned()
    };
    assert_eq!((cell(2, "of the card"), cell(3, "of the card")), ("–".to_owned(), "1536".to_owned()));
    assert_eq!((cell(2, "peak memory, MiB"), cell(3, "trial, s")), ("812".to_owned(), "61.5".to_owned()));
    assert!(report.contains("device cpu, Some CPU"), "{report}");
    assert!(
        report.contains(
            "device cuda:1 (NVIDIA H100 80GB HBM3, driver 580.65.06, CUDA 13.0, cuDNN 9.21.0, cuSOLVER not built in), Some CPU"
        ),
        "{report}"
    );
}

#[test]
fn trials_that_are_not_repeatable_are_named_at_the_head() {
    let report = |records: &[Record]| report_markdown(records, &Layout::default(), &context()).unwrap();
    let mut both = [done("ce", "cotton80", 1, 30), done("triplet", "cotton80", 1, 30)];
    assert!(!report(&both).contains("repeatable"));
    assert!(!report(&both).contains("Short of memory"));
    both[1].config = serde_json::json!({ "method": "triplet", "protocol": { "algorithms": "fast" } });
    both[1].cost.as_mut().unwrap().smaller_algorithms = 2;
    let said = report(&both);
    let head = said.split("\n## ").next().unwrap();
    assert!(head.contains("**Not repeatable.** 1 of 2 trials were trained with `algorithms = \"fast\"`"), "{head}");
    assert!(said.contains("Short of memory: 1 of 2 trials"), "{said}");
    let alone = [both[1].clone()];
    assert!(report(&alone).contains("**Not repeatable.** 1 of 1 trial was trained"), "{}", report(&alone));
}
