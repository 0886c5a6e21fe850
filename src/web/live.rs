//! Who is told when a build or a log changes: a wake-up and no more. Whoever is woken reads what is
//! stored, so that a wake-up may be missed or come twice.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The followed builds and logs, by name.
#[derive(Debug, Default)]
pub(super) struct Live {
    followed: Mutex<HashMap<String, watch::Sender<()>>>,
}

impl Live {
    /// Wakes all who follow `name`.
    pub(super) fn changed(&self, name: &str) {
        let mut followed = self.lock();
        if let Some(sender) = followed.get(name)
            && sender.send(()).is_err()
        {
            followed.remove(name);
        }
    }

    /// Follows `name` from now on.
    pub(super) fn follow(&self, name: &str) -> watch::Receiver<()> {
        let mut followed = self.lock();
        followed.retain(|_, sender| sender.receiver_count() > 0);
        followed.entry(name.to_owned()).or_insert_with(|| watch::channel(()).0).subscribe()
    }

    /// No code that can panic runs while the lock is held.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<()>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_those_who_follow_are_woken_and_nothing_is_kept() {
        let live = Live::default();
        live.changed("a");
        let (mut one, two) = (live.follow("a"), live.follow("b"));
        live.changed("a");
        one.changed().await.unwrap();
        assert!(!two.has_changed().unwrap());
        drop((one, two));
        live.changed("a");
        let _three = live.follow("c");
        assert_eq!(live.lock().keys().collect::<Vec<_>>(), ["c"]);
    }
}
