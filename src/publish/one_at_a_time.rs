//! Builds of one process that have the same layer to store: one of them stores it, and the others wait and find it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use crate::store::digest::Digest;
use crate::telemetry::pulse::Pulse;

/// How often who waits beats: that the one who works has stopped is seen by its own pulse.
const BEAT: Duration = Duration::from_secs(10);

/// The layers that somebody has in hand.
#[derive(Debug, Default)]
pub(super) struct OneAtATime(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl OneAtATime {
    /// Waits until nobody else has the layer in hand. Nobody who holds one may ask for another.
    pub(super) async fn hold(&self, diff_id: Digest, pulse: &Pulse) -> OwnedMutexGuard<()> {
        let lock = self.lock(diff_id);
        let mut held = std::pin::pin!(lock.lock_owned());
        loop {
            match tokio::time::timeout(BEAT, &mut held).await {
                Ok(guard) => return guard,
                Err(_) => pulse.beat(),
            }
        }
    }

    fn lock(&self, diff_id: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(&diff_id).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(diff_id, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_holds_a_layer_and_the_next_waits() {
        let (all, pulse) = (OneAtATime::default(), Pulse::default());
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let first = all.hold(one, &pulse).await;
        let mut second = Box::pin(all.hold(one, &pulse));
        assert!((&mut second).now_or_never().is_none());
        drop(all.hold(other, &pulse).await);
        drop(first);
        drop(second.await);
        all.lock(other);
        assert_eq!(all.0.lock().unwrap().len(), 1, "what nobody holds is forgotten");
    }
}
