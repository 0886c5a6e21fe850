//! Exchanges and queues: what must be there, and making or checking it.
//!
//! Queues are quorum queues, and every dead-lettering is at least once, which needs
//! `x-overflow = reject-publish` beside the strategy: with the default overflow RabbitMQ falls back
//! to at most once without a word (<https://www.rabbitmq.com/docs/quorum-queues#activating-at-least-once-dead-lettering>).

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, ExchangeKind};

use super::broker::Broker;
use super::error::{BrokerError, DeclareError};
use super::link::Up;
use super::message::short;
use crate::queue::retry::{self, RETRIES};
use crate::queue::{Declare, QueueConfig};

/// What the builds queue takes from the exchange of deploys.
const DEPLOYS: &str = "deploy.#";
/// Peeking at dead letters delivers them and gives them back, and RabbitMQ 4.0 drops a message from a
/// quorum queue after 20 deliveries by default: practically never here.
const UNLIMITED: i64 = i32::MAX as i64;

/// The retry queue between the attempts `now` and `next`, and its delay. Each delay has a queue of its own,
/// since a message expires only at a queue's head.
pub(super) fn retry(config: &QueueConfig, now: u32, next: u32) -> (String, Duration) {
    let (suffix, delay) = retry::between(now, next);
    (retry_queue(config, suffix), delay)
}

fn retry_queue(config: &QueueConfig, suffix: &str) -> String {
    format!("{}.retry.{suffix}", config.builds)
}

impl Broker {
    /// Makes or checks exchanges and queues, as `queue.declare` says. Waits for the connection.
    /// Repeating it changes nothing.
    pub async fn declare(&self) -> Result<(), DeclareError> {
        let up = self.consuming().up().await?;
        let mut declared = self.declared().lock().await;
        declare(self.config(), &up).await?;
        *declared = up.generation;
        Ok(())
    }

    /// Declares once per connection: a broker that came back may have lost what it had.
    pub(super) async fn declare_once(&self, up: &Up) -> Result<(), BrokerError> {
        let mut declared = self.declared().lock().await;
        if *declared != up.generation {
            declare(self.config(), up).await.map_err(topology)?;
            *declared = up.generation;
        }
        Ok(())
    }
}

pub(super) fn topology(error: DeclareError) -> BrokerError {
    match error {
        DeclareError::Broker(error) => error,
        error => BrokerError::Topology(Box::new(error)),
    }
}

async fn declare(config: &QueueConfig, up: &Up) -> Result<(), DeclareError> {
    // An error closes the channel, and with it nothing else.
    let channel = up.connection.create_channel().await.map_err(BrokerError::from)?;
    let topology = Topology { channel: &channel, passive: config.declare == Declare::Passive };
    topology.exchange(&config.deploys, ExchangeKind::Topic).await?;
    topology.exchange(&config.events, ExchangeKind::Topic).await?;
    topology.exchange(&config.dead, ExchangeKind::Fanout).await?;

    let mut dead = quorum();
    number(&mut dead, "x-delivery-limit", UNLIMITED);
    topology.queue(&config.dead, dead).await?;
    topology.bind(&config.dead, &config.dead, "").await?;

    let mut builds = quorum();
    number(&mut builds, "x-delivery-limit", config.delivery_limit.into());
    dead_letter(&mut builds, &config.dead, None);
    topology.queue(&config.builds, builds).await?;
    topology.bind(&config.builds, &config.deploys, DEPLOYS).await?;

    for (suffix, delay) in RETRIES {
        let mut retry = quorum();
        number(&mut retry, "x-message-ttl", i64::try_from(delay.as_millis()).unwrap_or(i64::MAX));
        dead_letter(&mut retry, "", Some(&config.builds));
        topology.queue(&retry_queue(config, suffix), retry).await?;
    }
    // What was done is done, whether the broker says good-bye or not.
    let _ = channel.close(200, "declared".into()).await;
    Ok(())
}

fn text(table: &mut FieldTable, name: &str, value: &str) {
    table.insert(name.into(), AMQPValue::LongString(LongString::from(value)));
}

fn number(table: &mut FieldTable, name: &str, value: i64) {
    table.insert(name.into(), AMQPValue::LongLongInt(value));
}

fn quorum() -> FieldTable {
    let mut table = FieldTable::default();
    text(&mut table, "x-queue-type", "quorum");
    table
}

fn dead_letter(table: &mut FieldTable, exchange: &str, key: Option<&str>) {
    text(table, "x-dead-letter-exchange", exchange);
    if let Some(key) = key {
        text(table, "x-dead-letter-routing-key", key);
    }
    text(table, "x-dead-letter-strategy", "at-least-once");
    text(table, "x-overflow", "reject-publish");
}

struct Topology<'a> {
    channel: &'a Channel,
    passive: bool,
}

impl Topology<'_> {
    async fn exchange(&self, name: &str, kind: ExchangeKind) -> Result<(), DeclareError> {
        let options = ExchangeDeclareOptions { passive: self.passive, durable: true, ..Default::default() };
        let declared = self.channel.exchange_declare(short(name)?, kind, options, FieldTable::default());
        declared.await.map_err(|error| DeclareError::of(&format!("exchange {name}"), error))
    }

    async fn queue(&self, name: &str, arguments: FieldTable) -> Result<(), DeclareError> {
        let options = QueueDeclareOptions { passive: self.passive, durable: true, ..Default::default() };
        let declared = self.channel.queue_declare(short(name)?, options, arguments);
        declared.await.map(|_| ()).map_err(|error| DeclareError::of(&format!("queue {name}"), error))
    }

    /// AMQP cannot look at a binding: in passive mode it is the operator's matter.
    async fn bind(&self, queue: &str, exchange: &str, key: &str) -> Result<(), DeclareError> {
        if self.passive {
            return Ok(());
        }
        let (name, source, key) = (short(queue)?, short(exchange)?, short(key)?);
        let bound =
            self.channel.queue_bind(name, source, key, QueueBindOptions::default(), FieldTable::default());
        let object = format!("binding of queue {queue} to exchange {exchange}");
        bound.await.map_err(|error| DeclareError::of(&object, error))
    }
}
