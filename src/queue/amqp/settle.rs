//! What is published: retries, dead letters, result events, deploy events.
//!
//! A copy is published and confirmed before the original is acknowledged: between the two an event
//! may stand twice, never not at all.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::broker::Broker;
use super::error::BrokerError;
use super::message::{Headers, REQUEUE, WORKER};
use super::publish::Message;
use super::topology;
use crate::event::result::ResultEvent;
use crate::publish::name::{AppName, Namespace};
use crate::queue::retry::backoff;
use crate::queue::{Declare, Delivery};

impl Broker {
    /// Puts a copy of the event into the retry queue before attempt `next_attempt`; answers its delay.
    /// With `next_attempt` = [`Delivery::attempt`] it is a deferral, which counts no attempt and waits the
    /// shortest time. Tries until the copy is confirmed; the caller then acknowledges the original. Fails
    /// only when cancelled.
    pub async fn publish_retry(
        &self,
        delivery: &Delivery,
        next_attempt: u32,
        reason: &str,
        cancel: &CancellationToken,
    ) -> Result<Duration, BrokerError> {
        let (queue, delay) = topology::retry(self.config(), delivery.attempt, next_attempt);
        let mut headers =
            Headers::default().attempt(next_attempt).reason(reason).text(WORKER, self.worker()).now();
        // The wish is fulfilled by the first attempt that is made, which a deferral is not.
        if let Some(letter) = delivery.requeue() {
            headers = headers.text(REQUEUE, letter);
        }
        let message = Message {
            exchange: "",
            key: &queue,
            mandatory: true,
            properties: headers.into_properties(),
            body: &delivery.body,
        };
        self.insist(&message, cancel).await?;
        Ok(delay)
    }

    /// Puts a copy of the event, byte for byte, to the dead letters with the reason. Tries until it is
    /// confirmed; the caller then acknowledges the original. Fails only when cancelled.
    pub async fn dead_letter(
        &self,
        delivery: &Delivery,
        reason: &str,
        cancel: &CancellationToken,
    ) -> Result<(), BrokerError> {
        let headers =
            Headers::default().attempt(delivery.attempt).reason(reason).text(WORKER, self.worker()).now();
        let message = Message {
            exchange: &self.config().dead,
            key: "",
            mandatory: true,
            properties: headers.into_properties(),
            body: &delivery.body,
        };
        self.insist(&message, cancel).await
    }

    /// Publishes a result event. Nobody may listen: that is no error. Tries until it is confirmed;
    /// fails only when cancelled.
    pub async fn publish_result(
        &self,
        event: &ResultEvent,
        cancel: &CancellationToken,
    ) -> Result<(), BrokerError> {
        let body = serde_json::to_vec(event).map_err(|error| BrokerError::Refused(error.to_string()))?;
        let message = Message {
            exchange: &self.config().events,
            key: &event.routing_key(),
            mandatory: false,
            properties: Headers::default().text(WORKER, self.worker()).into_properties(),
            body: &body,
        };
        self.insist(&message, cancel).await
    }

    /// Publishes a deploy event once. [`BrokerError::Missing`] or [`BrokerError::Unroutable`] say that no
    /// worker has declared exchange and queue yet.
    pub async fn publish_deploy(
        &self,
        namespace: &Namespace,
        app: &AppName,
        body: Vec<u8>,
    ) -> Result<(), BrokerError> {
        let key = format!("deploy.{namespace}.{app}");
        let message = Message {
            exchange: &self.config().deploys,
            key: &key,
            mandatory: true,
            properties: Headers::default().into_properties(),
            body: &body,
        };
        self.publisher().publish(&message).await
    }

    /// Publishes until the broker confirms. A repeat is harmless: readers tell events by their id.
    async fn insist(&self, message: &Message<'_>, cancel: &CancellationToken) -> Result<(), BrokerError> {
        let mut waits = backoff();
        loop {
            let attempt = cancel.run_until_cancelled(self.publisher().publish(message));
            let error = match attempt.await {
                None => return Err(BrokerError::Cancelled),
                Some(Ok(())) => return Ok(()),
                Some(Err(BrokerError::Cancelled)) => return Err(BrokerError::Cancelled),
                Some(Err(error)) => error,
            };
            let wait = waits.next().unwrap_or_default();
            tracing::warn!(
                exchange = message.exchange, key = message.key, %error, retry_ms = wait.as_millis(),
                "a message was not confirmed; it is published again"
            );
            let gone = matches!(error, BrokerError::Missing(_) | BrokerError::Unroutable { .. });
            if gone && self.config().declare == Declare::Auto {
                let declared = cancel.run_until_cancelled(self.declare()).await;
                if let Some(Err(error)) = declared {
                    tracing::warn!(%error, "exchanges and queues cannot be declared again");
                }
            }
            if cancel.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return Err(BrokerError::Cancelled);
            }
        }
    }
}
