//! `bench verify`: numerics of this build against oracle files.

use std::path::Path;

use super::print;
use crate::cli::Dtype;
use crate::commands::run::device;
use crate::error::{ExpectedError, exit};
use crate::files;
use crate::verify::{self, Precision, Set};

/// Prints the table, writes it as CSV where asked to, and returns the exit code.
pub(crate) fn verify(
    oracles: Option<&Path>,
    dtype: Dtype,
    asked_device: &str,
    csv: Option<&Path>,
) -> Result<i32, ExpectedError> {
    device(asked_device)?;
    let set = oracles.map_or(Ok(Set::shipped()), Set::folder)?;
    let precisions: &[Precision] = match dtype {
        Dtype::F32 => &[Precision::F32],
        Dtype::F64 => &[Precision::F64],
        Dtype::Both => &[Precision::F32, Precision::F64],
    };
    let rows = verify::verify(&set, precisions)?;
    print(&verify::text(&rows));
    print(&verify::summary(&rows));
    if let Some(path) = csv {
        let bytes = verify::csv(&rows).map_err(|e| ExpectedError::File {
            action: "write",
            path: path.to_owned(),
            source: e.into(),
        })?;
        files::write(path, &bytes)?;
    }
    let breaches = rows.iter().filter(|row| !row.passes()).count();
    print(&format!("\n{} rows, {breaches} outside their tolerance\n", rows.len()));
    Ok(if breaches == 0 { exit::DONE } else { exit::NUMERICS })
}
