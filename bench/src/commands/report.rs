//! `bench report RUN`: rebuild the reports from the records.

use std::path::Path;

use super::print;
use crate::error::{ExpectedError, exit};
use crate::run::directory::RunDirectory;
use crate::run::report::{self, Predictions};

/// Rebuilds `results.csv`, `summary.csv` and `report.md`.
pub(crate) fn report(run: &Path) -> Result<i32, ExpectedError> {
    let directory = RunDirectory::at(run);
    let plan = directory.read_plan()?;
    let records = report::read_records(&directory)?;
    report::rebuild(&directory, &plan, &records, Predictions::Checked)?;
    for name in ["results.csv", "summary.csv", "report.md"] {
        print(&format!("{}\n", run.join(name).display()));
    }
    Ok(exit::DONE)
}
