//! The one writer: a task with the only connection that writes. It takes what waits, does each job in a
//! savepoint of one transaction, commits once for all of them, and only then answers: a commit is a
//! sync of the disk, and many callers share it.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::open::Database;

/// Jobs that wait for the writer. Callers wait for room: the service's pressure back to the workers.
const WAITING: usize = 256;
/// Jobs in one transaction. More would let the first wait too long.
const TOGETHER: usize = 64;

/// A write that was not done, or of which it is not known whether it was.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    #[error("the database: {0}")]
    Database(String),
    /// The transaction that it was a part of, for the reason that the writer has logged.
    #[error("the database: {0}")]
    Transaction(String),
    #[error("the timeline service is stopping")]
    Stopping,
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.to_string())
    }
}

/// What a caller wants done within a transaction. An error of its own undoes what it has done.
pub type Job<T, E> = Box<dyn for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, E>> + Send>;

/// A [`Job`] whose types are forgotten, with the way back to its caller.
trait Queued: Send {
    /// Does the job; answers whether it is to be kept.
    fn run<'c>(&'c mut self, connection: &'c mut SqliteConnection) -> BoxFuture<'c, bool>;
    /// Tells the caller, after the transaction.
    fn answer(self: Box<Self>, committed: Result<(), WriteError>);
}

struct Call<T, E> {
    job: Option<Job<T, E>>,
    done: Option<Result<T, E>>,
    caller: oneshot::Sender<Result<T, E>>,
}

impl<T: Send, E: From<WriteError> + Send> Queued for Call<T, E> {
    fn run<'c>(&'c mut self, connection: &'c mut SqliteConnection) -> BoxFuture<'c, bool> {
        Box::pin(async move {
            let Some(job) = self.job.take() else { return false };
            // The writer must outlive any job: without it every write would be refused for ever.
            let done = AssertUnwindSafe(job(connection)).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!("a job of the timeline's database panicked; what it did is undone");
                Err(WriteError::Transaction("a job panicked".to_owned()).into())
            });
            let keep = done.is_ok();
            self.done = Some(done);
            keep
        })
    }

    fn answer(self: Box<Self>, committed: Result<(), WriteError>) {
        let answer = match (self.done, committed) {
            (Some(Err(refused)), _) => Err(refused),
            (_, Err(error)) => Err(error.into()),
            (Some(done), Ok(())) => done,
            (None, Ok(())) => Err(WriteError::Stopping.into()),
        };
        // A caller that has gone does not want to know.
        let _ = self.caller.send(answer);
    }
}

/// The handle to the writer.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Box<dyn Queued>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Writer {
    pub(super) fn start(connection: SqliteConnection) -> Self {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(work(connection, waiting, stop.clone()));
        tasks.close();
        Self { jobs, stop, tasks }
    }

    /// Ends the writer after what waits already.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

async fn work(
    mut connection: SqliteConnection,
    mut waiting: mpsc::Receiver<Box<dyn Queued>>,
    stop: CancellationToken,
) {
    let mut jobs = Vec::with_capacity(TOGETHER);
    loop {
        let taken = tokio::select! {
            taken = waiting.recv_many(&mut jobs, TOGETHER) => taken,
            () = stop.cancelled(), if !waiting.is_closed() => {
                waiting.close();
                continue;
            }
        };
        if taken == 0 {
            break;
        }
        let committed = transaction(&mut connection, &mut jobs).await;
        let committed = committed.map_err(|error| WriteError::Transaction(error.to_string()));
        if let Err(error) = &committed {
            tracing::error!(%error, jobs = taken, "a write to the timeline's database failed; its callers are told to try again");
            // Ends what may still be open; where nothing is, that is an error without a meaning.
            let _ = sqlx::query("ROLLBACK").execute(&mut connection).await;
        }
        for job in jobs.drain(..) {
            job.answer(committed.clone());
        }
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "the timeline's database was not closed cleanly");
    }
}

async fn transaction(connection: &mut SqliteConnection, jobs: &mut [Box<dyn Queued>]) -> sqlx::Result<()> {
    // Takes the write lock now: a later step up from a read could not wait for another process.
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    for job in jobs {
        sqlx::query("SAVEPOINT job").execute(&mut *connection).await?;
        if !job.run(connection).await {
            sqlx::query("ROLLBACK TO job").execute(&mut *connection).await?;
        }
        sqlx::query("RELEASE job").execute(&mut *connection).await?;
    }
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(())
}

impl Database {
    /// Does `job` in a transaction; returns once it is committed, durably.
    pub async fn write<T: Send + 'static, E: From<WriteError> + Send + 'static>(
        &self,
        job: Job<T, E>,
    ) -> Result<T, E> {
        let (caller, answer) = oneshot::channel();
        let call: Box<dyn Queued> = Box::new(Call { job: Some(job), done: None, caller });
        self.writer.jobs.send(call).await.map_err(|_| WriteError::Stopping)?;
        answer.await.unwrap_or_else(|_| Err(WriteError::Stopping.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(namespace: &'static str, fail: bool) -> Job<(), WriteError> {
        Box::new(move |connection| {
            Box::pin(async move {
                let insert = sqlx::query("INSERT INTO apps (namespace, app) VALUES ($1, 'x')");
                insert.bind(namespace).execute(connection).await?;
                match fail {
                    true => Err(WriteError::Database("refused".to_owned())),
                    false => Ok(()),
                }
            })
        })
    }

    #[tokio::test]
    async fn a_job_that_panics_takes_nobody_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path()).await.unwrap();
        let panics: Job<(), WriteError> = Box::new(|connection| {
            Box::pin(async move {
                add("one", false)(connection).await?;
                panic!("as it must never")
            })
        });
        let (panicked, beside) = tokio::join!(database.write(panics), database.write(add("two", false)));
        assert!(matches!(panicked, Err(WriteError::Transaction(_))) && beside.is_ok());
        assert!(database.write(add("one", false)).await.is_ok(), "undone, and the writer is there");
    }

    #[tokio::test]
    async fn what_one_caller_takes_back_leaves_the_others_alone() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path()).await.unwrap();
        let (one, two, three, again) = tokio::join!(
            database.write(add("one", false)),
            database.write(add("two", true)),
            database.write(add("three", false)),
            database.write(add("one", false)),
        );
        assert!(one.is_ok() && three.is_ok());
        assert!(two.is_err() && again.is_err(), "refused, and there already");
        let names: Vec<String> = sqlx::query_scalar("SELECT namespace FROM apps ORDER BY namespace")
            .fetch_all(&database.readers)
            .await
            .unwrap();
        assert_eq!(names, ["one", "three"]);
        assert!(Database::open(folder.path()).await.is_err(), "the directory has one service");
        database.close().await;
        assert!(matches!(database.write(add("four", false)).await, Err(WriteError::Stopping)));
    }
}
