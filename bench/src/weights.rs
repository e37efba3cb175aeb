//! The backbones of a suite with everything that their weights tell: architecture, preprocessing, digest.

use std::path::Path;

use backbones::{BackboneConfig, CropMode, Freeze, HubConfig, LoadReport, ParameterStore, Weights};
use candle_core::{DType, Device};
use hub::{Fetched, HubError, HubFile};
use indexmap::IndexMap;
use random::Seeds;
use records::Digest;

use crate::download::Downloader;
use crate::error::ExpectedError;
use crate::plan::TrialWeights;
use crate::suite::{Protocol, Suite, SuiteBackbone};

/// A backbone that trials can be planned with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReadyBackbone {
    /// The architecture.
    pub(crate) config: BackboneConfig,
    /// How much of it is not trained.
    pub(crate) freeze: Freeze,
    /// The protocol, with the preprocessing of the weights where the suite says nothing else.
    pub(crate) protocol: Protocol,
    /// What it begins with.
    pub(crate) weights: Option<TrialWeights>,
}

/// What is there of a suite's backbones without a network.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Those that trials can be planned with.
    pub(crate) ready: IndexMap<String, ReadyBackbone>,
    /// Those whose weights have to be fetched first, with the files.
    pub(crate) missing: IndexMap<String, Vec<HubFile>>,
    /// What is wrong with those that are not needed.
    pub(crate) notices: Vec<String>,
}

/// Looks into the cache. A backbone that is `needed` must not be wrong, but it may be missing.
pub(crate) fn find(suite: &Suite, needed: impl Fn(&str) -> bool) -> Result<Found, ExpectedError> {
    let mut found = Found::default();
    let downloader = downloader(suite, true)?;
    for (name, backbone) in &suite.backbones {
        let result = match (files(backbone)?, &downloader) {
            (Some(files), Some(downloader)) => match cached(downloader, &files) {
                Ok(Ok([json, weights])) => described(suite, name, backbone, &json).map(|ready| {
                    let sha256 = Digest::from_hex(&weights.sha256);
                    ReadyBackbone { weights: Some(TrialWeights { path: weights.path, sha256 }), ..ready }
                }),
                Ok(Err(missing)) => {
                    found.missing.insert(name.clone(), missing);
                    continue;
                }
                Err(source) => Err(downloader.error(source)),
            },
            _ => without_weights(suite, backbone),
        };
        match result {
            Ok(ready) => {
                found.ready.insert(name.clone(), ready);
            }
            Err(error) if needed(name) => return Err(error),
            Err(error) => {
                found.notices.push(format!("{error}; it is not selected, and its trials are left out of the plan"));
            }
        }
    }
    Ok(found)
}

/// Fetches the weights of the backbones that are `needed`, unless they are there, and finds the others. Offline, what is
/// needed must be there.
pub(crate) fn fetch(suite: &Suite, needed: impl Fn(&str) -> bool, offline: bool) -> Result<Found, ExpectedError> {
    if let Some(mut downloader) = downloader(suite, offline)? {
        for (name, backbone) in suite.backbones.iter().filter(|(name, _)| needed(name)) {
            if let Some(files) = files(backbone)? {
                // What the small file tells may spare the large one.
                for json in downloader.fetch(&files[..1])? {
                    described(suite, name, backbone, &json)?;
                }
                downloader.fetch(&files)?;
            }
        }
    }
    find(suite, needed)
}

/// The files of the backbones that are `needed`, by backbone.
pub(crate) fn files(backbone: &SuiteBackbone) -> Result<Option<[HubFile; 2]>, ExpectedError> {
    // The suite's parser has checked the names.
    backbone.weights.as_ref().map(|weights| weights.files()).transpose().map_err(ExpectedError::hub)
}

/// What fetches for the suite; none if nothing in it comes from the Hub, so that no setting of the Hub matters then.
fn downloader(suite: &Suite, offline: bool) -> Result<Option<Downloader>, ExpectedError> {
    let any = suite.backbones.values().any(|backbone| backbone.weights.is_some());
    any.then(|| Downloader::new(suite, offline)).transpose()
}

/// The files in the cache, or those that are not there.
fn cached(downloader: &Downloader, files: &[HubFile; 2]) -> Result<Result<[Fetched; 2], Vec<HubFile>>, HubError> {
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for file in files {
        match downloader.cached(file) {
            Ok(fetched) => there.push(fetched),
            Err(HubError::NotCached { .. }) => missing.push(file.clone()),
            Err(error) => return Err(error),
        }
    }
    Ok(there.try_into().map_err(|_| missing))
}

fn without_weights(suite: &Suite, backbone: &SuiteBackbone) -> Result<ReadyBackbone, ExpectedError> {
    let config = backbone.architecture.clone().ok_or_else(|| ExpectedError::Usage {
        message: "a backbone has neither an architecture nor weights".into(),
        hint: "give it `resnet`, `timm` or `weights`".into(),
    })?;
    let protocol = suite.protocol.resolved(None);
    Ok(ReadyBackbone { config, freeze: backbone.freeze, protocol, weights: None })
}

/// What `config.json` tells of a backbone, and the suite.
fn described(
    suite: &Suite,
    name: &str,
    backbone: &SuiteBackbone,
    json: &Fetched,
) -> Result<ReadyBackbone, ExpectedError> {
    let wrong = |reason: String| ExpectedError::Weights { backbone: name.to_owned(), reason };
    let conflict = |message: String, hint: &str| ExpectedError::Usage {
        message: format!("backbone `{name}`: {message}"),
        hint: hint.into(),
    };
    let told = HubConfig::read(&json.path).map_err(|e| wrong(e.to_string()))?;
    let config = match &backbone.architecture {
        None => told.backbone().map_err(|e| wrong(e.to_string()))?,
        Some(BackboneConfig::Timm(timm)) if timm.name == told.architecture => BackboneConfig::Timm(timm.clone()),
        Some(other) => {
            let named = if let BackboneConfig::Timm(timm) = other { timm.name.as_str() } else { "resnet" };
            let message = format!("the suite says `{named}`, but the weights are of `{}`", told.architecture);
            return Err(conflict(message, "correct `timm`, or leave it out: the weights tell it"));
        }
    };
    config.check_freeze(backbone.freeze).map_err(|e| conflict(e.to_string(), "see `freeze` in the suite file"))?;
    if told.crop_mode != CropMode::Center && suite.protocol.resize.is_none() {
        let message = "its weights ask for test images that are not centre crops, which there are not here".to_owned();
        return Err(conflict(message, "say with `protocol.resize` how large test images are before the centre crop"));
    }
    let protocol = suite.protocol.resolved(Some(&told));
    if let Err((field, problem)) = protocol.validate() {
        let message = format!("with the preprocessing of its weights, `protocol.{field}` {problem}");
        return Err(conflict(message, "set it in the suite file"));
    }
    Ok(ReadyBackbone { config, freeze: backbone.freeze, protocol, weights: None })
}

/// Loads the weights of a backbone once, to see that they fit.
pub(crate) fn check(name: &str, backbone: &ReadyBackbone) -> Result<Option<LoadReport>, ExpectedError> {
    let Some(weights) = &backbone.weights else {
        return Ok(None);
    };
    let wrong = |e: backbones::Error| ExpectedError::Weights { backbone: name.to_owned(), reason: e.to_string() };
    let store = ParameterStore::new(Seeds::new(0), DType::F32, &Device::Cpu);
    let load = |path: &Path| Weights::read(path)?.load(&backbone.config, &store);
    load(&weights.path).map(Some).map_err(wrong)
}
