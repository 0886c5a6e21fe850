//! How long an event, or a call, waits before it is tried again: the same on every queue.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// The waits between attempts, and what the broker's retry queues are called after them.
pub(super) const RETRIES: [(&str, Duration); 3] =
    [("10s", Duration::from_secs(10)), ("1m", Duration::from_secs(60)), ("10m", Duration::from_secs(600))];

/// The wait of an event that was delivered as attempt `now`, before attempt `next`. One that is deferred stays
/// the attempt it was and waits the shortest time, however often it has been tried: nothing has failed.
pub(super) fn between(now: u32, next: u32) -> (&'static str, Duration) {
    match next > now {
        true => before(next),
        false => RETRIES[0],
    }
}

/// The wait before attempt `next` at what has failed.
pub(super) fn before(next: u32) -> (&'static str, Duration) {
    let index = usize::try_from(next.saturating_sub(2)).unwrap_or(usize::MAX);
    RETRIES[index.min(RETRIES.len() - 1)]
}

/// How long a build waits for its next attempt, after attempt `failed`.
pub fn retry_after(failed: u32) -> Duration {
    before(failed.saturating_add(1)).1
}

/// Waits between attempts: 0.1 s doubling to 4 s, each up to twice as long by jitter, so that an idle
/// worker consumes again within 10 s of the broker's return.
pub(super) fn backoff() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(4))
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_waits_longer_up_to_the_last_wait() {
        assert_eq!(before(2), ("10s", Duration::from_secs(10)));
        assert_eq!(before(3), ("1m", Duration::from_secs(60)));
        assert_eq!(before(4), ("10m", Duration::from_secs(600)));
        assert_eq!(before(u32::MAX), before(4));
        for attempt in [1, 2, 4, u32::MAX] {
            assert_eq!(between(attempt, attempt), RETRIES[0], "a deferral counts no attempt");
        }
        assert_eq!(between(3, 4), before(4));
        assert_eq!(retry_after(3), before(4).1);
    }
}
