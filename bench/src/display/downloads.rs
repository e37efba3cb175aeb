//! What a person sees of a download: a bar with bytes on a terminal, plain lines in a pipe. All of it goes to stderr.

use std::io::IsTerminal;

use hub::{Fetched, HubFile, Progress};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::clock::Stopwatch;
use crate::talk::tell;

/// Seconds between two lines about the same file.
const LINE_SECONDS: f64 = 10.0;

/// One file on its way.
pub(crate) struct Downloads {
    name: String,
    /// The name within its repository: there is little room beside a bar.
    short: String,
    bar: Option<ProgressBar>,
    begun: bool,
    since: Stopwatch,
}

impl Downloads {
    /// Shows nothing yet: a file that is there already is not worth a line.
    pub(crate) fn new(file: &HubFile) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            // The template is a constant; a mistake in it falls back to the library's own bar.
            let template = "{wide_msg} {bar:24} {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12} {eta:>4}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::no_length().with_style(style.progress_chars("━╸─"))
        });
        let short = file.path().to_owned();
        Self { name: file.to_string(), short, bar, begun: false, since: Stopwatch::start() }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => tell(text),
        }
    }

    /// A word from the download.
    pub(crate) fn event(&mut self, event: &Progress) {
        match event {
            Progress::Waiting => self.line(&format!("{}: another process fetches it; waiting", self.name)),
            Progress::Started { done, total } => self.started(*done, *total),
            Progress::Bytes { done, total } => self.bytes(*done, *total),
            Progress::Retrying { reason, pause } => {
                let seconds = pause.as_secs_f64();
                self.line(&format!("{}: {reason}; trying again in {seconds:.1} s", self.name));
            }
            Progress::Restarting => {
                self.line(&format!("{}: what arrived is damaged; fetching it anew", self.name));
            }
            Progress::Verifying => {
                if let Some(bar) = &self.bar {
                    bar.set_message(format!("{}  comparing", self.short));
                }
            }
        }
    }

    fn started(&mut self, done: u64, total: Option<u64>) {
        if let Some(bar) = &self.bar {
            total.into_iter().for_each(|total| bar.set_length(total));
            bar.set_message(self.short.clone());
            bar.set_position(done);
            bar.reset_eta();
        }
        if !self.begun {
            let size = total.map_or(String::new(), |total| format!(" ({})", HumanBytes(total)));
            let after = if done > 0 { format!(", going on after {}", HumanBytes(done)) } else { String::new() };
            self.line(&format!("fetching {}{size}{after}", self.name));
            (self.begun, self.since) = (true, Stopwatch::start());
        }
    }

    fn bytes(&mut self, done: u64, total: Option<u64>) {
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if self.since.seconds() >= LINE_SECONDS => {
                let share = total.filter(|&total| total > 0);
                let share = share.map_or(String::new(), |t| format!(", {:.0} %", 100.0 * done as f64 / t as f64));
                tell(&format!("  {}: {}{share}", self.name, HumanBytes(done)));
                self.since = Stopwatch::start();
            }
            None => {}
        }
    }

    /// Takes the bar away, and says what came of a file that had to be fetched.
    pub(crate) fn finish(self, fetched: Option<&Fetched>) {
        if let Some(fetched) = fetched.filter(|_| self.begun) {
            let (received, digest) = (HumanBytes(fetched.received), &fetched.sha256[..10.min(fetched.sha256.len())]);
            self.line(&format!("fetched {}: {received} received, SHA-256 {digest}…", self.name));
        }
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
