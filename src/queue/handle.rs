//! The queue as the rest of the program sees it: one handle, cheap to clone, over two queues.
//!
//! Both promise the same, and one contract suite (`tests/integration/queue/contract.rs`) asks it of both:
//! an event that was published is delivered until it is acknowledged, at least once; a copy is safe
//! before its original is acknowledged; what nobody acknowledged goes to another slot.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::amqp::{Broker, DeclareError};
use super::config::QueueConfig;
use super::delivery::{Delivery, Subscribed, Subscription};
use super::embedded::EmbeddedQueue;
use super::error::QueueError;
use super::letter::{Letter, LetterError, Letters, Selection};
use super::results::{Heard, Results};
use super::status::{QueueStatus, StatusWatch, Watched};
use crate::event::result::ResultEvent;
use crate::publish::name::{AppName, Namespace};

/// The deploy queue.
#[derive(Clone)]
pub enum Queue {
    /// RabbitMQ, for any number of workers.
    Amqp(Broker),
    /// A file of this machine, for one process.
    Embedded(EmbeddedQueue),
}

impl From<EmbeddedQueue> for Queue {
    fn from(queue: EmbeddedQueue) -> Self {
        Self::Embedded(queue)
    }
}

impl Queue {
    /// RabbitMQ, to which it starts to connect. `worker` names the process in headers and in the
    /// broker's list of connections. Needs a tokio runtime.
    pub fn amqp(config: &QueueConfig, worker: &str) -> Self {
        Self::Amqp(Broker::connect(config, worker))
    }

    /// Waits until the queue can be used; fails with the first attempt that fails, for a command that a
    /// person waits for. Afterwards the attempts go on nevertheless.
    pub async fn ready(&self) -> Result<(), QueueError> {
        match self {
            Self::Amqp(broker) => Ok(broker.ready().await?),
            Self::Embedded(queue) => queue.ready().await,
        }
    }

    pub fn status(&self) -> QueueStatus {
        match self {
            Self::Amqp(broker) => broker.status(),
            Self::Embedded(queue) => queue.status(),
        }
    }

    /// How long nobody has looked after the queue, and how long that may be. While it is away, to try to reach it
    /// again is to look after it.
    pub fn untended(&self, now: Instant) -> (Duration, Duration) {
        match self {
            Self::Amqp(broker) => broker.untended(now),
            Self::Embedded(queue) => queue.untended(now),
        }
    }

    /// A view of the status that can be waited on.
    pub fn watch(&self) -> StatusWatch {
        match self {
            Self::Amqp(broker) => StatusWatch(Watched::Amqp(broker.watch())),
            Self::Embedded(queue) => StatusWatch(Watched::Embedded(queue.watch())),
        }
    }

    /// Makes or checks what the queue is made of, waiting for it. Repeating it changes nothing.
    pub async fn declare(&self) -> Result<(), DeclareError> {
        match self {
            Self::Amqp(broker) => broker.declare().await,
            Self::Embedded(_) => Ok(()),
        }
    }

    /// Ends the queue's use. What was delivered and not acknowledged will be delivered again.
    pub async fn close(&self) {
        match self {
            Self::Amqp(broker) => broker.close().await,
            Self::Embedded(queue) => queue.close().await,
        }
    }

    /// Subscribes a slot, waiting for the queue. Safe to drop.
    pub async fn subscribe(&self) -> Result<Subscription, QueueError> {
        match self {
            Self::Amqp(broker) => Ok(Subscription(Subscribed::Amqp(Box::new(broker.subscribe().await?)))),
            Self::Embedded(queue) => Ok(Subscription(Subscribed::Embedded(queue.subscribe().await?))),
        }
    }

    /// Publishes a deploy event once. It is safe when this returns.
    pub async fn publish_deploy(
        &self,
        namespace: &Namespace,
        app: &AppName,
        body: Vec<u8>,
    ) -> Result<(), QueueError> {
        match self {
            Self::Amqp(broker) => Ok(broker.publish_deploy(namespace, app, body).await?),
            Self::Embedded(queue) => queue.publish_deploy(body).await,
        }
    }

