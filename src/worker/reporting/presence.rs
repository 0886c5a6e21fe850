//! Whether the timeline service is there, as its last call told; said in the log once for each change.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::timeline::client::CallError;

/// For how long a failed call is taken as the answer to the next one that nothing should wait for. Longer
/// than the longest pause of a reporter, whose calls find out when the service is back.
const AWAY: Duration = Duration::from_secs(15);

#[derive(Default)]
pub struct Presence(Mutex<Option<Fault>>);

struct Fault {
    since: Instant,
    last: Instant,
    /// The service is there, and does not let us in.
    of_login: bool,
}

impl Presence {
    /// Whether a call was in vain a moment ago.
    pub fn is_away(&self) -> bool {
        self.lock().as_ref().is_some_and(|fault| fault.last.elapsed() < AWAY)
    }

    /// Notes how a call went.
    pub fn note<T>(&self, called: &Result<T, CallError>) {
        match called {
            Err(error) if error.is_transient() => self.failed(error),
            _ => self.answered(),
        }
    }

    fn answered(&self) {
        if let Some(fault) = self.lock().take() {
            let away_s = fault.since.elapsed().as_secs();
            tracing::info!(away_s, "the timeline service is back; what was kept is sent");
        }
    }

    /// Notes a call that may succeed later.
    pub fn failed(&self, error: &CallError) {
        let of_login = matches!(error, CallError::Unauthorized { .. } | CallError::Token { .. });
        let mut known = self.lock();
        let now = Instant::now();
        let is_new = known.as_ref().is_none_or(|fault| fault.of_login != of_login);
        let since = known.as_ref().map_or(now, |fault| fault.since);
        *known = Some(Fault { since, last: now, of_login });
        drop(known);
        match is_new {
            true if of_login => {
                tracing::error!(%error, "builds go on, but nothing is told to the timeline service until its token is mended");
            }
            true => {
                tracing::warn!(%error, "builds go on, and are told to the timeline service once it is back")
            }
            false => tracing::debug!(%error, "the timeline service is still away"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
