//! What can go wrong between the Hub and the cache.

use std::path::PathBuf;
use std::time::Duration;

use crate::{HubFile, Repo};

/// Why a file of the Hub is not there.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A name that cannot be one.
    #[error("`{name}` is no {what}: {reason}")]
    Name {
        /// What it should be: repository, revision, file.
        what: &'static str,
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A setting that cannot be used.
    #[error("`{setting}`: {reason}")]
    Setting {
        /// The variable or field.
        setting: &'static str,
        /// Why not. Never holds the value: it may be a secret.
        reason: String,
    },
    /// There is no such repository, or it is hidden from whoever asks.
    #[error("{endpoint} has no {} repository `{}`{}", repo.kind().word(), repo.id(), hidden(*token))]
    RepoNotFound {
        /// The endpoint.
        endpoint: String,
        /// The repository.
        repo: Repo,
        /// Whether a token was sent.
        token: bool,
    },
    /// The repository has no such branch, tag or commit.
    #[error("the {} repository `{}` has no revision `{}`", file.repo().kind().word(), file.repo().id(), file.revision())]
    RevisionNotFound {
        /// What was asked for.
        file: HubFile,
    },
    /// The repository has no such file at this revision.
    #[error("the {} repository `{}` has no file `{}` at revision `{}`",
        file.repo().kind().word(), file.repo().id(), file.path(), file.revision())]
    FileNotFound {
        /// What was asked for.
        file: HubFile,
    },
    /// The repository asks for a token that may read it, or refuses the one that was sent.
    #[error("{endpoint} refuses `{repo}`{}: {}", if *gated { ", which is gated" } else { "" }, refused(*token))]
    Unauthorised {
        /// The endpoint.
        endpoint: String,
        /// The repository.
        repo: Repo,
        /// Whether a token was sent.
        token: bool,
        /// Whether its terms have to be accepted first.
        gated: bool,
    },
    /// The network may not be used and the cache lacks the file.
    #[error("{file} is not in the cache {cache}, and the network may not be used")]
    NotCached {
        /// What was asked for.
        file: HubFile,
        /// The cache.
        cache: PathBuf,
    },
    /// Attempts are used up.
    #[error("cannot fetch {file} after {attempts} attempts: {reason}")]
    Exhausted {
        /// What was asked for.
        file: HubFile,
        /// How often it was tried without getting on.
        attempts: u32,
        /// What went wrong the last time.
        reason: Reason,
    },
    /// What arrived is not what the Hub announced, twice.
    #[error("{file}: what arrived has {algorithm} {found}, the Hub announced {expected}")]
    Checksum {
        /// What was asked for.
        file: HubFile,
        /// `SHA-256` or `git SHA-1`.
        algorithm: &'static str,
        /// The announced digest.
        expected: String,
        /// The digest of what arrived.
        found: String,
    },
    /// The Hub's or the cache's file is not the pinned one.
    #[error("{file}: SHA-256 {found} is not the pinned {pinned}")]
    PinMismatch {
        /// What was asked for.
        file: HubFile,
        /// The pinned digest.
        pinned: String,
        /// The digest of the file, as announced or as computed.
        found: String,
    },
    /// A file in the cache is not what its name says.
    #[error("{path} is damaged: {algorithm} {found}, its name says {expected}")]
    CacheDamaged {
        /// The file.
        path: PathBuf,
        /// `SHA-256` or `git SHA-1`.
        algorithm: &'static str,
        /// What its name says.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The server speaks, but not as the Hub does.
    #[error("{file}: {endpoint} does not answer as the Hub does: {reason}")]
    Protocol {
        /// What was asked for.
        file: HubFile,
        /// The endpoint.
        endpoint: String,
        /// What is odd about it.
        reason: String,
    },
    /// The disk refuses.
    #[error("cannot {action} {path}: {source}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// `bench.lock` is not one.
    #[error("{path}: {reason}")]
    Lock {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column where they are known.
        reason: String,
    },
}

/// Why one attempt failed, where another one may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The server asks to come back later.
    RateLimited {
        /// After how long, if it says so.
        wait: Option<Duration>,
    },
    /// The server failed.
    Server {
        /// The HTTP status.
        status: u16,
        /// When to come back, if it says so.
        wait: Option<Duration>,
    },
    /// Nothing arrived for too long.
    Stalled,
    /// The connection could not be made, or was lost.
    Network(String),
    /// The connection was closed before the end.
    Truncated {
        /// Bytes of the file.
        expected: u64,
        /// Bytes that are there.
        received: u64,
    },
    /// The server announces another size than the Hub did, or sends more than that.
    WrongSize {
        /// Bytes that the Hub announced.
        expected: u64,
        /// Bytes that the server announces or sends.
        found: u64,
    },
    /// The server answers something else than it was asked for.
    Odd(String),
}

impl Reason {
    /// How long the server asks to wait.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Reason::RateLimited { wait } | Reason::Server { wait, .. } => *wait,
            _ => None,
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let later =
            |wait: &Option<Duration>| wait.map_or(String::new(), |w| format!(", try again in {} s", w.as_secs()));
        match self {
            Reason::RateLimited { wait } => write!(f, "too many requests (429){}", later(wait)),
            Reason::Server { status, wait } => write!(f, "the server failed ({status}){}", later(wait)),
            Reason::Stalled => f.write_str("nothing arrived for too long"),
            Reason::Network(reason) => f.write_str(reason),
            Reason::Truncated { expected, received } => {
                write!(f, "the connection was closed after {received} of {expected} bytes")
            }
            Reason::WrongSize { expected, found } => {
                write!(f, "the server sends {found} bytes, the file has {expected}")
            }
            Reason::Odd(reason) => f.write_str(reason),
        }
    }
}

fn hidden(token: bool) -> &'static str {
    if token { " that this HF_TOKEN may see" } else { ", or it is private: HF_TOKEN is not set" }
}

fn refused(token: bool) -> &'static str {
    if token { "this HF_TOKEN may not read it" } else { "it asks for a token, and HF_TOKEN is not set" }
}
