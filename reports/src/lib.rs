//! Records to tables and reports.
