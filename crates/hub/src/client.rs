//! The Hub, with its cache before it.

use std::path::PathBuf;

use crate::cache::{Found, RepoCache};
use crate::digest::Digests;
use crate::http::{Http, Method};
use crate::metadata::{Fault, Metadata, is_sha256, refusal};
use crate::names::is_commit;
use crate::transfer::{Patience, Transfer};
use crate::{HubError, HubFile, Pin, Progress, Result, Settings};

/// A file that is in the cache and was compared with everything that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Where it is.
    pub path: PathBuf,
    /// The commit that the revision is.
    pub commit: String,
    /// SHA-256 of its content, in lower-case hexadecimal digits.
    pub sha256: String,
    /// Its bytes.
    pub size: u64,
    /// Bytes that came over the network for it this time.
    pub received: u64,
}

impl Fetched {
    /// The pin that asks for exactly this file.
    pub fn pin(&self) -> Pin {
        Pin { commit: self.commit.clone(), sha256: self.sha256.clone(), size: self.size }
    }
}

/// A client of the Hub. It may be used by several threads and processes at a time.
pub struct Hub {
    settings: Settings,
    http: Http,
}

impl Hub {
    /// A client with these settings; connects to nobody yet.
    ///
    /// # Errors
    /// [`HubError::Setting`] for an endpoint or proxy that is no address.
    pub fn new(settings: Settings) -> Result<Self> {
        let http = Http::new(&settings)?;
        Ok(Self { settings, http })
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Finds a file in the cache, without a network. A branch or tag is the commit that it was when it was last looked
    /// up, unless the pin names one.
    ///
    /// # Errors
    /// [`HubError::NotCached`] if it is not there, [`HubError::CacheDamaged`] if it is not what its name says,
    /// [`HubError::PinMismatch`] if it is not what the pin says, [`HubError::Disk`].
    pub fn cached(&self, file: &HubFile, pin: Option<&Pin>) -> Result<Fetched> {
        let cache = RepoCache::new(&self.settings.cache, file.repo());
        let commit = match pin {
            Some(pin) => Some(pin.commit.clone()),
            None => cache.commit_of(file.revision())?,
        };
        let found = match &commit {
            Some(commit) => cache.find(commit, file.path())?.map(|found| (found, commit.clone())),
            None => None,
        };
        let (found, commit) =
            found.ok_or_else(|| HubError::NotCached { file: file.clone(), cache: self.settings.cache.clone() })?;
        verified(file, pin, found, commit)
    }

    /// Brings a file into the cache, unless it is there. Where a pin is given, its commit is asked for, whatever the
    /// revision is by now. Offline this is [`Self::cached`].
    ///
    /// # Errors
    /// Any [`HubError`]; the cache holds no file afterwards that was not compared. What has arrived stays to be resumed.
    pub fn fetch(&self, file: &HubFile, pin: Option<&Pin>, progress: &mut dyn FnMut(Progress)) -> Result<Fetched> {
        if self.settings.offline {
            return self.cached(file, pin);
        }
        let cache = RepoCache::new(&self.settings.cache, file.repo());
        let asked = pin.map_or(Ok(file.clone()), |pin| file.at(&pin.commit))?;
        if is_commit(asked.revision())
            && let Some(found) = cache.find(asked.revision(), asked.path())?
        {
            return verified(file, pin, found, asked.revision().to_owned());
        }
        let metadata = self.look_up(&asked, progress)?;
        if let Some(pin) = pin.filter(|pin| is_sha256(&metadata.etag) && metadata.etag != pin.sha256) {
            let (pinned, found) = (pin.sha256.clone(), metadata.etag);
            return Err(HubError::PinMismatch { file: file.clone(), pinned, found });
        }
        let known = cache.find(&metadata.commit, file.path())?;
        let known = known.filter(|found| found.etag.as_ref().is_none_or(|etag| *etag == metadata.etag));
        if let Some(found) = known {
            let fetched = verified(file, pin, found, metadata.commit.clone())?;
            // The file is there, in a cache that perhaps nobody here may write to: then the reference stays as it is, and
            // is looked up again the next time.
            let _ = cache.refer(asked.revision(), &fetched.commit);
            return Ok(fetched);
        }
        let fetched = self.bring(&cache, &asked, &metadata, pin, progress)?;
        cache.refer(asked.revision(), &fetched.commit)?;
        Ok(fetched)
    }

    /// Asks the Hub what the file is.
    fn look_up(&self, file: &HubFile, progress: &mut dyn FnMut(Progress)) -> Result<Metadata> {
        let mut patience = Patience::new(&self.settings.retry, file);
        loop {
            let reason = match self.head(file) {
                Ok(metadata) => return Ok(metadata),
                Err(Fault::Fatal(error)) => return Err(error),
                Err(Fault::Again(reason)) => reason,
            };
            patience.again(file, reason, progress)?;
        }
    }

    fn head(&self, file: &HubFile) -> std::result::Result<Metadata, Fault> {
        let endpoint = &self.settings.endpoint;
        let answer = self.http.request(Method::Head, &file.address(file.revision())).map_err(Fault::Again)?;
        let status = answer.response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(refusal(&answer, file, endpoint, self.http.has_token()));
        }
        let metadata = Metadata::of(&answer, file, endpoint)?;
        if is_commit(file.revision()) && metadata.commit != file.revision() {
            let reason = format!("it answers with commit {}", metadata.commit);
            let endpoint = endpoint.clone();
            return Err(Fault::Fatal(HubError::Protocol { file: file.clone(), endpoint, reason }));
        }
        Ok(metadata)
    }

