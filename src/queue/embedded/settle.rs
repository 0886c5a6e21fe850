//! What is kept: deploy events, copies that wait, dead letters.
//!
//! A copy is kept before the original is acknowledged: between the two an event may stand twice, never
//! not at all.

use std::time::Duration;

use sqlx::sqlite::SqliteQueryResult;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::queue::{Core, EmbeddedQueue, now};
use crate::event::result::ResultEvent;
use crate::queue::letter::{bounded, delivery_limit};
use crate::queue::retry::{self, backoff};
use crate::queue::{Delivery, QueueError};
use crate::timeline::entry::timestamp;

impl EmbeddedQueue {
    /// Keeps a deploy event; it is on disk when this returns.
    pub async fn publish_deploy(&self, body: Vec<u8>) -> Result<(), QueueError> {
        let publish = "INSERT INTO events (state, position, published_at, attempt, body) SELECT 'ready', \
                       coalesce(max(position), 0) + 1, $1, 1, $2 FROM events WHERE state = 'ready'";
        let published = sqlx::query(publish).bind(now()).bind(body).execute(self.core.file.pool()).await;
        self.core.file.noted(published)?;
        self.core.ready.notify_waiters();
        Ok(())
    }

    /// Keeps a copy of the event that waits before attempt `next_attempt`; answers how long.
    pub async fn publish_retry(
        &self,
        delivery: &Delivery,
        next_attempt: u32,
        reason: &str,
        cancel: &CancellationToken,
    ) -> Result<Duration, QueueError> {
        let (_, delay) = retry::between(delivery.attempt, next_attempt);
        let wait = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        let keep = "INSERT INTO events (state, position, published_at, attempt, requeue, reason, worker, at, \
                    body) VALUES ('waiting', $1, $2, $3, $4, $5, $6, $7, $8)";
        self.insist(cancel, || {
            let now = now();
            sqlx::query(keep)
                .bind(now.saturating_add(wait))
                .bind(now)
                .bind(next_attempt)
                .bind(delivery.requeue())
                .bind(bounded(reason).into_owned())
                .bind(&self.core.worker)
                .bind(timestamp::to_string(OffsetDateTime::now_utc()))
                .bind(&delivery.body)
                .execute(self.core.file.pool())
        })
        .await?;
        self.core.keeper.notify_one();
        Ok(delay)
    }

    /// Keeps a copy of the event as a dead letter.
    pub async fn dead_letter(
        &self,
        delivery: &Delivery,
        reason: &str,
        cancel: &CancellationToken,
    ) -> Result<(), QueueError> {
        let keep = "INSERT INTO events (state, position, published_at, attempt, reason, worker, at, name, body) \
                    SELECT 'dead', coalesce(max(position), 0) + 1, $1, $2, $3, $4, $5, $6, $7 FROM events \
                    WHERE state = 'dead'";
        self.insist(cancel, || {
            sqlx::query(keep)
                .bind(now())
                .bind(delivery.attempt)
                .bind(bounded(reason).into_owned())
                .bind(&self.core.worker)
                .bind(timestamp::to_string(OffsetDateTime::now_utc()))
                .bind(Uuid::now_v7().to_string())
                .bind(&delivery.body)
                .execute(self.core.file.pool())
        })
        .await
    }

    /// Tells a result to those who listen in this process.
    pub fn publish_result(&self, event: &ResultEvent) {
        // An error only says that nobody listens.
        let _ = self.core.results.send(std::sync::Arc::new(event.clone()));
    }

    /// Writes until it is on disk. A repeat is harmless: readers tell events by their id.
    async fn insist<W>(&self, cancel: &CancellationToken, write: impl Fn() -> W) -> Result<(), QueueError>
    where
        W: Future<Output = Result<SqliteQueryResult, sqlx::Error>>,
    {
        let mut waits = backoff();
        loop {
            let attempt = cancel.run_until_cancelled(write()).await.ok_or(QueueError::Cancelled)?;
            match self.core.file.noted(attempt) {
                Ok(_) => return Ok(()),
                Err(QueueError::Cancelled) => return Err(QueueError::Cancelled),
                // Told already, as the queue's fault.
                Err(_) => {}
            }
            let wait = tokio::time::sleep(waits.next().unwrap_or_default());
            cancel.run_until_cancelled(wait).await.ok_or(QueueError::Cancelled)?;
        }
    }
}

impl Core {
    /// Makes a dead letter of an event that was delivered too often.
    pub(super) async fn bury(&self, id: i64) -> Result<(), QueueError> {
        let reason = delivery_limit(&format!("the queue {}", self.file.path().display()));
        tracing::warn!(reason, "an event goes to the dead letters");
        let bury = "UPDATE events SET state = 'dead', name = $2, worker = NULL, at = $3, requeue = NULL, \
                    position = (SELECT coalesce(max(position), 0) + 1 FROM events WHERE state = 'dead'), \
                    reason = $4 || coalesce('; before: ' || reason, '') WHERE id = $1";
        let buried = sqlx::query(bury)
            .bind(id)
            .bind(Uuid::now_v7().to_string())
            .bind(timestamp::to_string(OffsetDateTime::now_utc()))
            .bind(reason)
            .execute(self.file.pool())
            .await;
        self.file.noted(buried).map(|_| ())
    }
}
