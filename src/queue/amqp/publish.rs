//! Confirmed publishing: a call returns when the broker has the message, not when it was sent.
//!
//! Every message in flight has a channel of its own, taken from a pool. On a shared channel lapin
//! gives a returned (unroutable) message to the next acknowledgement that comes, which may be
//! another message's, so that the one that was lost would look safe.

use std::sync::{Mutex, PoisonError};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::Semaphore;

use super::error::BrokerError;
use super::link::Link;
use super::message::short;

/// Messages in flight at a time. More wait; RabbitMQ gains nothing from more, and its default
/// limit is 2047 channels for a connection.
const CHANNELS: usize = 64;

pub(super) struct Publisher {
    link: Link,
    idle: Mutex<Vec<Channel>>,
    permits: Semaphore,
}

/// A message and where it goes.
pub(super) struct Message<'a> {
    pub exchange: &'a str,
    pub key: &'a str,
    /// Whether it is an error that no queue takes it.
    pub mandatory: bool,
    pub properties: BasicProperties,
    pub body: &'a [u8],
}

impl Publisher {
    pub(super) fn new(link: Link) -> Self {
        Self { link, idle: Mutex::default(), permits: Semaphore::new(CHANNELS) }
    }

    /// Publishes once and waits for the confirm. Waits for the connection too, without a limit.
    /// When it is dropped or fails, the message may have been taken or not.
    pub(super) async fn publish(&self, message: &Message<'_>) -> Result<(), BrokerError> {
        let _permit = self.permits.acquire().await.map_err(|_| BrokerError::Cancelled)?;
        // Dropped on every way out but the good one, and with it the channel is closed: a channel
        // with a confirm outstanding is never used for another message.
        let channel = self.channel().await?;
        let options = BasicPublishOptions { mandatory: message.mandatory, ..Default::default() };
        let (exchange, key) = (short(message.exchange)?, short(message.key)?);
        let confirm =
            channel.basic_publish(exchange, key, options, message.body, message.properties.clone()).await?;
        let confirmation = confirm.await?;
        // After a refusal RabbitMQ may go on to refuse on the channel although the queue has room again (when the
        // policy that bounded it was changed), so that the next attempt takes another one.
        if !matches!(confirmation, Confirmation::Nack(_)) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
        }
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Err(BrokerError::Unroutable {
                exchange: match message.exchange {
                    "" => "the default exchange".to_owned(),
                    name => format!("exchange {name}"),
                },
                key: message.key.to_owned(),
            }),
            Confirmation::Nack(None) => Err(BrokerError::Nacked),
            Confirmation::NotRequested => {
                Err(BrokerError::Lost("the channel was not in confirm mode".to_owned()))
            }
        }
    }

    async fn channel(&self) -> Result<Channel, BrokerError> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                // Those of an earlier connection are not connected.
                Some(channel) if channel.status().connected() => return Ok(channel),
                Some(_) => {}
                None => break,
            }
        }
        let up = self.link.up().await?;
        let channel = up.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }
}
