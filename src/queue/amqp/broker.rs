//! The broker as the rest of the program sees it: one handle, cheap to clone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::error::BrokerError;
use super::link::{Link, LinkState};
use super::publish::Publisher;
use crate::queue::{QueueConfig, QueueStatus};

/// A handle to the broker. Its connections come back by themselves; they end with [`close`](Self::close)
/// or with the last clone.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    config: Arc<QueueConfig>,
    worker: String,
    consuming: Link,
    publishing: Link,
    publisher: Publisher,
    /// The connection (by its count) on which the topology was declared last; 0 for none.
    declared: tokio::sync::Mutex<u64>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Ends the supervisors with the last clone.
    _guard: DropGuard,
}

impl Broker {
    /// Starts to connect, and goes on for ever. `worker` names the process in headers and in the
    /// broker's list of connections. Needs a tokio runtime.
    pub fn connect(config: &QueueConfig, worker: &str) -> Self {
        let config = Arc::new(config.clone());
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let link = |role| Link::start(Arc::clone(&config), worker, role, stop.clone(), &tasks);
        let (consuming, publishing) = (link("consuming"), link("publishing"));
        tasks.close();
        Self(Arc::new(Inner {
            publisher: Publisher::new(publishing.clone()),
            worker: worker.to_owned(),
            declared: tokio::sync::Mutex::new(0),
            _guard: stop.clone().drop_guard(),
            stop,
            config,
            consuming,
            publishing,
            tasks,
        }))
    }

    /// Waits for both connections; fails with the first attempt that fails, for a command that a
    /// person waits for. Afterwards the attempts go on nevertheless.
    pub async fn ready(&self) -> Result<(), BrokerError> {
        tokio::try_join!(self.0.consuming.first(), self.0.publishing.first()).map(|_| ())
    }

    pub fn status(&self) -> QueueStatus {
        let mut status = QueueStatus::default();
        let links =
            [(&self.0.consuming, &mut status.can_consume), (&self.0.publishing, &mut status.can_publish)];
        for (link, connected) in links {
            match link.state() {
                LinkState::Up(up) => {
                    *connected = up.connection.status().connected();
                    status.blocked = status.blocked.or(up.blocked);
                }
                LinkState::Down(error) => status.error = status.error.or(Some(error.to_string())),
                LinkState::Starting | LinkState::Closed => {}
            }
        }
        status
    }

    /// How long one of the connections has not been looked after, and how long that may be.
    pub fn untended(&self, now: Instant) -> (Duration, Duration) {
        let silent = self.0.consuming.silent(now).max(self.0.publishing.silent(now));
        (silent, self.0.config.connect_timeout + Link::PATIENCE)
    }

    /// A view of the status that can be waited on.
    pub fn watch(&self) -> BrokerWatch {
        let mut links = [self.0.consuming.clone(), self.0.publishing.clone()];
        links.iter_mut().for_each(Link::see);
        BrokerWatch { broker: self.clone(), links }
    }

    /// Ends both connections. What was delivered and not acknowledged goes to another worker.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.wait().await;
    }

    pub(super) fn config(&self) -> &QueueConfig {
        &self.0.config
    }

    pub(super) fn worker(&self) -> &str {
        &self.0.worker
    }

    pub(super) fn consuming(&self) -> &Link {
        &self.0.consuming
    }

    pub(super) fn publisher(&self) -> &Publisher {
        &self.0.publisher
    }

    pub(super) fn declared(&self) -> &tokio::sync::Mutex<u64> {
        &self.0.declared
    }
}

/// Waits for changes of the [`QueueStatus`]. It keeps the connections alive like any clone.
pub struct BrokerWatch {
    broker: Broker,
    links: [Link; 2],
}

impl BrokerWatch {
    /// The status after its next change. Safe to drop; after [`Broker::close`] it never resolves.
    pub async fn changed(&mut self) -> QueueStatus {
        let [consuming, publishing] = &mut self.links;
        tokio::select! {
            () = consuming.changed() => {}
            () = publishing.changed() => {}
        }
        self.broker.status()
    }
}
