//! Downloads for a suite: from the Hub into its cache, shown as they come, pinned by the suite's `bench.lock`.

use std::path::PathBuf;

use hub::{Fetched, Hub, HubError, HubFile, Pins, Settings};

use crate::display::downloads::Downloads;
use crate::environment;
use crate::error::ExpectedError;
use crate::suite::Suite;

/// Fetches files for a suite.
pub(crate) struct Downloader {
    hub: Hub,
    pins: Pins,
    lock: PathBuf,
    suite: String,
}

impl Downloader {
    /// With the settings of the environment. `offline` keeps it from the network, as `HF_HUB_OFFLINE` does.
    pub(crate) fn new(suite: &Suite, offline: bool) -> Result<Self, ExpectedError> {
        let named = |source: HubError| ExpectedError::Hub { suite: suite.name.clone(), source: Box::new(source) };
        let mut settings =
            environment::hub_variables().and_then(|variables| Settings::from_variables(&variables)).map_err(named)?;
        settings.offline |= offline;
        let lock = suite.lock();
        let pins = Pins::read(&lock).map_err(named)?;
        Ok(Self { hub: Hub::new(settings).map_err(named)?, pins, lock, suite: suite.name.clone() })
    }

    /// An error with the name of the suite, for its hint.
    pub(crate) fn error(&self, source: HubError) -> ExpectedError {
        ExpectedError::Hub { suite: self.suite.clone(), source: Box::new(source) }
    }

    /// A file in the cache, without a network.
    pub(crate) fn cached(&self, file: &HubFile) -> Result<Fetched, HubError> {
        self.hub.cached(file, self.pins.get(file))
    }

    /// Brings files of one repository and revision, all of the same commit, and pins each as it is there. What is in the
    /// cache already is not sent again.
    pub(crate) fn fetch(&mut self, files: &[HubFile]) -> Result<Vec<Fetched>, ExpectedError> {
        let mut commit: Option<String> = files.iter().find_map(|file| Some(self.pins.get(file)?.commit.clone()));
        let mut out = Vec::new();
        for file in files {
            let pin = self.pins.get(file).cloned();
            let asked = match (&pin, &commit) {
                // The files of a repository belong together: those that come later are of the first one's commit.
                (None, Some(commit)) => file.at(commit).map_err(|e| self.error(e))?,
                _ => file.clone(),
            };
            let mut shown = Downloads::new(file);
            let fetched = self.hub.fetch(&asked, pin.as_ref(), &mut |event| shown.event(&event));
            shown.finish(fetched.as_ref().ok());
            let fetched = fetched.map_err(|e| self.error(e))?;
            if pin.is_none() {
                let added = Pins::add(&self.lock, &[(file.clone(), fetched.pin())]);
                self.pins = added.map_err(|e| self.error(e))?;
            }
            commit.get_or_insert_with(|| fetched.commit.clone());
            out.push(fetched);
        }
        Ok(out)
    }
}
