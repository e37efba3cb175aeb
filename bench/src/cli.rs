//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands;
use crate::commands::export::ExportArguments;
use crate::commands::import::ImportArguments;
use crate::error::{ExpectedError, exit};

/// A reproducibility benchmark for metric-learning losses on ultra-fine-grained images.
///
/// `bench --suite S` plans what is outstanding of a suite, runs it, and reports. The same command again goes on
/// where it stopped.
#[derive(Debug, Parser)]
#[command(name = "bench", version, args_conflicts_with_subcommands = true, max_term_width = 110)]
#[command(after_help = "Exit codes: 0 done · 2 usage or suite file invalid · 3 environment (weights, data, network, \
                        device, disk) · 4 nothing selected · 5 trials outstanding (interrupted) · 10 some trials \
                        failed · 30 numerics outside tolerance")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArguments,
}

/// Arguments of a run.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Name of a suite (see `bench list suites`) or path of a suite file
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) suite: Option<String>,
    /// Run directory [default: runs/SUITE]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Only the trials that match, such as 'method=ce|triplet,dataset=soy*'; may be given several times
    #[arg(long, value_name = "EXPR")]
    pub(crate) only: Vec<String>,
    /// Where to compute: auto, cpu, cuda:N, a list such as cuda:0,cuda:2, or cuda:all
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: String,
    /// Trials at a time, which share the cores and take the cards in turn [default: 1, or one a card of a list]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) jobs: Option<u16>,
    /// End a trial after so long, such as 6h, 90m or 45s (a plain number: seconds); a later run goes on from its checkpoint
    /// [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = crate::limit::parse)]
    pub(crate) trial_timeout: Option<std::time::Duration>,
    /// Use no network: what is not in the cache is an error (as with HF_HUB_OFFLINE=1)
    #[arg(long)]
    pub(crate) offline: bool,
    /// Append what happens to a file, as JSON lines
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Cells and trials of a suite, what is done and what is outstanding; trains nothing
    Plan {
        /// Name of a suite or path of a suite file
        #[arg(long, value_name = "NAME|FILE")]
        suite: String,
        /// Run directory [default: runs/SUITE]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Only the trials that match
        #[arg(long, value_name = "EXPR")]
        only: Vec<String>,
        /// Where the run would compute, as for a run
        #[arg(long, value_name = "DEVICE", default_value = "auto")]
        device: String,
    },
    /// Fetch and verify what a suite needs from the Hugging Face Hub, and pin it in bench.lock beside the suite file
    Fetch {
        /// Name of a suite or path of a suite file
        #[arg(long, value_name = "NAME|FILE")]
        suite: String,
        /// Only what the trials that match need
        #[arg(long, value_name = "EXPR")]
        only: Vec<String>,
        /// Use no network: only verify what is in the cache
        #[arg(long)]
        offline: bool,
    },
    /// Import the images of UFG subsets from the official archives or the mirror's files, and verify them
    Import(ImportArguments),
    /// Write generated stand-ins of the UFG subsets, as the mirror's files and as official archives
    Export(ExportArguments),
    /// Rebuild results.csv, summary.csv and report.md from the records of a run
    Report {
        /// Run directory
        run: PathBuf,
    },
    /// What is done, failed and outstanding of a run
    Status {
        /// Run directory
        run: PathBuf,
    },
    /// Compare the kernels, losses, metrics and backbones of this build with files of expected values
    Verify {
        /// Folder of oracle files [default: the sets in the binary]
        #[arg(long, value_name = "DIR")]
        oracles: Option<PathBuf>,
        /// Folder of parity files of backbones [default: the sets in the binary]
        #[arg(long, value_name = "DIR")]
        backbones: Option<PathBuf>,
        /// The dtypes of the tensors
        #[arg(long, value_enum, default_value_t = Dtype::Both)]
        dtype: Dtype,
        /// Where to compute: auto, cpu, cuda:N, a list such as cuda:0,cuda:2, or cuda:all
        #[arg(long, value_name = "DEVICE", default_value = "auto")]
        device: String,
        /// Write the table to a CSV file too
        #[arg(long, value_name = "FILE")]
        csv: Option<PathBuf>,
    },
    /// The methods, datasets, backbones or suites that there are
    List {
        /// Which; all of them if left out
        what: Option<Listing>,
    },
    /// Carry out one trial that is told on stdin (for `bench` itself)
    #[command(hide = true)]
    Trial,
}

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Listing {
    /// Methods of the registry.
    Methods,
    /// Kinds of datasets.
    Datasets,
    /// Kinds of backbones.
    Backbones,
    /// Suites that can be given by name.
    Suites,
}

/// The dtypes that can be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    /// float32.
    F32,
    /// float64.
    F64,
    /// One after the other.
    Both,
}

impl Cli {
    /// Does what was asked for and returns the exit code.
    pub(crate) fn dispatch(self) -> Result<i32, ExpectedError> {
        match self.command {
            None => commands::run::run(&self.run),
            Some(Command::Plan { suite, out, only, device }) => commands::plan::plan(&suite, out, &only, &device),
            Some(Command::Fetch { suite, only, offline }) => commands::fetch::fetch(&suite, &only, offline),
            Some(Command::Import(arguments)) => commands::import::import(&arguments),
            Some(Command::Export(arguments)) => commands::export::export(&arguments),
            Some(Command::Report { run }) => commands::report::report(&run),
            Some(Command::Status { run }) => commands::status::status(&run),
            Some(Command::Verify { oracles, backbones, dtype, device, csv }) => {
                commands::verify::verify(oracles.as_deref(), backbones.as_deref(), dtype, &device, csv.as_deref())
            }
            Some(Command::List { what }) => {
                commands::list::list(what);
                Ok(exit::DONE)
            }
            Some(Command::Trial) => Ok(crate::trial::main()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_what_a_user_needs() {
        insta::assert_snapshot!(Cli::command().render_help());
    }
}
