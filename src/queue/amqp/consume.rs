//! Taking events: a subscription is one channel with one delivery at a time, acknowledged or released
//! on that channel.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Consumer};

use super::broker::Broker;
use super::error::BrokerError;
use super::link::Up;
use super::message::{self, short};
use super::topology::topology;
use crate::queue::Declare;
use crate::queue::delivery::{self, Ack, Delivery};

/// How long the broker may take to answer a subscription, and what is declared before it.
const ANSWER: Duration = Duration::from_secs(60);

/// One slot's subscription to the builds queue: a channel of its own with prefetch 1, so that an
/// acknowledgement timeout costs this slot only. Dropping it stops deliveries; one that is still
/// being worked on can be acknowledged nevertheless.
pub struct Subscription {
    consumer: Consumer,
    channel: Channel,
}

/// What a delivery is settled by.
pub struct Receipt {
    acker: lapin::Acker,
    /// Keeps the channel open when the subscription is dropped first.
    channel: Channel,
}

impl Broker {
    /// Subscribes to the builds queue. Waits for the connection, and declares the topology if that
    /// has not been done on this connection. Safe to drop.
    pub async fn subscribe(&self) -> Result<Subscription, BrokerError> {
        let up = self.consuming().up().await?;
        let subscribe = async {
            self.declare_once(&up).await?;
            match self.consume(&up).await {
                // Deleted since it was declared.
                Err(BrokerError::Missing(_)) if self.config().declare == Declare::Auto => {
                    self.declare().await.map_err(topology)?;
                    self.consume(&up).await
                }
                other => other,
            }
        };
        // A queue without a leader, for instance, is not answered for while the connection is well.
        let answered = tokio::time::timeout(ANSWER, subscribe).await;
        answered.unwrap_or_else(|_| {
            Err(BrokerError::Lost(format!("it did not come within {} s", ANSWER.as_secs())))
        })
    }

    async fn consume(&self, up: &Up) -> Result<Subscription, BrokerError> {
        let channel = up.connection.create_channel().await?;
        channel.basic_qos(1, BasicQosOptions::default()).await?;
        let queue = short(&self.config().builds)?;
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
        Ok(Subscription { consumer, channel })
    }
}

impl Subscription {
    /// The next event. `None` when the subscription has ended, whatever ended it (cancelled by the
    /// broker, queue deleted, channel or connection gone): subscribe again. Safe to drop.
    pub async fn next(&mut self) -> Option<Delivery> {
        match self.consumer.next().await? {
            Ok(delivery) => Some(Delivery {
                attempt: message::attempt(&delivery.properties),
                requeue: message::text(&delivery.properties, message::REQUEUE),
                reason: message::text(&delivery.properties, message::REASON),
                published: published(&delivery.properties),
                body: delivery.data,
                redelivered: delivery.redelivered,
                receipt: delivery::Receipt::Amqp(Receipt {
                    acker: delivery.acker,
                    channel: self.channel.clone(),
                }),
            }),
            Err(error) => {
                tracing::warn!(error = %BrokerError::from(error), "the subscription to the builds queue has ended");
                None
            }
        }
    }
}

/// When it was published, where its publisher says so; AMQP has whole seconds.
fn published(properties: &BasicProperties) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs((*properties.timestamp())?))
}

impl Receipt {
    pub(in crate::queue) async fn ack(&self) -> Ack {
        match self.acker.ack(BasicAckOptions::default()).await {
            Ok(true) => Ack::Done,
            // The channel is gone: the broker has given the event to someone else or will.
            Ok(false) | Err(_) => Ack::Lost,
        }
    }

    /// Whether an acknowledgement can still reach the broker.
    pub(in crate::queue) fn is_usable(&self) -> bool {
        self.acker.usable() && self.channel.status().connected()
    }

    pub(in crate::queue) async fn release(self) {
        let options = BasicNackOptions { requeue: true, ..Default::default() };
        // On a dead channel the broker has it back already.
        let _ = self.acker.nack(options).await;
    }
}
