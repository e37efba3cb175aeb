//! What is written to disk and exchanged between the harness, its trials and its reports.
//!
//! The bottom of the crate graph: plain data, serde, and the two things that make such data trustworthy, a
//! canonical form with a digest ([`identity`]) and an append-only journal ([`journal`]).

pub mod event;
pub mod identity;
pub mod journal;
pub mod predictions;
pub mod record;

pub use event::Event;
pub use identity::{Digest, RESULTS_VERSION};
pub use journal::{Journal, JournalError};
pub use predictions::Prediction;
pub use record::{Best, Cost, DatasetFacts, EpochPoint, FileRef, Provenance, Record, Scores, Stage, Status};
