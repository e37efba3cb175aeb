//! A server on loopback that speaks the protocol of the Hugging Face Hub, with repositories, faults and a record of
//! what it was asked, for tests of whatever downloads.
//!
//! It listens on two ports: the Hub's own, and the one of the "other host" that large files are redirected to, as the
//! Hub redirects to its content network. `ci/hub-faithful` shows that Python's `huggingface_hub` downloads from it.
//!
//! | request | answer |
//! |---|---|
//! | `HEAD`, `GET /<repo>/resolve/<revision>/<file>` of a small file | 307 to `/api/resolve-cache/…`, which has `ETag` (git's SHA-1) |
//! | the same of a large file | 302 to the other host, with `X-Linked-Etag` (SHA-256) and `X-Linked-Size` |
//! | `/api/models/<id>`, `/api/datasets/<id>`, and `…/revision/<revision>` | commit and names of the files |
//!
//! Repositories of data have `datasets/` before the id. All answers have `X-Repo-Commit`; errors have `X-Error-Code`.

mod fault;
mod files;
mod routes;
mod wire;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use fault::{At, Fault, What};
pub use files::{Access, ServedRepo, git_sha1, sha256};

use files::Repos;

/// Which of the two ports was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// The Hub's own.
    Hub,
    /// The one that large files are redirected to.
    Other,
}

/// A request that was served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The port.
    pub host: Host,
    /// `HEAD` or `GET`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The first byte that `Range` asked for.
    pub range: Option<u64>,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// Status of the answer; 0 if there was none.
    pub status: u16,
    /// Bytes of the answer's body that were sent so far.
    pub sent: u64,
}

/// How fast bodies are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Bytes at a time.
    pub chunk: usize,
    /// The pause after each.
    pub pause: Duration,
}

struct State {
    repos: Mutex<Repos>,
    faults: Mutex<Vec<Fault>>,
    seen: Mutex<Vec<Seen>>,
    pace: Mutex<Pace>,
    sent: AtomicU64,
    stop: AtomicBool,
    other: SocketAddr,
}

impl State {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked leaves nothing half done here.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running server; it ends when this is dropped.
pub struct HubServer {
    state: Arc<State>,
    hub: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl HubServer {
    /// Starts without repositories, on ports that the system chooses.
    ///
    /// # Errors
    /// If it cannot listen on loopback.
    pub fn start() -> io::Result<Self> {
        let (hub, other) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let (hub_at, other_at) = (hub.local_addr()?, other.local_addr()?);
        let state = Arc::new(State {
            repos: Mutex::default(),
            faults: Mutex::default(),
            seen: Mutex::default(),
            pace: Mutex::new(Pace { chunk: 1 << 16, pause: Duration::ZERO }),
            sent: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            other: other_at,
        });
        let threads = [(hub, Host::Hub), (other, Host::Other)].map(|(listener, host)| {
            let state = Arc::clone(&state);
            std::thread::spawn(move || listen(&listener, host, &state))
        });
        Ok(Self { state, hub: hub_at, threads: threads.into() })
    }

    /// What `HF_ENDPOINT` has to be.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.hub)
    }

    /// Adds a repository, or a further commit of one that is there. Returns the commit, which `main` now is.
    pub fn add(&self, repo: ServedRepo) -> String {
        locked(&self.state.repos).add(repo)
    }

    /// Has something go wrong.
    pub fn fault(&self, fault: Fault) {
        locked(&self.state.faults).push(fault);
    }

    /// How fast bodies are sent from now on.
    pub fn pace(&self, pace: Pace) {
        *locked(&self.state.pace) = pace;
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        locked(&self.state.seen).clone()
    }

    /// The requests so far for which an answer's body, or part of it, was sent.
    pub fn bodies(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| matches!(seen.status, 200 | 206) && seen.method == "GET").collect()
    }

    /// Bytes of bodies that were sent so far.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        for address in [self.hub, self.state.other] {
            // Wakes the listener, which then sees that it is to stop.
            let _ = TcpStream::connect(address);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn listen(listener: &TcpListener, host: Host, state: &Arc<State>) {
    for stream in listener.incoming() {
        if state.stopped() {
            return;
        }
        let Ok(stream) = stream else { continue };
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            // A client that goes away is what these tests are about.
            let _ = serve(stream, host, &state);
        });
    }
}

/// One request a connection.
fn serve(mut stream: TcpStream, host: Host, state: &State) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let Some(request) = wire::Request::read(&mut stream)? else {
        return Ok(());
    };
    let index = {
        let mut seen = locked(&state.seen);
        seen.push(Seen {
            host,
            method: request.method.clone(),
            path: request.target.clone(),
            range: request.range(),
            authorization: request.header("authorization").map(str::to_owned),
            status: 0,
            sent: 0,
        });
        seen.len() - 1
    };
    let answer = routes::answer(&request, host, state);
    let Some(answer) = fault::apply(answer, &request, host, state) else {
        return Ok(());
    };
    locked(&state.seen)[index].status = answer.status;
    wire::send(&mut stream, &request, &answer, state, index)
}
