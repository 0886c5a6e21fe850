//! The file: made, locked, checked, and watched over for faults.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::watch;

use super::error::{BUSY_TIMEOUT, FileError};
use crate::lock::{self, NotTaken};
use crate::queue::QueueError;

/// The version of [`SCHEMA`], in the file's `user_version`.
const VERSION: i64 = 1;

/// All events, whatever becomes of them. `position` is the place in the line of its state; for an event
/// that waits it is when it is due, in milliseconds since 1970. Ids are never used again.
const SCHEMA: &str = "
BEGIN IMMEDIATE;
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL CHECK (state IN ('ready', 'waiting', 'dead')),
    position INTEGER NOT NULL,
    published_at INTEGER NOT NULL, -- milliseconds since 1970
    attempt INTEGER NOT NULL,      -- counting the next delivery, from 1
    deliveries INTEGER NOT NULL DEFAULT 0,
    unsettled INTEGER NOT NULL DEFAULT 0, -- deliveries that were neither acknowledged nor released
    requeue TEXT,                  -- the dead letter that an operator made it from
    reason TEXT,                   -- why it waits, did wait, or is dead
    worker TEXT,                   -- who says so; null where the queue does
    at TEXT,                       -- when, in RFC 3339
    name TEXT UNIQUE,              -- of a dead letter
    body BLOB NOT NULL
) STRICT;
CREATE INDEX events_in_line ON events (state, position);
CREATE INDEX events_unsettled ON events (unsettled);
PRAGMA user_version = 1;
COMMIT;
";
/// Writes a page and changes nothing.
const WRITE: &str = "PRAGMA user_version = 1";

pub(super) struct QueueFile {
    path: PathBuf,
    /// One connection, for there is one writer; and it sees by `data_version` what other processes wrote.
    pool: SqlitePool,
    /// Held by the process that takes events. A file of its own: to close a descriptor of the database
    /// file would take SQLite's own locks away.
    lock: Mutex<Option<File>>,
    /// Set by any call that fails, taken away by the keeper once the file can be written again.
    fault: watch::Sender<Option<FileError>>,
}

impl QueueFile {
    /// The file in `directory` for the process that takes events: locked, and made if it is missing.
    pub(super) async fn open(directory: &Path) -> Result<Self, FileError> {
        let path = path(directory);
        let lock = lock(directory, &path)?;
        let file = Self::connect(path, Some(lock)).await?;
        if file.version().await? == 0 {
            sqlx::raw_sql(SCHEMA).execute(&file.pool).await.map_err(|error| file.error(&error))?;
            // That the file is there, and its directory, must outlive a power cut as well as what is in it.
            for folder in directory.ancestors().take(2).filter(|folder| *folder != Path::new("")) {
                let synced = File::open(folder).and_then(|opened| opened.sync_all());
                synced.map_err(|error| FileError::io(&file.path, &error))?;
            }
        }
        Ok(file)
    }

    /// The file in `directory` for any other process.
    pub(super) async fn attach(directory: &Path) -> Result<Self, FileError> {
        let path = path(directory);
        if !path.exists() {
            return Err(FileError::Missing(path));
        }
        let file = Self::connect(path, None).await?;
        match file.version().await? {
            // About to be made.
            0 => Err(FileError::Missing(file.path.clone())),
            _ => Ok(file),
        }
    }

    async fn connect(path: PathBuf, lock: Option<File>) -> Result<Self, FileError> {
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(lock.is_some())
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .map_err(|error| FileError::of(&path, &error))?;
        let (fault, _) = watch::channel(None);
        Ok(Self { path, pool, lock: Mutex::new(lock), fault })
    }

    /// The version of the file's schema, which this BuildGrid knows; 0 where the file is empty.
    async fn version(&self) -> Result<i64, FileError> {
        let read = "SELECT user_version, (SELECT count(*) FROM sqlite_schema) FROM pragma_user_version";
        let (found, objects): (i64, i64) =
            sqlx::query_as(read).fetch_one(&self.pool).await.map_err(|error| self.error(&error))?;
        match (found, objects) {
            (0, 0) | (VERSION, _) => Ok(found),
            (newer, _) if newer > VERSION => {
                Err(FileError::Newer { path: self.path.clone(), found, known: VERSION })
            }
            _ => Err(FileError::Foreign(self.path.clone())),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    fn error(&self, error: &sqlx::Error) -> FileError {
        FileError::of(&self.path, error)
    }

    /// Passes on what a call came to; a failure is a fault of the queue until the keeper finds it gone.
    pub(super) fn noted<T>(&self, done: Result<T, sqlx::Error>) -> Result<T, QueueError> {
        let error = match done {
            Ok(value) => return Ok(value),
            Err(sqlx::Error::PoolClosed) => return Err(QueueError::Cancelled),
            Err(error) => self.error(&error),
        };
        self.fault.send_if_modified(|fault| {
            let news = fault.as_ref() != Some(&error);
            if news {
                // Without a keeper the caller is all that the error is for.
                if self.lock().is_some() {
                    tracing::error!(%error, "the queue takes and gives nothing; trying again every second");
                }
                *fault = Some(error.clone());
            }
            news
        });
        Err(error.into())
    }

    pub(super) fn fault(&self) -> Option<FileError> {
        self.fault.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<FileError>> {
        self.fault.subscribe()
    }

    /// Whether the file can be written; then no fault is left.
    pub(super) async fn heal(&self) -> bool {
        let written = self.noted(sqlx::query(WRITE).execute(&self.pool).await).is_ok();
        if written {
            tracing::info!("the queue can be used again");
            self.fault.send_replace(None);
        }
        written
    }

    /// Closes the file and lets go of its lock.
    pub(super) async fn close(&self) {
        self.pool.close().await;
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<File>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join("queue.db")
}

/// Makes the directory if it is missing and takes its lock.
fn lock(directory: &Path, path: &Path) -> Result<File, FileError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| FileError::io(path, &error))?;
    lock::take(&directory.join("queue.lock")).map_err(|error| match error {
        NotTaken::Held(holder) => FileError::Locked { path: path.to_owned(), holder },
        NotTaken::Failed(error) => FileError::io(path, &error),
    })
}
