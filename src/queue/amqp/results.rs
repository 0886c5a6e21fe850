//! Listening to result events, for a command that waits for the outcome of what it enqueued.

use futures::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};

use super::broker::Broker;
use super::error::BrokerError;
use super::message::short;
use crate::event::result::ResultEvent;
use crate::publish::name::{AppName, Namespace};

/// Result events of some apps, from the moment it was made. What is sent while the connection is
/// lost is missed.
pub struct Results {
    consumer: Consumer,
    _channel: Channel,
}

impl Broker {
    /// Listens to every result of the apps, on a queue of its own that goes with the connection.
    /// Waits for the connection. [`BrokerError::Missing`] says that no worker has declared the exchange yet.
    pub async fn results<'a>(
        &self,
        apps: impl IntoIterator<Item = (&'a Namespace, &'a AppName)>,
    ) -> Result<Results, BrokerError> {
        let up = self.consuming().up().await?;
        let channel = up.connection.create_channel().await?;
        let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let queue = channel.queue_declare("".into(), own, FieldTable::default()).await?.name().clone();
        for (namespace, app) in apps {
            let key = short(&format!("build.*.{namespace}.{app}"))?;
            let exchange = short(&self.config().events)?;
            let options = QueueBindOptions::default();
            channel.queue_bind(queue.clone(), exchange, key, options, FieldTable::default()).await?;
        }
        let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..Default::default() };
        let consumer = channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
        Ok(Results { consumer, _channel: channel })
    }
}

impl Results {
    /// The next result event; `None` when the connection is lost. Safe to drop.
    pub async fn next(&mut self) -> Option<ResultEvent> {
        loop {
            let delivery = self.consumer.next().await?.ok()?;
            match serde_json::from_slice(&delivery.data) {
                Ok(event) => return Some(event),
                Err(error) => tracing::warn!(%error, "a result event cannot be read"),
            }
        }
    }
}
