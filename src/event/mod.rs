//! Deploy events, which come in, and result events, which go out. Pure: bytes to types and back.

pub mod deploy;
pub mod fake;
mod fields;
pub mod result;
mod strict;