    /// Brings the blob under its lock, unless another process was quicker, and links to it.
    fn bring(
        &self,
        cache: &RepoCache,
        file: &HubFile,
        metadata: &Metadata,
        pin: Option<&Pin>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Fetched> {
        let _lock = cache.lock(&metadata.etag, progress)?;
        let blob = cache.blob(&metadata.etag);
        let (digests, received) = if blob.is_file() {
            let found = Found { path: blob, etag: Some(metadata.etag.clone()) };
            (compared(file, pin, &found)?, 0)
        } else {
            let partial = cache.partial(&metadata.etag);
            let (endpoint, retry) = (self.settings.endpoint.as_str(), &self.settings.retry);
            let transfer = Transfer { http: &self.http, endpoint, retry, file, metadata, partial: &partial, pin };
            let brought = transfer.bring(progress)?;
            cache.accept(&metadata.etag)?;
            (brought.digests, brought.received)
        };
        let path = cache.point(&metadata.commit, file.path(), &metadata.etag)?;
        let commit = metadata.commit.clone();
        Ok(Fetched { path, commit, sha256: digests.sha256, size: digests.size, received })
    }
}

/// A file of the cache, if it is what its name and the pin say.
fn verified(file: &HubFile, pin: Option<&Pin>, found: Found, commit: String) -> Result<Fetched> {
    let digests = compared(file, pin, &found)?;
    Ok(Fetched { path: found.path, commit, sha256: digests.sha256, size: digests.size, received: 0 })
}

fn compared(file: &HubFile, pin: Option<&Pin>, found: &Found) -> Result<Digests> {
    let digests = Digests::of(&found.path, found.etag.as_deref())?;
    if let Some((algorithm, expected, is)) = found.etag.as_deref().and_then(|etag| digests.differ(etag)) {
        let path = found.path.canonicalize().unwrap_or_else(|_| found.path.clone());
        return Err(HubError::CacheDamaged { path, algorithm, expected, found: is });
    }
    match pin {
        Some(pin) if pin.sha256 != digests.sha256 => {
            Err(HubError::PinMismatch { file: file.clone(), pinned: pin.sha256.clone(), found: digests.sha256 })
        }
        _ => Ok(digests),
    }
}
