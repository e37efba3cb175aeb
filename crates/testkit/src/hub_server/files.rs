//! The repositories of the server.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Who may read a repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Access {
    /// Everybody.
    #[default]
    Public,
    /// Whoever has this token; for everybody else it is not there.
    Private(String),
    /// Whoever has this token; everybody else is told to ask for access.
    Gated(String),
}

/// A commit of a repository.
#[derive(Debug, Clone, Default)]
pub struct ServedRepo {
    pub(super) dataset: bool,
    pub(super) id: String,
    pub(super) access: Access,
    pub(super) files: BTreeMap<String, Content>,
    pub(super) tags: Vec<String>,
}

/// A file's content.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) bytes: Arc<Vec<u8>>,
    /// Large files are kept elsewhere and named by their SHA-256.
    pub(super) large: bool,
}

impl Content {
    /// What names it.
    pub(super) fn etag(&self) -> String {
        if self.large { sha256(&self.bytes) } else { git_sha1(&self.bytes) }
    }
}

impl ServedRepo {
    /// A repository of weights.
    pub fn model(id: &str) -> Self {
        Self { id: id.to_owned(), ..Self::default() }
    }

    /// A repository of data.
    pub fn dataset(id: &str) -> Self {
        Self { dataset: true, ..Self::model(id) }
    }

    /// With a small file.
    pub fn small(mut self, path: &str, bytes: &[u8]) -> Self {
        self.files.insert(path.to_owned(), Content { bytes: Arc::new(bytes.to_vec()), large: false });
        self
    }

    /// With a large file.
    pub fn large(mut self, path: &str, bytes: &[u8]) -> Self {
        self.files.insert(path.to_owned(), Content { bytes: Arc::new(bytes.to_vec()), large: true });
        self
    }

    /// With a branch or tag besides `main`.
    pub fn tag(mut self, name: &str) -> Self {
        self.tags.push(name.to_owned());
        self
    }

    /// For some alone.
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Its commit: a function of its contents.
    fn commit(&self) -> String {
        let mut sha1 = Sha1::new();
        sha1.update(&self.id);
        for (path, content) in &self.files {
            sha1.update(format!("\0{path}\0{}", content.etag()));
        }
        hex(&sha1.finalize())
    }

    /// Its key in the addresses: the id, with `datasets/` before it where it holds data.
    fn key(&self) -> String {
        if self.dataset { format!("datasets/{}", self.id) } else { self.id.clone() }
    }
}

/// All commits of a repository.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) dataset: bool,
    pub(super) id: String,
    pub(super) access: Access,
    pub(super) commits: BTreeMap<String, BTreeMap<String, Content>>,
    pub(super) revisions: BTreeMap<String, String>,
}

impl History {
    /// The commit of a revision.
    pub(super) fn commit(&self, revision: &str) -> Option<&String> {
        self.revisions.get(revision).or_else(|| self.commits.get_key_value(revision).map(|(commit, _)| commit))
    }
}

/// All repositories by key.
#[derive(Debug, Default)]
pub(super) struct Repos {
    pub(super) by_key: BTreeMap<String, History>,
}

impl Repos {
    pub(super) fn add(&mut self, repo: ServedRepo) -> String {
        let commit = repo.commit();
        let history = self.by_key.entry(repo.key()).or_default();
        (history.dataset, history.id, history.access) = (repo.dataset, repo.id, repo.access);
        history.commits.insert(commit.clone(), repo.files);
        for revision in repo.tags.into_iter().chain(["main".to_owned()]) {
            history.revisions.insert(revision, commit.clone());
        }
        commit
    }

    /// The large file of a digest.
    pub(super) fn large(&self, digest: &str) -> Option<Content> {
        let files = self.by_key.values().flat_map(|repo| repo.commits.values()).flat_map(|files| files.values());
        files.filter(|file| file.large).find(|file| file.etag() == digest).cloned()
    }
}

/// SHA-256, in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// git's name of a file: SHA-1 over `blob <size>\0` and the content.
pub fn git_sha1(bytes: &[u8]) -> String {
    let mut sha1 = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
    sha1.update(bytes);
    hex(&sha1.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
