//! What operators see: the log (terminal, JSON or journald), metrics, and the status pages.

pub mod config;
pub mod logging;
pub mod metrics;
pub mod printable;
pub mod status;
mod text;
