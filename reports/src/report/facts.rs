//! Data, failures, missing trials, provenance.

use std::collections::BTreeSet;

use records::{Provenance, Record, Status};

use crate::markdown::{Table, code, escape, one_line};
use crate::table::ScoreTable;

use super::{codes, counted, list};

/// How much of a message a table shows; the record has the whole.
const MESSAGE: usize = 240;

/// Which trials would come out otherwise if they were made again, by their configuration.
pub(super) fn not_repeatable(table: &ScoreTable<'_>) -> Option<String> {
    let is_fast =
        |record: &Record| record.config.pointer("/protocol/algorithms").is_some_and(|algorithms| algorithms == "fast");
    let all = table.rows().count();
    let fast = table.rows().filter(|row| is_fast(row.record)).count();
    let said = format!(
        "**Not repeatable.** {fast} of {} trained with `algorithms = \"fast\"`, by which gradients differ from run to run: the \
         same trial\nagain, or one that goes on from its checkpoint, comes to other weights and may come to other scores.\n",
        if all == 1 { "1 trial was".to_owned() } else { format!("{all} trials were") }
    );
    (fast > 0).then_some(said)
}

/// The datasets as the trials found them, those that differ on lines of their own.
pub(super) fn data(table: &ScoreTable<'_>) -> Option<String> {
    let mut out = Table::new(["dataset"], ["classes", "train", "test"]).left("digest");
    let (mut notices, mut differing) = (String::new(), vec![]);
    for dataset in &table.datasets {
        let found = || table.rows().filter(|r| r.record.dataset == *dataset).filter_map(|r| r.record.data.as_ref());
        let distinct: BTreeSet<_> = found().map(|d| (&d.digest, d.classes, d.train, d.test)).collect();
        for (digest, classes, train, test) in &distinct {
            let mut row = vec![escape(dataset)];
            row.extend([classes, train, test].map(u64::to_string));
            row.push(code(digest.short()));
            out.push(row);
        }
        let told: BTreeSet<&String> = found().flat_map(|d| &d.notices).collect();
        notices.extend(told.into_iter().map(|notice| format!("- {}: {}\n", escape(dataset), escape(notice))));
        differing.extend((distinct.len() > 1).then_some(*dataset));
    }
    if out.is_empty() {
        return None;
    }
    let mut text = format!("## Data\n\n{}", out.render());
    if !differing.is_empty() {
        text += &format!(
            "\n**The trials did not all see the same data** for {}: their numbers are not comparable with one another.\n",
            codes(differing)
        );
    }
    if !notices.is_empty() {
        text += &format!("\n{notices}");
    }
    Some(text)
}

/// Trials that came to no scores, and why.
pub(super) fn failures(table: &ScoreTable<'_>) -> Option<String> {
    let mut out = Table::new(["trial", "status"], ["attempt"]).left("detail");
    for row in table.rows().filter(|r| r.record.status != Status::Done) {
        let record = row.record;
        let detail = one_line(&record.status.detail());
        let mut shown: String = detail.chars().take(MESSAGE).collect();
        if shown.len() < detail.len() {
            shown.push('…');
        }
        let status = record.status.word().replace('_', " ");
        out.push(vec![code(&record.trial), status, record.attempt.to_string(), escape(&shown)]);
    }
    (!out.is_empty()).then(|| format!("## Trials without scores\n\n{}", out.render()))
}

/// Trials of the layout that were never attempted, a line for each cell.
pub(super) fn missing(table: &ScoreTable<'_>) -> Option<String> {
    let missing = table.missing();
    let mut lines: Vec<(String, Vec<u64>)> = vec![];
    for (setting, seed) in &missing {
        let mut names = vec![setting.method, setting.dataset];
        names.extend((table.backbones.len() > 1).then_some(setting.backbone));
        let name = names.into_iter().map(escape).collect::<Vec<_>>().join(" · ");
        match lines.last_mut().filter(|(last, _)| *last == name) {
            Some((_, seeds)) => seeds.push(*seed),
            None => lines.push((name, vec![*seed])),
        }
    }
    let lines: String = lines.iter().map(|(name, seeds)| format!("- {name}: {}\n", list(seeds))).collect();
    let total = table.rows().count() + missing.len();
    (!missing.is_empty()).then(|| {
        format!("## Missing trials\n\n{} of {total} have no record. By cell, their seeds:\n\n{lines}", missing.len())
    })
}

/// Where and with what the trials ran.
pub(super) fn provenance(table: &ScoreTable<'_>) -> Option<String> {
    let mut distinct: Vec<(&Provenance, Vec<&str>)> = vec![];
    for row in table.rows() {
        match distinct.iter_mut().find(|(provenance, _)| **provenance == row.record.provenance) {
            Some((_, trials)) => trials.push(&row.record.trial),
            None => distinct.push((&row.record.provenance, vec![&row.record.trial])),
        }
    }
    let body = match &distinct[..] {
        [] => return None,
        [(provenance, trials)] => {
            let all = if trials.len() == 1 { "" } else { "All " };
            format!("{all}{}: {}.\n", counted(trials.len(), "trial"), describe(provenance))
        }
        several => {
            let mut body = format!(
                "The trials were made in {} ways; times and memory are comparable within one of them only.\n\n",
                several.len()
            );
            for (provenance, trials) in several {
                body += &format!("- {}: {}", counted(trials.len(), "trial"), describe(provenance));
                body += &if trials.len() <= 3 {
                    format!(" ({})\n", codes(trials.iter().copied()))
                } else {
                    "\n".to_owned()
                };
            }
            body
        }
    };
    Some(format!("## Provenance\n\n{body}"))
}

fn describe(p: &Provenance) -> String {
    let revision = match (&p.revision, p.dirty) {
        (None, _) => "revision unknown".to_owned(),
        (Some(revision), Some(false)) => format!("revision {}", code(revision)),
        (Some(revision), Some(true)) => format!("revision {} with local changes", code(revision)),
        (Some(revision), None) => format!("revision {}, local changes unknown", code(revision)),
    };
    let threads = counted(usize::try_from(p.threads).unwrap_or(usize::MAX), "thread");
    [
        format!("version {}", escape(&p.version)),
        revision,
        format!("dependencies {}", code(p.dependencies.short())),
        format!("build {}", escape(&p.build)),
        device(p),
        escape(&p.cpu),
        threads,
        escape(&p.platform),
    ]
    .join(", ")
}

/// The device, and of a card what it is.
fn device(p: &Provenance) -> String {
    let mut text = format!("device {}", escape(&p.device));
    let driver = p.driver.as_ref().map(|driver| format!("driver {}", escape(driver)));
    let libraries = p.libraries.as_ref().map(|libraries| escape(libraries));
    let more: Vec<String> =
        p.card.as_ref().map(|card| escape(card)).into_iter().chain(driver).chain(libraries).collect();
    if !more.is_empty() {
        text += &format!(" ({})", more.join(", "));
    }
    text
}
