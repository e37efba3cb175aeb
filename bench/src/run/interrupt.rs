//! Ctrl-C and the termination signal: the run ends in order, and its exit code says that trials are outstanding.

use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// From now on a signal asks the run to end instead of ending the process.
pub(crate) fn listen() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| REQUESTED.store(true, Ordering::SeqCst))
}

/// True once a signal has come.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}
