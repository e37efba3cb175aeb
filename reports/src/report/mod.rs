//! `report.md`: what a run came to, as Markdown that reads well on GitHub and as plain text.

mod accuracy;
mod details;
mod facts;

use records::Record;

use crate::error::ReportError;
use crate::markdown::{block, code, escape};
use crate::table::{CellRows, Layout, ScoreTable, Setting};

/// The method against which step times are compared.
pub const REFERENCE_METHOD: &str = "triplet";

/// What the report says that records do not hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReportContext {
    /// Name of the suite.
    pub suite: String,
    /// What the suite is for, as Markdown; may be empty.
    pub suite_description: String,
    /// The command that made the run; may be empty.
    pub command: String,
    /// What a reader should know about the run, such as a torn last line of its journal.
    pub notices: Vec<String>,
}

/// The report of a run, as GitHub-flavoured Markdown. It states numbers and gives no verdicts.
///
/// # Errors
/// See [`ScoreTable::new`]; also [`ReportError::TwoCells`].
pub fn report_markdown(records: &[Record], layout: &Layout, context: &ReportContext) -> Result<String, ReportError> {
    let table = ScoreTable::new(records, layout)?;
    table.check_names()?;
    let mut sections = vec![head(context)];
    sections.extend(facts::not_repeatable(&table));
    sections.extend(notices(context));
    sections.push(accuracy::headline(&table));
    sections.extend(accuracy::best_on_test(&table));
    sections.extend(details::other_scores(&table));
    sections.extend(details::costs(&table));
    sections.extend(details::diagnostics(&table));
    sections.extend(facts::data(&table));
    sections.extend(facts::failures(&table));
    sections.extend(facts::missing(&table));
    sections.extend(facts::provenance(&table));
    sections.extend(command(context));
    Ok(sections.join("\n"))
}

/// The report's first table alone: top-1 of the last epoch, method × dataset.
///
/// # Errors
/// Those of [`report_markdown`].
pub fn headline(records: &[Record], layout: &Layout) -> Result<String, ReportError> {
    let table = ScoreTable::new(records, layout)?;
    table.check_names()?;
    Ok(accuracy::headline(&table))
}

fn head(context: &ReportContext) -> String {
    let mut out = format!("# Report: {}\n\n", escape(&context.suite));
    if !context.suite_description.trim().is_empty() {
        out += &format!("{}\n\n", context.suite_description.trim());
    }
    out += "\
**How to read this.** Top-1 is the share of test images whose true class has the highest score, in %. Every score is
of the network after its last epoch, which the suite fixes in advance, so nothing about it was chosen on the test split.
The best epoch on the test split has a table of its own: it *was* chosen on the test split, so it is too high for new
images, and comparable neither with the first table nor with anybody's last epoch.
`±` is the sample standard deviation over seeds.
";
    out
}

fn notices(context: &ReportContext) -> Option<String> {
    let lines: String = context.notices.iter().map(|n| format!("- {}\n", escape(n))).collect();
    (!lines.is_empty()).then(|| format!("## Notices\n\n{lines}"))
}

fn command(context: &ReportContext) -> Option<String> {
    let command = context.command.trim();
    (!command.is_empty()).then(|| format!("## Command\n\n{}", block(command)))
}

/// A share in %, two decimals.
fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

/// `mean ± std`, both already scaled, or the mean alone.
fn with_spread(mean: f64, std: Option<f64>, decimals: usize) -> String {
    match std {
        Some(std) => format!("{mean:.decimals$} ± {std:.decimals$}"),
        None => format!("{mean:.decimals$}"),
    }
}

/// A number of any size, four significant digits.
fn general(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if (1e-3..1e6).contains(&size) => {
            let decimals = (3 - size.log10().floor() as i32).max(0) as usize;
            format!("{value:.decimals$}")
        }
        _ => format!("{value:.3e}"),
    }
}

/// What is shown where there is no number.
const NOTHING: &str = "–";

/// `1 trial`, `2 trials`.
fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Seeds or other small numbers, joined by commas.
fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    items.into_iter().map(|i| i.to_string()).collect::<Vec<_>>().join(", ")
}

/// Headings of the columns that name a method and, where there are several, a backbone.
fn method_columns(table: &ScoreTable<'_>) -> Vec<&'static str> {
    if table.backbones.len() > 1 { vec!["method", "backbone"] } else { vec!["method"] }
}

/// The cells under [`method_columns`].
fn method_names(table: &ScoreTable<'_>, method: &str, backbone: &str) -> Vec<String> {
    let mut names = vec![escape(method)];
    if table.backbones.len() > 1 {
        names.push(escape(backbone));
    }
    names
}

/// Cells by method and backbone, those with a record only, in order.
fn by_method<'t, 'a>(table: &'t ScoreTable<'a>) -> Vec<(&'a str, &'a str, Vec<&'t CellRows<'a>>)> {
    let mut groups = vec![];
    for &method in &table.methods {
        for &backbone in &table.backbones {
            let cells = table.datasets.iter().filter_map(|dataset| table.cell(Setting { method, dataset, backbone }));
            let cells: Vec<&CellRows<'a>> = cells.collect();
            if !cells.is_empty() {
                groups.push((method, backbone, cells));
            }
        }
    }
    groups
}

/// Names as code, joined by commas.
fn codes<'s>(names: impl IntoIterator<Item = &'s str>) -> String {
    list(names.into_iter().map(code))
}
