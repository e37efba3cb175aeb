//! The commands, one a file.

pub(crate) mod export;
pub(crate) mod fetch;
pub(crate) mod import;
pub(crate) mod list;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod verify;

pub(crate) use crate::talk::print;
