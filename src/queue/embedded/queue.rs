//! The handle: opened or attached, cheap to clone.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::error::FileError;
use super::file::QueueFile;
use super::keeper;
use crate::event::result::ResultEvent;
use crate::queue::{QueueConfig, QueueError, QueueStatus};
use crate::telemetry::pulse::Pulse;

/// Results that a listener may be behind; beyond, it misses some, and is told.
const RESULTS: usize = 4096;

/// A handle to the queue in a file. It ends with [`close`](Self::close) or with the last clone.
#[derive(Clone)]
pub struct EmbeddedQueue {
    pub(super) core: Arc<Core>,
    ends: Arc<Ends>,
}

/// What handle, subscriptions, leases and keeper share.
pub(super) struct Core {
    pub file: QueueFile,
    /// The process, as dead letters name it.
    pub worker: String,
    /// Deliveries that may end in nothing before the event is dead-lettered.
    pub delivery_limit: i64,
    /// Whether this process takes events.
    pub takes: bool,
    /// Events that are being worked on, by their ids.
    pub leases: Mutex<HashSet<i64>>,
    /// Taken by whoever picks an event, so that no two pick one.
    pub turn: tokio::sync::Mutex<()>,
    /// Wakes the slots: an event may be ready.
    pub ready: Notify,
    /// Wakes the keeper: something is to be looked after earlier than it knew.
    pub keeper: Notify,
    pub results: broadcast::Sender<Arc<ResultEvent>>,
    /// Of the keeper.
    pub pulse: Pulse,
    pub stop: CancellationToken,
}

struct Ends {
    tasks: TaskTracker,
    /// Ends the keeper with the last clone.
    _guard: DropGuard,
}

impl EmbeddedQueue {
    /// Opens the queue in `directory` as the one process that takes its events, and makes it if it is
    /// missing. `worker` names the process in dead letters. Needs a tokio runtime.
    ///
    /// # Errors
    /// Another process takes events here, the file is a newer BuildGrid's or none of BuildGrid's, or it
    /// cannot be used.
    pub async fn open(directory: &Path, config: &QueueConfig, worker: &str) -> Result<Self, FileError> {
        let file = QueueFile::open(directory).await?;
        let queue = Self::new(file, true, config.delivery_limit, worker);
        queue.ends.tasks.spawn(keeper::run(Arc::clone(&queue.core)));
        Ok(queue)
    }

    /// Attaches to the queue in `directory` from another process: to publish, and to look into the dead
    /// letters and settle them, whether a process takes events meanwhile or not.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub async fn attach(directory: &Path, worker: &str) -> Result<Self, FileError> {
        Ok(Self::new(QueueFile::attach(directory).await?, false, 0, worker))
    }

    fn new(file: QueueFile, takes: bool, delivery_limit: u32, worker: &str) -> Self {
        let stop = CancellationToken::new();
        let core = Core {
            file,
            worker: worker.to_owned(),
            delivery_limit: delivery_limit.into(),
            takes,
            leases: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            ready: Notify::new(),
            keeper: Notify::new(),
            results: broadcast::channel(RESULTS).0,
            pulse: Pulse::default(),
            stop: stop.clone(),
        };
        let ends = Ends { tasks: TaskTracker::new(), _guard: stop.drop_guard() };
        Self { core: Arc::new(core), ends: Arc::new(ends) }
    }

    /// What is wrong with the file, if anything is.
    pub async fn ready(&self) -> Result<(), QueueError> {
        self.core.file.fault().map_or(Ok(()), |fault| Err(fault.into()))
    }

    pub fn status(&self) -> QueueStatus {
        let fault = self.core.file.fault();
        let works = fault.is_none() && !self.core.stop.is_cancelled();
        QueueStatus {
            can_consume: works && self.core.takes,
            can_publish: works,
            blocked: None,
            error: fault.map(|fault| fault.to_string()),
        }
    }

    /// How long the keeper has not looked after the file, and how long that may be.
    pub fn untended(&self, now: Instant) -> (Duration, Duration) {
        match self.core.takes && !self.core.stop.is_cancelled() {
            true => (self.core.pulse.silent(now), keeper::PATIENCE),
            false => (Duration::ZERO, keeper::PATIENCE),
        }
    }

    /// A view of the status that can be waited on.
    pub fn watch(&self) -> FileWatch {
        FileWatch { queue: self.clone(), fault: self.core.file.watch() }
    }

    /// Closes the file and lets go of its lock. What was delivered and not acknowledged is delivered
    /// again when it is opened next.
    pub async fn close(&self) {
        self.core.stop.cancel();
        self.ends.tasks.close();
        self.ends.tasks.wait().await;
        self.core.file.close().await;
    }
}

impl Core {
    pub(super) fn leases(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for changes of the file's state. It keeps the queue alive like any clone.
pub struct FileWatch {
    queue: EmbeddedQueue,
    fault: watch::Receiver<Option<FileError>>,
}

impl FileWatch {
    /// The status after its next change. Safe to drop; after a close it never resolves.
    pub async fn changed(&mut self) -> QueueStatus {
        if self.fault.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.queue.status()
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
