//! The database: SQLite in WAL mode, one writer that commits for many callers at once, and a pool of
//! readers.
//!
//! The SQL is kept to what SQLite and PostgreSQL share; what is SQLite's own (how a file is opened, how a
//! write begins) stands in [`open`] and [`writer`]. Every query is in this folder.

mod apps;
pub mod attempts;
pub mod builds;
pub mod deploys;
pub mod finding;
pub mod history;
mod in_use;
pub mod leases;
pub mod line;
mod lines;
pub mod logs;
mod migrate;
mod open;
pub mod overview;
pub mod people;
mod row;
pub mod selection;
mod writer;

pub use open::{Database, OpenError};
pub use writer::{Job, WriteError};

use time::OffsetDateTime;

/// A time as the database keeps it: milliseconds since the epoch.
pub fn millis(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// A kept time. What is out of range can only be damage, and is shown as the epoch.
pub fn time_of(millis: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
