//! What the tests of several crates share: oracle files, tolerances, random SPD matrices, gradient checks, a Hub on
//! loopback.
//! Plain numbers only, no tensors, so that crates without candle can use it.

pub mod gradient;
pub mod hub_server;
pub mod oracle;
pub mod spd;
pub mod tolerance;
