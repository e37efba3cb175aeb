//! Tests of the methods: against oracle files, against definitions written out, and the contract that every entry
//! of the registry keeps.

mod config;
mod contract;
mod cuda;
mod definitions;
mod oracle;
mod parts;
mod support;
