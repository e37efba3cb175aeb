//! Datasets of the UFG benchmark, from the data directory.

use std::path::{Path, PathBuf};

use crate::error::DatasetError;
use crate::manifest::{Manifest, expected, folder, manifest_path};
use crate::model::Found;
use crate::ufg::{Subset, UfgConfig};

pub(super) fn read(config: &UfgConfig, base: &Path) -> Result<Found, DatasetError> {
    let data = config.data.as_ref().ok_or(DatasetError::NoDataDirectory { id: config.id })?;
    let subsets = config.id.subsets();
    let data = locate(data, base, subsets[0], config.stand_in);
    let mut found = Found::default();
    for (number, subset) in subsets.into_iter().enumerate() {
        let manifest = Manifest::read(&data, subset, config.stand_in)?;
        let path = || manifest_path(&data, subset, config.stand_in);
        let broken = |reason: &str| DatasetError::Store { path: path(), reason: reason.to_owned() };
        let facts = expected(subset, manifest.stand_in).ok_or_else(|| broken("there is no stand-in of its size"))?;
        let counts = (manifest.classes.len(), manifest.train.len(), manifest.test.len());
        if counts != (facts.classes, facts.train, facts.test) {
            return Err(broken("it does not list the subset's number of images"));
        }
        if number == 0 {
            found.classes.clone_from(&manifest.classes);
        } else if found.classes != manifest.classes {
            return Err(broken("its classes are not those of the other stages"));
        }
        let [train, test] = manifest.items(&folder(&data, subset, config.stand_in), subset.id());
        let one = Found { classes: manifest.classes.clone(), train, test, notices: Vec::new() };
        if one.digest() != manifest.digest {
            return Err(broken("its items are not those of its digest: it was changed"));
        }
        found.train.extend(one.train);
        found.test.extend(one.test);
        if manifest.stand_in.is_some() {
            found.notices.push(format!("generated stand-ins in place of `{subset}`: results say nothing about it"));
        }
        found.notices.extend(manifest.notices);
    }
    Ok(found)
}

/// A relative directory lies beside the suite file, or else in the current folder.
fn locate(data: &Path, base: &Path, subset: Subset, stand_in: bool) -> PathBuf {
    let beside = base.join(data);
    if manifest_path(&beside, subset, stand_in).exists() || data.is_absolute() {
        return beside;
    }
    if manifest_path(data, subset, stand_in).exists() { data.to_owned() } else { beside }
}
