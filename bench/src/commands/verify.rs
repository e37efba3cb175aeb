//! `bench verify`: numerics of this build against oracle files and parity files of backbones.

use std::path::Path;

use super::print;
use crate::cli::Dtype;
use crate::device::{self, Place};
use crate::error::{ExpectedError, exit};
use crate::files;
use crate::talk::tell;
use crate::verify::{self, Precision, Set};

/// Prints the table, writes it as CSV where asked to, and returns the exit code. Without a folder of either kind both
/// sets of the binary are used, else those that are given.
pub(crate) fn verify(
    oracles: Option<&Path>,
    backbones: Option<&Path>,
    dtype: Dtype,
    asked_device: &str,
    csv: Option<&Path>,
) -> Result<i32, ExpectedError> {
    let chosen = device::choose(asked_device)?;
    chosen.note.iter().for_each(|note| tell(&format!("note: {note}")));
    let device = chosen.place.opened()?;
    let shipped = oracles.is_none() && backbones.is_none();
    let set = match oracles {
        Some(path) => Some(Set::folder(path)?),
        None => shipped.then(Set::shipped),
    };
    let networks = match backbones {
        Some(path) => verify::backbones::folder(path)?,
        None if shipped => verify::backbones::shipped()?,
        None => vec![],
    };
    let precisions: &[Precision] = match dtype {
        Dtype::F32 => &[Precision::F32],
        Dtype::F64 => &[Precision::F64],
        Dtype::Both => &[Precision::F32, Precision::F64],
    };
    let mut rows = set.map_or(Ok(vec![]), |set| verify::verify(&set, precisions, &device))?;
    if chosen.place == Place::Cpu {
        rows.extend(verify::backbones::verify(&networks, precisions));
    } else if !networks.is_empty() {
        tell(&format!("note: backbones are not verified on {}: {}", chosen.place, device::NO_TRAINING));
    }
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
