//! The layout of a suite file. Private: nothing else sees these types.

use std::path::Path;

use backbones::BackboneConfig;
use datasets::DatasetConfig;
use indexmap::IndexMap;
use losses::MethodConfig;
use serde::Deserialize;
use toml::Spanned;

use super::{Protocol, Suite};

/// Names are parts of file names.
const LONGEST_NAME: usize = 60;

/// An error at a byte offset of the file.
pub(super) struct WireError {
    pub(super) offset: usize,
    pub(super) message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSuite {
    description: String,
    seeds: Spanned<Vec<u64>>,
    #[serde(default)]
    run: WireRun,
    protocol: Spanned<Protocol>,
    backbones: Spanned<IndexMap<String, Spanned<BackboneConfig>>>,
    methods: Spanned<IndexMap<String, Spanned<MethodConfig>>>,
    datasets: Spanned<IndexMap<String, Spanned<DatasetConfig>>>,
}

/// How the run is carried out; changes no result.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRun {
    #[serde(default = "default_checkpoint_epochs")]
    checkpoint_epochs: Spanned<u64>,
}

impl Default for WireRun {
    fn default() -> Self {
        Self { checkpoint_epochs: default_checkpoint_epochs() }
    }
}

fn default_checkpoint_epochs() -> Spanned<u64> {
    Spanned::new(0..0, 1)
}

/// The parser's message, with what it means where it speaks of its own matters.
fn explained(message: &str) -> String {
    let about_kinds = message.contains("wanted exactly 1 element") || message.contains("expected newtype variant");
    if about_kinds {
        return "expected one kind with its settings, such as `triplet = {}` or `parquet = { path = \"…\" }`; \
                `bench list` names the kinds"
            .into();
    }
    message.to_owned()
}

/// Parses and validates.
pub(super) fn parse(text: &str, name: &str, base: &Path) -> Result<Suite, WireError> {
    let wire: WireSuite = toml::from_str(text).map_err(|error| WireError {
        offset: error.span().map_or(0, |span| span.start),
        message: explained(error.message()),
    })?;
    check_protocol(text, &wire.protocol)?;
    let seeds = wire.seeds.get_ref();
    let mut distinct = seeds.clone();
    distinct.sort_unstable();
    distinct.dedup();
    if seeds.is_empty() || distinct.len() < seeds.len() {
        let message = "`seeds` must name at least one seed, and none twice".to_owned();
        return Err(WireError { offset: wire.seeds.span().start, message });
    }
    if *wire.run.checkpoint_epochs.get_ref() == 0 {
        let offset = wire.run.checkpoint_epochs.span().start;
        return Err(WireError { offset, message: "`checkpoint_epochs` must be at least 1".into() });
    }
    Ok(Suite {
        name: name.into(),
        description: wire.description.trim().to_owned(),
        base: base.to_owned(),
        methods: entries("methods", wire.methods, |m| m.validate().map_err(|e| e.to_string()))?,
        datasets: entries("datasets", wire.datasets, |d| d.validate().map_err(|e| e.to_string()))?,
        backbones: entries("backbones", wire.backbones, |b| b.validate().map_err(|e| e.to_string()))?,
        protocol: wire.protocol.into_inner().resolved(),
        seeds: wire.seeds.into_inner(),
        checkpoint_epochs: wire.run.checkpoint_epochs.into_inner(),
    })
}

/// The validated entries of a table, in the order of the file.
fn entries<T>(
    table: &'static str,
    wire: Spanned<IndexMap<String, Spanned<T>>>,
    validate: impl Fn(&T) -> Result<(), String>,
) -> Result<IndexMap<String, T>, WireError> {
    if wire.get_ref().is_empty() {
        return Err(WireError { offset: wire.span().start, message: format!("`{table}` names nothing") });
    }
    let mut out = IndexMap::new();
    for (name, entry) in wire.into_inner() {
        let offset = entry.span().start;
        let plain = (1..=LONGEST_NAME).contains(&name.len())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if !plain {
            let message =
                format!("`{table}.{name}`: a name consists of letters, digits, `-` and `_`, at most {LONGEST_NAME}");
            return Err(WireError { offset, message });
        }
        let entry = entry.into_inner();
        validate(&entry).map_err(|reason| WireError { offset, message: format!("`{table}.{name}`: {reason}") })?;
        out.insert(name, entry);
    }
    Ok(out)
}

/// Validates the protocol; the error points at the field's line within the table.
fn check_protocol(text: &str, protocol: &Spanned<Protocol>) -> Result<(), WireError> {
    let Err((field, problem)) = protocol.get_ref().validate() else {
        return Ok(());
    };
    let start = protocol.span().start;
    let within = text[start..].match_indices(field).find(|(at, _)| {
        let line_start = text[..start + at].rfind('\n').map_or(0, |i| i + 1);
        text[line_start..start + at].trim().trim_start_matches("[protocol.").is_empty()
    });
    let offset = within.map_or(start, |(at, _)| start + at);
    Err(WireError { offset, message: format!("`protocol.{field}`: {problem}") })
}
