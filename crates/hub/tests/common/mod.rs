//! What the tests of this crate share: a server with one repository, a cache, and quick settings.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use hub::{Fetched, Hub, HubError, HubFile, Progress, Repo, Retry, Settings, Timeouts};
use random::{Axis, Seeds};
use testkit::hub_server::{HubServer, ServedRepo, git_sha1, sha256};

pub(crate) const SIZE: usize = 300_000;
pub(crate) const REPO: &str = "timm/leaf.in1k";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const CONFIG: &str = "config.json";
pub(crate) const CONFIG_TEXT: &[u8] = b"{\"architecture\": \"leaf\"}\n";

/// Bytes that no compression or repetition hides mistakes in.
pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut stream = Seeds::new(seed).stream(Axis::Test, &[size as u64]);
    (0..size.div_ceil(8)).flat_map(|_| stream.bits().to_le_bytes()).take(size).collect()
}

/// Settings that give up in tenths of seconds.
pub(crate) fn settings(cache: &Path, endpoint: &str) -> Settings {
    let mut settings = Settings::with_cache(cache);
    settings.endpoint = endpoint.to_owned();
    let ms = Duration::from_millis;
    settings.retry = Retry { attempts: 4, first: ms(1), longest: ms(4), longest_asked: Duration::from_secs(2) };
    settings.timeouts = Timeouts { connect: Duration::from_secs(5), stall: ms(400) };
    settings
}

/// A server with a repository of weights, and an empty cache.
pub(crate) struct Place {
    pub(crate) server: HubServer,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) bytes: Vec<u8>,
    pub(crate) commit: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::of_size(SIZE)
    }

    pub(crate) fn of_size(size: usize) -> Self {
        let bytes = noise(1, size);
        let server = HubServer::start().unwrap();
        let repo = ServedRepo::model(REPO).small(CONFIG, CONFIG_TEXT).large(WEIGHTS, &bytes).tag("v1.0");
        let commit = server.add(repo);
        Self { server, dir: tempfile::tempdir().unwrap(), bytes, commit }
    }

    pub(crate) fn settings(&self) -> Settings {
        settings(self.dir.path(), &self.server.endpoint())
    }

    pub(crate) fn hub(&self) -> Hub {
        Hub::new(self.settings()).unwrap()
    }

    pub(crate) fn offline(&self) -> Hub {
        Hub::new(Settings { offline: true, ..self.settings() }).unwrap()
    }

    /// Fetches without a pin; what was told besides bytes.
    pub(crate) fn fetch(&self, file: &HubFile) -> (Result<Fetched, HubError>, Vec<Progress>) {
        let mut told = Vec::new();
        let result = self.hub().fetch(file, None, &mut |event| told.push(event));
        told.retain(|event| !matches!(event, Progress::Bytes { .. }));
        (result, told)
    }

    /// The folder of the repository.
    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("models--timm--leaf.in1k")
    }

    pub(crate) fn blob(&self, name: &str) -> PathBuf {
        self.folder().join("blobs").join(name)
    }

    /// The partial file of the weights.
    pub(crate) fn partial(&self) -> PathBuf {
        self.blob(&format!("{}.incomplete", sha256(&self.bytes)))
    }

    /// Every file in `blobs` that counts is what its name says.
    #[track_caller]
    pub(crate) fn assert_no_bad_blob(&self) {
        for entry in std::fs::read_dir(self.folder().join("blobs")).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.ends_with(".incomplete") {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            assert!(name == sha256(&bytes) || name == git_sha1(&bytes), "{name} is not its content");
        }
    }

    /// The weights came, whole and right.
    #[track_caller]
    pub(crate) fn assert_right(&self, fetched: &Fetched) {
        assert_eq!(fetched.sha256, sha256(&self.bytes));
        assert_eq!(fetched.size, self.bytes.len() as u64);
        assert!(std::fs::read(&fetched.path).unwrap() == self.bytes, "the file differs");
        assert!(!self.partial().exists(), "the part is still there");
        self.assert_no_bad_blob();
    }
}

pub(crate) fn file(path: &str) -> HubFile {
    at("main", path)
}

pub(crate) fn at(revision: &str, path: &str) -> HubFile {
    HubFile::new(Repo::model(REPO).unwrap(), revision, path).unwrap()
}
