//! The layout of a suite file. Private: nothing else sees these types.

use std::collections::BTreeMap;
use std::path::Path;

use backbones::{BackboneConfig, Freeze, ResnetConfig, TimmConfig};
use datasets::DatasetConfig;
use indexmap::IndexMap;
use losses::MethodConfig;
use serde::Deserialize;
use toml::Spanned;

use super::{Protocol, Suite, SuiteBackbone, WeightsConfig};

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
    backbones: Spanned<IndexMap<String, Spanned<WireBackbone>>>,
    methods: Spanned<IndexMap<String, Spanned<MethodConfig>>>,
    datasets: Spanned<IndexMap<String, Spanned<DatasetConfig>>>,
}

/// A backbone: what it is, where its weights are, or both.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireBackbone {
    resnet: Option<ResnetConfig>,
    timm: Option<TimmConfig>,
    weights: Option<WeightsConfig>,
    #[serde(default)]
    freeze: Freeze,
}

impl WireBackbone {
    fn convert(self) -> Result<SuiteBackbone, String> {
        let architecture = match (self.resnet, self.timm) {
            (Some(_), Some(_)) => return Err("`resnet` and `timm` both name an architecture; keep one".into()),
            (Some(_), None) if self.weights.is_some() => {
                return Err("weights come with timm's name of an architecture: give `timm = { name = … }`, or leave \
                            `resnet` out, and the weights tell it"
                    .into());
            }
            (Some(config), None) => Some(BackboneConfig::Resnet(config)),
            (None, Some(config)) => Some(BackboneConfig::Timm(config)),
            (None, None) if self.weights.is_none() => {
                return Err("expected `resnet`, `timm` or `weights`; `bench list backbones` shows the names".into());
            }
            (None, None) => None,
        };
        if let Some(config) = &architecture {
            config.validate().map_err(|e| e.to_string())?;
            config.check_freeze(self.freeze).map_err(|e| e.to_string())?;
        }
        if let Some(weights) = &self.weights {
            weights.files().map_err(|e| e.to_string())?;
        }
        Ok(SuiteBackbone { architecture, weights: self.weights, freeze: self.freeze })
    }
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

/// Parses and validates; `label` is what messages call the file.
pub(super) fn parse(text: &str, name: &str, label: &str, base: &Path) -> Result<Suite, WireError> {
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
    let backbones = entries("backbones", wire.backbones, WireBackbone::convert)?;
    let plain = backbones.iter().find(|(_, backbone)| backbone.weights.is_none());
    if let (Some((name, _)), None) = (plain, wire.protocol.get_ref().resize) {
        let message = format!("`protocol.resize` is missing, and backbone `{name}` has no weights that would tell it");
        return Err(WireError { offset: wire.protocol.span().start, message });
    }
    let start = wire.protocol.span().start;
    let place = |key: &'static str| (key, super::position(text, offset_of(text, start, key).unwrap_or(start)));
    let keys = BTreeMap::from(super::unfit::KEYS.map(place));
    Ok(Suite {
        name: name.into(),
        file: label.into(),
        description: wire.description.trim().to_owned(),
        base: base.to_owned(),
        methods: entries("methods", wire.methods, |m| m.validate().map(|()| m).map_err(|e| e.to_string()))?,
        datasets: datasets(wire.datasets)?,
        backbones,
        protocol: wire.protocol.into_inner(),
        seeds: wire.seeds.into_inner(),
        checkpoint_epochs: wire.run.checkpoint_epochs.into_inner(),
        keys,
    })
}

/// The datasets. One that stands for several, such as `soyageing` for its stages, becomes these, with the ends of their
/// names added to its own.
fn datasets(
    wire: Spanned<IndexMap<String, Spanned<DatasetConfig>>>,
) -> Result<IndexMap<String, DatasetConfig>, WireError> {
    let offset = wire.span().start;
    let mut out = IndexMap::new();
    for (name, config) in entries("datasets", wire, |d| d.validate().map(|()| d).map_err(|e| e.to_string()))? {
        for (end, one) in config.expanded() {
            let whole = format!("{name}{end}");
            if out.insert(whole.clone(), one).is_some() {
                let message = format!("`datasets.{name}` holds `{whole}`, which is there by itself as well");
                return Err(WireError { offset, message });
            }
        }
    }
    Ok(out)
}

/// The validated entries of a table, in the order of the file.
fn entries<W, T>(
    table: &'static str,
    wire: Spanned<IndexMap<String, Spanned<W>>>,
    convert: impl Fn(W) -> Result<T, String>,
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
        let entry = convert(entry.into_inner());
        let entry = entry.map_err(|reason| WireError { offset, message: format!("`{table}.{name}`: {reason}") })?;
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
    let offset = offset_of(text, start, field).unwrap_or(start);
    Err(WireError { offset, message: format!("`protocol.{field}`: {problem}") })
}

/// Where a line begins with this key of the table that begins at `start`, or with a table of this name within it.
fn offset_of(text: &str, start: usize, key: &str) -> Option<usize> {
    let mut found = text[start..].match_indices(key).filter(|(at, _)| {
        let line_start = text[..start + at].rfind('\n').map_or(0, |i| i + 1);
        text[line_start..start + at].trim().trim_start_matches("[protocol.").is_empty()
    });
    found.next().map(|(at, _)| start + at)
}
