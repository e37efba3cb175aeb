//! The command `bench`: plans a suite, runs its trials, keeps their records and reports them.

mod cli;
mod clock;
mod commands;
mod device;
mod display;
mod download;
mod effort;
mod environment;
mod error;
mod files;
mod host;
mod limit;
mod plan;
mod run;
mod select;
mod suite;
mod talk;
mod trial;
mod verify;
mod weights;

use clap::Parser;

fn main() {
    let code = match cli::Cli::parse().dispatch() {
        Ok(code) => code,
        Err(error) => {
            error.show();
            error.exit_code()
        }
    };
    std::process::exit(code);
}
