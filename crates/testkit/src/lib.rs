//! What the tests of several crates share: oracle files, tolerances, random SPD matrices, gradient checks.
//! Plain numbers only, no tensors, so that crates without candle can use it.

pub mod gradient;
pub mod oracle;
pub mod spd;
pub mod tolerance;
