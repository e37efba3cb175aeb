//! What a download tells while it goes on.

use std::time::Duration;

use crate::Reason;

/// A word from a running [`crate::Hub::fetch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Another process writes the same file; it is waited for.
    Waiting,
    /// A transfer begins, or goes on.
    Started {
        /// Bytes that are there already.
        done: u64,
        /// Bytes of the file, if known.
        total: Option<u64>,
    },
    /// More bytes have arrived.
    Bytes {
        /// Bytes that are there.
        done: u64,
        /// Bytes of the file, if known.
        total: Option<u64>,
    },
    /// An attempt failed; another one follows.
    Retrying {
        /// What went wrong.
        reason: Reason,
        /// The pause before the next attempt.
        pause: Duration,
    },
    /// What arrived was wrong, was thrown away and is brought anew.
    Restarting,
    /// All bytes are there and are compared.
    Verifying,
}
