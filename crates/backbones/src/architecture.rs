//! The families, and timm's names.

use crate::config::ResnetConfig;
use crate::convnext::ConvnextConfig;
use crate::efficientnet::EfficientnetConfig;
use crate::regnet::RegnetConfig;
use crate::vit::VitConfig;
use crate::{Error, Result, convnext, efficientnet, regnet, resnet, vit};

/// A family with its sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Architecture {
    Resnet(ResnetConfig),
    Regnet(RegnetConfig),
    Convnext(ConvnextConfig),
    Efficientnet(EfficientnetConfig),
    Vit(VitConfig),
}

/// Every name with what it means.
fn registry() -> impl Iterator<Item = (&'static str, Architecture)> {
    fn of<C: Copy>(
        variants: &'static [(&'static str, C)],
        family: fn(C) -> Architecture,
    ) -> impl Iterator<Item = (&'static str, Architecture)> {
        variants.iter().map(move |(name, config)| (*name, family(*config)))
    }
    of(resnet::VARIANTS, Architecture::Resnet)
        .chain(of(regnet::VARIANTS, Architecture::Regnet))
        .chain(of(convnext::VARIANTS, Architecture::Convnext))
        .chain(of(efficientnet::VARIANTS, Architecture::Efficientnet))
        .chain(of(vit::VARIANTS, Architecture::Vit))
}

/// timm's names of the architectures that [`crate::TimmConfig`] takes.
pub fn architectures() -> Vec<&'static str> {
    registry().map(|(name, _)| name).collect()
}

/// Names of the same family, or at most a quarter of the letters away, nearest first. What follows a dot is the tag of a
/// checkpoint and does not count.
fn near(name: &str) -> Vec<&'static str> {
    let name = name.split('.').next().unwrap_or(name);
    let family = name.split('_').next().unwrap_or(name);
    let mut near: Vec<(usize, &'static str)> = architectures()
        .into_iter()
        .map(|known| (edits(name, known), known))
        .filter(|(edits, known)| 4 * edits <= known.len() || known.split('_').next() == Some(family))
        .collect();
    near.sort();
    near.into_iter().map(|(_, known)| known).collect()
}

/// Letters to insert, remove or replace to make one word of the other (Levenshtein's distance).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

impl Architecture {
    /// The architecture of a name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let found = registry().find(|(known, _)| *known == name);
        found
            .map(|(_, architecture)| architecture)
            .ok_or_else(|| Error::UnknownArchitecture { name: name.to_owned(), alike: near(name) })
    }

    pub(crate) fn channels(&self) -> usize {
        match self {
            Architecture::Resnet(config) => config.channels(),
            Architecture::Regnet(config) => config.channels(),
            Architecture::Convnext(config) => config.channels(),
            Architecture::Efficientnet(config) => config.channels(),
            Architecture::Vit(config) => config.channels(),
        }
    }

    /// Blocks of each stage, for freezing: see [`crate::Freeze`].
    pub(crate) fn stages(&self) -> Vec<usize> {
        match self {
            Architecture::Resnet(config) => config.blocks.to_vec(),
            Architecture::Regnet(config) => config.blocks(),
            Architecture::Convnext(config) => config.depths.to_vec(),
            Architecture::Efficientnet(config) => config.blocks(),
            Architecture::Vit(_) => vit::STAGES.to_vec(),
        }
    }

    pub(crate) fn map_size(&self, input: usize) -> usize {
        match self {
            Architecture::Resnet(config) => config.map_size(input),
            Architecture::Regnet(config) => config.map_size(input),
            Architecture::Convnext(config) => config.map_size(input),
            Architecture::Efficientnet(config) => config.map_size(input),
            Architecture::Vit(config) => config.map_size(input),
        }
    }

    pub(crate) fn classifier_prefix(&self) -> &'static str {
        match self {
            Architecture::Resnet(_) => "fc.",
            Architecture::Efficientnet(_) => "classifier.",
            Architecture::Regnet(_) | Architecture::Convnext(_) | Architecture::Vit(_) => "head.",
        }
    }
}
