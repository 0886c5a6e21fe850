//! What workers, commands and the timeline service say to each other: the bodies of `/api/v1`.
//!
//! A worker claims a build with an attempt of its own, reports the stages and sends the log under that
//! attempt, and ends it with the outcome and the log's length and checksum. Every answer may carry a
//! cancel; every call renews the lease.

mod attempt;
mod build;
mod deploy;
mod problem;
mod words;

use std::time::Duration;

pub use attempt::{AttemptId, Claim, ClaimAnswer, CommitInfo, LogSum, Progress, StateReport};
pub use build::{App, Attempt, Build, BuildDetail, Page, Service, StageTime};
pub use deploy::{Deploy, DeployReport, ImagesInUse};
pub use problem::{Problem, ProblemCode};
pub use words::{AttemptState, BuildState, DeployState};

/// How long a claim holds without a word from its worker.
pub const LEASE: Duration = Duration::from_secs(30);
/// How often a worker says something, if only that it is there.
pub const RENEW: Duration = Duration::from_secs(5);
/// The most that one append may hold, in bytes without compression.
pub const MAX_APPEND: usize = 4 << 20;
/// The longest line of an append, in bytes: a text of 64 KiB whose every byte is escaped, and what is around it.
pub const MAX_LINE: usize = 512 << 10;
/// The media type of log entries, one JSON object a line.
pub const NDJSON: &str = "application/x-ndjson";
