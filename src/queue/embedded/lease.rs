//! A lease: that an event is being worked on, and the two ways to settle it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use super::queue::Core;
use crate::queue::Ack;

/// What a delivery is settled by. Dropped without that, the event is given back, and it counts towards
/// the delivery limit.
pub struct Lease(Mutex<Option<(Held, OwnedSemaphorePermit)>>);

/// An event that no other slot gets, until this is dropped.
pub(super) struct Held {
    core: Arc<Core>,
    id: i64,
}

impl Held {
    pub(super) fn new(core: Arc<Core>, id: i64) -> Self {
        core.leases().insert(id);
        Self { core, id }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.core.leases().remove(&self.id);
        self.core.ready.notify_waiters();
        // It may have come to its delivery limit.
        self.core.keeper.notify_one();
    }
}

impl Lease {
    pub(super) fn new(held: Held, slot: OwnedSemaphorePermit) -> Self {
        Self(Mutex::new(Some((held, slot))))
    }

    fn settle(&self) -> Option<(Held, OwnedSemaphorePermit)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(in crate::queue) async fn ack(&self) -> Ack {
        let Some((held, _slot)) = self.settle() else { return Ack::Lost };
        let delete = sqlx::query("DELETE FROM events WHERE id = $1").bind(held.id);
        let deleted = delete.execute(held.core.file.pool()).await;
        match held.core.file.noted(deleted) {
            Ok(deleted) if deleted.rows_affected() == 1 => Ack::Done,
            // On a full disk, or closed: it comes again.
            _ => Ack::Lost,
        }
    }

    pub(in crate::queue) async fn release(self) {
        let Some((held, _slot)) = self.settle() else { return };
        let release = sqlx::query("UPDATE events SET unsettled = unsettled - 1 WHERE id = $1").bind(held.id);
        // Where that fails, the release counts towards the delivery limit and is one all the same.
        let _ = held.core.file.noted(release.execute(held.core.file.pool()).await);
    }
}
