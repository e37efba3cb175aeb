//! Talk goes to stderr, data to stdout. Neither a pipe that was closed nor a full disk behind one ends a run.

use std::io::Write;

/// Writes a line to stderr.
pub(crate) fn tell(line: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{line}");
}

/// Writes to stdout.
pub(crate) fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
