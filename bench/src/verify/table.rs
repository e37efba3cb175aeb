//! The rows as text and as CSV.

use std::collections::BTreeMap;

use super::Row;
use super::measure::Measured;

fn verdict(row: &Row) -> &'static str {
    if row.passes() { "pass" } else { "BREACH" }
}

fn number(value: f64) -> String {
    if value.is_finite() { format!("{value:.1e}") } else { "inf".into() }
}

/// Tolerances of value and gradient; a `*` is explained by a note below the table.
fn tolerances(row: &Row) -> String {
    let star = if row.notes.is_empty() { "" } else { "*" };
    match row.gradient {
        Some(gradient) => format!("{} / {}{star}", number(row.value.tolerance), number(gradient.tolerance)),
        None => format!("{}{star}", number(row.value.tolerance)),
    }
}

/// The table for people, with notes below it.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut lines =
        vec![["op", "case", "dtype", "value error", "gradient error", "tolerance", "verdict"].map(String::from)];
    lines.extend(rows.iter().map(|row| {
        [
            row.op.to_owned(),
            row.case.clone(),
            row.precision.name().to_owned(),
            number(row.value.error),
            row.gradient.map_or("-".into(), |g| number(g.error)),
            tolerances(row),
            verdict(row).to_owned(),
        ]
    }));
    let widths: Vec<usize> = (0..7).map(|c| lines.iter().map(|l| l[c].len()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    for row in rows {
        for note in &row.notes {
            out.push_str(&format!("* {}.{} {}: {note}\n", row.op, row.case, row.precision.name()));
        }
    }
    out
}

/// One line per op and dtype with its worst errors, and how many cases passed.
pub(crate) fn summary(rows: &[Row]) -> String {
    let mut groups: BTreeMap<(&str, &str), Vec<&Row>> = BTreeMap::new();
    for row in rows {
        groups.entry((row.op, row.precision.name())).or_default().push(row);
    }
    let mut out = String::from("\nworst errors\n");
    let width = groups.keys().map(|(op, _)| op.len()).max().unwrap_or(0);
    let worst = |of: &mut dyn Iterator<Item = Measured>| of.reduce(Measured::worse).map(|worst| number(worst.error));
    for ((op, precision), group) in &groups {
        let (cases, passed) = (group.len(), group.iter().filter(|row| row.passes()).count());
        let value = worst(&mut group.iter().map(|row| row.value)).unwrap_or_default();
        let gradient = worst(&mut group.iter().filter_map(|row| row.gradient));
        let gradient = gradient.map_or(String::new(), |error| format!(", gradient {error}"));
        out.push_str(&format!("{op:<width$}  {precision}  {passed} of {cases} pass: value {value}{gradient}\n"));
    }
    out
}

/// The rows for programs; errors at full precision, an empty cell where an op has no gradient.
pub(crate) fn csv(rows: &[Row]) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "op",
        "case",
        "dtype",
        "value_error",
        "gradient_error",
        "value_tolerance",
        "gradient_tolerance",
        "verdict",
        "note",
    ])?;
    for row in rows {
        let full = |v: f64| if v.is_finite() { format!("{v:e}") } else { "inf".into() };
        writer.write_record([
            row.op.to_owned(),
            row.case.clone(),
            row.precision.name().to_owned(),
            full(row.value.error),
            row.gradient.map_or(String::new(), |g| full(g.error)),
            full(row.value.tolerance),
            row.gradient.map_or(String::new(), |g| full(g.tolerance)),
            verdict(row).to_lowercase(),
            row.notes.join("; "),
        ])?;
    }
    writer.into_inner().map_err(|e| e.into_error().into())
}
