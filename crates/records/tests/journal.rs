//! The journal survives what a crash can do to it, and refuses what a crash cannot.

use std::collections::BTreeMap;
use std::io::Write;

use proptest::prelude::*;
use records::journal::{self, JournalError};
use records::record::RECORD_FORMAT;
use records::{Digest, EpochPoint, Journal, Provenance, Record, Stage, Status};

fn record(trial: &str, attempt: u32, status: Status) -> Record {
    Record {
        format: RECORD_FORMAT,
        trial: trial.into(),
        attempt,
        cell: "ce.leaf.narrow-0123456789".into(),
        suite: "s".into(),
        method: "ce".into(),
        dataset: "leaf".into(),
        backbone: "narrow".into(),
        seed: 42,
        status,
        scores: None,
        best: None,
        curve: vec![EpochPoint {
            epoch: 1,
            loss: 0.1 + 0.2,
            terms: BTreeMap::from([("ce_anchor".into(), 1.0 / 3.0)]),
            learning_rate: 3e-4,
            gradient_norm: 1.5,
            diagnostics: BTreeMap::new(),
            test_top1: Some(1.0 / 7.0),
        }],
        cost: None,
        data: None,
        predictions: None,
        weights: Some(Digest::of(b"weights")),
        provenance: Provenance {
            version: "0.1.0".into(),
            revision: None,
            dirty: None,
            dependencies: Digest::of(b"lock"),
            build: "dev".into(),
            device: "cpu".into(),
            card: None,
            driver: None,
            libraries: None,
            cpu: "some".into(),
            threads: 2,
            platform: "linux-x86_64".into(),
        },
        config: serde_json::json!({"b": 1, "a": [1.5, null]}),
    }
}

fn failed(message: &str) -> Status {
    Status::Failed { stage: Stage::Train, message: message.into() }
}

#[test]
fn appended_records_come_back_exactly_and_the_latest_attempt_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.jsonl");
    let written =
        [record("a-s1", 1, failed("killed")), record("b-s1", 1, Status::Done), record("a-s1", 2, Status::Done)];
    let (mut journal, before) = Journal::open(&path).unwrap();
    assert!(before.all.is_empty());
    written.iter().for_each(|r| journal.append(r).unwrap());
    let read = journal::read(&path).unwrap();
    assert_eq!(read.all, written);
    assert_eq!(read.latest()["a-s1"].attempt, 2);
    assert!(read.torn.is_none());
}

/// The line of a done trial as versions wrote it that knew the CPU alone.
const OF_THE_CPU: &str = r#"{"format":1,"trial":"a-s1","attempt":1,"cell":"a","suite":"s","method":"ce","dataset":"leaf","backbone":"narrow","seed":1,"status":"done","scores":null,"best":null,"curve":[],"cost":{"params":3,"params_train_only":0,"steps":2,"step_ms":1.5,"images_per_s":2.5,"peak_memory_mb":7.25,"seconds":0.5,"resumed_at_step":0},"data":null,"predictions":null,"weights":null,"provenance":{"version":"0.1.0","revision":null,"dirty":null,"dependencies":"00","build":"dev","device":"cpu","cpu":"some","threads":2,"platform":"linux-x86_64"},"config":null}"#;

#[test]
fn what_is_told_of_cards_is_left_out_of_the_cpus_records_and_comes_back_from_a_cards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.jsonl");
    std::fs::write(&path, format!("{OF_THE_CPU}\n")).unwrap();
    let old = journal::read(&path).unwrap().all.remove(0);
    assert_eq!(serde_json::to_string(&old).unwrap(), OF_THE_CPU);
    let mut new = old.clone();
    new.trial = "b-s1".into();
    new.cost.as_mut().unwrap().peak_device_memory_mb = Some(1234.5678);
    new.cost.as_mut().unwrap().smaller_algorithms = 3;
    new.provenance.device = "cuda:1".into();
    new.provenance.card = Some("NVIDIA H100 80GB HBM3".into());
    new.provenance.driver = Some("580.65.06, CUDA 13.0".into());
    new.provenance.libraries = Some("cuDNN 9.21.0, cuSOLVER not built in".into());
    let (mut journal, _) = Journal::open(&path).unwrap();
    journal.append(&new).unwrap();
    assert_eq!(journal::read(&path).unwrap().all, [old, new]);
}

#[test]
fn a_number_that_is_not_finite_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.jsonl");
    let (mut journal, _) = Journal::open(&path).unwrap();
    let edits: [fn(&mut Record); 3] = [
        |r| r.curve[0].loss = f64::NAN,
        |r| r.curve[0].test_top1 = Some(f64::INFINITY),
        |r| r.curve[0].terms = BTreeMap::from([("ce_anchor".into(), f64::NAN)]),
    ];
    for edit in edits {
        let mut bad = record("a-s1", 1, Status::Done);
        edit(&mut bad);
        assert!(matches!(journal.append(&bad), Err(JournalError::NotFinite { .. })));
    }
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn what_a_crash_cannot_cause_is_an_error_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.jsonl");
    let line = serde_json::to_string(&record("a-s1", 1, Status::Done)).unwrap();
    let open = |text: String| {
        std::fs::write(&path, text).unwrap();
        journal::read(&path).unwrap_err()
    };
    assert!(matches!(open(format!("{line}\n{line}\n")), JournalError::Duplicate { line: 2, first: 1, .. }));
    assert!(matches!(open(format!("{line}\nnonsense\n")), JournalError::Line { line: 2, .. }));
    assert!(matches!(open(line.replace("\"format\":1", "\"format\":9") + "\n"), JournalError::Newer { found: 9, .. }));
    let misspelt = line.replace("\"attempt\"", "\"atempt\"") + "\n";
    assert!(open(misspelt).to_string().contains("atempt"));
}

proptest! {
    /// Cut the file anywhere: every whole line survives, the torn one is dropped with a warning, and the
    /// journal goes on from there.
    #[test]
    fn a_journal_cut_anywhere_keeps_its_whole_lines(cut in 0usize..6000) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records.jsonl");
        let (mut journal, _) = Journal::open(&path).unwrap();
        let written: Vec<Record> = (0..4).map(|i| record(&format!("t{i}-s1"), 1, failed("x"))).collect();
        written.iter().for_each(|r| journal.append(r).unwrap());
        drop(journal);
        let bytes = std::fs::read(&path).unwrap();
        let cut = cut.min(bytes.len());
        std::fs::File::create(&path).unwrap().write_all(&bytes[..cut]).unwrap();
        let ends = bytes[..cut].iter().filter(|&&b| b == b'\n').count();
        // A record that lacks nothing but the end of its line is whole.
        let lacks_its_end = bytes.get(cut) == Some(&b'\n');
        let whole = ends + usize::from(lacks_its_end);
        let (mut journal, records) = Journal::open(&path).unwrap();
        prop_assert_eq!(&records.all[..], &written[..whole]);
        prop_assert_eq!(records.torn.is_some(), cut > 0 && bytes[cut - 1] != b'\n' && !lacks_its_end);
        journal.append(&record("next-s1", 1, Status::Done)).unwrap();
        prop_assert_eq!(journal::read(&path).unwrap().all.len(), whole + 1);
    }
}
