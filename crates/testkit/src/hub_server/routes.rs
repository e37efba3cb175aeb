//! What the Hub answers when nothing goes wrong.

use std::sync::Arc;

use super::files::{Access, Content, History};
use super::wire::{Answer, Request};
use super::{Host, State, locked};

type Headers = Vec<(&'static str, String)>;

/// The answer to a request.
pub(super) fn answer(request: &Request, host: Host, state: &State) -> Answer {
    let path = request.target.split('?').next().unwrap_or_default().trim_start_matches('/').to_owned();
    if !["GET", "HEAD"].contains(&request.method.as_str()) {
        return Answer::text(405, vec![], "Method not allowed");
    }
    if host == Host::Other {
        return match locked(&state.repos).large(&path) {
            // The other host's own ETag has nothing to do with the Hub's.
            Some(content) => file(request, vec![("ETag", format!("\"other-{}\"", &path[..16]))], &content),
            None => Answer::text(404, vec![], "no such object"),
        };
    }
    if let Some(rest) = path.strip_prefix("api/resolve-cache/") {
        return cached(request, rest, state);
    }
    if let Some(rest) = path.strip_prefix("api/") {
        return about(request, rest, state);
    }
    match path.split_once("/resolve/").and_then(|(repo, rest)| Some((repo, rest.split_once('/')?))) {
        Some((repo, (revision, file))) => resolve(request, repo, &decoded(revision), &decoded(file), state),
        None => Answer::text(404, vec![], "Not Found"),
    }
}

/// An error as the Hub tells it.
fn error(status: u16, code: &str, message: &str, mut headers: Headers) -> Answer {
    headers.push(("X-Error-Code", code.to_owned()));
    headers.push(("X-Error-Message", message.to_owned()));
    headers.push(("Content-Type", "text/plain; charset=utf-8".to_owned()));
    Answer::text(status, headers, message)
}

/// The repository, if it is there for whoever asks.
fn open<'a>(request: &Request, repo: Option<&'a History>) -> Result<&'a History, Answer> {
    let sent = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let absent = || match sent {
        None => error(401, "RepoNotFound", "Invalid username or password.", vec![]),
        Some(_) => error(404, "RepoNotFound", "Repository not found", vec![]),
    };
    let repo = repo.ok_or_else(absent)?;
    match &repo.access {
        Access::Public => Ok(repo),
        Access::Private(token) | Access::Gated(token) if sent == Some(token.as_str()) => Ok(repo),
        Access::Private(_) => Err(absent()),
        Access::Gated(_) => {
            let status = if sent.is_none() { 401 } else { 403 };
            let message = format!("Access to model {} is restricted and you are not in the authorized list.", repo.id);
            Err(error(status, "GatedRepo", &message, vec![]))
        }
    }
}

fn resolve(request: &Request, key: &str, revision: &str, path: &str, state: &State) -> Answer {
    let repos = locked(&state.repos);
    let repo = match open(request, repos.by_key.get(key)) {
        Ok(repo) => repo,
        Err(answer) => return answer,
    };
    let Some(commit) = repo.commit(revision) else {
        return error(404, "RevisionNotFound", &format!("Invalid rev id: {revision}"), vec![]);
    };
    let mut headers = vec![("X-Repo-Commit", commit.clone())];
    let Some(content) = repo.commits[commit].get(path) else {
        return error(404, "EntryNotFound", "Entry not found", headers);
    };
    headers.push(("X-Linked-Size", content.bytes.len().to_string()));
    headers.push(("X-Linked-Etag", format!("\"{}\"", content.etag())));
    headers.push(("Accept-Ranges", "bytes".to_owned()));
    if content.large {
        let location = format!("http://{}/{}?Signature=a%2Fb&Expires=1", state.other, content.etag());
        headers.push(("Location", location.clone()));
        return Answer::text(302, headers, &format!("Found. Redirecting to {location}"));
    }
    let kind = if repo.dataset { "datasets" } else { "models" };
    let location =
        format!("/api/resolve-cache/{kind}/{}/{commit}/{}?etag=%22{}%22", repo.id, encoded(path), content.etag());
    headers.push(("Location", location.clone()));
    Answer::text(307, headers, &format!("Temporary Redirect. Redirecting to {location}"))
}

