//! What the worker and the timeline service share: the log entry and the sink that a build writes to.

pub mod entry;
pub mod sink;
