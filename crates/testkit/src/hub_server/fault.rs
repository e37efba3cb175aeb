//! What can be made to go wrong.

use std::sync::Arc;
use std::time::Duration;

use super::wire::{Answer, Request};
use super::{Host, State, locked};

/// Which requests a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// `HEAD` of a file.
    Head,
    /// `GET` of a file at the Hub's own port, before any redirect.
    Get,
    /// The answer that has a file's bytes, wherever it comes from.
    Body,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Another status, with these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// The headers without these.
    Without(&'static str),
    /// Another value of a header.
    Header(&'static str, String),
    /// The connection is closed after so many bytes of the body.
    Truncated(usize),
    /// `Content-Length` and body differ from the truth by so many bytes; what is added is zeros.
    Longer(i64),
    /// `Content-Length` alone differs from the truth by so many bytes.
    Announced(i64),
    /// One bit of this byte of the file is the other way round.
    Flipped(usize),
    /// After so many bytes of the body nothing comes for a while.
    Stalled(usize, Duration),
    /// The connection is closed without an answer.
    Closed,
    /// `Range` is ignored.
    Unranged,
    /// `Range` is answered with a part that begins so many bytes later.
    Misplaced(usize),
    /// `Range` is refused.
    Unsatisfiable,
}

/// Something that goes wrong a number of times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// At which requests.
    pub at: At,
    /// How often; it strikes nobody afterwards.
    pub times: u32,
    /// What.
    pub what: What,
}

impl Fault {
    /// A fault that strikes once.
    pub fn once(at: At, what: What) -> Self {
        Self { at, times: 1, what }
    }

    /// A fault that strikes always.
    pub fn always(at: At, what: What) -> Self {
        Self { at, times: u32::MAX, what }
    }

    fn strikes(&self, answer: &Answer, request: &Request, host: Host) -> bool {
        let get = request.method == "GET";
        let ranged = matches!(self.what, What::Unranged | What::Misplaced(_) | What::Unsatisfiable);
        let here = match self.at {
            At::Head => request.method == "HEAD",
            At::Get => get && host == Host::Hub && request.target.contains("/resolve/"),
            At::Body => get && matches!(answer.status, 200 | 206) && !request.target.starts_with("/api/models"),
        };
        self.times > 0 && here && (!ranged || request.range().is_some())
    }
}

/// The answer with the first fault that strikes; none if the connection is just closed.
pub(super) fn apply(answer: Answer, request: &Request, host: Host, state: &State) -> Option<Answer> {
    let what = {
        let mut faults = locked(&state.faults);
        match faults.iter_mut().find(|fault| fault.strikes(&answer, request, host)) {
            Some(fault) => {
                fault.times = fault.times.saturating_sub(1);
                fault.what.clone()
            }
            None => return Some(answer),
        }
    };
    changed(answer, what)
}

fn changed(mut answer: Answer, what: What) -> Option<Answer> {
    match what {
        What::Closed => return None,
        What::Status(status, headers) => return Some(Answer::text(status, headers, "it went wrong")),
        What::Without(name) => answer.headers.retain(|(known, _)| *known != name),
        What::Header(name, value) => {
            answer.headers.retain(|(known, _)| *known != name);
            answer.headers.push((name, value));
        }
        What::Truncated(after) => answer.cut = Some(after),
        What::Longer(by) => {
            let mut body = answer.body.to_vec();
            body.resize(body.len().saturating_add_signed(by as isize), 0);
            answer.body = Arc::new(body);
        }
        What::Announced(by) => {
            let length = answer.body.len() - answer.from;
            answer.length = Some((length as u64).saturating_add_signed(by));
        }
        What::Flipped(at) => {
            let mut body = answer.body.to_vec();
            if let Some(byte) = body.get_mut(at) {
                *byte ^= 1;
            }
            answer.body = Arc::new(body);
        }
        What::Stalled(after, pause) => answer.stall = Some((after, pause)),
        What::Unranged => {
            answer.headers.retain(|(name, _)| *name != "Content-Range");
            (answer.status, answer.from) = (200, 0);
        }
        What::Misplaced(by) => {
            let (from, size) = ((answer.from + by).min(answer.body.len()), answer.body.len());
            answer.headers.retain(|(name, _)| *name != "Content-Range");
            answer.headers.push(("Content-Range", format!("bytes {from}-{}/{size}", size.saturating_sub(1))));
            answer.from = from;
        }
        What::Unsatisfiable => {
            let size = answer.body.len();
            return Some(Answer::text(416, vec![("Content-Range", format!("bytes */{size}"))], ""));
        }
    }
    Some(answer)
}
