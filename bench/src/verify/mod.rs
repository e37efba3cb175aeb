//! Numerics of this build against files of expected values and gradients that were computed by independent code: ops
//! against oracle files, backbones against parity files.
//!
//! The format of the files and the measure of the errors: `docs/FORMAT.md` and `ci/oracles/FORMAT.md`.

pub(crate) mod backbones;
mod measure;
mod ops;
mod oracle;
mod set;
mod table;

use candle_core::{DType, Device};

pub(crate) use oracle::OracleError;
pub(crate) use set::Set;
pub(crate) use table::{csv, summary, text};

use measure::{Measured, Part};
use ops::Op;
use oracle::Case;

/// A dtype that ops are verified in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    /// float32 tensors.
    F32,
    /// float64 tensors.
    F64,
}

impl Precision {
    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F64 => DType::F64,
        }
    }
}

/// How one case came out in one dtype.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// The op, or what of a backbone is compared.
    pub(crate) op: &'static str,
    /// The case, or the architecture.
    pub(crate) case: String,
    /// The dtype of the tensors.
    pub(crate) precision: Precision,
    /// The worst output: its error over its tolerance is the largest.
    pub(crate) value: Measured,
    /// The worst gradient, for an op that has one.
    pub(crate) gradient: Option<Measured>,
    /// What a reader should know: a refusal of the op, a tolerance that was widened.
    pub(crate) notes: Vec<String>,
}

impl Row {
    /// Whether all errors are within their tolerances.
    pub(crate) fn passes(&self) -> bool {
        self.value.passes() && self.gradient.is_none_or(Measured::passes)
    }
}

/// The ops among the rows that know no device: they take plain numbers, as trials hand them over.
pub(crate) fn left_to_cpu(rows: &[Row]) -> Vec<&'static str> {
    let of_numbers = [Op::ClassificationMetrics, Op::RetrievalMetrics].map(Op::name);
    of_numbers.into_iter().filter(|name| rows.iter().any(|row| row.op == *name)).collect()
}

/// Runs every case of the set in every dtype on `device`, in the order of the file names.
///
/// # Errors
/// The first file that is not what the format describes: an unknown op, a missing attribute or tensor, a tensor that
/// the op does not have. A case that the op refuses or gets wrong is a row that does not pass.
pub(crate) fn verify(set: &Set, precisions: &[Precision], device: &Device) -> Result<Vec<Row>, OracleError> {
    let mut rows = Vec::new();
    for file in set.files() {
        let case = Case::parse(&file.path, &file.bytes()?)?;
        let op = Op::of(&case)?;
        for &precision in precisions {
            rows.push(row(op, &case, precision, device)?);
        }
        case.all_used()?;
    }
    Ok(rows)
}

fn row(op: Op, case: &Case, precision: Precision, device: &Device) -> Result<Row, OracleError> {
    let parts = match op.run(case, precision, device) {
        Ok(parts) => parts,
        Err(ops::Failure::File(error)) => return Err(error),
        Err(ops::Failure::Op(reason)) => {
            // The op did not answer: nothing else in the file was looked at, and nothing passes.
            case.use_all();
            let value = Measured::never(measure::tolerance(precision).value);
            let notes = vec![format!("refused: {reason}")];
            return Ok(Row { op: op.name(), case: case.name.clone(), precision, value, gradient: None, notes });
        }
    };
    let worst = |wanted: fn(&Part) -> bool| {
        parts.iter().filter(|part| wanted(part)).map(|part| part.measured).reduce(Measured::worse)
    };
    let mut notes: Vec<String> = parts.iter().filter_map(|part| part.note.clone()).collect();
    notes.dedup();
    Ok(Row {
        op: op.name(),
        case: case.name.clone(),
        precision,
        value: worst(|part| !part.gradient).unwrap_or(Measured::never(0.0)),
        gradient: worst(|part| part.gradient),
        notes,
    })
}

#[cfg(test)]
mod tests;
