//! The only file that reads environment variables, and that names those which a trial's process is given. Each is
//! listed here with what it does.

/// Number of worker threads of a process (the variable of the thread pool `rayon`). A trial's is set by its parent.
pub(crate) const THREADS: &str = "RAYON_NUM_THREADS";

/// What a trial's process is given besides [`THREADS`]. None of it changes a number.
pub(crate) const TRIAL: &[(&str, &str)] = &[
    // candle sums gradients in a pool of spinning threads, which costs more than it gains beside ours.
    ("CANDLE_NUM_THREADS", "1"),
    // glibc gives every large buffer back to the system and maps it anew, a quarter of a step in page faults.
    ("MALLOC_MMAP_THRESHOLD_", "1000000000"),
    ("MALLOC_TRIM_THRESHOLD_", "1000000000"),
    ("MALLOC_TOP_PAD_", "67108864"),
    // A record keeps the last words of a child that died; a backtrace would crowd them out.
    ("RUST_BACKTRACE", "0"),
];

/// Threads that [`THREADS`] asks for, if it is set to a number ≥ 1.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(crate) fn threads() -> Option<usize> {
    std::env::var(THREADS).ok()?.parse().ok().filter(|&n| n > 0)
}
