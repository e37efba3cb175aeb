//! `bench import PATH`: the images of UFG subsets from the official archives or the mirror's files, verified.

use std::path::{Path, PathBuf};

use clap::Args;
use datasets::{Import, ImportOptions, Imported, UfgId};
use indicatif::{ProgressBar, ProgressStyle};

use super::print;
use crate::display::events::EventLog;
use crate::display::imports::Imports;
use crate::environment;
use crate::error::{ExpectedError, exit};
use crate::talk::tell;

/// Arguments of `bench import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// A parquet file of the mirror, an official archive (zip), or the folder that it unpacks to
    pub(crate) path: PathBuf,
    /// Only this dataset; needed where the names of files and folders do not tell it
    #[arg(long, value_name = "ID")]
    pub(crate) dataset: Option<UfgId>,
    /// Data directory [default: $UFG_BENCH_DATA, or ufg-bench in the user's data directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Import generated stand-ins of `bench export`; they are kept apart from the real subsets
    #[arg(long)]
    pub(crate) stand_in: bool,
    /// Take the place of an earlier import of other images
    #[arg(long)]
    pub(crate) replace: bool,
    /// Append what happens to a file, as JSON lines
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
}

/// Imports everything that the path holds.
pub(crate) fn import(arguments: &ImportArguments) -> Result<i32, ExpectedError> {
    let data = data_directory(arguments.data.as_deref())?;
    let mut events = arguments.events.as_deref().map(EventLog::open).transpose()?;
    let (imports, skipped) = datasets::find_imports(&arguments.path, arguments.dataset)?;
    for name in skipped {
        tell(&format!("note: `{name}` is left alone"));
    }
    let options = ImportOptions { data: &data, stand_in: arguments.stand_in, replace: arguments.replace };
    for one in &imports {
        show(&import_one(one, options, events.as_mut())?);
    }
    Ok(exit::DONE)
}

/// The data directory that is asked for, or else that of the environment.
pub(crate) fn data_directory(asked: Option<&Path>) -> Result<PathBuf, ExpectedError> {
    let found = asked.map(Path::to_owned).or_else(environment::data_directory);
    found.ok_or_else(|| ExpectedError::Usage {
        message: "there is no data directory to import to".into(),
        hint: "give one with `--data DIR`, or set UFG_BENCH_DATA".into(),
    })
}

/// Imports one subset and shows how far it is.
pub(crate) fn import_one(
    import: &Import,
    options: ImportOptions<'_>,
    events: Option<&mut EventLog>,
) -> Result<Imported, ExpectedError> {
    let mut shown = Imports::new(import.subset.id(), &import.path.display().to_string(), events);
    let imported = datasets::import(import, options, &mut |event| shown.event(&event));
    shown.finish(&imported);
    Ok(imported?)
}

/// A bar that counts images; nothing where stderr is no terminal.
pub(super) fn bar(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:<14} {bar:30} {pos:>6}/{len} images  {per_sec}  {eta}");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.with_message(name.to_owned())
}

/// Tells what an import came to.
pub(crate) fn show(imported: &Imported) {
    let set = &imported.dataset;
    for notice in &set.notices {
        tell(&format!("note: {}: {notice}", imported.subset));
    }
    print(&format!(
        "{}: {} classes, {} train, {} test, digest {}, {} {}\n",
        imported.subset,
        set.classes.len(),
        set.train.len(),
        set.test.len(),
        &set.digest[..10.min(set.digest.len())],
        if imported.new { "imported to" } else { "was there before:" },
        imported.manifest.display()
    ));
}
