//! The places for connections: how many are taken, and that none has been free for a while.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use metrics::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Limits;

/// How long none may be free before that is said; and until it is said again.
const PATIENCE: Duration = Duration::from_secs(5);
const SAY_AGAIN: Duration = Duration::from_secs(60);

pub(super) struct Places {
    free: Arc<Semaphore>,
    taken: Gauge,
    limits: Limits,
    said: Option<Instant>,
}

impl Places {
    pub(super) fn new(limits: Limits) -> Self {
        let taken = metrics::gauge!("buildgrid_connections", "service" => limits.service);
        taken.set(0.0);
        Self { free: Arc::new(Semaphore::new(limits.connections)), taken, limits, said: None }
    }

    /// Waits until one is free.
    pub(super) async fn free(&mut self) -> anyhow::Result<Free> {
        let free = self.free.clone().acquire_owned();
        tokio::pin!(free);
        let permit = match tokio::time::timeout(PATIENCE, &mut free).await {
            Ok(permit) => permit,
            Err(_) => {
                self.say();
                free.await
            }
        };
        Ok(Free { permit: permit.context("no more connections are taken")?, taken: self.taken.clone() })
    }

    fn say(&mut self) {
        if self.said.is_some_and(|said| said.elapsed() < SAY_AGAIN) {
            return;
        }
        self.said = Some(Instant::now());
        let Limits { service, connections, .. } = self.limits;
        tracing::warn!(
            service,
            connections,
            "all connections that may be served at once are taken, and clients wait; see who holds them (ss -tnp), keep \
             them out, or raise {service}.max_connections"
        );
    }
}

/// One for which there is no client yet.
pub(super) struct Free {
    permit: OwnedSemaphorePermit,
    taken: Gauge,
}

impl Free {
    pub(super) fn take(self) -> Taken {
        self.taken.increment(1.0);
        Taken { _permit: self.permit, taken: self.taken }
    }
}

/// A connection's, until it is dropped.
pub(super) struct Taken {
    _permit: OwnedSemaphorePermit,
    taken: Gauge,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.taken.decrement(1.0);
    }
}
