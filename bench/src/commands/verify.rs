//! `bench verify`: numerics of this build against oracle files and parity files of backbones.

use std::path::Path;

use backbones::parity::ParityCase;

use super::print;
use crate::cli::Dtype;
use crate::device::{self, Chosen, Place};
use crate::error::{ExpectedError, exit};
use crate::files;
use crate::talk::tell;
use crate::verify::{self, Precision, Row, Set};

/// What is compared.
struct Wanted {
    oracles: Option<Set>,
    networks: Vec<ParityCase>,
    precisions: &'static [Precision],
}

/// Prints the table of each device, writes it as CSV where asked to, and returns the exit code. Without a folder of either
/// kind both sets of the binary are used, else those that are given.
pub(crate) fn verify(
    oracles: Option<&Path>,
    backbones: Option<&Path>,
    dtype: Dtype,
    asked_device: &str,
    csv: Option<&Path>,
) -> Result<i32, ExpectedError> {
    let chosen = device::choose(asked_device)?;
    chosen.note.iter().for_each(|note| tell(&format!("note: {note}")));
    check_csv(&chosen, csv)?;
    let wanted = Wanted::of(oracles, backbones, dtype)?;
    let (mut count, mut breaches) = (0, 0);
    for &place in chosen.in_turn() {
        let rows = wanted.rows_on(place)?;
        if chosen.in_turn().len() > 1 {
            print(&format!("{}\n", heading(place)));
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
        let failed = rows.iter().filter(|row| !row.passes()).count();
        print(&format!("\n{} rows, {failed} outside their tolerance\n", rows.len()));
        count += rows.len();
        breaches += failed;
    }
    if chosen.in_turn().len() > 1 {
        print(&format!("\nall devices: {count} rows, {breaches} outside their tolerance\n"));
    }
    Ok(if breaches == 0 { exit::DONE } else { exit::NUMERICS })
}

/// A CSV file has the rows of one device.
fn check_csv(chosen: &Chosen, csv: Option<&Path>) -> Result<(), ExpectedError> {
    if csv.is_none() || chosen.in_turn().len() == 1 {
        return Ok(());
    }
    Err(ExpectedError::Usage {
        message: "`--csv` takes the table of one device, and several are given".into(),
        hint: "verify one device at a time, each with a file of its own".into(),
    })
}

/// The device of a table, and of a card its name.
fn heading(place: Place) -> String {
    match device::facts(place).card {
        Some(card) => format!("{place}: {card}"),
        None => place.to_string(),
    }
}

impl Wanted {
    fn of(oracles: Option<&Path>, backbones: Option<&Path>, dtype: Dtype) -> Result<Self, ExpectedError> {
        let shipped = oracles.is_none() && backbones.is_none();
        let oracles = match oracles {
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
        Ok(Self { oracles, networks, precisions })
    }

    /// All rows of a device; says which of them are the CPU's wherever the device is.
    fn rows_on(&self, place: Place) -> Result<Vec<Row>, ExpectedError> {
        let device = place.opened()?;
        let mut rows = match &self.oracles {
            Some(set) => verify::verify(set, self.precisions, &device)?,
            None => vec![],
        };
        rows.extend(verify::backbones::verify(&self.networks, self.precisions, &device));
        let left = verify::left_to_cpu(&rows);
        if place != Place::Cpu && !left.is_empty() {
            tell(&format!(
                "note: on {place}, these take plain numbers and are computed by the CPU: {}",
                left.join(", ")
            ));
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_csv_file_has_one_device() {
        let of = |asked: &str, csv: Option<&str>| check_csv(&device::choose(asked).unwrap(), csv.map(Path::new));
        assert!(
            of("cpu", Some("table.csv")).is_ok() && of("cpu", None).is_ok() && of("auto", Some("table.csv")).is_ok()
        );
        let several = device::listed(&[Place::Cuda(0), Place::Cuda(2)]);
        assert!(check_csv(&several, None).is_ok());
        let refused = check_csv(&several, Some(Path::new("table.csv"))).unwrap_err();
        assert_eq!(refused.exit_code(), exit::USAGE);
        assert!(refused.to_string().contains("`--csv` takes the table of one device"));
    }

    #[test]
    fn a_heading_names_the_device() {
        assert_eq!(heading(Place::Cpu), "cpu");
    }
}