/// `<kind>/<owner>/<name>/<commit>/<file>`: a small file.
fn cached(request: &Request, rest: &str, state: &State) -> Answer {
    let repos = locked(&state.repos);
    let not_found = || error(404, "EntryNotFound", "Entry not found", vec![]);
    let found = repos.by_key.values().find_map(|repo| {
        let kind = if repo.dataset { "datasets" } else { "models" };
        let (commit, path) = rest.strip_prefix(&format!("{kind}/{}/", repo.id))?.split_once('/')?;
        let content = repo.commits.get(commit)?.get(&decoded(path))?;
        Some((repo, commit.to_owned(), content))
    });
    let Some((repo, commit, content)) = found else {
        return not_found();
    };
    if let Err(answer) = open(request, Some(repo)) {
        return answer;
    }
    let headers = vec![("X-Repo-Commit", commit), ("ETag", format!("\"{}\"", content.etag()))];
    file(request, headers, content)
}

/// A file, or the part of it that is asked for.
fn file(request: &Request, mut headers: Headers, content: &Content) -> Answer {
    headers.push(("Content-Type", "application/octet-stream".to_owned()));
    headers.push(("Accept-Ranges", "bytes".to_owned()));
    let size = content.bytes.len();
    match request.range() {
        None => Answer::new(200, headers, Arc::clone(&content.bytes)),
        Some(from) if (from as usize) < size => {
            headers.push(("Content-Range", format!("bytes {from}-{}/{size}", size - 1)));
            Answer { from: from as usize, ..Answer::new(206, headers, Arc::clone(&content.bytes)) }
        }
        Some(_) => {
            headers.push(("Content-Range", format!("bytes */{size}")));
            Answer::text(416, headers, "")
        }
    }
}

/// `models/<id>` or `datasets/<id>`, perhaps with `/revision/<revision>`: commit and files.
fn about(request: &Request, rest: &str, state: &State) -> Answer {
    let (name, revision) = rest.split_once("/revision/").unwrap_or((rest, "main"));
    let key = name.strip_prefix("models/").unwrap_or(name);
    let repos = locked(&state.repos);
    let repo = match open(request, repos.by_key.get(key)) {
        Ok(repo) => repo,
        Err(answer) => return answer,
    };
    let revision = decoded(revision);
    let Some(commit) = repo.commit(&revision) else {
        return error(404, "RevisionNotFound", &format!("Invalid rev id: {revision}"), vec![]);
    };
    let files: Vec<String> =
        repo.commits[commit].keys().map(|path| format!("{{\"rfilename\":\"{}\"}}", escaped(path))).collect();
    let (gated, private) = (matches!(repo.access, Access::Gated(_)), matches!(repo.access, Access::Private(_)));
    let gated = if gated { "\"manual\"" } else { "false" };
    let text = format!(
        "{{\"_id\":\"0\",\"id\":\"{id}\",\"modelId\":\"{id}\",\"sha\":\"{commit}\",\"private\":{private},\
         \"gated\":{gated},\"disabled\":false,\"downloads\":0,\"likes\":0,\"tags\":[],\"siblings\":[{}]}}",
        files.join(","),
        id = repo.id,
    );
    let headers =
        vec![("X-Repo-Commit", commit.clone()), ("Content-Type", "application/json; charset=utf-8".to_owned())];
    Answer::text(200, headers, &text)
}

/// A text within a JSON string. Paths hold no control characters.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Percent-decoded.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::new(), 0);
    while i < bytes.len() {
        let digits = bytes.get(i + 1..i + 3).filter(|_| bytes[i] == b'%').and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent-encoded, but for `/`.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~/".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
