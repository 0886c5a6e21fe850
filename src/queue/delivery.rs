//! Taking events: a subscription hands out one delivery at a time.

use std::time::{Duration, SystemTime};

use super::{amqp, embedded};

/// How often it is looked whether a delivery is ours still: no event tells it.
const LOOK: Duration = Duration::from_secs(1);

/// One slot's subscription to the queue. Dropping it stops deliveries; one that is still being worked
/// on can be acknowledged nevertheless.
pub struct Subscription(pub(super) Subscribed);

pub(super) enum Subscribed {
    Amqp(Box<amqp::Subscription>),
    Embedded(embedded::Subscription),
}

impl Subscription {
    /// The next event, which comes only when the one before it is settled. `None` when the subscription
    /// has ended, whatever ended it: subscribe again. Safe to drop.
    pub async fn next(&mut self) -> Option<Delivery> {
        match &mut self.0 {
            Subscribed::Amqp(subscription) => subscription.next().await,
            Subscribed::Embedded(subscription) => subscription.next().await,
        }
    }
}

/// An event from the queue, ours until it is acknowledged, released, dropped or lost.
pub struct Delivery {
    /// The event's bytes as they came.
    pub body: Vec<u8>,
    /// How often the event has been tried, counting this time, from 1.
    pub attempt: u32,
    /// Whether it may have been delivered before. Not to be trusted as a count.
    pub redelivered: bool,
    pub(super) requeue: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) published: Option<SystemTime>,
    pub(super) receipt: Receipt,
}

/// What a delivery is settled by.
pub(super) enum Receipt {
    Amqp(amqp::Receipt),
    Embedded(embedded::Lease),
}

/// Whether an acknowledgement was ours to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// The event is done with. Over AMQP it is sent on the living channel and not confirmed: if the
    /// connection breaks now, the event may come again.
    Done,
    /// The event was ours no longer, or is to come again.
    Lost,
}

impl Delivery {
    /// Tells the queue that the event is done with, for ever.
    pub async fn ack(&self) -> Ack {
        match &self.receipt {
            Receipt::Amqp(receipt) => receipt.ack().await,
            Receipt::Embedded(lease) => lease.ack().await,
        }
    }

    /// Resolves once the event is ours no longer, since its channel or connection is gone: somebody else gets it, or
    /// has it. Looks every second.
    pub async fn lost(&self) {
        while self.is_ours() {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_ours(&self) -> bool {
        match &self.receipt {
            Receipt::Amqp(receipt) => receipt.is_usable(),
            // Of this process alone.
            Receipt::Embedded(_) => true,
        }
    }

    /// Gives the event back for another worker, when this one stops. Never in a loop: RabbitMQ before
    /// 4.3 counts it towards the delivery limit.
    pub async fn release(self) {
        match self.receipt {
            Receipt::Amqp(receipt) => receipt.release().await,
            Receipt::Embedded(lease) => lease.release().await,
        }
    }

    /// Names the operator's wish that the event be tried again, where it comes out of the dead letters.
    pub fn requeue(&self) -> Option<&str> {
        self.requeue.as_deref()
    }

    /// Why it was put off the last time, if it was.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// How long ago it was published, where its publisher says when.
    pub fn waited(&self) -> Option<Duration> {
        SystemTime::now().duration_since(self.published?).ok()
    }
}
