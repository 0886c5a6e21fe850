//! Handing events out, first published first: a subscription has one at a time.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::FileError;
use super::lease::{Held, Lease};
use super::queue::{Core, EmbeddedQueue};
use crate::queue::QueueError;
use crate::queue::delivery::{Delivery, Receipt};

/// One slot's subscription.
pub struct Subscription {
    queue: EmbeddedQueue,
    /// One permit, which goes with a delivery until that is settled.
    slot: Arc<Semaphore>,
}

impl EmbeddedQueue {
    /// Subscribes a slot. Only the process that opened the queue can.
    pub async fn subscribe(&self) -> Result<Subscription, QueueError> {
        match (self.core.takes, self.core.stop.is_cancelled()) {
            (_, true) => Err(QueueError::Cancelled),
            (false, _) => Err(FileError::Attached(self.core.file.path().to_owned()).into()),
            (true, false) => Ok(Subscription { queue: self.clone(), slot: Arc::new(Semaphore::new(1)) }),
        }
    }
}

impl Subscription {
    /// The next event; `None` when the queue was closed. While the file has a fault, it waits. Safe to
    /// drop; at worst an event that was just picked counts one delivery more.
    pub async fn next(&mut self) -> Option<Delivery> {
        let core = &self.queue.core;
        let pick = async {
            let slot = Arc::clone(&self.slot).acquire_owned().await.ok()?;
            loop {
                let mut ready = std::pin::pin!(core.ready.notified());
                // From here on no call is missed.
                ready.as_mut().enable();
                // After a failure it is the keeper who looks when the file can be used again, and calls.
                if let Ok(Some(picked)) = core.pick().await {
                    return Some(picked.into_delivery(slot));
                }
                ready.await;
            }
        };
        core.stop.run_until_cancelled(pick).await.flatten()
    }
}

/// An event that was picked for a slot.
struct Picked {
    held: Held,
    row: Row,
}

#[derive(sqlx::FromRow)]
struct Row {
    body: Vec<u8>,
    attempt: u32,
    deliveries: i64,
    requeue: Option<String>,
    reason: Option<String>,
    published_at: i64,
}

impl Core {
    /// The first event in the line that nobody works on, with its delivery counted.
    async fn pick(self: &Arc<Self>) -> Result<Option<Picked>, QueueError> {
        let _turn = self.turn.lock().await;
        loop {
            if self.file.fault().is_some() {
                return Ok(None);
            }
            let Some((id, unsettled)) = self.free().await? else { return Ok(None) };
            if unsettled > self.delivery_limit {
                self.bury(id).await?;
                continue;
            }
            let held = Held::new(Arc::clone(self), id);
            let count = "UPDATE events SET deliveries = deliveries + 1, unsettled = unsettled + 1 \
                         WHERE id = $1 RETURNING body, attempt, deliveries, requeue, reason, published_at";
            // All rows, not one: a statement that is not run to its end does not tell whether it was kept.
            let counted = sqlx::query_as(count).bind(id).fetch_all(self.file.pool()).await;
            if let Some(row) = self.file.noted(counted)?.pop() {
                return Ok(Some(Picked { held, row }));
            }
        }
    }

    /// The first event in the line that nobody works on, and how often it was taken in vain.
    async fn free(&self) -> Result<Option<(i64, i64)>, QueueError> {
        let most = i64::try_from(self.leases().len()).unwrap_or(i64::MAX).saturating_add(1);
        let first = "SELECT id, unsettled FROM events WHERE state = 'ready' ORDER BY position LIMIT $1";
        let first = sqlx::query_as::<_, (i64, i64)>(first).bind(most).fetch_all(self.file.pool()).await;
        let first = self.file.noted(first)?;
        let leases = self.leases();
        Ok(first.into_iter().find(|(id, _)| !leases.contains(id)))
    }
}

impl Picked {
    fn into_delivery(self, slot: OwnedSemaphorePermit) -> Delivery {
        let Self { held, row } = self;
        let published = u64::try_from(row.published_at).unwrap_or_default();
        Delivery {
            body: row.body,
            attempt: row.attempt,
            redelivered: row.deliveries > 1,
            requeue: row.requeue,
            reason: row.reason,
            published: UNIX_EPOCH.checked_add(Duration::from_millis(published)),
            receipt: Receipt::Embedded(Lease::new(held, slot)),
        }
    }
}
