//! Checks of settings, shared by the methods.

use std::fmt::Display;

use crate::{LossError, Result};

/// Checks the settings of one method and names it in the errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Check(pub(crate) &'static str);

impl Check {
    /// An error for this setting unless `ok`.
    pub(crate) fn that(
        self,
        ok: bool,
        setting: &'static str,
        value: impl Display,
        expected: &'static str,
    ) -> Result<()> {
        if ok {
            Ok(())
        } else {
            Err(LossError::Setting { method: self.0, setting, value: value.to_string(), expected })
        }
    }

    /// A finite number ≥ 0.
    pub(crate) fn weight(self, setting: &'static str, value: f64) -> Result<()> {
        self.that(value.is_finite() && value >= 0.0, setting, value, "a finite number >= 0")
    }

    /// A finite number > 0.
    pub(crate) fn positive(self, setting: &'static str, value: f64) -> Result<()> {
        self.that(value.is_finite() && value > 0.0, setting, value, "a finite number > 0")
    }

    /// A count ≥ 1.
    pub(crate) fn count(self, setting: &'static str, value: usize) -> Result<()> {
        self.that(value >= 1, setting, value, "a whole number >= 1")
    }

    /// Label smoothing, in `[0, 1)`.
    pub(crate) fn smoothing(self, value: f64) -> Result<()> {
        self.that((0.0..1.0).contains(&value), "label_smoothing", value, "a number in [0, 1)")
    }
}
