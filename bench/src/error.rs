//! Every way in which the command can fail by expectation, its exit code and what to do about it.

use std::path::PathBuf;

use records::JournalError;

use crate::talk::tell;

/// Exit codes of the command.
pub(crate) mod exit {
    /// Done.
    pub(crate) const DONE: i32 = 0;
    /// Usage or suite file invalid.
    pub(crate) const USAGE: i32 = 2;
    /// Environment: weights, data, network, device, disk.
    pub(crate) const ENVIRONMENT: i32 = 3;
    /// Nothing selected.
    pub(crate) const NOTHING: i32 = 4;
    /// Trials outstanding.
    pub(crate) const OUTSTANDING: i32 = 5;
    /// Some trials failed.
    pub(crate) const FAILED: i32 = 10;
    /// Numerics outside their tolerances.
    pub(crate) const NUMERICS: i32 = 30;
}

/// An expected failure of the command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExpectedError {
    /// The suite file is invalid; the message names file, line and column.
    #[error("{0}")]
    Suite(#[from] crate::suite::SuiteError),
    /// An argument is invalid.
    #[error("{message}")]
    Usage {
        /// What is wrong with it.
        message: String,
        /// What to do.
        hint: String,
    },
    /// A dataset cannot be used.
    #[error("{}", named(name, source))]
    Dataset {
        /// Its name in the suite.
        name: String,
        /// Why not.
        source: datasets::DatasetError,
    },
    /// Images cannot be imported or exported.
    #[error("{0}")]
    Images(#[from] datasets::DatasetError),
    /// A file of the Hugging Face Hub is not there.
    #[error("{source}")]
    Hub {
        /// The suite that needs it; empty where it is not known.
        suite: String,
        /// Why not.
        source: Box<hub::HubError>,
    },
    /// Weights that cannot be used.
    #[error("weights of backbone `{backbone}`: {reason}")]
    Weights {
        /// The backbone's name in the suite.
        backbone: String,
        /// Why not.
        reason: String,
    },
    /// A file or folder of the run cannot be used.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The journal cannot be used.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// Another process works in the run directory.
    #[error("{path} is in use by another `bench`")]
    Locked {
        /// The run directory.
        path: PathBuf,
    },
    /// The run directory holds something else.
    #[error("{path}: {reason}")]
    RunDirectory {
        /// The run directory or a file in it.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// A trial could not write into the run directory; the message names the file.
    #[error("{message}")]
    Output {
        /// What the trial said.
        message: String,
    },
    /// The device is not there.
    #[error("device `{device}`: {reason}")]
    Device {
        /// What was asked for.
        device: String,
        /// Why not.
        reason: String,
    },
    /// The selection is empty.
    #[error("`--only {expression}` selects none of the suite's {trials} trials")]
    NothingSelected {
        /// The expressions.
        expression: String,
        /// Trials of the suite.
        trials: usize,
        /// The names that there are.
        hint: String,
    },
    /// Oracle files that cannot be used.
    #[error("{0}")]
    Oracle(#[from] crate::verify::OracleError),
    /// Records that make no report.
    #[error("{0}")]
    Report(#[from] reports::ReportError),
}

impl ExpectedError {
    /// An error of the Hub where the suite is not at hand.
    pub(crate) fn hub(source: hub::HubError) -> Self {
        Self::Hub { suite: String::new(), source: Box::new(source) }
    }

    /// The exit code, see `docs/FORMAT.md`.
    pub(crate) fn exit_code(&self) -> i32 {
        match self {
            Self::Suite(error) => error.exit_code(),
            Self::Usage { .. } => exit::USAGE,
            Self::Dataset { source, .. } | Self::Images(source) if source.is_configuration() => exit::USAGE,
            Self::Dataset { .. }
            | Self::Images(_)
            | Self::Hub { .. }
            | Self::Weights { .. }
            | Self::File { .. }
            | Self::Journal(_)
            | Self::Locked { .. }
            | Self::RunDirectory { .. }
            | Self::Device { .. }
            | Self::Output { .. }
            | Self::Oracle(_)
            | Self::Report(_) => exit::ENVIRONMENT,
            Self::NothingSelected { .. } => exit::NOTHING,
        }
    }

    /// What to do about it.
    fn hint(&self) -> String {
        match self {
            Self::Suite(error) => error.hint(),
            Self::Usage { hint, .. } | Self::RunDirectory { hint, .. } | Self::NothingSelected { hint, .. } => {
                hint.clone()
            }
            Self::Dataset { source, .. } | Self::Images(source) => source.hint().into(),
            Self::Oracle(error) => error.hint(),
            Self::Hub { suite, source } => hub_hint(suite, source),
            Self::Weights { .. } => {
                "weights are timm's, of an architecture that `bench list backbones` names; give another \
                                     `repo` or `revision`"
                    .into()
            }
            Self::File { source, .. } | Self::Journal(JournalError::Io { source, .. }) => file_hint(source),
            Self::Journal(_) | Self::Report(_) => {
                "the file was changed by hand or by another version; mend or move it, nothing was overwritten".into()
            }
            Self::Output { .. } => "make room or choose another `--out`, then give the same command again: finished \
                                    trials are kept"
                .into(),
            Self::Locked { .. } => "wait for the other one to end, or give this one another `--out`".into(),
            Self::Device { .. } => "use `--device cpu`, which is always there".into(),
        }
    }

    /// Prints the error and the hint to stderr.
    pub(crate) fn show(&self) {
        tell(&format!("error: {self}"));
        let hint = self.hint();
        if !hint.is_empty() {
            tell(&format!("\nhint: {hint}"));
        }
    }
}

/// An error of a dataset with its name, once.
fn named(name: &str, source: &datasets::DatasetError) -> String {
    let text = source.to_string();
    let prefix = format!("dataset `{name}`: ");
    if text.starts_with(&prefix) { text } else { prefix + &text }
}

/// What to do about an error of the Hugging Face Hub or its cache.
fn hub_hint(suite: &str, source: &hub::HubError) -> String {
    use hub::{HubError as Hub, Reason};
    let suite = if suite.is_empty() { "S" } else { suite };
    match source {
        Hub::NotCached { .. } => format!(
            "`bench fetch --suite {suite}` fetches it where there is a network; HF_HOME and HF_HUB_CACHE say where the cache is"
        ),
        Hub::RepoNotFound { .. } | Hub::RevisionNotFound { .. } | Hub::FileNotFound { .. } => {
            "check `repo` and `revision` in the suite file; a private repository needs HF_TOKEN".into()
        }
        Hub::Unauthorised { endpoint, repo, gated, .. } => {
            let terms = if *gated { format!("accept the terms at {endpoint}/{repo}, then ") } else { String::new() };
            format!("{terms}set HF_TOKEN to a token of an account that may read it")
        }
        Hub::Exhausted { reason: Reason::RateLimited { .. }, .. } => {
            "wait a while; with HF_TOKEN set the Hub allows more. The same command goes on where it stopped".into()
        }
        Hub::Exhausted { .. } => {
            "check the network, HF_ENDPOINT and the proxy; the same command goes on where it stopped. \
                                  `--offline` uses what is in the cache"
                .into()
        }
        Hub::Checksum { .. } => {
            "nothing of it was kept; something between here and the Hub changes what it sends, such as a \
                                 proxy. Try again, or another network"
                .into()
        }
        Hub::PinMismatch { .. } => {
            "bench.lock beside the suite file pins what was fetched first. To take the new content, \
                                    remove the file's entry there and fetch again; its records are then new ones"
                .into()
        }
        Hub::CacheDamaged { .. } => format!("delete that file, then `bench fetch --suite {suite}` fetches it anew"),
        Hub::Protocol { .. } => "check HF_ENDPOINT and the proxy".into(),
        Hub::Name { .. } => "correct it in the suite file".into(),
        Hub::Setting { setting, .. } => format!("correct {setting}, or unset it"),
        Hub::Disk { .. } => {
            "check the path, its permissions and the disk; HF_HOME and HF_HUB_CACHE say where the cache \
                             is. The same command goes on where it stopped"
                .into()
        }
        Hub::Lock { .. } => "mend it, or take it from version control; nothing was overwritten".into(),
    }
}

/// What to do about an input or output error.
fn file_hint(source: &std::io::Error) -> String {
    use std::io::ErrorKind as Kind;
    match source.kind() {
        Kind::NotFound => "check the path",
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => "choose a directory that you may write to, with `--out`",
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge | Kind::WriteZero => {
            "make room, then give the same command again: finished trials are kept"
        }
        Kind::NotADirectory | Kind::AlreadyExists | Kind::IsADirectory => {
            "a file is in the place of a directory or the other way round; choose another path with `--out`"
        }
        _ => "check the path and the disk, then give the same command again: finished trials are kept",
    }
    .into()
}
