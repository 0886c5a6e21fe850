//! How the queue is, as readiness and the log say it.

use super::amqp::BrokerWatch;
use super::embedded::FileWatch;

/// What works and, where something does not, why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueStatus {
    /// Whether events can come in.
    pub can_consume: bool,
    /// Whether events and results can go out.
    pub can_publish: bool,
    /// The broker's reason for not taking messages (a memory or disk alarm), while it lasts.
    pub blocked: Option<String>,
    /// Why it does not work, in the words of the last attempt.
    pub error: Option<String>,
}

impl QueueStatus {
    /// Whether events can come in and results go out.
    pub fn is_ready(&self) -> bool {
        self.can_consume && self.can_publish && self.blocked.is_none()
    }
}

/// Waits for changes of the [`QueueStatus`]. It keeps the queue alive like any clone of its handle.
pub struct StatusWatch(pub(super) Watched);

pub(super) enum Watched {
    Amqp(BrokerWatch),
    Embedded(FileWatch),
}

impl StatusWatch {
    /// The status after its next change. Safe to drop; after [`Queue::close`](super::Queue::close) it
    /// never resolves.
    pub async fn changed(&mut self) -> QueueStatus {
        match &mut self.0 {
            Watched::Amqp(watch) => watch.changed().await,
            Watched::Embedded(watch) => watch.changed().await,
        }
    }
}
