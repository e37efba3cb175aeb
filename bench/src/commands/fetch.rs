//! `bench fetch --suite S`: everything that a suite needs from elsewhere, verified and pinned.

use datasets::{DatasetConfig, DatasetError, Import, ImportOptions, MIRROR_REPOSITORY};
use hub::{HubFile, Repo};
use indicatif::HumanBytes;

use super::{import, print};
use crate::download::Downloader;
use crate::error::{ExpectedError, exit};
use crate::select::Selection;
use crate::suite::Suite;
use crate::talk::tell;
use crate::weights;

/// Fetches and verifies, and prints what there is.
pub(crate) fn fetch(suite: &str, only: &[String], offline: bool) -> Result<i32, ExpectedError> {
    let suite = Suite::load(suite)?;
    let selection = Selection::parse(only)?;
    let weights = fetch_weights(&suite, &selection, offline)?;
    let images = fetch_datasets(&suite, &selection, offline)?;
    if weights || images {
        print(&format!("pinned by {}\n", suite.lock().display()));
    } else {
        print("nothing to fetch: no selected backbone or dataset comes from the Hub\n");
    }
    Ok(exit::DONE)
}

/// The weights of the selected backbones. Each is loaded once, so that what does not fit is found now. False if none has
/// any.
fn fetch_weights(suite: &Suite, selection: &Selection, offline: bool) -> Result<bool, ExpectedError> {
    let needed = |name: &str| selection.may_select(&[("backbone", name)]);
    let found = weights::fetch(suite, needed, offline)?;
    found.notices.iter().for_each(|notice| tell(&format!("note: {notice}")));
    let mut any = false;
    for (name, ready) in found.ready.iter().filter(|(name, _)| needed(name)) {
        let (Some(report), Some(weights)) = (weights::check(name, ready)?, &ready.weights) else {
            continue;
        };
        any = true;
        let source = suite.backbones[name].weights.as_ref().map_or(String::new(), |w| format!("{} ", w.repo));
        let size = std::fs::metadata(&weights.path).map_or(String::new(), |m| format!(", {}", HumanBytes(m.len())));
        print(&format!("weights {name}: {source}SHA-256 {}{size}\n  {report}\n", weights.sha256));
    }
    Ok(any)
}

/// The images of the selected datasets of the benchmark: the mirror's files, imported. What was imported before, from
/// wherever, is not fetched again. False if there are none.
fn fetch_datasets(suite: &Suite, selection: &Selection, offline: bool) -> Result<bool, ExpectedError> {
    let mut downloader = None;
    let mut any = false;
    for (name, config) in suite.datasets.iter().filter(|(name, _)| selection.may_select_dataset(name)) {
        let DatasetConfig::Ufg(config) = config else { continue };
        let data = config.data.as_ref().ok_or_else(|| {
            let source = DatasetError::NoDataDirectory { id: config.id };
            ExpectedError::Dataset { name: name.clone(), source }
        })?;
        // A relative directory lies beside the suite file.
        let data = suite.base.join(data);
        any = true;
        for subset in config.id.subsets() {
            let manifest = datasets::manifest_path(&data, subset, config.stand_in);
            if manifest.exists() {
                print(&format!("{subset}: was there before: {}\n", manifest.display()));
                continue;
            }
            let downloader = match &mut downloader {
                Some(downloader) => downloader,
                none => none.insert(Downloader::new(suite, offline)?),
            };
            let repo = Repo::dataset(MIRROR_REPOSITORY).map_err(ExpectedError::hub)?;
            let file = HubFile::new(repo, "main", subset.mirror_file()).map_err(ExpectedError::hub)?;
            for fetched in downloader.fetch(&[file])? {
                let one = Import::parquet(subset, &fetched.path);
                let options = ImportOptions { data: &data, stand_in: config.stand_in, replace: false };
                import::show(&import::import_one(&one, options, None)?);
            }
        }
    }
    Ok(any)
}
