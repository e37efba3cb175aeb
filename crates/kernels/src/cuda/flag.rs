//! What kernels refuse.

use super::device::{Device, View};
use crate::{Error, Result};

/// Why a kernel refused an entry, with its detail; `Problem` in `common.cuh`.
const NOT_FINITE: u64 = 1;
const NOT_FINITE_SECOND: u64 = 2;
const NOT_SYMMETRIC: u64 = 3;
const NOT_POSITIVE: u64 = 4;
const NO_CONVERGENCE: u64 = 5;
const INFEASIBLE_ROW: u64 = 6;
const INFEASIBLE_COLUMN: u64 = 7;
const EPS_TOO_SMALL: u64 = 8;
const TOO_FEW_DIGITS: u64 = 9;
const ILLEGAL_INDEX: u64 = 10;

/// The first refused entry of a batch, if there is one.
pub(crate) struct Flag<D: Device> {
    flag: D::Buffer<u64>,
    details: D::Buffer<f64>,
}

impl<D: Device> Flag<D> {
    /// For `entries` entries, none of which is refused yet.
    pub(crate) fn new(device: &D, entries: usize) -> Result<Self> {
        Ok(Self { flag: device.upload(&[u64::MAX])?, details: device.empty(entries)? })
    }

    /// The two arguments of a kernel.
    pub(crate) fn views(&self, device: &D) -> (View<u64>, View<f64>) {
        (device.view(&self.flag), device.view(&self.details))
    }

    /// Waits for the kernels, and refuses what they refused. `names` are the op's first two arguments, `len` bounds its
    /// indices.
    pub(crate) fn check(&self, device: &D, op: &'static str, names: [&'static str; 2], len: usize) -> Result<()> {
        let flag = device.download(&self.flag)?[0];
        if flag == u64::MAX {
            return Ok(());
        }
        let batch = (flag >> 8) as usize;
        let detail = device.download(&self.details)?[batch];
        Err(match flag & 0xff {
            NOT_FINITE => Error::NonFinite { op, name: names[0], batch },
            NOT_FINITE_SECOND => Error::NonFinite { op, name: names[1], batch },
            NOT_SYMMETRIC => Error::NotSymmetric { op, batch, asymmetry: detail },
            NOT_POSITIVE => Error::NotPositiveDefinite { op, batch, eigenvalue: detail },
            NO_CONVERGENCE => Error::NoConvergence { op, batch, iterations: detail as usize },
            INFEASIBLE_ROW => Error::Infeasible { op, batch, line: "row", index: detail as usize },
            INFEASIBLE_COLUMN => Error::Infeasible { op, batch, line: "column", index: detail as usize },
            EPS_TOO_SMALL => {
                let expected = "at least 2^-50 of the range of the finite costs";
                Error::Attribute { op, name: "eps", value: detail, expected }
            }
            TOO_FEW_DIGITS => Error::Digits { op, batch, left: detail },
            ILLEGAL_INDEX => Error::Index { op, name: names[1], index: detail as usize, len },
            other => {
                Error::Device { op, reason: format!("a kernel refused batch entry {batch} for the reason {other}") }
            }
        })
    }
}
