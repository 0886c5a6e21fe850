//! What operators see: the log (terminal, JSON or journald), metrics, the status pages, and what
//! systemd is told.

pub mod config;
pub mod logging;
pub mod metrics;
pub mod printable;
pub mod pulse;
pub mod status;
mod text;
pub mod watchdog;
