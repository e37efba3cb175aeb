//! What the Hub says of a file before it is sent, and what it says instead.

use crate::digest::Algorithm;
use crate::http::Answer;
use crate::names::is_commit;
use crate::{HubError, HubFile, Reason};

/// Why an attempt failed.
pub(crate) enum Fault {
    /// Another one would fail as well.
    Fatal(HubError),
    /// Another one may not.
    Again(Reason),
}

/// What the Hub says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// The commit that the revision is.
    pub(crate) commit: String,
    /// Name of the content.
    pub(crate) etag: String,
    /// Bytes, if it says so.
    pub(crate) size: Option<u64>,
}

impl Metadata {
    /// Read off the answer to `HEAD`. Where the Hub redirects, its own answer describes the file (`X-Linked-…`).
    pub(crate) fn of(answer: &Answer, file: &HubFile, endpoint: &str) -> Result<Self, Fault> {
        let odd = |reason: String| {
            Fault::Fatal(HubError::Protocol { file: file.clone(), endpoint: endpoint.to_owned(), reason })
        };
        let commit = answer.endpoint_header("x-repo-commit").ok_or_else(|| odd("no header X-Repo-Commit".into()))?;
        if !is_commit(commit) {
            return Err(odd("X-Repo-Commit is no commit".into()));
        }
        let etag = etag(answer).ok_or_else(|| odd("no header ETag".into()))?;
        if !is_file_name(&etag) {
            return Err(odd("its ETag cannot be the name of a file".into()));
        }
        let redirected = answer.response.status().is_redirection();
        let length = answer.header("content-length").filter(|_| !redirected);
        let size = match answer.endpoint_header("x-linked-size").or(length) {
            Some(text) => Some(text.parse().map_err(|_| odd("the size is no number".into()))?),
            None => None,
        };
        Ok(Self { commit: commit.to_owned(), etag, size })
    }
}

/// The ETag that the endpoint itself gives the content.
pub(crate) fn etag(answer: &Answer) -> Option<String> {
    let value = answer.endpoint_header("x-linked-etag").or_else(|| answer.endpoint_header("etag"))?;
    Some(value.trim_start_matches("W/").trim_matches('"').to_owned())
}

/// Whether an ETag can name a file in `blobs`.
fn is_file_name(etag: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+=".contains(c);
    // Room for `.incomplete` and `.lock`.
    let fits = (1..=200).contains(&etag.len());
    fits && etag.chars().all(plain) && !etag.starts_with('.') && !etag.ends_with(".incomplete")
}

/// Whether the ETag is a digest, and of which kind.
pub(crate) fn is_sha256(etag: &str) -> bool {
    Algorithm::of_etag(etag) == Algorithm::Sha256
}

/// What an answer that is no success means.
pub(crate) fn refusal(answer: &Answer, file: &HubFile, endpoint: &str, token: bool) -> Fault {
    let status = answer.status();
    let wait = answer.wait();
    match status {
        429 => return Fault::Again(Reason::RateLimited { wait }),
        408 | 500..=599 => return Fault::Again(Reason::Server { status, wait }),
        // The address that the Hub signed for another host has run out; the next attempt gets a new one.
        _ if !answer.of_endpoint => return Fault::Again(Reason::Server { status, wait }),
        _ => {}
    }
    let (endpoint, repo) = (endpoint.to_owned(), file.repo().clone());
    Fault::Fatal(match (answer.header("x-error-code"), status) {
        (Some("GatedRepo"), _) => HubError::Unauthorised { endpoint, repo, token, gated: true },
        (Some("RepoNotFound"), _) => HubError::RepoNotFound { endpoint, repo, token },
        (Some("RevisionNotFound"), _) => HubError::RevisionNotFound { file: file.clone() },
        (Some("EntryNotFound"), _) | (None, 404) => HubError::FileNotFound { file: file.clone() },
        (_, 401 | 403) => HubError::Unauthorised { endpoint, repo, token, gated: false },
        (code, status) => {
            let code = code.map_or(String::new(), |code| format!(" ({code})"));
            HubError::Protocol { file: file.clone(), endpoint, reason: format!("HTTP status {status}{code}") }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::is_file_name;

    #[test]
    fn etags_that_would_be_paths_are_refused() {
        for good in ["f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f", "a-b_c.d"] {
            assert!(is_file_name(good));
        }
        for bad in ["", "..", ".a", "a/b", "a\\b", "a b", "x.incomplete", "a\0", &"x".repeat(201)] {
            assert!(!is_file_name(bad), "{bad}");
        }
    }
}