    /// Lets a copy of the event wait before attempt `next_attempt`; answers how long. With
    /// `next_attempt` = [`Delivery::attempt`] it is a deferral, which counts no attempt and waits the
    /// shortest time. Tries until the copy is safe; the caller then acknowledges the original. Fails only
    /// when cancelled.
    pub async fn publish_retry(
        &self,
        delivery: &Delivery,
        next_attempt: u32,
        reason: &str,
        cancel: &CancellationToken,
    ) -> Result<Duration, QueueError> {
        match self {
            Self::Amqp(broker) => Ok(broker.publish_retry(delivery, next_attempt, reason, cancel).await?),
            Self::Embedded(queue) => queue.publish_retry(delivery, next_attempt, reason, cancel).await,
        }
    }

    /// Puts a copy of the event, byte for byte, to the dead letters with the reason. Tries until it is
    /// safe; the caller then acknowledges the original. Fails only when cancelled.
    pub async fn dead_letter(
        &self,
        delivery: &Delivery,
        reason: &str,
        cancel: &CancellationToken,
    ) -> Result<(), QueueError> {
        match self {
            Self::Amqp(broker) => Ok(broker.dead_letter(delivery, reason, cancel).await?),
            Self::Embedded(queue) => queue.dead_letter(delivery, reason, cancel).await,
        }
    }

    /// Publishes a result event. Nobody may listen: that is no error. Tries until it is out; fails only
    /// when cancelled.
    pub async fn publish_result(
        &self,
        event: &ResultEvent,
        cancel: &CancellationToken,
    ) -> Result<(), QueueError> {
        match self {
            Self::Amqp(broker) => Ok(broker.publish_result(event, cancel).await?),
            Self::Embedded(queue) => {
                queue.publish_result(event);
                Ok(())
            }
        }
    }

    /// Listens to every result of the apps from now on, waiting for the queue.
    pub async fn results<'a>(
        &self,
        apps: impl IntoIterator<Item = (&'a Namespace, &'a AppName)>,
    ) -> Result<Results, QueueError> {
        match self {
            Self::Amqp(broker) => Ok(Results(Heard::Amqp(Box::new(broker.results(apps).await?)))),
            Self::Embedded(queue) => Ok(Results(Heard::Embedded(queue.results(apps)?))),
        }
    }

    /// The oldest dead letters, at most `most` of them. None is taken out.
    pub async fn dead_letters(&self, most: usize) -> Result<Letters, QueueError> {
        match self {
            Self::Amqp(broker) => Ok(broker.dead_letters(most).await?),
            Self::Embedded(queue) => queue.dead_letters(most).await,
        }
    }

    /// One letter and the event's bytes as they came. It is not taken out.
    pub async fn dead_letter_named(&self, name: &str) -> Result<(Letter, Vec<u8>), LetterError> {
        match self {
            Self::Amqp(broker) => broker.dead_letter_named(name).await,
            Self::Embedded(queue) => queue.dead_letter_named(name).await,
        }
    }

    /// Puts letters back into the queue, as a first attempt, telling each to `done`.
    pub async fn requeue_letters(
        &self,
        selection: &Selection,
        done: impl FnMut(&Letter) + Send,
    ) -> Result<(), LetterError> {
        match self {
            Self::Amqp(broker) => broker.requeue_letters(selection, done).await,
            Self::Embedded(queue) => queue.requeue_letters(selection, done).await,
        }
    }

    /// Throws letters away, for ever, telling each to `done`.
    pub async fn drop_letters(
        &self,
        selection: &Selection,
        done: impl FnMut(&Letter) + Send,
    ) -> Result<(), LetterError> {
        match self {
            Self::Amqp(broker) => broker.drop_letters(selection, done).await,
            Self::Embedded(queue) => queue.drop_letters(selection, done).await,
        }
    }
}
