//! What can go wrong between us and the file, in words an operator can act on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lock::Holder;

/// SQLite's primary result codes (<https://www.sqlite.org/rescode.html>); extended codes end in them.
const BUSY: i32 = 5;
const FULL: i32 = 13;

/// How long a call waits for another process that writes to the file.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A call to the queue's file that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error("there is no queue {} yet; `buildgrid up` makes it when it starts", .0.display())]
    Missing(PathBuf),
    #[error(
        "the queue {} is in use by {holder}, and only one can take its events; end that one, or give this one a directory of its own",
        path.display()
    )]
    Locked { path: PathBuf, holder: Holder },
    #[error(
        "the queue {} was written by a newer BuildGrid: its schema has version {found}, this BuildGrid knows {known}; upgrade this one, or empty the queue with the newer one and move the file away",
        path.display()
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("{} is not a queue of BuildGrid; move it away, or name another directory", .0.display())]
    Foreign(PathBuf),
    /// What only the process that takes events can do.
    #[error(
        "events of the queue {} are taken, and their results heard, only in the process of `buildgrid up`",
        .0.display()
    )]
    Attached(PathBuf),
    #[error("no space is left for the queue {}; free some on its file system", .0.display())]
    Full(PathBuf),
    #[error(
        "the queue {} was being written by another process for longer than {} s",
        .0.display(), BUSY_TIMEOUT.as_secs()
    )]
    Busy(PathBuf),
    #[error("the queue {} cannot be used: {reason}", path.display())]
    Broken { path: PathBuf, reason: String },
}

impl FileError {
    pub(super) fn of(path: &Path, error: &sqlx::Error) -> Self {
        let path = path.to_owned();
        let sqlx::Error::Database(database) = error else {
            return Self::Broken { path, reason: error.to_string() };
        };
        let code = database.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or_default();
        match code & 0xff {
            BUSY => Self::Busy(path),
            FULL => Self::Full(path),
            _ => Self::Broken { path, reason: format!("{} (SQLite code {code})", database.message()) },
        }
    }

    pub(super) fn io(path: &Path, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull => Self::Full(path.to_owned()),
            _ => Self::Broken { path: path.to_owned(), reason: error.to_string() },
        }
    }
}
