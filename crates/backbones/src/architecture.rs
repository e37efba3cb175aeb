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

impl Architecture {
    /// The architecture of a name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let found = registry().find(|(known, _)| *known == name);
        found.map(|(_, architecture)| architecture).ok_or_else(|| {
            let family = name.split('_').next().unwrap_or(name);
            let alike = architectures().into_iter().filter(|known| known.split('_').next() == Some(family));
            Error::UnknownArchitecture { name: name.to_owned(), alike: alike.collect() }
        })
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
