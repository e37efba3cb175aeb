//! HTTP/1.1 as far as the server needs it: one request a connection.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{State, locked};

/// The longest head of a request.
const LONGEST_HEAD: usize = 1 << 16;

/// The head of a request.
pub(super) struct Request {
    pub(super) method: String,
    /// Path and query, as they came.
    pub(super) target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// Reads a head; none if the client says nothing.
    pub(super) fn read(stream: &mut TcpStream) -> io::Result<Option<Self>> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte)? == 0 || head.len() > LONGEST_HEAD {
                return Ok(None);
            }
            head.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&head);
        let mut lines = text.lines();
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Ok(None);
        };
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Ok(Some(Self { method: method.to_owned(), target: target.to_owned(), headers }))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The first byte of `Range: bytes=N-`.
    pub(super) fn range(&self) -> Option<u64> {
        self.header("range")?.strip_prefix("bytes=")?.split_once('-')?.0.parse().ok()
    }
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    /// The bytes of the file or message.
    pub(super) body: Arc<Vec<u8>>,
    /// The first one that is sent.
    pub(super) from: usize,
    /// What `Content-Length` says, where it is not the truth.
    pub(super) length: Option<u64>,
    /// Ends the connection after so many bytes of the body.
    pub(super) cut: Option<usize>,
    /// Sends nothing for a while after so many bytes of the body.
    pub(super) stall: Option<(usize, Duration)>,
}

impl Answer {
    pub(super) fn new(status: u16, headers: Vec<(&'static str, String)>, body: Arc<Vec<u8>>) -> Self {
        Self { status, headers, body, from: 0, length: None, cut: None, stall: None }
    }

    pub(super) fn text(status: u16, headers: Vec<(&'static str, String)>, text: &str) -> Self {
        Self::new(status, headers, Arc::new(text.as_bytes().to_vec()))
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        302 => "Found",
        307 => "Temporary Redirect",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

/// Sends an answer at the server's pace and counts its bytes.
pub(super) fn send(
    stream: &mut TcpStream,
    request: &Request,
    answer: &Answer,
    state: &State,
    index: usize,
) -> io::Result<()> {
    let body = &answer.body[answer.from.min(answer.body.len())..];
    let length = answer.length.unwrap_or(body.len() as u64);
    let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, phrase(answer.status));
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let pace = *locked(&state.pace);
    let end = answer.cut.unwrap_or(body.len()).min(body.len());
    let mut done = 0;
    let mut stall = answer.stall;
    while done < end {
        let mut next = (done + pace.chunk).min(end);
        if let Some((at, pause)) = stall
            && next >= at
        {
            next = at.max(done);
            stream.write_all(&body[done..next])?;
            count(state, index, next - done);
            (done, stall) = (next, None);
            wait(state, pause);
            continue;
        }
        stream.write_all(&body[done..next])?;
        count(state, index, next - done);
        done = next;
        wait(state, pace.pause);
    }
    Ok(())
}

fn count(state: &State, index: usize, bytes: usize) {
    locked(&state.seen)[index].sent += bytes as u64;
    state.sent.fetch_add(bytes as u64, Ordering::SeqCst);
}

/// Sleeps, but not longer than the server runs.
fn wait(state: &State, pause: Duration) {
    const STEP: Duration = Duration::from_millis(50);
    let mut left = pause;
    while !left.is_zero() && !state.stopped() {
        let step = left.min(STEP);
        std::thread::sleep(step);
        left -= step;
    }
}
