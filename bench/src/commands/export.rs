//! `bench export`: generated stand-ins of the UFG subsets, as the mirror's parquet files and as official archives.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use datasets::{ExportOptions, Subset, UfgId};

use super::import::bar;
use super::print;
use crate::error::{ExpectedError, exit};

/// Arguments of `bench export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// Folder to write to: datasets/ufgvc/*.parquet as in the mirror, archives/*.zip
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Only this dataset; may be given several times [default: all]
    #[arg(long, value_name = "ID")]
    pub(crate) dataset: Vec<UfgId>,
    /// Classes of each [default: those of the subset]
    #[arg(long, value_name = "N", conflicts_with = "scale")]
    pub(crate) classes: Option<usize>,
    /// Share of each subset's classes, between 0 and 1; at least 2 classes
    #[arg(long, value_name = "SHARE")]
    pub(crate) scale: Option<f64>,
    /// Side of the pictures, pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 64)]
    pub(crate) size: usize,
    /// What everything is drawn from
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::Both)]
    pub(crate) format: Format,
    /// Leave out the split `val`, which repeats the test images as in the mirror
    #[arg(long)]
    pub(crate) no_val: bool,
    /// Write images of parquet files as a struct of bytes and path, with file names
    #[arg(long)]
    pub(crate) paths: bool,
}

/// The files of a stand-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The mirror's parquet file.
    Parquet,
    /// The official archive.
    Archive,
    /// Both.
    Both,
}

/// Writes the stand-ins and prints the files.
pub(crate) fn export(arguments: &ExportArguments) -> Result<i32, ExpectedError> {
    let scale = arguments.scale.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&scale) {
        return Err(ExpectedError::Usage {
            message: format!("`--scale {scale}`: a share is between 0 and 1"),
            hint: "give 0.05 for a twentieth of the classes".into(),
        });
    }
    for subset in subsets(&arguments.dataset) {
        let scaled = ((subset.classes() as f64 * scale).round() as usize).max(2);
        let options = ExportOptions {
            out: arguments.out.clone(),
            classes: Some(arguments.classes.unwrap_or(scaled)),
            size: arguments.size,
            seed: arguments.seed,
            parquet: arguments.format != Format::Archive,
            archive: arguments.format != Format::Parquet,
            validation: !arguments.no_val,
            paths: arguments.paths,
        };
        let bar = bar(subset.id());
        let written = datasets::export(subset, &options, &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        written?.iter().for_each(|path| print(&format!("{}\n", path.display())));
    }
    Ok(exit::DONE)
}

/// The subsets of the ids, each once, in the order of the paper.
fn subsets(ids: &[UfgId]) -> Vec<Subset> {
    let wanted: Vec<Subset> = ids.iter().flat_map(|id| id.subsets()).collect();
    Subset::ALL.into_iter().filter(|subset| wanted.is_empty() || wanted.contains(subset)).collect()
}
