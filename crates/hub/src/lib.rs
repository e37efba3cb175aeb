//! Files from the Hugging Face Hub: weights and datasets, verified before they count, pinned by `bench.lock`.
//!
//! [`Hub::fetch`] brings one file of a repository into the standard cache and [`Hub::cached`] finds one there without a
//! network. Both check the content's SHA-256 every time; a [`Pin`] says which it has to be.
//!
//! # The cache
//! The layout is that of Python's `huggingface_hub`, so that either side uses what the other one downloaded:
//!
//! ```text
//! models--timm--resnet50.a1_in1k/        datasets--<org>--<name>/ for datasets
//!     blobs/<etag>                       contents; the ETag is the SHA-256 of a large file, git's SHA-1 of a small one
//!     blobs/<etag>.incomplete            what has arrived so far of a file, to be resumed
//!     refs/main                          the commit that a branch or tag named when it was last looked up
//!     snapshots/<commit>/<file>          relative links into blobs
//! .locks/models--…/<etag>.lock           held (by `flock`) while a blob is written
//! ```
//!
//! # How a file is brought
//! 1. `HEAD <endpoint>/<repo>/resolve/<revision>/<file>` tells commit, ETag and size.
//! 2. Under the blob's lock, `GET` at that commit, with `Range` where a part is there already. The part is named by the
//!    ETag that was just looked up, so a file that has changed begins anew; a server that ignores the range, or answers
//!    another one, too.
//! 3. What was written is read back and compared: size, SHA-256 or git's SHA-1 where the ETag is one, and the pin.
//! 4. Only then it is renamed to its name in `blobs`, and the link and the reference are made.
//!
//! A lost or stalled connection, 408, 429 and 5xx are tried again with a growing pause; `Retry-After` is honoured.
//! The token goes to the endpoint's own origin alone, never along a redirect, and no message holds it.
//!
//! On file systems where `flock` is granted to everybody, two processes may write the same part; the comparison of step
//! 3 then fails and the file is brought anew.
//!
//! # Why not all of it by `hf-hub`
//! `hf-hub` gives the names: repositories, folders, addresses of the API. Its transfer compares no checksum, gives up
//! resuming when the process ends, and moves whatever arrived into the cache, so the transfer is ours, over `ureq`, the
//! HTTP library that `hf-hub` uses too.
//!
//! Files of the Hub's Xet storage come over the same plain HTTP route.
//!
//! The crate reads no environment variable and no clock: [`Settings`] carry everything.

mod cache;
mod client;
mod digest;
mod error;
mod http;
mod metadata;
mod names;
mod pins;
mod progress;
mod retry;
mod settings;
mod transfer;

pub use client::{Fetched, Hub};
pub use error::{HubError, Reason};
pub use names::{HubFile, Repo, RepoKind};
pub use pins::{LOCK_NAME, Pin, Pins};
pub use progress::Progress;
pub use retry::Retry;
pub use settings::{DEFAULT_ENDPOINT, Proxy, Settings, Timeouts, Token, Variables};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, HubError>;
