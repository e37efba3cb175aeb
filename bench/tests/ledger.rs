//! The ledger: the errors of every op, case and dtype of the shipped set, as a snapshot that is compared with room.
//!
//! The test fails when an error has grown by more than [`GROWTH`] over the stored one (errors below a few ε count as
//! that few), when it passes its tolerance, or when cases have come or gone. Smaller errors pass; store them with
//! `INSTA_UPDATE=always cargo test -p bench --test ledger` so that they cannot be lost again.

mod common;

use std::collections::BTreeMap;

use common::{Place, Said};
use insta::internals::SnapshotContents;
use insta::{Comparator, Snapshot};

/// How much an error may grow over the stored one.
const GROWTH: f64 = 10.0;

/// Errors below this are rounding: it is what the growth of a smaller stored error is counted from.
fn floor(dtype: &str) -> f64 {
    match dtype {
        "f32" => 4.0 * f64::from(f32::EPSILON),
        _ => 16.0 * f64::EPSILON,
    }
}

/// Error and tolerance; none where an op has no gradient.
type Cell = Option<(f64, f64)>;
/// Value and gradient by op, case and dtype.
type Ledger = BTreeMap<[String; 3], [Cell; 2]>;

fn parse(text: &str) -> Option<Ledger> {
    let mut ledger = Ledger::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[op, case, dtype, value, value_bar, gradient, gradient_bar] = words.as_slice() else { return None };
        let cell = |error: &str, bar: &str| match (error, bar) {
            ("-", "-") => Some(None),
            _ => Some(Some((error.parse().ok()?, bar.parse().ok()?))),
        };
        let key = [op, case, dtype].map(String::from);
        let cells = [cell(value, value_bar)?, cell(gradient, gradient_bar)?];
        if ledger.insert(key, cells).is_some() {
            return None;
        }
    }
    Some(ledger)
}

/// What is wrong with `new` against the `stored` ledger.
fn complaints(stored: &str, new: &str) -> Vec<String> {
    let (Some(stored), Some(new)) = (parse(stored), parse(new)) else {
        return vec!["the ledger cannot be read".into()];
    };
    let mut out = Vec::new();
    for (key, cells) in &new {
        let name = key.join(" ");
        let Some(old) = stored.get(key) else {
            out.push(format!("{name} is not in the ledger"));
            continue;
        };
        for (what, (cell, old)) in ["value", "gradient"].into_iter().zip(cells.iter().zip(old)) {
            match (cell, old) {
                (None, None) => {}
                (Some((error, bar)), Some((before, _))) => {
                    let limit = (GROWTH * before.max(floor(&key[2]))).min(*bar);
                    if error.is_nan() || *error > limit {
                        out.push(format!(
                            "{name}: {what} error {error:.1e} is above {limit:.1e} (stored: {before:.1e})"
                        ));
                    }
                }
                _ => out.push(format!("{name}: {what} has come or gone")),
            }
        }
    }
    let gone = stored.keys().filter(|key| !new.contains_key(*key));
    out.extend(gone.map(|key| format!("{} is no longer verified", key.join(" "))));
    out
}

/// Says what the default difference, which shows every changed digit, would bury.
#[expect(clippy::print_stderr, reason = "the reason why the test fails")]
fn tell(complaint: &str) {
    eprintln!("ledger: {complaint}");
}

/// Compares two ledgers with room.
#[derive(Clone)]
struct WithRoom;

impl Comparator for WithRoom {
    fn matches(&self, reference: &Snapshot, test: &Snapshot) -> bool {
        match (reference.contents(), test.contents()) {
            (SnapshotContents::Text(stored), SnapshotContents::Text(new)) => {
                let found = complaints(&stored.to_string(), &new.to_string());
                found.iter().for_each(|complaint| tell(complaint));
                found.is_empty()
            }
            _ => false,
        }
    }

    fn dyn_clone(&self) -> Box<dyn Comparator> {
        Box::new(self.clone())
    }
}

/// What `bench verify` finds on the oracle files, a line a row. Backbones are not in the ledger: their float32 gradients
/// jump with every rectifier that another rounding opens or shuts.
fn ledger() -> String {
    let place = Place::with_suite("");
    let output = place
        .bench(&[
            "verify",
            "--oracles",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../ci/oracles/data"),
            "--csv",
            "table.csv",
        ])
        .output()
        .unwrap();
    Said::of(output, 0);
    let mut reader = csv::Reader::from_path(place.path("table.csv")).unwrap();
    let mut out = String::new();
    for row in reader.records() {
        let row = row.unwrap();
        let short = |cell: &str| match cell {
            "" => "-".to_owned(),
            number => format!("{:.1e}", number.parse::<f64>().unwrap()),
        };
        let numbers = [3, 5, 4, 6].map(|column| format!("{:<8}", short(&row[column]))).join(" ");
        let line = format!("{:<22} {:<13} {} {numbers}", &row[0], &row[1], &row[2]);
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[test]
fn errors_of_the_shipped_set() {
    insta::with_settings!({ comparator => Box::new(WithRoom), omit_expression => true }, {
        insta::assert_snapshot!("ledger", ledger());
    });
}

#[test]
fn the_comparison_fails_on_growth_and_breaches_and_lets_smaller_errors_pass() {
    let row = |value: &str, gradient: &str| format!("spd_log wide f64 {value} 1e-10 {gradient} 1e-8\n");
    let stored = row("3e-13", "2e-12");
    let told = |new: &str| complaints(&stored, new).len();
    assert_eq!(told(&stored), 0);
    assert_eq!(told(&row("1e-15", "0e0")), 0, "smaller");
    assert_eq!(told(&row("2.9e-12", "1.9e-11")), 0, "less than tenfold");
    assert_eq!(told(&row("3.1e-12", "2e-12")), 1, "the value has grown");
    assert_eq!(told(&row("3e-13", "2.1e-11")), 1, "the gradient has grown");
    assert_eq!(told(&row("inf", "2e-12")), 1);
    assert_eq!(told(&row("NaN", "NaN")), 2);
    // From rounding to a little more rounding is no growth; beyond ten floors it is.
    let exact = row("0e0", "1e-17");
    assert_eq!(complaints(&exact, &row("3e-14", "3e-14")).len(), 0);
    assert_eq!(complaints(&exact, &row("4e-14", "4e-14")).len(), 2);
    // A tolerance is a tolerance, whatever is stored.
    let close = row("9e-11", "9e-9");
    assert_eq!(complaints(&close, &row("1.1e-10", "1.1e-8")).len(), 2);
}

#[test]
fn rows_and_gradients_that_come_or_go_are_told() {
    let row = "sinkhorn a f32 1e-8 1e-5 2e-8 1e-4\n";
    let other = "sinkhorn b f32 1e-8 1e-5 2e-8 1e-4\n";
    assert_eq!(complaints(row, &format!("{row}{other}")), ["sinkhorn b f32 is not in the ledger"]);
    assert_eq!(complaints(&format!("{row}{other}"), row), ["sinkhorn b f32 is no longer verified"]);
    assert_eq!(complaints(row, "sinkhorn a f32 1e-8 1e-5 - -\n"), ["sinkhorn a f32: gradient has come or gone"]);
    assert_eq!(complaints(row, "sinkhorn a f32 what 1e-5 2e-8 1e-4\n").len(), 1);
    assert_eq!(complaints(row, &format!("{row}{row}")).len(), 1, "twice the same row");
}
