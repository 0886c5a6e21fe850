//! Opening the database file: its directory, its lock, its settings.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use sqlx::ConnectOptions;
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};

use super::migrate::migrate;
use super::writer::{Job, WriteError, Writer};
use crate::lock::{self, Holder, NotTaken};
use crate::telemetry::pulse::Pulse;
use crate::telemetry::status::{self, Readiness};
use crate::telemetry::watchdog::{self, Check};

/// Readers at a time. Each has a page cache of its own; more would not read faster on few cores.
const READERS: u32 = 4;
/// How long a connection waits for another process's write: `buildgrid user` and `token` write beside the service.
const BUSY: Duration = Duration::from_secs(10);

/// How often the writer is asked whether it still writes.
const LOOK: Duration = Duration::from_secs(5);
/// How long a write may take: behind others, behind another process's, on a disk that is slow.
const WRITES_WITHIN: Duration = Duration::from_secs(90);

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{}: {reason}", path.display())]
    Directory { path: PathBuf, reason: String },
    #[error(
        "{} is in use by {holder}; stop that timeline service, or give this one a timeline.data_dir of its own",
        path.display()
    )]
    InUse { path: PathBuf, holder: Holder },
    #[error(
        "there is no timeline database in {}; start `buildgrid timeline` or `buildgrid up` once, or name the directory as timeline.data_dir or up.data_dir",
        .0.display()
    )]
    Missing(PathBuf),
    #[error(
        "the database {} has a schema of version {found}, written by a newer BuildGrid; this one knows versions up to {known}. Run the newer one, or put the copy back that it made",
        file.display()
    )]
    Newer { file: PathBuf, found: i64, known: i64 },
    #[error(
        "the database {} is copied before its schema is changed, which needs {} free on its disk, the change included; \
         there are {}. Free space there, or move timeline.data_dir to a larger disk",
        file.display(), ByteSize(*needed), ByteSize(*free)
    )]
    Space { file: PathBuf, needed: u64, free: u64 },
    #[error("the schema of the database {} cannot be changed: {error}", file.display())]
    Migration { file: PathBuf, error: MigrateError },
    #[error("the database {}: {reason}", file.display())]
    Database { file: PathBuf, reason: String },
}

impl OpenError {
    pub(super) fn database(file: &Path, error: sqlx::Error) -> Self {
        Self::Database { file: file.to_owned(), reason: error.to_string() }
    }
}

/// The open database; clones are handles to the same one.
#[derive(Clone)]
pub struct Database {
    pub(in crate::web) readers: SqlitePool,
    pub(super) writer: Writer,
    /// Held by the one service that uses the directory.
    _lock: Option<Arc<File>>,
}

impl Database {
    /// Opens the database in `directory` for the service, and makes it where there is none.
    pub async fn open(directory: &Path) -> Result<Self, OpenError> {
        let named = |error: std::io::Error| OpenError::Directory {
            path: directory.to_owned(),
            reason: error.to_string(),
        };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(named)?;
        let lock = lock::take(&directory.join("lock")).map_err(|error| match error {
            NotTaken::Held(holder) => OpenError::InUse { path: directory.to_owned(), holder },
            NotTaken::Failed(error) => named(error),
        })?;
        // SQLite would make it readable for others.
        let mut private = OpenOptions::new();
        private.create(true).truncate(false).write(true).mode(0o600);
        private.open(file_in(directory)).map_err(named)?;
        Self::connect(directory, Some(Arc::new(lock))).await
    }

    /// Opens a database that is there, beside a service that may be running: for commands.
    pub async fn open_beside(directory: &Path) -> Result<Self, OpenError> {
        match file_in(directory).exists() {
            true => Self::connect(directory, None).await,
            false => Err(OpenError::Missing(directory.to_owned())),
        }
    }

    async fn connect(directory: &Path, lock: Option<Arc<File>>) -> Result<Self, OpenError> {
        let file = file_in(directory);
        let failed = |error| OpenError::database(&file, error);
        let options =
            SqliteConnectOptions::new().filename(&file).busy_timeout(BUSY).disable_statement_logging();
        // Durable when committed: what a worker was told to be stored, it may delete.
        let writing = options
            .clone()
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true);
        let mut connection = writing.connect().await.map_err(failed)?;
        migrate(&mut connection, &file).await?;
        // A file does not go away as a server does: asking first would double the calls.
        let readers = SqlitePoolOptions::new().max_connections(READERS).test_before_acquire(false);
        let readers = readers.connect_with(options.read_only(true)).await.map_err(failed)?;
        Ok(Self { readers, writer: Writer::start(connection), _lock: lock })
    }

    /// Ends the connections, once what runs has ended.
    pub async fn close(&self) {
        self.writer.close().await;
        self.readers.close().await;
    }

    /// Whether the writer still does what it is given, for the watchdog. Needs a tokio runtime.
    pub fn writes(&self) -> Check {
        let (pulse, database) = (Pulse::default(), self.clone());
        let beats = pulse.clone();
        tokio::spawn(async move {
            loop {
                let nothing: Job<(), WriteError> = Box::new(|_| Box::pin(async { Ok(()) }));
                // One that fails has been answered, too: the writer is there, and says in the log what is wrong.
                if let Err(WriteError::Stopping) = database.write(nothing).await {
                    return;
                }
                beats.beat();
                tokio::time::sleep(LOOK).await;
            }
        });
        watchdog::silence("the database's writer does nothing", pulse, WRITES_WITHIN)
    }

    /// Whether the file can be read, for `/readyz`.
    pub fn readiness(&self) -> Readiness {
        let readers = self.readers.clone();
        status::watched("database", move || {
            let readers = readers.clone();
            async move {
                let looked = sqlx::query("SELECT count(*) FROM apps").execute(&readers).await;
                looked.map(drop).map_err(|error| error.to_string())
            }
        })
    }
}

fn file_in(directory: &Path) -> PathBuf {
    directory.join("timeline.db")
}
