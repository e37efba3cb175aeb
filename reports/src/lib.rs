//! Records to tables and reports: pure functions from [`records::Record`]s to bytes.
//!
//! Nothing here touches a device, a file or a clock, and the order of the records never matters. What is shown is the
//! latest attempt at each trial, in the order that a [`Layout`] gives. A record that contradicts itself, or holds a
//! value that is not finite, is a [`ReportError`]: no number is ever made up for it.

mod check;
pub mod error;
mod markdown;
mod report;
pub mod results;
pub mod stats;
pub mod summary;
pub mod table;

pub use error::ReportError;
pub use report::{REFERENCE_METHOD, ReportContext, headline, report_markdown};
pub use results::{COLUMNS, DEVICE_MEMORY_COLUMN, TIMING_COLUMNS, results_csv};
pub use summary::{MEAN_OVER_DATASETS, summary_csv};
pub use table::{CellRows, Group, Layout, Metric, Row, ScoreTable, Setting};
