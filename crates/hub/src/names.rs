//! What a file on the Hub is called.

use std::sync::Arc;

use hf_hub::RepoType;
use serde::{Deserialize, Serialize};

use crate::{HubError, Result};

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepoKind {
    /// Weights and their configuration.
    Model,
    /// Data.
    Dataset,
}

impl RepoKind {
    /// The word of it: `model`, `dataset`.
    pub fn word(self) -> &'static str {
        match self {
            RepoKind::Model => "model",
            RepoKind::Dataset => "dataset",
        }
    }
}

/// A repository on the Hub.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repo {
    kind: RepoKind,
    id: String,
}

impl Repo {
    /// A repository of models, such as `timm/resnet50.a1_in1k`.
    ///
    /// # Errors
    /// [`HubError::Name`] if the id cannot be one.
    pub fn model(id: &str) -> Result<Self> {
        Self::new(RepoKind::Model, id)
    }

    /// A repository of data.
    ///
    /// # Errors
    /// [`HubError::Name`] if the id cannot be one.
    pub fn dataset(id: &str) -> Result<Self> {
        Self::new(RepoKind::Dataset, id)
    }

    /// A repository of some kind. Ids are `name` or `owner/name`, of letters, digits, `-`, `_` and `.`, at most 96
    /// characters, where `-` and `.` neither begin nor end a part and `--` and `..` do not occur.
    ///
    /// # Errors
    /// [`HubError::Name`] if the id cannot be one.
    pub fn new(kind: RepoKind, id: &str) -> Result<Self> {
        let refuse = |reason| Err(HubError::Name { what: "repository", name: id.to_owned(), reason });
        let parts: Vec<&str> = id.split('/').collect();
        if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
            return refuse("expected `owner/name`");
        }
        if id.len() > 96 {
            return refuse("an id has at most 96 characters");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !parts.iter().all(|part| part.chars().all(plain)) {
            return refuse("an id consists of letters, digits, `-`, `_` and `.`");
        }
        if parts.iter().any(|part| part.starts_with(['-', '.']) || part.ends_with(['-', '.'])) {
            return refuse("no part of an id begins or ends with `-` or `.`");
        }
        if id.contains("--") || id.contains("..") {
            return refuse("an id holds neither `--` nor `..`");
        }
        Ok(Self { kind, id: id.to_owned() })
    }

    /// What it holds.
    pub fn kind(&self) -> RepoKind {
        self.kind
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `hf-hub`'s form of it.
    pub(crate) fn named(&self) -> hf_hub::Repo {
        let kind = match self.kind {
            RepoKind::Model => RepoType::Model,
            RepoKind::Dataset => RepoType::Dataset,
        };
        hf_hub::Repo::new(self.id.clone(), kind)
    }
}

impl std::fmt::Display for Repo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            RepoKind::Model => f.write_str(&self.id),
            RepoKind::Dataset => write!(f, "datasets/{}", self.id),
        }
    }
}

/// One file of a repository at a revision. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HubFile(Arc<Names>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Names {
    repo: Repo,
    revision: String,
    path: String,
}

impl HubFile {
    /// The file at `path` (parts joined by `/`) of a branch, tag or commit.
    ///
    /// # Errors
    /// [`HubError::Name`] if revision or path cannot be one.
    pub fn new(repo: Repo, revision: &str, path: &str) -> Result<Self> {
        check_path("revision", revision)?;
        check_path("file", path)?;
        Ok(Self(Arc::new(Names { repo, revision: revision.to_owned(), path: path.to_owned() })))
    }

    /// The same file at another revision.
    ///
    /// # Errors
    /// [`HubError::Name`] if the revision cannot be one.
    pub fn at(&self, revision: &str) -> Result<Self> {
        Self::new(self.0.repo.clone(), revision, &self.0.path)
    }

    /// Its repository.
    pub fn repo(&self) -> &Repo {
        &self.0.repo
    }

    /// The revision that is asked for.
    pub fn revision(&self) -> &str {
        &self.0.revision
    }

    /// Its path in the repository.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// The part of its address that follows the endpoint and `/`, at some revision.
    pub(crate) fn address(&self, revision: &str) -> String {
        let (revision, path) = (encoded(revision, ""), encoded(&self.0.path, "/"));
        format!("{}/resolve/{revision}/{path}", self.0.repo.named().url())
    }
}

impl std::fmt::Display for HubFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} at {}", self.0.repo, self.0.path, self.0.revision)
    }
}

/// Paths become names of files below the cache, so none may lead out of it.
fn check_path(what: &'static str, path: &str) -> Result<()> {
    let refuse = |reason| Err(HubError::Name { what, name: path.to_owned(), reason });
    if path.is_empty() || path.len() > 1024 {
        return refuse("expected 1 to 1024 bytes");
    }
    if path.chars().any(|c| c.is_control() || c == '\\') {
        return refuse("it holds a control character or a backslash");
    }
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return refuse("a part of it is empty, `.` or `..`");
    }
    Ok(())
}

/// True for a full commit: 40 lower-case hexadecimal digits.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

/// True for lower-case hexadecimal digits alone.
pub(crate) fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Percent-encoded but for letters, digits, `-`, `_`, `.`, `~` and the characters of `safe`.
fn encoded(text: &str, safe: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-_.~".contains(c) || (c.is_ascii() && safe.contains(c)) {
            out.push(c);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_those_of_the_hub() {
        for good in ["gpt2", "timm/resnet50.a1_in1k", "a-b/c_d.e-f", "A/1"] {
            assert_eq!(Repo::model(good).unwrap().id(), good);
        }
        for bad in ["", "/", "a/", "/a", "a/b/c", "a b", "a--b", "..", "a/..", "a/.b", "a/b-", "ä/b", &"x".repeat(97)]
        {
            assert!(matches!(Repo::model(bad), Err(HubError::Name { what: "repository", .. })), "{bad}");
        }
    }

    #[test]
    fn addresses_are_those_of_the_hub() {
        let model = HubFile::new(Repo::model("timm/x").unwrap(), "refs/pr/1", "sub dir/a+b.bin").unwrap();
        assert_eq!(model.address("refs/pr/1"), "timm/x/resolve/refs%2Fpr%2F1/sub%20dir/a%2Bb.bin");
        let data = HubFile::new(Repo::dataset("o/n").unwrap(), "main", "data/é.parquet").unwrap();
        assert_eq!(data.address("main"), "datasets/o/n/resolve/main/data/%C3%A9.parquet");
        assert_eq!(data.to_string(), "datasets/o/n/data/é.parquet at main");
    }

    proptest! {
        /// Whatever is accepted as a path stays below the folder that it is joined to.
        #[test]
        fn no_path_leads_out(path in "[a-z./\\\\]{0,12}") {
            if HubFile::new(Repo::model("a/b").unwrap(), "main", &path).is_ok() {
                let joined = std::path::Path::new("base").join(&path);
                prop_assert!(joined.starts_with("base"));
                prop_assert!(joined.components().all(|c| matches!(c, std::path::Component::Normal(_))));
            }
        }
    }
}
