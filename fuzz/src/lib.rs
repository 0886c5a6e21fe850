//! What BuildGrid reads from strangers, each with what must hold of it whatever the bytes: `make fuzz` looks for bytes
//! of which it does not hold, the suite of `tests` tries those in `seeds`.

#![expect(clippy::unwrap_used, reason = "what does not hold ends the run")]

pub mod archive;
pub mod header;
pub mod manifest;
pub mod name;
pub mod range;
mod served;
