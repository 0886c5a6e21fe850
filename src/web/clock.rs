//! The machine's clock may be set while the service runs, by hours. Leases are kept as times of that clock, so
//! that readers and a service that was started again understand them: after a step, each one that was live
//! begins anew. Otherwise all would be over after a step forwards, and after one backwards, those of workers
//! that have died would hold their builds for as long as the step was.

use std::time::{Duration, Instant};

use sqlx::SqliteConnection;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::db::leases;
use super::db::{Database, Job, WriteError};
use crate::timeline::protocol::LEASE;

/// How often the clock is compared: for so long after a step, leases may be misread. To build twice meanwhile
/// is harmless.
const LOOK: Duration = Duration::from_secs(1);
/// What is less than this, a lease that is renewed all the while outlives.
const STEP: Duration = Duration::from_secs(5);

/// The clock, beside one that nobody sets.
struct Clock {
    wall: OffsetDateTime,
    steady: Instant,
}

impl Clock {
    fn read() -> Self {
        Self { steady: Instant::now(), wall: OffsetDateTime::now_utc() }
    }

    /// How far the clock has been set since `before`.
    fn step_since(&self, before: &Self) -> time::Duration {
        (self.wall - before.wall) - (self.steady - before.steady)
    }
}

/// Mends leases after each step, and at the start those that lie further ahead than any can: the clock was set
/// back while no service ran.
pub(super) async fn watch(database: Database, stop: CancellationToken) {
    let mut before = Clock::read();
    let mut unmended = Some(time::Duration::ZERO);
    loop {
        if let Some(by) = unmended {
            match database.write(mend(before.wall, by)).await {
                Ok(leases) => {
                    unmended = None;
                    if leases > 0 || !by.is_zero() {
                        let step_s = by.as_seconds_f64().round();
                        tracing::warn!(
                            step_s,
                            leases,
                            "the machine's clock was set; leases that were live begin anew"
                        );
                    }
                }
                // The writer has logged why; it is tried again.
                Err(error) => tracing::debug!(%error, "leases cannot be mended yet"),
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
        let now = Clock::read();
        let step = now.step_since(&before);
        if step.unsigned_abs() >= STEP {
            unmended = Some(unmended.unwrap_or_default() + step);
        }
        before = now;
    }
}

fn mend(now: OffsetDateTime, by: time::Duration) -> Job<u64, WriteError> {
    Box::new(move |connection: &mut SqliteConnection| {
        Box::pin(async move { Ok(leases::begin_leases_anew(connection, now, by, LEASE).await?) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_from_time_that_passes() {
        let before = Clock::read();
        let later = |wall: i64, steady: u64| Clock {
            wall: before.wall + time::Duration::seconds(wall),
            steady: before.steady + Duration::from_secs(steady),
        };
        assert_eq!(later(600, 600).step_since(&before), time::Duration::ZERO);
        assert_eq!(later(3601, 1).step_since(&before), time::Duration::HOUR);
        assert_eq!(later(-3599, 1).step_since(&before), -time::Duration::HOUR);
    }
}
