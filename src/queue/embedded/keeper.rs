//! The keeper: the one task of an open queue. It makes ready what has waited long enough, gives up what
//! was delivered too often, sees what other processes wrote, and looks whether a fault is over.

use std::sync::Arc;
use std::time::Duration;

use super::queue::{Core, now};
use crate::queue::QueueError;
use crate::queue::retry::RETRIES;

/// How often it looks, at the least: so late an event of another process may be seen.
const LOOK: Duration = Duration::from_secs(1);
/// How long a look may take: each of its statements may have to wait for another process's.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// The longest that an event can have to wait.
const LONGEST: Duration = RETRIES[RETRIES.len() - 1].1;

/// Runs until the queue is closed.
pub(super) async fn run(core: Arc<Core>) {
    let mut written = None;
    loop {
        core.pulse.beat();
        // A failure is the queue's fault by now, and looked at again after a while.
        let next = core.stop.run_until_cancelled(core.look(&mut written)).await;
        let Some(next) = next else { return };
        let wait = next.ok().flatten().unwrap_or(LOOK).min(LOOK);
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = core.keeper.notified(), if core.file.fault().is_none() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Core {
    /// One look; answers when an event is due next. `written` is what the last one knew of other
    /// processes' writing.
    async fn look(&self, written: &mut Option<i64>) -> Result<Option<Duration>, QueueError> {
        if self.file.fault().is_some() {
            if !self.file.heal().await {
                return Ok(None);
            }
            self.ready.notify_waiters();
        }
        // Changes when another connection has written, which is another process's: we have but one.
        let version = sqlx::query_scalar("PRAGMA data_version").fetch_one(self.file.pool()).await;
        let version = Some(self.file.noted(version)?);
        if *written != version {
            *written = version;
            self.ready.notify_waiters();
        }
        self.give_up().await?;
        self.make_ready().await
    }

    /// Moves what is due to the end of the line, in the order of its being due.
    async fn make_ready(&self) -> Result<Option<Duration>, QueueError> {
        let longest = i64::try_from(LONGEST.as_millis()).unwrap_or(i64::MAX);
        loop {
            let first = "SELECT id, position FROM events WHERE state = 'waiting' ORDER BY position LIMIT 1";
            let first = sqlx::query_as::<_, (i64, i64)>(first).fetch_optional(self.file.pool()).await;
            let Some((id, due)) = self.file.noted(first)? else { return Ok(None) };
            let left = due.saturating_sub(now());
            // Longer than the longest wait: the clock was set back, and nobody is to wait for it.
            if (1..=longest).contains(&left) {
                return Ok(u64::try_from(left).ok().map(Duration::from_millis));
            }
            let move_up = "UPDATE events SET state = 'ready', position = \
                           (SELECT coalesce(max(position), 0) + 1 FROM events WHERE state = 'ready') WHERE id = $1";
            let moved = sqlx::query(move_up).bind(id).execute(self.file.pool()).await;
            self.file.noted(moved)?;
            self.ready.notify_waiters();
        }
    }

    /// Makes dead letters of the events that were delivered too often and that nobody works on.
    async fn give_up(&self) -> Result<(), QueueError> {
        let _turn = self.turn.lock().await;
        let spent = "SELECT id FROM events WHERE unsettled > $1 AND state = 'ready'";
        let spent =
            sqlx::query_scalar::<_, i64>(spent).bind(self.delivery_limit).fetch_all(self.file.pool()).await;
        for id in self.file.noted(spent)? {
            if !self.leases().contains(&id) {
                self.bury(id).await?;
            }
        }
        Ok(())
    }
}
