//! Small literal records.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;

use records::{
    Best, Cost, DatasetFacts, Digest, EpochPoint, FileRef, Provenance, Record, Scores, Stage, Status,
    identity::trial_id, record::RECORD_FORMAT,
};
use reports::{Layout, ReportContext};

pub(crate) fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

pub(crate) fn layout(methods: &[&str], datasets: &[&str], seeds: &[u64]) -> Layout {
    Layout {
        methods: strings(methods),
        datasets: strings(datasets),
        backbones: strings(&["narrow"]),
        seeds: seeds.to_vec(),
        groups: vec![],
    }
}

pub(crate) fn context() -> ReportContext {
    ReportContext {
        suite: "ufg-smoke".into(),
        suite_description: "Generated leaves, small enough for a laptop.".into(),
        command: "cargo run -p bench -- --suite ufg-smoke".into(),
        notices: vec![],
    }
}

pub(crate) fn provenance() -> Provenance {
    Provenance {
        version: "0.1.0".into(),
        revision: Some("1a2b3c4d".into()),
        dirty: Some(false),
        dependencies: Digest::of(b"Cargo.lock"),
        build: "dev".into(),
        device: "cpu".into(),
        card: None,
        driver: None,
        libraries: None,
        cpu: "Some CPU (avx2, fma)".into(),
        threads: 2,
        platform: "linux x86_64".into(),
    }
}

/// Classes and images of a dataset of the tests.
fn sizes(dataset: &str) -> (u64, u64) {
    if dataset == "cotton80" { (80, 240) } else { (200, 600) }
}

pub(crate) fn facts(dataset: &str) -> DatasetFacts {
    let (classes, images) = sizes(dataset);
    let digest = Digest::of(dataset.as_bytes());
    DatasetFacts { classes, train: images, test: images, digest, notices: vec![] }
}

/// A trial that came to nothing.
pub(crate) fn ended(method: &str, dataset: &str, seed: u64, status: Status) -> Record {
    let cell = format!("{method}.{dataset}.narrow-{}", Digest::of(format!("{method} {dataset}").as_bytes()).short());
    Record {
        format: RECORD_FORMAT,
        trial: trial_id(&cell, seed),
        attempt: 1,
        cell,
        suite: "ufg-smoke".into(),
        method: method.into(),
        dataset: dataset.into(),
        backbone: "narrow".into(),
        seed,
        status,
        scores: None,
        best: None,
        curve: vec![],
        cost: None,
        data: Some(facts(dataset)),
        predictions: None,
        weights: None,
        provenance: provenance(),
        config: serde_json::json!({ "method": method }),
    }
}

pub(crate) fn failed(method: &str, dataset: &str, seed: u64, message: &str) -> Record {
    ended(method, dataset, seed, Status::Failed { stage: Stage::Train, message: message.into() })
}

/// A done trial with `correct` right images; everything else follows from its arguments.
pub(crate) fn done(method: &str, dataset: &str, seed: u64, correct: u64) -> Record {
    let (_, total) = sizes(dataset);
    let top1 = correct as f64 / total as f64;
    let mut record = ended(method, dataset, seed, Status::Done);
    record.scores = Some(Scores {
        correct,
        total,
        top1,
        top5: (2.0 * top1).min(1.0),
        macro_f1: 0.9 * top1,
        nll: 4.0 - top1,
        ece: 0.125,
        recall_at_1: 0.8 * top1,
        recall_at_4: top1,
        map_at_r: Some(0.5 * top1),
        per_class: vec![],
    });
    record.best = Some(Best { top1: (correct + 6).min(total) as f64 / total as f64, epoch: 2 + seed % 2 });
    let slow = if method == "triplet" { 1.0 } else { 1.25 };
    record.cost = Some(Cost {
        params: 1_234_567,
        params_train_only: 8_256,
        steps: 12,
        step_ms: slow * (100.0 + seed as f64),
        images_per_s: 320.5 / slow,
        input_wait_share: Some(0.125),
        peak_memory_mb: 812.25,
        peak_device_memory_mb: None,
        smaller_algorithms: 0,
        seconds: 61.5,
        resumed_at_step: 0,
    });
    record.curve = vec![point(1), point(2)];
    record.predictions = Some(FileRef { path: "predictions.csv".into(), sha256: Digest::of(record.trial.as_bytes()) });
    record.weights = Some(Digest::of(format!("weights {}", record.trial).as_bytes()));
    record
}

fn point(epoch: u64) -> EpochPoint {
    EpochPoint {
        epoch,
        loss: 3.5 / epoch as f64,
        terms: BTreeMap::new(),
        learning_rate: 3e-4,
        gradient_norm: 1.5,
        diagnostics: BTreeMap::new(),
        test_top1: None,
    }
}

/// Adds diagnostics to the last epoch.
pub(crate) fn with_diagnostics(mut record: Record, named: &[(&str, f64)]) -> Record {
    let last = record.curve.last_mut().expect("a done trial");
    last.diagnostics = named.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    record
}
