//! Enqueueing over HTTP: onto the broker of a larger installation, or into the queue of `buildgrid up`.

use std::time::Duration;

use tokio::sync::OnceCell;

use super::refusal::Refusal;
use crate::event::deploy::DeployEvent;
use crate::queue::{Queue, QueueConfig};

/// How long the queue may take to confirm an event; a broker does not answer during an alarm. Shorter than
/// clients wait for an answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// Where events are put.
pub enum Enqueuer {
    /// Onto a broker, connected with the first event: a service that nobody enqueues through needs none.
    OnDemand { config: Box<QueueConfig>, queue: OnceCell<Queue> },
    /// Into a queue of this process.
    Into(Queue),
}

impl Enqueuer {
    /// Onto the broker of `config`, once there is something to enqueue.
    pub fn on_demand(config: QueueConfig) -> Self {
        Self::OnDemand { config: Box::new(config), queue: OnceCell::new() }
    }

    /// Puts an event into the queue; returns once it is there, durably.
    pub(super) async fn publish(&self, event: &DeployEvent, bytes: &[u8]) -> Result<(), Refusal> {
        let queue = match self {
            Self::OnDemand { config, queue } => {
                queue.get_or_init(|| async { Queue::amqp(config, "timeline") }).await
            }
            Self::Into(queue) => queue,
        };
        let publish = queue.publish_deploy(&event.namespace, &event.app, bytes.to_vec());
        let refused = |reason: String| {
            tracing::warn!(build_id = %event.id, reason, "an event could not be enqueued");
            Refusal::Unavailable(format!("the queue does not take the event: {reason}"))
        };
        match tokio::time::timeout(PATIENCE, publish).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(refused(error.to_string())),
            Err(_) => {
                let status = queue.status();
                let reason = status.blocked.or(status.error);
                Err(refused(reason.unwrap_or_else(|| "it does not answer".to_owned())))
            }
        }
    }
}
