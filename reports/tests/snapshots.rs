//! What the files look like.

mod support;

use records::{Record, Status};
use reports::{Layout, report_markdown, results_csv, summary_csv};
use support::{context, done, ended, failed, layout, strings, with_diagnostics};

/// Three seeds, two datasets, and everything that can go wrong.
fn grid() -> (Vec<Record>, Layout) {
    let mut records = vec![];
    for (seed, shift) in [(42, 0), (43, 3), (44, 9)] {
        records.push(done("triplet", "cotton80", seed, 60 + shift));
        records.push(done("triplet", "soylocal", seed, 120 + 2 * shift));
        let spectrum = [("eigenvalue_min", 1.25e-5), ("distance_margin", 0.5 + shift as f64), ("active_share", 0.0)];
        records.push(with_diagnostics(done("pac-mcl-le", "cotton80", seed, 66 + 2 * shift), &spectrum));
    }
    records.push(with_diagnostics(done("pac-mcl-le", "soylocal", 42, 150), &[("eigenvalue_min", 2e-5)]));
    let what = "loss".to_owned();
    records.push(ended("pac-mcl-le", "soylocal", 43, Status::Diverged { step: 7, what }));
    records.push(failed("dsot", "cotton80", 42, "first attempt"));
    let mut again = failed("dsot", "cotton80", 42, "matrix is 3|4,\n  expected `4x4`");
    again.attempt = 2;
    records.push(again);
    records.push(ended("dsot", "soylocal", 42, Status::Skipped { reason: "no tokens".into() }));
    records[0].cost.as_mut().expect("a done trial").resumed_at_step = 6;
    records[0].data.as_mut().expect("facts").notices = vec!["`val` left out: it is a copy of test".into()];
    (records, layout(&["triplet", "pac-mcl-le", "dsot"], &["cotton80", "soylocal"], &[42, 43, 44]))
}

#[test]
fn report_of_a_grid_with_three_seeds() {
    let (mut records, layout) = grid();
    records[1].provenance.threads = 1;
    let mut context = context();
    context.notices = vec!["records.jsonl: dropped a torn last line of 12 bytes".into()];
    insta::assert_snapshot!(report_markdown(&records, &layout, &context).unwrap());
}

#[test]
fn report_of_one_seed_and_one_dataset() {
    let records = [done("ce", "cotton80", 42, 24), done("supcon", "cotton80", 42, 30)];
    let layout = layout(&["ce", "supcon"], &["cotton80"], &[42]);
    insta::assert_snapshot!(report_markdown(&records, &layout, &context()).unwrap());
}

#[test]
fn report_of_two_backbones() {
    let mut records = vec![done("ce", "cotton80", 42, 24), done("ce", "cotton80", 42, 30)];
    records[1].backbone = "wide".into();
    records[1].cell = "ce.cotton80.wide-0123456789".into();
    records[1].trial = "ce.cotton80.wide-0123456789-s42".into();
    let mut layout = layout(&["ce", "triplet"], &["cotton80"], &[42]);
    layout.backbones = strings(&["wide", "narrow"]);
    insta::assert_snapshot!(report_markdown(&records, &layout, &context()).unwrap());
}

#[test]
fn report_of_nothing() {
    let layout = layout(&["ce"], &["cotton80"], &[42, 43]);
    insta::assert_snapshot!(report_markdown(&[], &layout, &context()).unwrap());
}

#[test]
fn results_of_a_grid() {
    let (records, layout) = grid();
    insta::assert_snapshot!(results_csv(&records, &layout).unwrap());
}

#[test]
fn summary_of_a_grid() {
    let (records, layout) = grid();
    insta::assert_snapshot!(summary_csv(&records, &layout).unwrap());
}
