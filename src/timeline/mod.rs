//! What the worker and the timeline service share: the log entry, the sink that a build writes to, and
//! the words they say to each other.

pub mod client;
mod config;
pub mod entry;
pub mod escape;
pub mod mask;
pub mod protocol;
pub mod sink;

pub use config::TimelineConfig;
